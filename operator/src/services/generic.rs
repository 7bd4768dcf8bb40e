//! Workloads of any other kind, found through their pods: a ReplicaSet without a Deployment, a DaemonSet, whatever a
//! custom controller makes pods from. Jobs are left out: their pods end.
//!
//! For each controller one of its pods is read, and its owners up to the topmost, once. What a Service is like is
//! decided elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dapr_kubernetes::Reader;
use k8s_openapi::api::core::v1::Pod as WholePod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DynamicObject};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::{Api, Client, discovery};
use parking_lot::RwLock;
use tokio::time::{Instant, sleep, sleep_until};

use super::app::{self, App, READ};
use super::work::Pending;
use super::workloads::{Key, Of};
use crate::names::may_be_name;
use crate::pods::Pod;

/// Owners of owners that are looked at; more are a circle.
const DEPTH: usize = 8;
/// Changes of pods that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(200);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// The pause where the operator may not read a kind: only an administrator changes that.
const FORBIDDEN: Duration = Duration::from_secs(300);

/// A workload of another kind that has an app.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Other {
    pub(super) owner: OwnerReference,
    pub(super) selector: BTreeMap<String, String>,
    /// Those of one of its pods.
    annotations: BTreeMap<String, String>,
}

impl Other {
    pub(super) fn app(&self) -> Result<Option<App>, app::Error> {
        App::read(&self.annotations)
    }
}

/// One pod that stands for all of a controller's.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    namespace: String,
    pod: String,
    pod_uid: String,
    controller: OwnerReference,
}

/// An owner as far as it is looked at.
#[derive(Clone, Debug, PartialEq)]
struct Link {
    reference: OwnerReference,
    selector: Option<BTreeMap<String, String>>,
}

/// What is known of a controller.
#[derive(Clone, Debug)]
enum Known {
    /// It is served.
    Serves(Key, Box<Other>),
    /// It is none of this module's.
    Foreign,
    /// It could not be read; when to try again.
    Unread(Instant),
}

/// Why a controller could not be read.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{kind} {name} cannot be read")]
    Read {
        kind: String,
        name: String,
        source: kube::Error,
    },
    #[error("owners of {kind} {name} go in a circle")]
    Circle { kind: String, name: String },
}

/// A pod of each controller that may be served, by the controller's UID. The newest one, which has the newest
/// annotations; pods that end do not count.
fn samples(pods: &[Arc<Pod>]) -> BTreeMap<String, Sample> {
    let mut newest: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in pods {
        let Some(controller) = pod.controller() else {
            continue;
        };
        if !pod.is_enabled() || pod.is_ending() || is_skipped(controller) {
            continue;
        }
        let age = |pod: &Pod| (pod.created().map(|time| time.0), pod.name().to_owned());
        let known = newest.entry(&controller.uid).or_insert(pod);
        if age(pod) > age(known) {
            *known = pod;
        }
    }
    let sample = |pod: &Pod| {
        Some(Sample {
            namespace: pod.namespace().to_owned(),
            pod: pod.name().to_owned(),
            pod_uid: pod.uid().unwrap_or_default().to_owned(),
            controller: pod.controller()?.clone(),
        })
    };
    newest
        .into_iter()
        .filter_map(|(uid, pod)| Some((uid.to_owned(), sample(pod)?)))
        .collect()
}

/// Owners whose pods need nothing here: Jobs end, the others are watched by themselves, and what is no name is nobody's
/// (whoever creates a pod writes it, and to be read it would become part of a path).
fn is_skipped(owner: &OwnerReference) -> bool {
    if !may_be_name(&owner.name) {
        return true;
    }
    let group = owner
        .api_version
        .split_once('/')
        .map_or("", |(group, _)| group);
    match Of::owner(owner) {
        Of::Deployment | Of::StatefulSet => true,
        Of::Rollout | Of::Other(..) => {
            group == "batch" || (group.is_empty() && owner.kind == "Node")
        }
    }
}

/// Who gets the Service, from the owners of a pod, the nearest first: the topmost that says which pods are its own.
fn served(chain: &[Link], rollouts: Rollouts) -> Option<&Link> {
    let is_foreign = |link: &Link| {
        is_skipped(&link.reference)
            || (rollouts == Rollouts::Watched && Of::owner(&link.reference) == Of::Rollout)
    };
    if chain.iter().any(is_foreign) {
        return None;
    }
    chain.iter().rev().find(|link| link.selector.is_some())
}

/// Whether Rollouts have a watch of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rollouts {
    Watched,
    Unwatched,
}

/// Keeps `others` right while it runs.
pub(super) async fn run(
    client: Client,
    pods: Reader<Pod>,
    others: Arc<RwLock<BTreeMap<Key, Other>>>,
    rollouts: Rollouts,
    pending: Arc<Pending>,
) {
    let mut versions = pods.subscribe();
    pods.synced().await;
    let mut finder = Finder {
        client,
        rollouts,
        kinds: BTreeMap::new(),
        known: BTreeMap::new(),
    };
    loop {
        versions.borrow_and_update();
        let retry = finder.look(&samples(&pods.snapshot())).await;
        finder.publish(&others, &pending);
        tokio::select! {
            changed = versions.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = at(retry) => {}
        }
        sleep(GATHER).await;
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

struct Finder {
    client: Client,
    rollouts: Rollouts,
    kinds: BTreeMap<(String, String), ApiResource>,
    /// By the controller's UID, with the pod that was read.
    known: BTreeMap<String, (String, Known)>,
}

impl Finder {
    /// Reads what is new; tells when to look again at what could not be read.
    async fn look(&mut self, samples: &BTreeMap<String, Sample>) -> Option<Instant> {
        self.known.retain(|uid, _| samples.contains_key(uid));
        for (uid, sample) in samples {
            let now = Instant::now();
            let is_known = self.known.get(uid).is_some_and(|(pod, known)| match known {
                // Whose it is does not change.
                Known::Foreign => true,
                Known::Unread(until) => now < *until,
                Known::Serves(..) => *pod == sample.pod_uid,
            });
            if is_known {
                continue;
            }
            let known = match self.resolve(sample).await {
                Ok(Some((key, other))) => Known::Serves(key, Box::new(other)),
                Ok(None) => Known::Foreign,
                Err(error) => Known::Unread(now + tell(&error)),
            };
            self.known
                .insert(uid.clone(), (sample.pod_uid.clone(), known));
        }
        let unread = self.known.values().filter_map(|(_, known)| match known {
            Known::Unread(until) => Some(*until),
            Known::Serves(..) | Known::Foreign => None,
        });
        unread.min()
    }

    fn publish(&self, others: &RwLock<BTreeMap<Key, Other>>, pending: &Pending) {
        let served = self.known.values().filter_map(|(_, known)| match known {
            Known::Serves(key, other) => Some((key.clone(), Other::clone(other))),
            Known::Foreign | Known::Unread(_) => None,
        });
        let new: BTreeMap<Key, Other> = served.collect();
        let old = std::mem::replace(&mut *others.write(), new.clone());
        for (key, other) in new {
            if old.get(&key) != Some(&other) {
                pending.add(key);
            }
        }
    }

    async fn resolve(&mut self, sample: &Sample) -> Result<Option<(Key, Other)>, Error> {
        let chain = self
            .chain(&sample.namespace, sample.controller.clone())
            .await?;
        let Some(link) = served(&chain, self.rollouts) else {
            if chain.iter().all(|link| link.selector.is_none()) {
                let owner = &sample.controller;
                tracing::warn!(
                    kind = owner.kind,
                    name = owner.name,
                    namespace = sample.namespace,
                    "no owner of the pods has spec.selector.matchLabels, so they get no Service"
                );
            }
            return Ok(None);
        };
        let pods =
            Api::<PartialObjectMeta<WholePod>>::namespaced(self.client.clone(), &sample.namespace);
        let pod = pods.get(&sample.pod).await.map_err(|source| Error::Read {
            kind: "Pod".to_owned(),
            name: sample.pod.clone(),
            source,
        })?;
        let mut annotations = pod.metadata.annotations.unwrap_or_default();
        annotations.retain(|name, _| READ.contains(&name.as_str()));
        let reference = &link.reference;
        let key = Key {
            of: Of::owner(reference),
            namespace: sample.namespace.clone(),
            name: reference.name.clone(),
        };
        let other = Other {
            owner: OwnerReference {
                controller: Some(true),
                // It would take the right to write finalizers of every such kind.
                block_owner_deletion: None,
                ..reference.clone()
            },
            selector: link.selector.clone().unwrap_or_default(),
            annotations,
        };
        Ok(Some((key, other)))
    }

    /// The owners, the nearest first; not further than to one that needs nothing here.
    async fn chain(
        &mut self,
        namespace: &str,
        nearest: OwnerReference,
    ) -> Result<Vec<Link>, Error> {
        let mut chain = Vec::new();
        let mut next = Some(nearest);
        while let Some(reference) = next.take() {
            if chain.len() == DEPTH {
                return Err(Error::Circle {
                    kind: reference.kind,
                    name: reference.name,
                });
            }
            if is_skipped(&reference) {
                chain.push(Link {
                    reference,
                    selector: None,
                });
                break;
            }
            let object = self.read(namespace, &reference).await?;
            next = controller(&object.metadata).cloned();
            chain.push(Link {
                selector: selector(&object),
                reference,
            });
        }
        Ok(chain)
    }

    async fn read(
        &mut self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<DynamicObject, Error> {
        let read = async {
            let kind = self.kind(owner).await?;
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &kind);
            api.get(&owner.name).await
        };
        read.await.map_err(|source| Error::Read {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            source,
        })
    }

    async fn kind(&mut self, owner: &OwnerReference) -> Result<ApiResource, kube::Error> {
        let name = (owner.api_version.clone(), owner.kind.clone());
        if let Some(kind) = self.kinds.get(&name) {
            return Ok(kind.clone());
        }
        let (group, version) = name.0.split_once('/').unwrap_or(("", &name.0));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let (kind, _) = discovery::pinned_kind(&self.client, &kind).await?;
        self.kinds.insert(name, kind.clone());
        Ok(kind)
    }
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// `spec.selector.matchLabels`, if there are any.
fn selector(object: &DynamicObject) -> Option<BTreeMap<String, String>> {
    let labels = object.data.pointer("/spec/selector/matchLabels")?;
    let labels: BTreeMap<String, String> = serde_json::from_value(labels.clone()).ok()?;
    (!labels.is_empty()).then_some(labels)
}

/// Logs the failure; tells how long to wait.
fn tell(error: &Error) -> Duration {
    let forbidden =
        matches!(error, Error::Read { source: kube::Error::Api(status), .. } if status.code == 403);
    if forbidden {
        tracing::warn!(
            %error,
            "the operator may not read this kind of workload: its role needs the verb get on it"
        );
        return FORBIDDEN;
    }
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, source, "the owner of an app's pods is not known yet");
    match error {
        Error::Read { .. } => RETRY,
        Error::Circle { .. } => FORBIDDEN,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owner(version: &str, kind: &str) -> OwnerReference {
        OwnerReference {
            api_version: version.to_owned(),
            kind: kind.to_owned(),
            name: kind.to_lowercase(),
            uid: kind.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    fn link(version: &str, kind: &str, selects: bool) -> Link {
        Link {
            reference: owner(version, kind),
            selector: selects.then(|| [("app".to_owned(), "a".to_owned())].into()),
        }
    }

    #[test]
    fn owners_whose_names_are_paths_are_not_read() {
        let mut named = owner("x.io/v1", "Thing");
        assert!(!is_skipped(&named));
        named.name = "../../other/things/thing".to_owned();
        assert!(is_skipped(&named));
    }

    #[test]
    fn the_topmost_that_selects_is_served() {
        let check = |chain: &[Link], rollouts, expected: Option<&str>| {
            let found = served(chain, rollouts).map(|link| link.reference.kind.as_str());
            assert_eq!(found, expected, "{chain:?} {rollouts:?}");
        };
        let set = link("apps/v1", "ReplicaSet", true);
        let custom = |selects| link("x.io/v1", "Thing", selects);
        check(
            std::slice::from_ref(&set),
            Rollouts::Unwatched,
            Some("ReplicaSet"),
        );
        check(
            &[set.clone(), custom(true)],
            Rollouts::Unwatched,
            Some("Thing"),
        );
        check(
            &[set.clone(), custom(false)],
            Rollouts::Unwatched,
            Some("ReplicaSet"),
        );
        check(&[custom(false)], Rollouts::Unwatched, None);
        for other in [
            link("apps/v1", "Deployment", true),
            link("apps/v1", "StatefulSet", true),
            link("batch/v1", "Job", true),
            link("batch/v1", "CronJob", true),
        ] {
            check(&[set.clone(), other], Rollouts::Unwatched, None);
        }
        let rollout = [set, link("argoproj.io/v1alpha1", "Rollout", true)];
        check(&rollout, Rollouts::Watched, None);
        check(&rollout, Rollouts::Unwatched, Some("Rollout"));
        check(
            &[link("apps/v1", "DaemonSet", true)],
            Rollouts::Watched,
            Some("DaemonSet"),
        );
    }

    fn pod(name: &str, created: &str, owner: &Value, enabled: &str) -> Arc<Pod> {
        let pod = serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "n", "uid": name, "creationTimestamp": created,
            "annotations": {"dapr.io/enabled": enabled}, "ownerReferences": [owner],
        }}));
        Arc::new(pod.expect("a pod"))
    }

    #[test]
    fn the_newest_pod_stands_for_all() {
        let of = |kind: &str, version: &str| json!({"apiVersion": version, "kind": kind, "name": "x", "uid": kind, "controller": true});
        let set = of("ReplicaSet", "apps/v1");
        let pods = [
            pod("a", "2026-01-01T00:00:00Z", &set, "true"),
            pod("c", "2026-01-03T00:00:00Z", &set, "true"),
            pod("b", "2026-01-02T00:00:00Z", &set, "true"),
            pod("d", "2026-01-04T00:00:00Z", &set, "false"),
            pod("e", "2026-01-04T00:00:00Z", &of("Job", "batch/v1"), "true"),
            pod(
                "f",
                "2026-01-04T00:00:00Z",
                &of("StatefulSet", "apps/v1"),
                "true",
            ),
        ];
        let found = samples(&pods);
        assert_eq!(found.len(), 1);
        assert_eq!(found["ReplicaSet"].pod, "c");
    }
}
