//! The workloads that are watched, whatever their kind: what each wants, and whom a Service belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_kubernetes::{Reader, State};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use parking_lot::RwLock;

use super::app::{self, App};
use super::generic::Other;
use super::objects::{Deployment, Kind, Rollout, StatefulSet, Workload};

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) of: Of,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Which kind a workload has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    Deployment,
    StatefulSet,
    Rollout,
    /// Any other, which is found through its pods: API version and kind.
    Other(String, String),
}

/// What a workload wants.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) app: Result<App, app::Error>,
    pub(super) owner: OwnerReference,
    pub(super) selector: BTreeMap<String, String>,
}

/// The last known workloads.
#[derive(Debug)]
pub(super) struct Workloads {
    pub(super) deployments: Reader<Workload<Deployment>>,
    pub(super) stateful_sets: Reader<Workload<StatefulSet>>,
    /// `None` unless they are watched.
    pub(super) rollouts: Option<Reader<Workload<Rollout>>>,
    /// Kept by the one who looks for them.
    pub(super) others: Arc<RwLock<BTreeMap<Key, Other>>>,
}

impl Of {
    /// The kind an owner names.
    pub(super) fn owner(owner: &OwnerReference) -> Self {
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            (Deployment::GROUP, Deployment::KIND) => Self::Deployment,
            (StatefulSet::GROUP, StatefulSet::KIND) => Self::StatefulSet,
            (Rollout::GROUP, Rollout::KIND) => Self::Rollout,
            _ => Self::Other(owner.api_version.clone(), owner.kind.clone()),
        }
    }
}

impl Workloads {
    /// What a workload wants; `None` if it is gone, going, or not an app.
    pub(super) fn wish(&self, key: &Key) -> Option<Wish> {
        match &key.of {
            Of::Deployment => wish(&self.deployments, key),
            Of::StatefulSet => wish(&self.stateful_sets, key),
            Of::Rollout => match &self.rollouts {
                Some(rollouts) => wish(rollouts, key),
                None => self.other(key),
            },
            Of::Other(..) => self.other(key),
        }
    }

    fn other(&self, key: &Key) -> Option<Wish> {
        let others = self.others.read();
        let other = others.get(key)?;
        Some(Wish {
            app: other.app().transpose()?,
            owner: other.owner.clone(),
            selector: other.selector.clone(),
        })
    }

    /// Whether the owner a Service names is there and wants this Service.
    pub(super) fn is_claimed(
        &self,
        namespace: &str,
        service: &str,
        owner: &OwnerReference,
    ) -> bool {
        let key = Key {
            of: Of::owner(owner),
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
        };
        self.wish(&key)
            .is_some_and(|wish| wish.owner.uid == owner.uid && wish.names(service))
    }

    /// Every workload of a namespace that wants this Service. Looks at all of them.
    pub(super) fn claimants(&self, namespace: &str, service: &str) -> Vec<Key> {
        let mut keys = names(&self.deployments, &Of::Deployment, namespace);
        keys.extend(names(&self.stateful_sets, &Of::StatefulSet, namespace));
        if let Some(rollouts) = &self.rollouts {
            keys.extend(names(rollouts, &Of::Rollout, namespace));
        }
        let others = self.others.read();
        keys.extend(
            others
                .keys()
                .filter(|key| key.namespace == namespace)
                .cloned(),
        );
        drop(others);
        keys.retain(|key| self.wish(key).is_some_and(|wish| wish.names(service)));
        keys
    }

    /// Whether the API server says that it does not know Rollouts.
    pub(super) fn lacks_rollouts(&self) -> bool {
        let Some(rollouts) = self.rollouts.as_ref().filter(|it| !it.is_synced()) else {
            return false;
        };
        let health = rollouts.health();
        let health = health.borrow();
        let error = health.last_error.as_deref().unwrap_or_default();
        health.state == State::Starting && error.starts_with("404")
    }
}

impl Wish {
    fn names(&self, service: &str) -> bool {
        let app = self.app.as_ref().ok();
        app.is_some_and(|app| app.service_name() == service)
    }
}

/// Namespace and name of the Service a workload wants; `None` if it is going, or is no app that can have one.
pub(super) fn claim<K: Kind>(workload: &Workload<K>) -> Option<(&str, String)> {
    if workload.is_ending() {
        return None;
    }
    let app = App::read(&workload.annotations).ok()??;
    let namespace = workload.meta().namespace.as_deref().unwrap_or_default();
    Some((namespace, app.service_name()))
}

fn wish<K: Kind>(reader: &Reader<Workload<K>>, key: &Key) -> Option<Wish> {
    let workload = reader.get(&key.namespace, &key.name)?;
    if workload.is_ending() {
        return None;
    }
    Some(Wish {
        app: App::read(&workload.annotations).transpose()?,
        owner: workload.reference(),
        selector: workload.selector.clone(),
    })
}

fn names<K: Kind>(reader: &Reader<Workload<K>>, of: &Of, namespace: &str) -> Vec<Key> {
    let workloads = reader.in_namespace(namespace);
    let enabled = workloads
        .iter()
        .filter(|workload| app::is_enabled(&workload.annotations));
    enabled
        .map(|workload| Key {
            of: of.clone(),
            namespace: namespace.to_owned(),
            name: workload.reference().name,
        })
        .collect()
}
