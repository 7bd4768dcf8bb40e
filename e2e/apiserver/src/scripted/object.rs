//! Objects as they are kept: parsed for what the server does with them, and written once for whoever asks.

use serde_json::{Map, Value, json};

/// A kind of object, as paths name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// For example `pods`.
    pub plural: String,
}

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Empty for cluster-wide objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// An object at one version.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) value: Value,
    /// With `apiVersion` and `kind`: single objects and events.
    pub(super) text: String,
    /// Without, as items of lists are.
    pub(super) item: String,
}

impl Resource {
    /// What `apiVersion` and `kind` of an object mean in paths.
    pub fn of(object: &Value) -> Self {
        let text = |field: &str| {
            object
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (group, version) = text("apiVersion")
            .split_once('/')
            .unwrap_or(("", text("apiVersion")));
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural(text("kind")),
        }
    }

    /// The value of `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// The plural of a kind by the rules of English, which the kinds in use follow.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let vowel_before_y = ["ay", "ey", "oy", "uy"]
        .iter()
        .any(|end| kind.ends_with(end));
    if kind == "endpoints" {
        kind
    } else if kind.ends_with('s')
        || kind.ends_with('x')
        || kind.ends_with("ch")
        || kind.ends_with("sh")
    {
        format!("{kind}es")
    } else if kind.ends_with('y') && !vowel_before_y {
        format!("{}ies", kind.strip_suffix('y').unwrap_or(&kind))
    } else {
        format!("{kind}s")
    }
}

impl Name {
    /// The name of an object.
    pub fn of(object: &Value) -> Self {
        let text = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            namespace: text("namespace"),
            name: text("name"),
        }
    }
}

impl Stored {
    pub(super) fn new(value: Value) -> Self {
        let text = value.to_string();
        let mut item = value.clone();
        if let Some(item) = item.as_object_mut() {
            item.remove("apiVersion");
            item.remove("kind");
        }
        Self {
            item: item.to_string(),
            text,
            value,
        }
    }

    pub(super) fn metadata(&self, field: &str) -> Option<&str> {
        self.value["metadata"][field].as_str()
    }

    /// The same object as an event tells of its deletion: with the version of the deletion.
    pub(super) fn deleted_at(&self, version: u64) -> Self {
        let mut value = self.value.clone();
        set(&mut value, "resourceVersion", json!(version.to_string()));
        Self::new(value)
    }
}

/// Sets a field of the metadata, which is made if it is missing.
pub(super) fn set(object: &mut Value, field: &str, value: Value) {
    metadata(object).insert(field.to_owned(), value);
}

pub(super) fn unset(object: &mut Value, field: &str) {
    metadata(object).remove(field);
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut().expect("made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_plurals() {
        let check = |api: &str, kind: &str, group: &str, plural: &str| {
            let resource = Resource::of(&json!({"apiVersion": api, "kind": kind}));
            assert_eq!((&*resource.group, &*resource.plural), (group, plural));
            assert_eq!(resource.api_version(), api);
        };
        check("v1", "Pod", "", "pods");
        check("v1", "Endpoints", "", "endpoints");
        check("dapr.io/v1alpha1", "Resiliency", "dapr.io", "resiliencies");
        check(
            "dapr.io/v1alpha1",
            "WorkflowAccessPolicy",
            "dapr.io",
            "workflowaccesspolicies",
        );
        check(
            "networking.k8s.io/v1",
            "Ingress",
            "networking.k8s.io",
            "ingresses",
        );
        check("example.com/v1", "Gateway", "example.com", "gateways");
    }
}
