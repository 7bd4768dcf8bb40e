//! What only one replica does at a time: it keeps Services, looks after pods without sidecar, and
//! writes notices.

use dapr_kubernetes::Reader;
use dapr_kubernetes::lease::{self, Ended};
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::Duties;
use crate::args::WatchInterval;
use crate::pods::Pod;
use crate::services::{self, Kinds};
use crate::{notices, watchdog};

/// The name of the lease.
const LEASE: &str = "operator.dapr.io";

/// What the leader works with.
pub(super) struct Leader {
    pub(super) client: Client,
    pub(super) scope: Option<String>,
    pub(super) duties: Duties,
    pub(super) pods: Reader<Pod>,
    pub(super) metrics: services::Metrics,
}

impl Leader {
    /// Acts until the token is cancelled, at once or once it is elected in a namespace.
    ///
    /// # Errors
    /// Leadership is lost, or something the leader needs is missing.
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
            self.act(client)
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
            pods,
            metrics,
        } = self;
        let services = async {
            if !duties.services {
                return std::future::pending().await;
            }
            let kinds = Kinds {
                rollouts: duties.rollouts,
                others: duties.other_workloads.then(|| pods.clone()),
            };
            services::run(client.clone(), scope.as_deref(), kinds, metrics).await
        };
        let watchdog = async {
            let interval = match duties.watch_interval {
                WatchInterval::Disabled => return std::future::pending().await,
                WatchInterval::Once => None,
                WatchInterval::Every(interval) => Some(interval),
            };
            let settings = watchdog::Settings {
                namespace: scope.clone(),
                interval,
                per_minute: duties.restarts_per_minute,
                can_patch: duties.may_label_pods,
            };
            watchdog::run(client.clone(), pods.clone(), settings).await
        };
        let settled = notices::SETTLED;
        let notices = notices::run(client.clone(), scope.as_deref(), pods.clone(), settled);
        tokio::select! {
            ended = services => ended,
            never = notices => match never {},
            never = watchdog => match never {},
        }
    }
}
