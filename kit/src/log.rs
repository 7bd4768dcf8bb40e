//! Logs in the two formats of upstream: logfmt-like text, or one JSON object per line.
//!
//! Code logs through `tracing`. The target of an event is its scope (`target: "dapr.runtime"`); a field `scope`
//! overrides it, and without either the scope follows from the crate (`dapr_placement` is `dapr.placement`). Other
//! fields become keys of the line. Spans are not shown. Crates that are not ours log from `warning` on only:
//! some of them print keys and packets below that.

mod layer;
mod line;
mod output;

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use layer::Lines;
use line::Format;
use output::Output;

/// The target of fatal lines; `tracing` has no such level.
const FATAL: &str = "dapr.fatal";
/// The scopes of API logs, shown at info whatever the level: their own switch decides about them.
const API_SCOPES: [&str; 2] = ["dapr.runtime.http-info", "dapr.runtime.grpc.api-info"];

/// The scope before [`init`], set once by the process frame.
static DEFAULT_SCOPE: OnceLock<&'static str> = OnceLock::new();

/// The flags of the log.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct LogArgs {
    /// Lowest level to log: debug, info, warn, error or fatal.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Log one JSON object per line.
    #[arg(long)]
    pub log_as_json: bool,
    /// Append to this file instead of writing to stdout; empty for stdout.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// Who logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The scope of fatal lines and of events that carry none, such as `dapr.runtime`.
    pub scope: &'static str,
    /// The app id of a sidecar; the control plane has none.
    pub app_id: Option<String>,
}

impl LogIdentity {
    /// A process without an app id.
    pub fn new(scope: &'static str) -> Self {
        Self {
            scope,
            app_id: None,
        }
    }

    /// The same with an app id.
    pub fn with_app_id(self, app_id: impl Into<String>) -> Self {
        Self {
            app_id: Some(app_id.into()),
            ..self
        }
    }
}

/// The log cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--log-level` is no level.
    #[error("invalid value for --log-level: {0}")]
    Level(String),
    /// `--log-file` cannot be opened.
    #[error(
        "failed to open the log file {path}: give another path with --log-file, or none for stdout"
    )]
    File {
        /// The path as given.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A log was set up before.
    #[error("the log is set up already")]
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err(Error::Level(text.to_owned())),
        }
    }
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::Fatal => LevelFilter::OFF,
        }
    }

    /// Which targets are shown from which level on. The filter is static: an event that is filtered out costs one
    /// load.
    fn targets(self) -> Targets {
        let ours = self.filter();
        Targets::new()
            .with_default(ours.min(LevelFilter::WARN))
            .with_target("dapr", ours)
            .with_target(FATAL, LevelFilter::ERROR)
            .with_targets(API_SCOPES.map(|scope| (scope, LevelFilter::INFO)))
    }
}

/// Flushes the log when dropped; hold it until the process ends.
#[derive(Debug)]
#[must_use = "the log is flushed when the guard is dropped"]
pub struct LogGuard {
    output: Arc<Output>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.output.flush();
    }
}

/// Sets up the log of the process. Even on an error a log is there afterwards, at level info or on stdout in place of
/// what failed, so that the error itself can be logged in the asked format.
pub fn init(args: &LogArgs, identity: LogIdentity) -> Result<LogGuard, Error> {
    let LogArgs {
        log_level,
        log_as_json,
        log_file,
    } = args;
    let level = log_level.parse::<Level>();
    let output = match log_file
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty())
    {
        Some(path) => Output::file(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        }),
        None => Ok(Output::Stdout),
    };
    let format = if *log_as_json {
        Format::Json
    } else {
        Format::Text
    };
    let (output, failure) = match output {
        Ok(output) => (
            output,
            level
                .as_ref()
                .err()
                .map(|_| Error::Level(log_level.clone())),
        ),
        Err(error) => (Output::Stdout, Some(error)),
    };
    let output = Arc::new(output);
    tracing_subscriber::registry()
        .with(level.unwrap_or(Level::Info).targets())
        .with(Lines::new(format, identity, output.clone()))
        .try_init()
        .map_err(|_| Error::Twice)?;
    match failure {
        None => Ok(LogGuard { output }),
        Some(error) => Err(error),
    }
}

/// Logs the line a process ends with. Works before [`init`] as well, as text on stdout.
pub fn fatal(message: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::error!(target: FATAL, "{message}");
    } else {
        let scope = DEFAULT_SCOPE.get().copied().unwrap_or("dapr");
        let lines = Lines::new(
            Format::Text,
            LogIdentity::new(scope),
            Arc::new(Output::Stdout),
        );
        lines.write("fatal", scope, message, Vec::new());
    }
}

/// The scope of [`fatal`] before [`init`]; the first call wins.
pub(crate) fn set_default_scope(scope: &'static str) {
    DEFAULT_SCOPE.get_or_init(|| scope);
}

#[cfg(test)]
mod tests;
