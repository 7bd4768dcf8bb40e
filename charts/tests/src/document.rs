//! Rendered documents, told apart by what they are.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The documents of a rendering, in its order. Empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = serde_saphyr::from_multiple::<Value>(text).context("reading the rendering")?;
    Ok(documents.into_iter().filter(|it| !it.is_null()).collect())
}

/// `Kind namespace/name`, without the namespace where there is none.
pub fn identity(document: &Value) -> String {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or("?");
    let name = text("/metadata/name").unwrap_or("?");
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// What one rendering has that another has not.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// Documents that are new or have changed, by identity.
    pub changed: BTreeMap<String, Value>,
    /// Identities of those that are gone.
    pub gone: Vec<String>,
}

impl Difference {
    /// From one rendering to another.
    pub fn between(from: &[Value], to: &[Value]) -> Self {
        let by_identity = |documents: &[Value]| -> BTreeMap<String, Value> {
            let pairs = documents.iter().map(|it| (identity(it), it.clone()));
            pairs.collect()
        };
        let (from, mut changed) = (by_identity(from), by_identity(to));
        let gone = from.keys().filter(|it| !changed.contains_key(*it));
        let gone = gone.cloned().collect();
        changed.retain(|identity, document| from.get(identity) != Some(document));
        Self { changed, gone }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Difference, documents, identity};

    #[test]
    fn a_document_is_known_by_kind_and_name() {
        let check = |document, expected: &str| assert_eq!(identity(&document), expected);
        check(
            json!({"kind": "Role", "metadata": {"name": "a", "namespace": "b"}}),
            "Role b/a",
        );
        check(
            json!({"kind": "ClusterRole", "metadata": {"name": "a"}}),
            "ClusterRole a",
        );
        check(json!({}), "? ?");
    }

    #[test]
    fn a_difference_has_what_is_new_changed_and_gone() {
        let from = documents("{kind: A, metadata: {name: x}}\n---\n{kind: B, metadata: {name: x}}\n---\n{kind: C, metadata: {name: x}}").unwrap();
        let to = documents("{kind: A, metadata: {name: x}}\n---\n\n---\n{kind: C, metadata: {name: x}, more: 1}\n---\n{kind: D, metadata: {name: x}}").unwrap();
        let difference = Difference::between(&from, &to);
        assert_eq!(difference.gone, ["B x"]);
        assert_eq!(
            difference.changed.keys().collect::<Vec<_>>(),
            ["C x", "D x"]
        );
    }
}
