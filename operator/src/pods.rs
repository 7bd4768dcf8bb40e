//! Pods as far as the operator looks at them: the metadata that decides which Configuration an app has and whether a
//! sidecar is missing.
//!
//! Containers and status are absent on purpose, so that the API server can be asked for metadata alone. Whoever needs
//! more of one pod reads that pod.

use dapr_crds::annotations::{
    APP_ID, CONFIG, ENABLED, LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED, is_truthy,
};
use dapr_kubernetes::{resource, slim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

/// The metadata that is kept.
const KEPT: slim::Keep = slim::Keep {
    annotations: &[APP_ID, CONFIG, ENABLED],
    labels: &[LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED],
    owners: true,
};

/// A pod. Two are equal when nothing that decides differs: `resourceVersion` alone is no difference, so that status
/// writes of thousands of pods wake nobody.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Pod {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its unique id.
    pub fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref()
    }

    /// The version last seen.
    pub fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    /// Whether it is to have a sidecar.
    pub fn is_enabled(&self) -> bool {
        self.annotation(ENABLED).is_some_and(is_truthy)
    }

    /// The app id: the annotation, else the name of the pod.
    pub fn app_id(&self) -> &str {
        let annotated = self.annotation(APP_ID).filter(|id| !id.is_empty());
        annotated.unwrap_or_else(|| self.name())
    }

    /// The Configuration it names.
    pub fn config(&self) -> Option<&str> {
        self.annotation(CONFIG).filter(|name| !name.is_empty())
    }

    /// Whether it has a label, whatever its value; only labels of Dapr are kept.
    pub fn has_label(&self, name: &str) -> bool {
        let labels = self.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key(name))
    }

    /// The controller that made it.
    pub fn controller(&self) -> Option<&OwnerReference> {
        let owners = self.metadata.owner_references.as_ref()?;
        owners.iter().find(|owner| owner.controller == Some(true))
    }

    /// When it was made.
    pub fn created(&self) -> Option<&Time> {
        self.metadata.creation_timestamp.as_ref()
    }

    /// Whether it is being deleted.
    pub fn is_ending(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }
}

impl PartialEq for Pod {
    fn eq(&self, other: &Self) -> bool {
        let ObjectMeta {
            name,
            namespace,
            uid,
            labels,
            annotations,
            owner_references,
            creation_timestamp,
            deletion_timestamp,
            ..
        } = &self.metadata;
        let other = &other.metadata;
        *name == other.name
            && *namespace == other.namespace
            && *uid == other.uid
            && *labels == other.labels
            && *annotations == other.annotations
            && *owner_references == other.owner_references
            && *creation_timestamp == other.creation_timestamp
            && *deletion_timestamp == other.deletion_timestamp
    }
}

fn slim<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    slim::metadata(from, KEPT)
}

resource!(Pod, "Pod", "", "v1", "pods", metadata only);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": metadata, "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"},
        }))
        .expect("a pod")
    }

    #[test]
    fn what_decides_is_kept() {
        let pod = pod(&json!({
            "name": "shop-1", "namespace": "default", "uid": "u", "resourceVersion": "7",
            "annotations": {"dapr.io/enabled": "On", "dapr.io/app-id": "shop", "dapr.io/config": "c", "other": "x"},
            "labels": {"dapr.io/sidecar-injected": "true", "app": "shop"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop", "uid": "2", "controller": true},
            ],
        }));
        assert!(pod.is_enabled() && !pod.is_ending());
        assert_eq!((pod.app_id(), pod.config()), ("shop", Some("c")));
        assert!(pod.has_label(LABEL_SIDECAR_INJECTED) && !pod.has_label("app"));
        assert_eq!(pod.controller().map(|it| &*it.uid), Some("2"));
        assert_eq!(
            pod.metadata.annotations.as_ref().map(BTreeMap::len),
            Some(3)
        );
    }

    #[test]
    fn the_name_stands_in_for_the_app_id() {
        for annotations in [
            json!(null),
            json!({"dapr.io/app-id": "", "dapr.io/config": ""}),
        ] {
            let pod = pod(&json!({"name": "p", "annotations": annotations}));
            assert_eq!((pod.app_id(), pod.config()), ("p", None));
            assert!(!pod.is_enabled());
        }
    }

    #[test]
    fn a_status_write_is_no_difference() {
        let at = |version: &str, config: &str| {
            pod(
                &json!({"name": "p", "resourceVersion": version, "annotations": {"dapr.io/config": config}}),
            )
        };
        assert_eq!(at("1", "a"), at("2", "a"));
        assert_ne!(at("1", "a"), at("1", "b"));
    }
}
