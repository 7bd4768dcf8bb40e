//! What the injector would do with a pod, in words: its sidecar, and what each annotation did or why it did nothing.
//!
//! The effect of an annotation is found by leaving it out and looking at what differs, so it cannot be told wrongly.

use std::fmt::Write as _;

use dapr_crds::annotations::{ENABLED, SIDECAR_CONTAINER, SIDECAR_SVC_ANNOTATIONS};
use serde_json::Value;

use crate::patch::{self, Operation, Patch, Pod, Request};
use crate::settings::Settings;
use crate::warnings;

/// The whole explanation.
pub fn explain(pod: &Pod, settings: &Settings, request: &Request<'_>) -> String {
    let mut text = String::new();
    write(&mut text, pod, settings, request).expect("writing to a string cannot fail");
    text
}

fn write(
    text: &mut String,
    pod: &Pod,
    settings: &Settings,
    request: &Request<'_>,
) -> std::fmt::Result {
    let enabled = pod.metadata.annotations.get(ENABLED);
    if !enabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        writeln!(text, "no sidecar: annotation {ENABLED} is not \"true\"")?;
        return warn(text, pod, &[]);
    }
    let patch = match patch::patch(pod, settings, request) {
        Ok(patch) => patch,
        Err(error) => {
            writeln!(text, "the pod is refused: {error}")?;
            return warn(text, pod, &[]);
        }
    };
    if patch.operations.is_empty() {
        writeln!(
            text,
            "no sidecar: a container {SIDECAR_CONTAINER:?} is there already"
        )?;
        return warn(text, pod, &[]);
    }
    if let Some(container) = sidecar(&patch) {
        writeln!(text, "container:")?;
        write_container(text, container)?;
    }
    writeln!(text, "\nannotations:")?;
    for name in pod.metadata.annotations.keys() {
        if name == ENABLED {
            writeln!(text, "  {name}: the pod gets a sidecar")?;
        } else if dapr_crds::annotations::kind(name).is_some() {
            let effects = effects(name, &patch, pod, settings, request);
            let effects = match &effects[..] {
                [] => nothing(name, pod),
                effects => effects.join("; "),
            };
            writeln!(text, "  {name}: {effects}")?;
        }
    }
    warn(text, pod, &patch.notes)
}

/// Why an annotation did nothing.
fn nothing(name: &str, pod: &Pod) -> String {
    let value = pod
        .metadata
        .annotations
        .get(name)
        .cloned()
        .unwrap_or_default();
    let alone = [(name.to_owned(), value)].into();
    let warnings = warnings::of(&alone);
    let prefix = format!("annotation {name}: ");
    match warnings
        .first()
        .and_then(|warning| warning.strip_prefix(&prefix))
    {
        Some(reason) => format!("changes nothing: {reason}"),
        None if name == SIDECAR_SVC_ANNOTATIONS => {
            "changes nothing here: the operator reads it".to_owned()
        }
        None => "changes nothing: without it the sidecar would be the same".to_owned(),
    }
}

fn warn(text: &mut String, pod: &Pod, notes: &[String]) -> std::fmt::Result {
    let warnings = warnings::of(&pod.metadata.annotations);
    if warnings.is_empty() && notes.is_empty() {
        return Ok(());
    }
    writeln!(text, "\nwarnings:")?;
    for warning in warnings.iter().chain(notes) {
        writeln!(text, "  {warning}")?;
    }
    Ok(())
}

fn sidecar(patch: &Patch) -> Option<&Value> {
    let values = patch.operations.iter().map(|operation| &operation.value);
    values
        .into_iter()
        .find(|value| value.get("name").is_some_and(|it| it == SIDECAR_CONTAINER))
}

/// Its fields one by one, and its arguments as a command line, a flag with its value per line.
fn write_container(text: &mut String, container: &Value) -> std::fmt::Result {
    let fields = container.as_object().into_iter().flatten();
    for (field, value) in fields.filter(|(field, _)| *field != "args") {
        writeln!(text, "  {field}: {value}")?;
    }
    writeln!(text, "arguments:")?;
    let mut line = String::new();
    for word in words(container) {
        if word.starts_with("--") && !line.is_empty() {
            writeln!(text, "  {line}")?;
            line.clear();
        }
        let space = if line.is_empty() { "" } else { " " };
        write!(line, "{space}{}", quoted(word))?;
    }
    writeln!(text, "  {line}")
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(char::is_whitespace) {
        format!("{word:?}")
    } else {
        word.to_owned()
    }
}

fn words(container: &Value) -> Vec<&str> {
    let args = container.get("args").and_then(Value::as_array);
    args.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What differs from the same pod without the annotation.
fn effects(
    name: &str,
    with: &Patch,
    pod: &Pod,
    settings: &Settings,
    request: &Request<'_>,
) -> Vec<String> {
    let mut without = pod.clone();
    without.metadata.annotations.remove(name);
    let without = match patch::patch(&without, settings, request) {
        Ok(without) => without,
        Err(error) => return vec![format!("without it the pod is refused: {error}")],
    };
    let (own, other) = (sidecar(with), sidecar(&without));
    let mut found = Vec::new();
    if let (Some(own), Some(other)) = (own, other) {
        found.extend(arguments(&words(own), &words(other)));
        for (field, value) in own.as_object().into_iter().flatten() {
            let before = other.get(field);
            if field != "args" && before != Some(value) {
                found.extend(field_effects(field, value, before));
            }
        }
    }
    let is_container = |operation: &&Operation| Some(&operation.value) != own;
    for operation in with.operations.iter().filter(is_container) {
        if !without.operations.contains(operation) {
            found.push(format!("adds {} at {}", operation.value, operation.path));
        }
    }
    found
}

/// Flags that are new, changed or gone.
fn arguments(own: &[&str], other: &[&str]) -> Vec<String> {
    let (own, other) = (flags(own), flags(other));
    let new = own.iter().filter(|flag| !other.contains(flag));
    let gone = other.iter().filter(|flag| {
        let name = |flag: &str| flag.split([' ', '=']).next().unwrap_or_default().to_owned();
        !own.iter().any(|kept| name(kept) == name(flag))
    });
    let new = new.map(|flag| format!("passes {flag}"));
    new.chain(gone.map(|flag| format!("drops {flag}")))
        .collect()
}

fn flags(words: &[&str]) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    for word in words {
        match flags.last_mut() {
            Some(last) if !word.starts_with("--") && last.starts_with("--") => {
                last.push(' ');
                last.push_str(&quoted(word));
            }
            Some(_) | None => flags.push((*word).to_owned()),
        }
    }
    flags
}

/// Items that a list has gained, or the whole value.
fn field_effects(field: &str, value: &Value, before: Option<&Value>) -> Vec<String> {
    let (Value::Array(items), Some(Value::Array(before))) = (value, before) else {
        return vec![format!("sets {field} to {value}")];
    };
    let new = items.iter().filter(|item| !before.contains(item));
    new.map(|item| format!("adds {item} to {field}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::patch::tests::{request, settings};

    fn text(annotations: &[(&str, &str)]) -> String {
        let annotations: BTreeMap<_, _> = annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut pod = Pod::default();
        pod.metadata.name = "shop".to_owned();
        pod.metadata.annotations = annotations;
        explain(&pod, &settings(), &request())
    }

    #[test]
    fn every_annotation_says_what_it_did() {
        let text = text(&[
            ("dapr.io/enabled", "true"),
            ("dapr.io/app-port", "3000"),
            ("dapr.io/enable-metrics", "false"),
            ("dapr.io/log-level", "info"),
            ("dapr.io/env", "A=1"),
            ("dapr.io/grpc-port", "x"),
            ("dapr.io/app-prt", "1"),
        ]);
        for line in [
            "  --app-port 3000\n",
            "  dapr.io/app-port: passes --app-port 3000\n",
            "  --dapr-graceful-shutdown-seconds -1\n",
            "  dapr.io/log-level: changes nothing: without it the sidecar would be the same\n",
            "  dapr.io/grpc-port: changes nothing: \"x\" is no number; the default stays\n",
            "  annotation dapr.io/app-prt: is unknown and ignored; did you mean dapr.io/app-port?\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(
            text.contains("drops --enable-metrics; drops --metrics-port 9090"),
            "{text}"
        );
        assert!(
            text.contains(r#"adds {"name":"A","value":"1"} to env"#),
            "{text}"
        );
    }

    #[test]
    fn a_pod_without_a_sidecar_says_why() {
        let disabled = text(&[("dapr.io/enabled", "yes")]);
        assert!(disabled.starts_with("no sidecar: annotation dapr.io/enabled is not \"true\"\n"));
        assert!(disabled.contains("only \"true\" does"), "{disabled}");
        let refused = text(&[("dapr.io/enabled", "true"), ("dapr.io/app-id", "Shop")]);
        assert!(
            refused.starts_with("the pod is refused: invalid app id (input: 'Shop', "),
            "{refused}"
        );
    }
}
