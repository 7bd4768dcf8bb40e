//! Resources as documents. JSON is YAML.

use serde_json::{Value, json};

/// A component of type `kind` (`state.in-memory`, …), version v1.
pub(crate) fn component(name: &str, kind: &str, metadata: &[(&str, &str)]) -> String {
    let metadata: Vec<Value> = metadata
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    resource(
        "dapr.io/v1alpha1",
        "Component",
        name,
        json!({ "type": kind, "version": "v1", "metadata": metadata }),
    )
}

/// A declarative subscription.
pub(crate) fn subscription(name: &str, spec: Value) -> String {
    resource("dapr.io/v2alpha1", "Subscription", name, spec)
}

/// A resiliency resource.
pub(crate) fn resiliency(name: &str, spec: Value) -> String {
    resource("dapr.io/v1alpha1", "Resiliency", name, spec)
}

/// A configuration.
pub(crate) fn configuration(name: &str, spec: Value) -> String {
    resource("dapr.io/v1alpha1", "Configuration", name, spec)
}

fn resource(api_version: &str, kind: &str, name: &str, spec: Value) -> String {
    json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name }, "spec": spec })
        .to_string()
}
