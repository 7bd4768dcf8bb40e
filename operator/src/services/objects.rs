//! What is kept of workloads and of the Services that are there: the few fields that decide.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use dapr_crds::annotations::APP_ID;
use dapr_kubernetes::slim::{self, Keep};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Deserializer};

use super::app::{self, READ};
use super::desired::Digest;

/// The label of the injector's Deployment, and its value.
const APP: &str = "app";
const INJECTOR: &str = "dapr-sidecar-injector";

/// A kind of workload.
pub trait Kind: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Its name.
    const KIND: &'static str;
    /// Its API group.
    const GROUP: &'static str;
    /// Its version.
    const VERSION: &'static str;
    /// Its name in paths.
    const PLURAL: &'static str;
}

macro_rules! kind {
    ($visibility:vis $name:ident, $group:literal, $version:literal, $plural:literal) => {
        #[doc = concat!(stringify!($name), "s.")]
        #[derive(Clone, Debug, PartialEq)]
        $visibility struct $name;

        impl Kind for $name {
            const KIND: &'static str = stringify!($name);
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const PLURAL: &'static str = $plural;
        }
    };
}

kind!(pub Deployment, "apps", "v1", "deployments");
kind!(pub(super) StatefulSet, "apps", "v1", "statefulsets");
kind!(pub(super) Rollout, "argoproj.io", "v1alpha1", "rollouts");

/// A workload. Two are equal unless something differs that its Service or the watchdog depends on: replicas and status
/// count for the injector alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload<K> {
    metadata: ObjectMeta,
    /// Annotations of the template, as far as they decide.
    pub(super) annotations: BTreeMap<String, String>,
    /// `matchLabels` of its selector; of a workload without an app they are not kept.
    pub(super) selector: BTreeMap<String, String>,
    is_ready_injector: bool,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(deserialize_with = "own")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<RawSpec>,
    #[serde(default)]
    status: Option<RawStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawStatus {
    ready_replicas: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSpec {
    selector: Option<RawSelector>,
    template: Option<RawTemplate>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSelector {
    match_labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTemplate {
    metadata: Option<RawMetadata>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMetadata {
    annotations: Option<BTreeMap<String, String>>,
}

fn own<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let keep = Keep {
        labels: &[APP],
        ..Keep::default()
    };
    let mut metadata = slim::metadata(from, keep)?;
    metadata.resource_version = None;
    Ok(metadata)
}

impl<'de, K> Deserialize<'de> for Workload<K> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut raw = Raw::deserialize(from)?;
        // A minimal server shows every object, whatever label was asked for.
        let labels = raw.metadata.labels.take();
        let is_injector =
            labels.is_some_and(|labels| labels.get(APP).is_some_and(|app| app == INJECTOR));
        let ready = raw.status.unwrap_or_default().ready_replicas;
        let spec = raw.spec.unwrap_or_default();
        let template = spec.template.and_then(|template| template.metadata);
        let annotations = template.and_then(|metadata| metadata.annotations);
        let mut annotations = annotations.unwrap_or_default();
        annotations.retain(|name, _| READ.contains(&name.as_str()));
        let selector = spec.selector.and_then(|selector| selector.match_labels);
        let selector = selector.filter(|_| app::is_enabled(&annotations));
        Ok(Self {
            metadata: raw.metadata,
            annotations,
            selector: selector.unwrap_or_default(),
            is_ready_injector: is_injector && ready.is_some_and(|ready| ready >= 1),
            kind: PhantomData,
        })
    }
}

impl<K: Kind> Workload<K> {
    /// What its Service says of its owner.
    pub(super) fn reference(&self) -> OwnerReference {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        OwnerReference {
            api_version: format!("{}/{}", K::GROUP, K::VERSION),
            kind: K::KIND.to_owned(),
            name: text(&self.metadata.name),
            uid: text(&self.metadata.uid),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is the injector's, and pods get their sidecars from it now.
    pub(crate) fn is_ready_injector(&self) -> bool {
        self.is_ready_injector
    }
}

impl<K: Kind> kube::Resource for Workload<K> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A Service that is there, of any origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    metadata: ObjectMeta,
    app_id: Option<Box<str>>,
    pub(super) digest: Digest,
}

impl Live {
    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The app whose Service it is.
    pub(crate) fn app_id(&self) -> Option<&str> {
        self.app_id.as_deref()
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The workload it belongs to.
    pub(super) fn controller(&self) -> Option<&OwnerReference> {
        let owners = self.metadata.owner_references.as_ref()?;
        owners.iter().find(|owner| owner.controller == Some(true))
    }
}

impl<'de> Deserialize<'de> for Live {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let service = Service::deserialize(from)?;
        let digest = Digest::of(&service);
        let all = service.metadata;
        let app_id = all
            .annotations
            .and_then(|mut annotations| annotations.remove(APP_ID));
        Ok(Self {
            app_id: app_id.map(Into::into),
            metadata: ObjectMeta {
                name: all.name,
                namespace: all.namespace,
                uid: all.uid,
                resource_version: all.resource_version,
                deletion_timestamp: all.deletion_timestamp,
                owner_references: all.owner_references,
                ..ObjectMeta::default()
            },
            digest,
        })
    }
}

dapr_kubernetes::resource!(Live, "Service", "", "v1", "services");

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Workload<Deployment> {
        serde_json::from_value(value.clone()).expect("readable")
    }

    fn deployment() -> Value {
        json!({
            "metadata": {"name": "shop", "namespace": "n", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "shop"}},
                "template": {
                    "metadata": {"annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "shop", "x": "y"}},
                    "spec": {"containers": []},
                },
            },
            "status": {"replicas": 1},
        })
    }

    #[test]
    fn what_decides_is_kept() {
        let workload = read(&deployment());
        assert_eq!(workload.annotations.len(), 2);
        assert_eq!(workload.selector["app"], "shop");
        let reference = workload.reference();
        assert_eq!(
            (&*reference.api_version, &*reference.kind, &*reference.uid),
            ("apps/v1", "Deployment", "u")
        );
    }

    #[test]
    fn scaling_and_status_are_no_change() {
        let mut other = deployment();
        other["metadata"]["resourceVersion"] = json!("2");
        other["spec"]["replicas"] = json!(5);
        other["status"]["replicas"] = json!(5);
        other["spec"]["template"]["metadata"]["annotations"]["x"] = json!("z");
        assert_eq!(read(&deployment()), read(&other));
        other["spec"]["template"]["metadata"]["annotations"]["dapr.io/app-id"] = json!("z");
        assert_ne!(read(&deployment()), read(&other));
    }

    #[test]
    fn the_injector_is_ready_or_not() {
        let check = |app: &str, ready: Value, expected: bool| {
            let mut injector = deployment();
            injector["metadata"]["labels"] = json!({"app": app});
            injector["status"] = ready;
            assert_eq!(read(&injector).is_ready_injector(), expected, "{injector}");
        };
        check("dapr-sidecar-injector", json!({"readyReplicas": 1}), true);
        check("dapr-sidecar-injector", json!({"readyReplicas": 0}), false);
        check("dapr-sidecar-injector", json!({}), false);
        check("dapr-sidecar-injector", json!(null), false);
        check("other", json!({"readyReplicas": 1}), false);
    }

    #[test]
    fn anything_may_be_missing() {
        for value in [
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "a"}, "spec": null}),
            json!({"metadata": {"name": "a"}, "spec": {"selector": null, "template": {"metadata": null}}}),
            json!({"metadata": {"name": "a"}, "spec": {"template": {"metadata": {"annotations": null}}}}),
        ] {
            assert_eq!(read(&value).annotations, BTreeMap::new(), "{value}");
        }
    }
}
