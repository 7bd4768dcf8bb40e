//! The few fields of what is watched; everything else is dropped while reading.

use dapr_crds::annotations::COMPONENT_CONTAINER;
use dapr_kubernetes::{resource, slim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

use crate::patch::ComponentContainer;

/// The metadata that is kept.
const KEPT: slim::Keep = slim::Keep {
    annotations: &[COMPONENT_CONTAINER],
    labels: &[],
    owners: false,
};

/// A Configuration: whether there is mTLS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Configuration {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<ConfigurationSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct ConfigurationSpec {
    mtls: Option<Mtls>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Mtls {
    enabled: Option<bool>,
}

impl Configuration {
    /// What is not said is yes.
    pub(super) fn is_mtls(&self) -> bool {
        let mtls = self.spec.as_ref().and_then(|spec| spec.mtls.as_ref());
        mtls.and_then(|mtls| mtls.enabled).unwrap_or(true)
    }
}

/// A Component: the container it brings, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Component {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    scopes: Option<Vec<String>>,
}

impl Component {
    /// What the patch needs; `None` for one without a container.
    pub(super) fn container(&self) -> Option<ComponentContainer> {
        let annotations = self.metadata.annotations.as_ref()?;
        let container = annotations.get(COMPONENT_CONTAINER)?;
        (!container.is_empty()).then(|| ComponentContainer {
            name: self.metadata.name.clone().unwrap_or_default(),
            scopes: self.scopes.clone().unwrap_or_default(),
            container: container.clone(),
        })
    }
}

/// A service account: its unique id.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Account {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
}

impl Account {
    pub(super) fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref()
    }
}

fn slim<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    slim::metadata(from, KEPT)
}

resource!(
    Configuration,
    "Configuration",
    "dapr.io",
    "v1alpha1",
    "configurations"
);
resource!(Component, "Component", "dapr.io", "v1alpha1", "components");
resource!(Account, "ServiceAccount", "", "v1", "serviceaccounts");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mtls_is_on_unless_it_is_said_to_be_off() {
        let check = |spec: serde_json::Value, expected: bool| {
            let object = json!({"metadata": {"name": "daprsystem"}, "spec": spec});
            let read: Configuration = serde_json::from_value(object).expect("readable");
            assert_eq!(read.is_mtls(), expected, "{spec}");
        };
        check(json!({"mtls": {"enabled": false}}), false);
        check(json!({"mtls": {"enabled": true}}), true);
        check(json!({"mtls": {"enabled": null}}), true);
        check(json!({"mtls": null}), true);
        check(json!({}), true);
        check(json!(null), true);
    }

    #[test]
    fn only_components_with_a_container_count() {
        let read = |annotations: serde_json::Value| -> Option<ComponentContainer> {
            let metadata =
                json!({"name": "store", "namespace": "shop", "annotations": annotations});
            let object = json!({"metadata": metadata, "scopes": ["a"]});
            let component: Component = serde_json::from_value(object).expect("readable");
            component.container()
        };
        assert_eq!(read(json!({"other": "x"})), None);
        assert_eq!(read(json!({COMPONENT_CONTAINER: ""})), None);
        let found = read(json!({COMPONENT_CONTAINER: "{}"})).expect("a container");
        assert_eq!(
            (found.name.as_str(), found.container.as_str()),
            ("store", "{}")
        );
        assert_eq!(found.scopes, ["a"]);
    }
}
