//! What the cluster is asked, before any pod is: one watch each of the system's Configuration, of Components and of
//! service accounts. During an admission nothing is fetched.
//!
//! Rights that allow less than a watch are enough: lists are then repeated, and the Configuration is read by name. Where
//! only the Components of the control plane's namespace may be listed, as in a namespaced installation, only they are.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dapr_kit::health::Target;
use dapr_kubernetes::watch::Pace;
use dapr_kubernetes::{Config, Reader, Watcher, watch};
use dapr_security::Security;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::objects::{Account, Component, Configuration};
use super::state::{State, Trust, Watched};
use crate::admission;
use crate::metrics::Metrics;
use crate::patch::ComponentContainer;
use crate::requester::Rules;

/// The Configuration of the control plane.
const SYSTEM: &str = "daprsystem";
/// How long a start waits for the first lists; after that the answers are those of an empty cluster, or refusals.
const WARM: Duration = Duration::from_secs(10);
/// The pause between reads of a Configuration that cannot be watched.
const REREAD: Duration = Duration::from_secs(10);
/// The longest pause between lists of service accounts that cannot be watched: there are many, and they hardly change.
const ACCOUNTS: Pace = Pace::new(Duration::from_millis(500), Duration::from_secs(300));

/// The watches, before they run.
#[derive(Debug)]
pub(super) struct Parts {
    system: Api<Configuration>,
    live: Arc<Live>,
    configurations: Watcher<Configuration>,
    components: Watcher<Component>,
    accounts: Watcher<Account>,
}

/// The last known state.
#[derive(Debug)]
pub(super) struct Live {
    security: Security,
    namespace: String,
    exact: Vec<(String, String)>,
    configurations: Reader<Configuration>,
    /// What a read by name said, while there is no watch.
    mtls: AtomicBool,
    /// Whether the last read by name succeeded.
    is_read: Arc<AtomicBool>,
    components: Reader<Component>,
    accounts: Reader<Account>,
}

impl Parts {
    pub(super) async fn new(
        client: Client,
        security: Security,
        namespace: &str,
        rules: &Rules,
    ) -> Self {
        let only_system = Config {
            fields: Some(format!("metadata.name={SYSTEM}")),
            ..Config::default()
        };
        let seldom = Config {
            backoff: ACCOUNTS,
            ..Config::default()
        };
        let system = Api::namespaced(client.clone(), namespace);
        let (configurations_reader, configurations) = watch(system.clone(), only_system);
        let all = components(&client, namespace).await;
        let (components_reader, components) = watch(all, Config::default());
        let (accounts_reader, accounts) = watch(Api::all(client), seldom);
        let live = Arc::new(Live {
            security,
            namespace: namespace.to_owned(),
            exact: rules.exact().into_iter().collect(),
            configurations: configurations_reader,
            mtls: AtomicBool::new(true),
            is_read: Arc::default(),
            components: components_reader,
            accounts: accounts_reader,
        });
        Self {
            system,
            live,
            configurations,
            components,
            accounts,
        }
    }

    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// Starts the watches. `target` is ready once all are filled, or once that has taken too long.
    pub(super) fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        target: Target,
        state: &State,
        metrics: &Metrics,
    ) {
        let Self {
            system,
            live,
            configurations,
            components,
            accounts,
        } = self;
        tasks.spawn(ended(configurations.run(|_| {})));
        tasks.spawn(ended(components.run(|_| {})));
        tasks.spawn(ended(accounts.run(|_| {})));
        tasks.spawn(reread(system, Arc::clone(&live)));
        tasks.spawn(warm(Arc::clone(&live), target));
        for watched in live.watched() {
            tasks.spawn(tell(watched, metrics.clone()));
        }
        state.show(live.watched());
    }
}

/// All Components, or those of the control plane's namespace where no others may be listed.
async fn components(client: &Client, namespace: &str) -> Api<Component> {
    let all = Api::<Component>::all(client.clone());
    match all.list(&ListParams::default().limit(1)).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::info!(namespace, "only Components of this namespace may be listed");
            Api::namespaced(client.clone(), namespace)
        }
        // Any other failure is the watch's to report.
        Ok(_) | Err(_) => all,
    }
}

async fn ended(watcher: impl Future<Output = Infallible>) {
    watcher.await;
}

impl Live {
    fn watched(&self) -> Vec<Watched> {
        let watched = |kind, health| Watched {
            kind,
            health,
            is_read: None,
        };
        vec![
            Watched {
                is_read: Some(Arc::clone(&self.is_read)),
                ..watched("configurations", self.configurations.health())
            },
            watched("components", self.components.health()),
            watched("serviceaccounts", self.accounts.health()),
        ]
    }
}

impl admission::Cluster for Live {
    fn trust_anchors(&self) -> Arc<str> {
        self.security.trust_anchors_pem().unwrap_or_default()
    }

    fn is_mtls(&self) -> bool {
        if !self.configurations.is_synced() {
            return self.mtls.load(Ordering::Relaxed);
        }
        let system = self.configurations.get(&self.namespace, SYSTEM);
        system.is_none_or(|system| system.is_mtls())
    }

    fn is_allowed_uid(&self, uid: &str) -> bool {
        self.exact.iter().any(|(namespace, name)| {
            let account = self.accounts.get(namespace, name);
            account.is_some_and(|account| account.uid() == Some(uid))
        })
    }

    fn components(&self, namespace: &str) -> Option<Vec<ComponentContainer>> {
        if !self.components.is_synced() {
            return None;
        }
        let all = self.components.in_namespace(namespace);
        let containers = all.iter().filter_map(|component| component.container());
        Some(containers.collect())
    }
}

/// Reads the Configuration by name for as long as it cannot be listed.
async fn reread(api: Api<Configuration>, live: Arc<Live>) {
    while !live.configurations.is_synced() {
        // The list usually comes first; a read is only worth its call where lists are refused.
        if live.configurations.health().borrow().last_error.is_some() {
            match api.get_opt(SYSTEM).await {
                Ok(found) => {
                    let mtls = found.is_none_or(|system| system.is_mtls());
                    live.mtls.store(mtls, Ordering::Relaxed);
                    live.is_read.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::debug!(%error, "the Configuration cannot be read");
                    live.is_read.store(false, Ordering::Relaxed);
                }
            }
        }
        tokio::select! {
            () = live.configurations.synced() => {}
            () = sleep(REREAD) => {}
        }
    }
    std::future::pending().await
}

async fn warm(live: Arc<Live>, target: Target) {
    let synced = async {
        live.configurations.synced().await;
        live.components.synced().await;
        live.accounts.synced().await;
    };
    if timeout(WARM, synced).await.is_err() {
        for watched in live.watched() {
            if watched.trust(&watched.health.borrow()) == Trust::Cold {
                let kind = watched.kind;
                tracing::warn!(
                    kind,
                    "cannot be listed yet; pods are answered as if there were none, or refused if they need them"
                );
            }
        }
    }
    target.ready();
    std::future::pending().await
}

/// Tells the log and the metrics how far one kind can be trusted.
async fn tell(mut watched: Watched, metrics: Metrics) {
    let mut before = Trust::Cold;
    loop {
        let (trust, error) = {
            let health = watched.health.borrow();
            (watched.trust(&health), health.last_error.clone())
        };
        let kind = watched.kind;
        metrics.watch(kind, trust == Trust::Followed);
        match trust {
            Trust::Followed if before != trust => {
                tracing::info!(kind, "the API server is followed")
            }
            Trust::Stale => {
                let error = error.as_deref();
                tracing::warn!(
                    kind,
                    error,
                    "the API server cannot be followed; pods are answered by the last known state"
                );
            }
            Trust::Followed | Trust::Cold | Trust::Read => {}
        }
        before = trust;
        if watched.health.changed().await.is_err() {
            // The watch is gone, and this process with it.
            return std::future::pending().await;
        }
    }
}
