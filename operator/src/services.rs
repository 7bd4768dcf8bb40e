//! Services for apps: every annotated workload has a headless one named after its app, through which sidecars and
//! Prometheus find it.
//!
//! Only the leader runs this. It follows workloads and Services by watches and writes only what differs; what a Service
//! is to be like is decided in `app.rs` and `desired.rs`, when whose turn is in `queue.rs`. A Service is never deleted
//! here: with its workload it becomes garbage of the API server.

mod app;
mod apply;
mod desired;
mod generic;
mod metrics;
mod objects;
mod queue;
mod work;
mod workloads;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dapr_kubernetes::{Config, Health, Object, Reader, Watcher, watch};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::RwLock;
use tokio::sync::watch::Receiver;
use tokio::time::sleep;

use crate::pods::Pod;
use apply::Writer;
use objects::{Kind as _, Rollout, StatefulSet};
use work::{Pending, Work};
use workloads::{Of, Workloads};

pub use metrics::Metrics;
pub use objects::{Deployment, Live, Workload};

/// How long Rollouts may be unknown to the API server.
const ROLLOUTS_LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked whether they are.
const ROLLOUTS_LOOK: Duration = Duration::from_secs(5);
/// Only Services with this label are watched. One that lost it is found when a new one cannot be created.
const OURS: &str = "dapr.io/enabled=true";
/// The label of the injector's Deployment.
const INJECTOR: &str = "app=dapr-sidecar-injector";

/// Which workloads are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that may want a Service: Deployments and StatefulSets.
    All {
        /// Argo Rollouts, too.
        rollouts: bool,
    },
    /// The injector's Deployment alone: the watchdog waits for it.
    Injectors,
    /// None.
    None,
}

/// The workloads and Services of the cluster: watched once, whichever duties of the leader read them.
#[derive(Debug)]
pub struct Watches {
    deployments: Watched<Workload<Deployment>>,
    stateful_sets: Watched<Workload<StatefulSet>>,
    rollouts: Option<Watched<Workload<Rollout>>>,
    services: Watched<Live>,
    which: Which,
}

/// One kind.
#[derive(Debug)]
struct Watched<K: Object> {
    reader: Reader<K>,
    watcher: Watcher<K>,
}

impl Watches {
    /// Those of `namespace`, or of all. Nothing is sent yet.
    pub fn new(client: &Client, namespace: Option<&str>, which: Which) -> Self {
        let labels = |labels: &str| Config {
            labels: Some(labels.to_owned()),
            ..Config::default()
        };
        let deployments = match which {
            Which::All { .. } | Which::None => Config::default(),
            Which::Injectors => labels(INJECTOR),
        };
        let rollouts = matches!(which, Which::All { rollouts: true });
        let rollouts = rollouts.then(|| Watched::new(scoped(client, namespace), Config::default()));
        Self {
            deployments: Watched::new(scoped(client, namespace), deployments),
            stateful_sets: Watched::new(scoped(client, namespace), Config::default()),
            rollouts,
            services: Watched::new(scoped(client, namespace), labels(OURS)),
            which,
        }
    }

    /// The Deployments.
    pub fn deployments(&self) -> Reader<Workload<Deployment>> {
        self.deployments.reader.clone()
    }

    /// The Services of apps.
    pub fn services(&self) -> Reader<Live> {
        self.services.reader.clone()
    }

    /// How fresh what is watched is, by kind.
    pub fn health(&self) -> Vec<(&'static str, Receiver<Health>)> {
        let mut all = vec![("Service", self.services.reader.health())];
        if self.which != Which::None {
            all.push((Deployment::KIND, self.deployments.reader.health()));
        }
        if matches!(self.which, Which::All { .. }) {
            all.push((StatefulSet::KIND, self.stateful_sets.reader.health()));
        }
        if let Some(rollouts) = &self.rollouts {
            all.push((Rollout::KIND, rollouts.reader.health()));
        }
        all
    }

    /// Fills the readers until it is dropped, where no Services are kept.
    pub async fn run(self) -> Infallible {
        let deployments = async {
            match self.which {
                Which::All { .. } | Which::Injectors => self.deployments.watcher.run(|_| {}).await,
                Which::None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = deployments => never,
            never = self.services.watcher.run(|_| {}) => never,
        }
    }
}

impl<K: Object> Watched<K> {
    fn new(api: Api<K>, config: Config) -> Self {
        let (reader, watcher) = watch(api, config);
        Self { reader, watcher }
    }
}

/// Keeps the Services of workloads until it is dropped.
///
/// `watches` has to be of the same namespace, and of all workloads; whatever else owns one of `pods_of_others` through a
/// controller gets a Service too, but for Jobs. `client` should be fenced by the term of the leader. Failures of the API
/// server are waited out.
///
/// # Errors
/// Rollouts are wanted, but the API server has not known them for two minutes.
pub async fn run(
    client: Client,
    watches: Watches,
    pods_of_others: Option<Reader<Pod>>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let (deployments, services) = (watches.deployments(), watches.services());
    let (deployments_watch, services_watch) =
        (watches.deployments.watcher, watches.services.watcher);
    let Watched {
        reader: stateful_sets,
        watcher: stateful_sets_watch,
    } = watches.stateful_sets;
    let rollouts = watches.rollouts.map(|it| (it.reader, it.watcher));
    let (rollouts, rollouts_watch) = rollouts.unzip();
    let has_rollouts = rollouts.is_some();
    let pending = Arc::new(Pending::default());
    let others = Arc::new(RwLock::new(BTreeMap::new()));
    let work = Work {
        workloads: Workloads {
            deployments,
            stateful_sets,
            rollouts,
            others: Arc::clone(&others),
        },
        services,
        writer: Writer::new(client.clone(), metrics),
        pending: Arc::clone(&pending),
    };

    let rollouts_run = async {
        match rollouts_watch {
            Some(watch) => {
                watch
                    .run(|change| work.hear_workload::<Rollout>(&Of::Rollout, &change))
                    .await;
            }
            None => std::future::pending().await,
        }
    };
    let others_run = async {
        match pods_of_others {
            Some(pods) => {
                let rollouts = match has_rollouts {
                    true => generic::Rollouts::Watched,
                    false => generic::Rollouts::Unwatched,
                };
                generic::run(client, pods, others, rollouts, Arc::clone(&pending)).await;
                anyhow::bail!("the watch of pods ended");
            }
            None => std::future::pending().await,
        }
    };
    let reconcile = async {
        // Before that every Service would look like a missing one.
        work.services.synced().await;
        work.workloads.deployments.synced().await;
        work.workloads.stateful_sets.synced().await;
        tracing::info!("keeping the Services of workloads");
        work.run().await;
    };
    tokio::select! {
        never = deployments_watch.run(|change| work.hear_workload::<Deployment>(&Of::Deployment, &change)) => match never {},
        never = stateful_sets_watch.run(|change| work.hear_workload::<StatefulSet>(&Of::StatefulSet, &change)) => match never {},
        never = services_watch.run(|change| work.hear(&change)) => match never {},
        () = rollouts_run => anyhow::bail!("the watch of Rollouts ended"),
        ended = others_run => ended,
        () = reconcile => anyhow::bail!("the reconciliation of Services ended"),
        error = rollouts_unknown(|| work.workloads.lacks_rollouts()) => Err(error),
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Ends when Rollouts have been unknown to the API server for too long. An API server that is away is no reason.
async fn rollouts_unknown(is_unknown: impl Fn() -> bool) -> anyhow::Error {
    let mut unknown = Duration::ZERO;
    loop {
        sleep(ROLLOUTS_LOOK).await;
        if !is_unknown() {
            unknown = Duration::ZERO;
            continue;
        }
        unknown += ROLLOUTS_LOOK;
        if unknown >= ROLLOUTS_LIMIT {
            return anyhow::anyhow!(
                "timed out waiting for cache to be synced: the API server knows no rollouts.argoproj.io; install Argo \
                 Rollouts, or drop --enable-argo-rollout-service-reconciler"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rollouts_may_be_unknown_for_two_minutes() {
        let start = Instant::now();
        let after = |seconds| start.elapsed() >= Duration::from_secs(seconds);
        // For a while nobody knows, and then it is certain.
        let error = rollouts_unknown(|| after(60)).await;
        assert!(
            error
                .to_string()
                .starts_with("timed out waiting for cache to be synced")
        );
        assert_eq!(start.elapsed().as_secs(), 55 + 120);
    }
}
