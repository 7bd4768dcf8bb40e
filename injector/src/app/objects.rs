//! The few fields of what is watched; everything else is dropped while reading.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dapr_crds::annotations::COMPONENT_CONTAINER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Deserializer};

use crate::patch::ComponentContainer;

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

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

fn slim<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let meta = Meta::deserialize(from)?;
    let annotations = meta.annotations.map(|mut annotations| {
        annotations.retain(|name, _| name == COMPONENT_CONTAINER);
        annotations
    });
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        annotations: annotations.filter(|it| !it.is_empty()),
        ..ObjectMeta::default()
    })
}

macro_rules! resource {
    ($type:ty, $kind:literal, $group:literal, $version:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
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
