//! The `tracing` layer that turns events into lines.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::{self, Format, Line, Pair, Value};
use super::output::Output;
use super::{FATAL, LogIdentity};

thread_local! {
    /// The line under construction, kept to save its allocation.
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Writes every event it is given as one line.
#[derive(Debug)]
pub(super) struct Lines {
    format: Format,
    identity: LogIdentity,
    instance: String,
    zone: TimeZone,
    output: Arc<Output>,
}

impl Lines {
    pub(super) fn new(format: Format, identity: LogIdentity, output: Arc<Output>) -> Self {
        Self {
            format,
            identity,
            instance: host_name(),
            zone: TimeZone::system(),
            output,
        }
    }

    /// Writes one line; `fields` are its own keys.
    pub(super) fn write(&self, level: &str, scope: &str, message: &str, fields: Vec<Pair<'_>>) {
        let mut pairs = Vec::with_capacity(fields.len() + 5);
        if let Some(app_id) = &self.identity.app_id {
            pairs.push(("app_id".into(), Value::from(app_id.as_str())));
        }
        pairs.push(("instance".into(), Value::from(self.instance.as_str())));
        pairs.push(("scope".into(), Value::from(scope)));
        pairs.push(("type".into(), Value::from("log")));
        pairs.push(("ver".into(), Value::from(crate::VERSION)));
        pairs.extend(fields);
        let line = Line {
            time: Timestamp::now(),
            level,
            message,
            pairs,
        };
        BUFFER.with(|buffer| match buffer.try_borrow_mut() {
            Ok(mut buffer) => self.write_with(&mut buffer, line),
            // A value that logs while it is printed.
            Err(_) => self.write_with(&mut String::new(), line),
        });
    }

    fn write_with(&self, buffer: &mut String, line: Line<'_>) {
        buffer.clear();
        line::write(buffer, self.format, &self.zone, line)
            .expect("writing to a string cannot fail");
        self.output.write(buffer.as_bytes());
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let target = fields.log_target.as_deref().unwrap_or(metadata.target());
        let scope = match &fields.scope {
            Some(scope) => Cow::Borrowed(scope.as_str()),
            None => scope_of(target, self.identity.scope),
        };
        let level = if target == FATAL {
            "fatal"
        } else {
            level_name(*metadata.level())
        };
        self.write(level, &scope, &fields.message, fields.pairs);
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// The scope of a target: itself when it is one, else derived from its crate.
fn scope_of<'a>(target: &'a str, default: &'static str) -> Cow<'a, str> {
    let crate_name = target.split("::").next().unwrap_or(target);
    if target == FATAL {
        return default.into();
    }
    match crate_name.strip_prefix("dapr_") {
        Some("kit") => default.into(),
        Some(name) if name == "sidecar" || name.starts_with("sidecar_") => "dapr.runtime".into(),
        Some(name) if name.starts_with("components_") => "dapr.contrib".into(),
        Some(name) => format!("dapr.{}", name.replace('_', ".")).into(),
        None => crate_name.into(),
    }
}

/// The name of the host as the kernel has it; needs neither a tool nor the environment.
fn host_name() -> String {
    let name = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    name.unwrap_or_default().trim().to_owned()
}

/// What an event carries.
#[derive(Default)]
struct Fields {
    message: String,
    scope: Option<String>,
    /// The target of a record that came through the `log` crate, whose own metadata says only `log`.
    log_target: Option<String>,
    pairs: Vec<Pair<'static>>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value<'static>) {
        let name = field.name();
        // The keys of the line itself, as upstream's logger renames them.
        let key = match name {
            "time" | "level" | "msg" => Cow::Owned(format!("fields.{name}")),
            _ => Cow::Borrowed(name),
        };
        self.pairs.push((key, value));
    }

    fn push_text(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.message = text,
            "scope" => self.scope = Some(text),
            "log.target" => self.log_target = Some(text),
            name if name.starts_with("log.") => {}
            _ => self.push(field, Value::Text(text.into())),
        }
    }

    fn push_bare(&mut self, field: &Field, value: impl fmt::Display) {
        if !field.name().starts_with("log.") {
            self.push(field, Value::Bare(value.to_string()));
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no spelling for the others.
        if value.is_finite() {
            self.push_bare(field, value);
        } else {
            self.push_text(field, value.to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push_bare(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push_bare(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push_bare(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push_bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push_bare(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push_text(field, crate::process::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_err() {
            text.push_str(" (its formatting failed)");
        }
        self.push_text(field, text);
    }
}

#[cfg(test)]
mod tests {
    use super::scope_of;

    #[test]
    fn scopes_follow_from_targets() {
        #[track_caller]
        fn check(target: &str, expected: &str) {
            assert_eq!(scope_of(target, "dapr.default"), expected, "{target}");
        }
        check("dapr.runtime", "dapr.runtime");
        check("dapr.runtime.grpc.api-info", "dapr.runtime.grpc.api-info");
        check("dapr_placement::raft::log", "dapr.placement");
        check("dapr_placement", "dapr.placement");
        check("dapr_sidecar_actors::ring", "dapr.runtime");
        check("dapr_sidecar", "dapr.runtime");
        check("dapr_components_sqlite::state", "dapr.contrib");
        check("dapr_kit::bind", "dapr.default");
        check("dapr.fatal", "dapr.default");
        check("hyper::proto::h1", "hyper");
    }
}
