//! What is watched: every kind of resource, pods, and the names of Secrets.
//!
//! What is known is served while the API server is away; the log says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use dapr_kit::health::Target;
use dapr_kubernetes::{Change, Config, Health, Reader, State, Watcher, watch};
use futures::{StreamExt as _, stream};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::objects::{ApiServer, SecretName};
use crate::kinds::Kind;
use crate::pods::Pod;
use crate::resources::{Resources, Shelf};
use crate::vault::Vault;

/// How many Secrets that changed are looked at together.
const SECRETS_AT_ONCE: usize = 8;
/// What a list says of a kind without CRD.
const ABSENT: &str = ": 404 ";
/// What a list says while old objects cannot be converted. It is this operator that converts them, once it is ready.
const UNCONVERTED: &str = "conversion webhook";

/// The watches, before they run, and what they fill.
pub(super) struct Parts {
    client: Client,
    scope: Option<String>,
    resources: Resources,
    vault: Vault,
    pods: (Reader<Pod>, Watcher<Pod>),
    secrets: Watcher<SecretName>,
}

/// Secrets that changed, until somebody has looked at who uses them: each once, however often it changed.
#[derive(Debug, Default)]
struct Changed {
    names: Mutex<BTreeSet<(String, String)>>,
    wake: Notify,
}

impl Parts {
    /// Watches of one namespace, or of all.
    pub(super) fn new(client: Client, scope: Option<String>) -> Self {
        let (names, secrets) = watch(api(&client, scope.as_deref()), Config::default());
        let vault = Vault::new(ApiServer {
            client: client.clone(),
            scope: scope.clone(),
            names,
        });
        let resources = Resources::new(&vault);
        let pods = watch(api(&client, scope.as_deref()), Config::default());
        Self {
            client,
            scope,
            resources,
            vault,
            pods,
            secrets,
        }
    }

    /// What sidecars are served.
    pub(super) fn resources(&self) -> Resources {
        self.resources.clone()
    }

    /// Every pod, as far as the operator looks at pods.
    pub(super) fn pods(&self) -> Reader<Pod> {
        self.pods.0.clone()
    }

    /// Starts the watches, which never end. `target` is ready once all are filled.
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>, target: Target) {
        let Self {
            client,
            scope,
            resources,
            vault,
            pods: (pods, pods_watcher),
            secrets,
        } = self;
        let scope = scope.as_deref();
        let settled = [
            follow(&client, scope, &resources.components, tasks),
            follow(&client, scope, &resources.configurations, tasks),
            follow(&client, scope, &resources.http_endpoints, tasks),
            follow(&client, scope, &resources.mcp_servers, tasks),
            follow(&client, scope, &resources.resiliencies, tasks),
            follow(&client, scope, &resources.subscriptions, tasks),
            follow(&client, scope, &resources.workflow_access_policies, tasks),
        ];
        let assigned = resources.clone();
        tasks.spawn(async move {
            pods_watcher
                .run(move |change| assigned.pod_changed(&change))
                .await;
        });
        tasks.spawn(tell("Pod", pods.health()));
        tasks.spawn(async move {
            for settled in settled {
                settled.notified().await;
            }
            pods.synced().await;
            target.ready();
            std::future::pending().await
        });

        let changed = Arc::new(Changed::default());
        let (hears, forgets) = (Arc::clone(&changed), vault.clone());
        tasks.spawn(async move {
            secrets
                .run(move |change| hears.hear(&change, &forgets))
                .await;
        });
        tasks.spawn(async move { changed.work(&resources).await });
        tasks.spawn(async move { vault.sweep().await });
    }
}

/// Starts the watch of a kind. Tells once it is known what objects there are.
fn follow<K>(
    client: &Client,
    scope: Option<&str>,
    shelf: &Shelf<K>,
    tasks: &mut JoinSet<()>,
) -> Arc<Notify>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let (reader, watcher) = watch::<K>(api(client, scope), Config::default());
    let (fills, absents) = (shelf.clone(), shelf.clone());
    tasks.spawn(async move {
        watcher.run(|change| fills.apply(change)).await;
    });
    let settled = Arc::new(Notify::new());
    let settles = Arc::clone(&settled);
    tasks.spawn(tell(<K as dapr_crds::meta::Object>::KIND, reader.health()));
    tasks.spawn(async move {
        let mut health = reader.health();
        let kind = <K as dapr_crds::meta::Object>::KIND;
        loop {
            let seen = health.borrow_and_update().clone();
            match standing(&seen) {
                Standing::Waiting => {}
                Standing::Settled => settles.notify_one(),
                Standing::Absent => {
                    absents.absent();
                    if K::IS_OPTIONAL {
                        tracing::info!(kind, "its CRD is not installed, there are no objects");
                        settles.notify_one();
                    }
                }
            }
            if health.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    });
    settled
}

/// How far a kind is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Waiting,
    /// As far as it can be before this operator is ready.
    Settled,
    Absent,
}

fn standing(health: &Health) -> Standing {
    let error = health.last_error.as_deref().unwrap_or_default();
    match health.state {
        State::Synced | State::Stale { .. } => Standing::Settled,
        State::Starting if error.contains(UNCONVERTED) => Standing::Settled,
        State::Starting if error.contains(ABSENT) => Standing::Absent,
        State::Starting => Standing::Waiting,
    }
}

/// Logs when the API server cannot be followed, and when it can again.
async fn tell(kind: &str, mut health: tokio::sync::watch::Receiver<Health>) {
    let mut is_stale = false;
    loop {
        let seen = health.borrow_and_update().clone();
        match seen.state {
            State::Stale { .. } if !is_stale => {
                let error = seen.last_error.as_deref();
                tracing::warn!(
                    kind,
                    error,
                    "the API server cannot be followed; the last known state is served"
                );
                is_stale = true;
            }
            State::Synced if is_stale => {
                tracing::info!(kind, "the API server is followed again");
                is_stale = false;
            }
            State::Starting | State::Synced | State::Stale { .. } => {}
        }
        if health.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Changed {
    fn hear(&self, change: &Change<SecretName>, vault: &Vault) {
        let secret = match change {
            Change::Applied { new, .. } => new,
            Change::Deleted { old } => old,
            Change::Synced => return,
        };
        let (namespace, name) = secret.place();
        vault.forget(namespace, name);
        let place = (namespace.to_owned(), name.to_owned());
        self.names.lock().insert(place);
        self.wake.notify_one();
    }

    /// Looks at who uses what changed.
    async fn work(&self, resources: &Resources) {
        loop {
            self.wake.notified().await;
            let changed = std::mem::take(&mut *self.names.lock());
            let looks = stream::iter(changed)
                .for_each_concurrent(SECRETS_AT_ONCE, async |(namespace, name)| {
                    resources.secret_changed(&namespace, &name).await
                });
            looks.await;
        }
    }
}

pub(super) fn api<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_or_absent() {
        let check = |state: State, error: &str, expected: Standing| {
            let health = Health {
                state,
                last_contact: None,
                last_error: Some(error.into()),
            };
            assert_eq!(standing(&health), expected, "{error}");
        };
        check(State::Starting, "", Standing::Waiting);
        let down = "list Component: connection refused";
        check(State::Starting, down, Standing::Waiting);
        let forbidden = "list Component: 403 Forbidden: no";
        check(State::Starting, forbidden, Standing::Waiting);
        let absent = "list Component: 404 Not Found: the server could not find it";
        check(State::Starting, absent, Standing::Absent);
        check(State::Synced, absent, Standing::Settled);
        let unconverted = "list Subscription: 500 Internal Server Error: conversion webhook for \
                           dapr.io/v1alpha1, Kind=Subscription failed";
        check(State::Starting, unconverted, Standing::Settled);
    }
}
