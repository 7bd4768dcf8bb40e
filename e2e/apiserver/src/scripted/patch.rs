//! Patches of single objects. Strategic and applied ones are merged like plain merge patches: lists are replaced.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

/// The kind of patch a content type names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Merge,
    /// Server-side apply: also creates.
    Apply,
    /// A list of operations.
    Json,
}

impl Kind {
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                Some(Self::Merge)
            }
            "application/apply-patch+yaml" | "application/apply-patch+json" => Some(Self::Apply),
            "application/json-patch+json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// RFC 7396.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(&key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902 without `move` and `copy`.
pub(super) fn operate(target: &mut Value, operations: &Value) -> anyhow::Result<()> {
    for operation in operations.as_array().context("not a list of operations")? {
        let text = |field: &str| {
            operation[field]
                .as_str()
                .with_context(|| format!("no {field}"))
        };
        let (verb, path) = (text("op")?, text("path")?);
        let value = operation["value"].clone();
        if verb == "test" {
            if target.pointer(path) != Some(&value) {
                bail!("the test of {path} failed");
            }
            continue;
        }
        let (parent, key) = path.rsplit_once('/').context("no path")?;
        let key = key.replace("~1", "/").replace("~0", "~");
        let parent = target
            .pointer_mut(parent)
            .with_context(|| format!("nothing is at {parent}"))?;
        match (parent, verb) {
            (Value::Object(fields), "add" | "replace") => drop(fields.insert(key, value)),
            (Value::Object(fields), "remove") => {
                drop(fields.remove(&key).context("nothing to remove")?)
            }
            (Value::Array(items), "add") if key == "-" => items.push(value),
            (Value::Array(items), _) => {
                let index: usize = key.parse().context("no index")?;
                match verb {
                    "add" if index <= items.len() => items.insert(index, value),
                    "replace" if index < items.len() => items[index] = value,
                    "remove" if index < items.len() => drop(items.remove(index)),
                    _ => bail!("{verb} at {path}"),
                }
            }
            _ => bail!("{verb} at {path}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_sets_and_removes() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(
            &mut object,
            json!({"a": {"b": null, "e": {"f": null, "g": 3}}, "d": [2]}),
        );
        assert_eq!(object, json!({"a": {"c": 2, "e": {"g": 3}}, "d": [2]}));
    }

    #[test]
    fn operations_follow_their_paths() {
        let mut object = json!({"a": {"x/y": 1}, "l": [1, 2]});
        let operations = json!([
            {"op": "test", "path": "/l/0", "value": 1},
            {"op": "replace", "path": "/a/x~1y", "value": 2},
            {"op": "add", "path": "/l/-", "value": 3},
            {"op": "add", "path": "/l/0", "value": 0},
            {"op": "remove", "path": "/l/1"},
        ]);
        operate(&mut object, &operations).expect("patched");
        assert_eq!(object, json!({"a": {"x/y": 2}, "l": [0, 2, 3]}));
        for bad in [
            json!([{"op": "test", "path": "/a", "value": 1}]),
            json!([{"op": "add", "path": "/none/x", "value": 1}]),
            json!([{"op": "remove", "path": "/l/9"}]),
            json!({}),
        ] {
            assert!(operate(&mut object, &bad).is_err(), "{bad}");
        }
    }
}
