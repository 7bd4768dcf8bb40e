use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Loaded, Source, from_json, load};

fn files(texts: &[&str]) -> Result<Loaded, String> {
    let sources = texts.iter().map(|text| Source {
        file: "config.yaml",
        text,
    });
    load(sources, |name| (name == "RATE").then(|| "0.5".to_owned()))
        .map_err(|error| error.to_string())
}

fn spec(texts: &[&str]) -> Value {
    serde_json::to_value(files(texts).unwrap().configuration.spec).unwrap()
}

#[test]
fn without_a_file_the_defaults_hold() {
    assert_eq!(
        spec(&[]),
        json!({
            "accessControl": {"defaultAction": "allow", "trustDomain": "public"},
            "metric": {"enabled": true},
            "tracing": {"samplingRate": "", "otel": {"protocol": "", "endpointAddress": "", "isSecure": true}},
        })
    );
}

#[test]
fn later_files_override_what_they_set() {
    let first = "
kind: Configuration
metadata: {name: first}
spec:
  features: [{name: A, enabled: true}, {name: B, enabled: true}]
  accessControl: {defaultAction: deny}
  tracing: {samplingRate: \"1\", otel: {endpointAddress: \"otel:4317\", protocol: grpc}}
  nameResolution: {component: sqlite, version: v1, configuration: {a: 1, b: 2}}
";
    let second = "
metadata: {name: second}
spec:
  features: [{name: C, enabled: false}]
  tracing: {otel: {isSecure: no}}
  metric: null
  nameResolution: {configuration: {c: 3}}
---
spec: {features: []}
";
    let merged = spec(&[first, second]);
    assert_eq!(merged["features"], json!([{"name": "C", "enabled": false}]));
    assert_eq!(
        merged["accessControl"],
        json!({"defaultAction": "deny", "trustDomain": "public"})
    );
    assert_eq!(
        merged["tracing"],
        json!({"samplingRate": "1", "otel": {"protocol": "grpc", "endpointAddress": "otel:4317", "isSecure": false}})
    );
    assert_eq!(
        merged["nameResolution"],
        json!({"component": "sqlite", "version": "v1", "configuration": {"c": 3}})
    );
    assert_eq!(merged.get("metric"), None);
    let metadata = files(&[first, second]).unwrap().configuration.metadata;
    assert_eq!(metadata.name.as_deref(), Some("second"));
}

#[test]
fn variables_and_header_texts_are_a_files_own() {
    let loaded = files(&["spec: {tracing: {samplingRate: \"$RATE\", otel: {headers: [\"a=b\", {name: c, value: 1}]}}}"]).unwrap();
    let tracing = loaded.configuration.spec.tracing.unwrap();
    assert_eq!(tracing.sampling_rate, "0.5");
    let headers: Vec<_> = tracing
        .otel
        .unwrap()
        .headers
        .iter()
        .filter_map(crate::configuration::OtelHeader::parts)
        .collect();
    assert_eq!(
        headers,
        [
            ("a".to_owned(), "b".to_owned()),
            ("c".to_owned(), "1".to_owned())
        ]
    );
}

#[test]
fn maps_gain_entries_only_through_their_own_list() {
    let merged = spec(&[
        "spec: {metric: {rules: [{name: m, labels: [{name: l, regex: {a: b}}]}]}}",
        "spec: {metric: {enabled: false}}",
    ]);
    assert_eq!(
        merged["metric"],
        json!({"enabled": false, "rules": [{"name": "m", "labels": [{"name": "l", "regex": {"a": "b"}}]}]})
    );
}

#[test]
fn warnings_and_errors_name_file_and_field() {
    let loaded = files(&["spec: {health: {}}"]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(
        (
            loaded.warnings[0].0.as_str(),
            loaded.warnings[0].1.path.as_str()
        ),
        ("config.yaml", "spec.health")
    );
    let check = |text: &str, expected: &str| assert_eq!(files(&[text]).unwrap_err(), expected);
    check(
        "metadata: {name: t}\nspec: {tracing: {stdout: {enabled: true}}}",
        "config.yaml, document 1 (line 1), Configuration \"t\": \
         spec.tracing.stdout: expected true or false, found a map; write `stdout: true`",
    );
    check(
        "[1]",
        "config.yaml, document 1 (line 1), Configuration \"\": expected a map of fields, found a list",
    );
    assert!(
        files(&["a: ["])
            .unwrap_err()
            .starts_with("config.yaml, document 1 (line 1): not valid YAML: ")
    );
}

#[test]
fn a_file_of_another_kind_is_read_with_a_warning() {
    let loaded = files(&["kind: Component\nspec: {tracing: {samplingRate: \"1\"}}"]).unwrap();
    let warnings: Vec<_> = loaded
        .warnings
        .iter()
        .map(|(_, warning)| warning.to_string())
        .collect();
    assert_eq!(
        warnings,
        ["kind: is Component, but this file is read as a Configuration"]
    );
    assert_eq!(
        loaded.configuration.spec.tracing.unwrap().sampling_rate,
        "1"
    );
}

#[test]
fn an_operators_answer_is_laid_over_the_same_defaults() {
    let configuration = from_json(br#"{"metadata":{"name":"c"},"spec":{"accessControl":{"policies":null},"metrics":{"enabled":false}}}"#).unwrap();
    assert_eq!(
        configuration
            .spec
            .access_control
            .as_ref()
            .unwrap()
            .trust_domain,
        "public"
    );
    assert!(!configuration.spec.effective_metric().is_enabled());
    assert!(from_json(b"{").is_err());
    assert!(from_json(b"[]").is_err());
}

proptest! {
    #[test]
    fn no_file_panics(text in "\\PC{0,80}", lines in prop::collection::vec("(spec|  metric|  tracing| - a|kind|---)(:|: [a-z0-9{}\\[\\]]{0,6})?", 0..6)) {
        files(&[&text, &lines.join("\n")]).ok();
    }
}
