//! What only one replica does at a time: it keeps Services, looks after pods without sidecar, and
//! writes notices.

use dapr_kubernetes::lease::{self, Ended};
use futures::future::join_all;
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::Duties;
use super::cluster::Known;
use super::state::State;
use crate::args::WatchInterval;
use crate::services::{self, Which};
use crate::{notices, watchdog};

/// The name of the lease.
const LEASE: &str = "operator.dapr.io";

/// What the leader works with.
#[derive(Clone)]
pub(super) struct Leader {
    pub(super) client: Client,
    pub(super) scope: Option<String>,
    pub(super) duties: Duties,
    pub(super) known: Known,
    pub(super) state: State,
    pub(super) metrics: services::Metrics,
}

impl Leader {
    /// Acts until the token is cancelled, at once or once it is elected in a namespace.
    ///
    /// While the API server is away for long there is no leader; it is elected anew afterwards.
    ///
    /// # Errors
    /// Leadership is lost to another replica, or something the leader needs is missing.
    pub(super) async fn run(
        self,
        election: Option<String>,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(namespace) = election else {
            if self.duties.watch_interval != WatchInterval::Disabled {
                tracing::warn!("the watchdog runs without leader election: run one replica only");
            }
            let client = self.client.clone();
            let acted = token.run_until_cancelled(self.act(client)).await;
            return acted.unwrap_or(Ok(()));
        };
        let settings = lease::Settings::new(namespace, LEASE, lease::identity());
        let client = self.client.clone();
        let stop = token.cancelled();
        let act = |term: lease::Term| {
            let client = term.fence(&self.client);
            self.clone().act(client)
        };
        match lease::hold(client, settings, stop, act).await? {
            Ended::Finished(acted) => acted,
            Ended::Stopped => Ok(()),
        }
    }

    async fn act(self, client: Client) -> anyhow::Result<()> {
        let Self {
            client: _,
            scope,
            duties,
            known,
            state,
            metrics,
        } = self;
        let (scope, pods) = (scope.as_deref(), known.pods);
        let watches = services::Watches::new(&client, scope, which(&duties));
        let (deployments, services) = (watches.deployments(), watches.services());
        let shown = join_all(watches.health().into_iter().map(|(kind, health)| {
            let state = state.clone();
            async move { state.show(kind, health).await }
        }));
        let keep = async {
            if !duties.services {
                match watches.run().await {}
            }
            let others = duties.other_workloads.then(|| pods.clone());
            services::run(client.clone(), watches, others, metrics).await
        };
        let watchdog = async {
            let interval = match duties.watch_interval {
                WatchInterval::Disabled => return std::future::pending().await,
                WatchInterval::Once => None,
                WatchInterval::Every(interval) => Some(interval),
            };
            let settings = watchdog::Settings {
                interval,
                per_minute: duties.restarts_per_minute,
                can_patch: duties.may_label_pods,
            };
            watchdog::run(client.clone(), pods.clone(), deployments, settings).await
        };
        let sources = notices::Sources {
            pods: pods.clone(),
            services,
            secrets: known.secrets,
            resources: known.resources,
        };
        let notices = notices::run(client.clone(), sources, notices::SETTLED);
        tokio::select! {
            ended = keep => ended,
            never = notices => match never {},
            never = watchdog => match never {},
            _ = shown => anyhow::bail!("nothing is watched"),
        }
    }
}

/// Which workloads have to be watched.
fn which(duties: &Duties) -> Which {
    match duties.watch_interval {
        _ if duties.services => Which::All {
            rollouts: duties.rollouts,
        },
        WatchInterval::Disabled => Which::None,
        WatchInterval::Once | WatchInterval::Every(_) => Which::Injectors,
    }
}
