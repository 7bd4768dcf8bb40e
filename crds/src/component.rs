//! Component: one building block or middleware, configured by pairs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::meta::{V1Alpha1, or_default, resource};
use crate::schema::{Schema, boolean, object, text};
use crate::value::{Auth, NameValuePair, auth_schema, pairs_schema, scopes_schema};

/// A component an app's sidecar loads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename = "Component", default, rename_all = "camelCase")]
pub struct Component {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What the component is.
    #[serde(deserialize_with = "or_default")]
    pub spec: ComponentSpec,
    /// Who resolves its secret references.
    #[serde(deserialize_with = "or_default")]
    pub auth: Auth,
    /// App ids that may load it; empty means all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(Component, "Component", "v1alpha1", "components", |it| &it
    .scopes);

impl Component {
    /// `<name> (<type>/<version>)`, the name used in logs and errors.
    pub fn log_name(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        format!("{name} ({}/{})", self.spec.r#type, self.spec.version)
    }
}

/// What a component is and how it is set up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ComponentSpec {
    /// `<category>.<name>`, for example `state.redis`.
    #[serde(deserialize_with = "or_default")]
    pub r#type: String,
    /// The component's own version, for example `v1`.
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// Whether a failed start is logged and tolerated instead of stopping the sidecar.
    #[serde(deserialize_with = "or_default")]
    pub ignore_errors: bool,
    /// Limit of the start as a Go duration; five seconds when it does not parse.
    #[serde(deserialize_with = "or_default")]
    pub init_timeout: String,
    /// The configuration pairs.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Vec<NameValuePair>,
}

pub(crate) fn schema() -> Schema {
    let spec = object()
        .required(
            "type",
            "Type of the component as category.name, for example state.redis.",
            text(),
        )
        .required("version", "Version of the type, for example v1.", text())
        .required(
            "metadata",
            "Settings, by the names that its type knows; may be an empty list.",
            pairs_schema(),
        )
        .optional(
            "ignoreErrors",
            "Whether the sidecar goes on without it when it cannot be set up, instead of \
             ending; false by default.",
            boolean(),
        )
        .optional(
            "initTimeout",
            "Longest time that setting it up may take, a duration such as 10s; 5s by default.",
            text(),
        );
    object()
        .optional(
            "auth",
            "Where the secrets that it refers to are kept.",
            auth_schema(),
        )
        .optional(
            "scopes",
            "App ids whose sidecars load it; all of the namespace when empty.",
            scopes_schema(),
        )
        .optional("spec", "What the component is and how it is set up.", spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Component;

    #[test]
    fn empty_fields_are_written_as_upstream_writes_them() {
        let mut component = Component::default();
        component.metadata.name = Some("store".to_owned());
        assert_eq!(
            serde_json::to_value(&component).unwrap(),
            json!({
                "kind": "Component", "apiVersion": "dapr.io/v1alpha1", "metadata": {"name": "store"},
                "spec": {"type": "", "version": "", "ignoreErrors": false, "initTimeout": "", "metadata": []},
                "auth": {"secretStore": ""},
            })
        );
    }

    #[test]
    fn streamed_objects_without_kind_and_with_nulls_are_read() {
        let component: Component = serde_json::from_value(json!({
            "metadata": {"name": "store", "creationTimestamp": null},
            "spec": {"type": "state.redis", "version": "v1", "metadata": null},
            "auth": {"secretStore": ""}, "scopes": null,
        }))
        .unwrap();
        assert_eq!(component.log_name(), "store (state.redis/v1)");
        assert!(component.spec.metadata.is_empty() && component.scopes.is_empty());
        assert_eq!(
            serde_json::from_value::<Component>(json!({})).unwrap(),
            Component::default()
        );
    }
}
