//! What is watched: every kind of resource, pods, and the names of Secrets.
//!
//! What is known is served while the API server is away; `state.rs` says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_crds::{
    Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy,
};
use dapr_kit::health::Target;
use dapr_kubernetes::{Change, Config, Health, Object, Reader, State as Freshness, Watcher, watch};
use futures::{StreamExt as _, stream};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::objects::ApiServer;
use super::state::State;
use crate::kinds::Kind;
use crate::notices;
use crate::pods::Pod;
use crate::resources::{Resources, Shelf};
use crate::secrets::SecretName;
use crate::vault::Vault;

/// How many Secrets that changed are looked at together.
const SECRETS_AT_ONCE: usize = 8;
/// How the page of `state.rs` calls what has no kind of its own here.
const POD: &str = "Pod";
const SECRET: &str = "Secret";
/// What a list says while old objects cannot be converted. It is this operator that converts them, once it is ready.
const UNCONVERTED: &str = "conversion webhook";

/// The watches, before they run, and what they fill.
pub(super) struct Parts {
    resources: Resources,
    vault: Vault,
    pods: Watched<Pod>,
    secrets: Watched<SecretName>,
    components: Watched<Component>,
    configurations: Watched<Configuration>,
    http_endpoints: Watched<HttpEndpoint>,
    mcp_servers: Watched<McpServer>,
    resiliencies: Watched<Resiliency>,
    subscriptions: Watched<Subscription>,
    workflow_access_policies: Watched<WorkflowAccessPolicy>,
}

/// A watch that others read too.
#[derive(Debug)]
struct Watched<K: Object> {
    reader: Reader<K>,
    watcher: Watcher<K>,
}

/// What is known of the cluster, beyond what sidecars are served.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) pods: Reader<Pod>,
    pub(super) secrets: Reader<SecretName>,
    pub(super) resources: notices::Resources,
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
        let secrets = Watched::<SecretName>::new(&client, scope.as_deref());
        let vault = Vault::new(ApiServer {
            client: client.clone(),
            scope: scope.clone(),
            names: secrets.reader.clone(),
        });
        Self {
            resources: Resources::new(&vault),
            vault,
            pods: Watched::new(&client, scope.as_deref()),
            secrets,
            components: Watched::new(&client, scope.as_deref()),
            configurations: Watched::new(&client, scope.as_deref()),
            http_endpoints: Watched::new(&client, scope.as_deref()),
            mcp_servers: Watched::new(&client, scope.as_deref()),
            resiliencies: Watched::new(&client, scope.as_deref()),
            subscriptions: Watched::new(&client, scope.as_deref()),
            workflow_access_policies: Watched::new(&client, scope.as_deref()),
        }
    }

    /// What sidecars are served.
    pub(super) fn resources(&self) -> Resources {
        self.resources.clone()
    }

    /// What the leader reads.
    pub(super) fn known(&self) -> Known {
        Known {
            pods: self.pods.reader.clone(),
            secrets: self.secrets.reader.clone(),
            resources: notices::Resources {
                components: self.components.reader.clone(),
                configurations: self.configurations.reader.clone(),
                http_endpoints: self.http_endpoints.reader.clone(),
                mcp_servers: self.mcp_servers.reader.clone(),
                resiliencies: self.resiliencies.reader.clone(),
                subscriptions: self.subscriptions.reader.clone(),
                workflow_access_policies: self.workflow_access_policies.reader.clone(),
            },
        }
    }

    /// Starts the watches, which never end. `target` is ready once all are filled.
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>, state: &State, target: Target) {
        let Self {
            resources,
            vault,
            pods,
            secrets,
            components,
            configurations,
            http_endpoints,
            mcp_servers,
            resiliencies,
            subscriptions,
            workflow_access_policies,
        } = self;
        let mut start = Start { state, tasks };
        let settled = [
            start.follow(components, &resources.components),
            start.follow(configurations, &resources.configurations),
            start.follow(http_endpoints, &resources.http_endpoints),
            start.follow(mcp_servers, &resources.mcp_servers),
            start.follow(resiliencies, &resources.resiliencies),
            start.follow(subscriptions, &resources.subscriptions),
            start.follow(
                workflow_access_policies,
                &resources.workflow_access_policies,
            ),
        ];
        start.show(POD, &pods.reader);
        start.show(SECRET, &secrets.reader);
        let assigned = resources.clone();
        tasks.spawn(async move {
            let watcher = pods.watcher;
            watcher
                .run(move |change| assigned.pod_changed(&change))
                .await;
        });
        let pods = pods.reader;
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
            let watcher = secrets.watcher;
            watcher
                .run(move |change| hears.hear(&change, &forgets))
                .await;
        });
        tasks.spawn(async move { changed.work(&resources).await });
        tasks.spawn(async move { vault.sweep().await });
    }
}

impl<K: Object + Resource<Scope = NamespaceResourceScope>> Watched<K> {
    fn new(client: &Client, scope: Option<&str>) -> Self {
        let (reader, watcher) = watch(api(client, scope), Config::default());
        Self { reader, watcher }
    }
}

/// Starts watches.
struct Start<'a> {
    state: &'a State,
    tasks: &'a mut JoinSet<()>,
}

impl Start<'_> {
    fn show<K: Object>(&mut self, kind: &'static str, reader: &Reader<K>) {
        let (state, health) = (self.state.clone(), reader.health());
        self.tasks.spawn(async move {
            state.show(kind, health).await;
        });
    }

    /// Starts the watch of a kind. Tells once it is known what objects there are.
    fn follow<K: Kind>(&mut self, watched: Watched<K>, shelf: &Shelf<K>) -> Arc<Notify> {
        let Watched { reader, watcher } = watched;
        let kind = <K as dapr_crds::meta::Object>::KIND;
        let (fills, absents) = (shelf.clone(), shelf.clone());
        self.tasks.spawn(async move {
            watcher.run(|change| fills.apply(change)).await;
        });
        self.show(kind, &reader);
        let settled = Arc::new(Notify::new());
        let settles = Arc::clone(&settled);
        self.tasks.spawn(async move {
            let mut health = reader.health();
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
        Freshness::Synced | Freshness::Stale { .. } => Standing::Settled,
        Freshness::Starting if error.contains(UNCONVERTED) => Standing::Settled,
        Freshness::Starting if health.is_absent => Standing::Absent,
        Freshness::Starting => Standing::Waiting,
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
        let check = |state: Freshness, error: &str, expected: Standing| {
            let health = Health {
                state,
                last_error: Some(error.into()),
                is_absent: error.contains("404"),
                ..Health::default()
            };
            assert_eq!(standing(&health), expected, "{error}");
        };
        check(Freshness::Starting, "", Standing::Waiting);
        let down = "list Component: connection refused";
        check(Freshness::Starting, down, Standing::Waiting);
        let forbidden = "list Component: 403 Forbidden: no";
        check(Freshness::Starting, forbidden, Standing::Waiting);
        let absent = "list Component: 404 Not Found: the server could not find it";
        check(Freshness::Starting, absent, Standing::Absent);
        check(Freshness::Synced, absent, Standing::Settled);
        let unconverted = "list Subscription: 500 Internal Server Error: conversion webhook for \
                           dapr.io/v1alpha1, Kind=Subscription failed";
        check(Freshness::Starting, unconverted, Standing::Settled);
    }
}
