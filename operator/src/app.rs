//! The operator as a process: its ports, its health targets, its end.
//!
//! The resource API, the conversion webhook, the Service reconciler and the watchdog are not part of this build. Their
//! health targets stay unready, so an installation sees at once that this operator cannot serve it.

use std::path::PathBuf;
use std::time::Duration;

use dapr_kit::diagnostics::{Diagnostics, Shown};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::shutdown::{self, Shutdown};
use dapr_kit::{COMMIT, VERSION};
use tokio::task::JoinSet;

use crate::args::WatchInterval;

/// The health targets of the operator's own work.
const TARGETS: [&str; 5] = [
    "security-provider",
    "operator-security",
    "operator-api-server",
    "operator-webhook",
    "operator-cache",
];
/// How long the servers may take to finish; above their own limit of 5 s for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);

/// The checked settings of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The control-plane namespace.
    pub namespace: String,
    /// Name of the Configuration in it.
    pub config: String,
    /// When the watchdog passes.
    pub watch_interval: WatchInterval,
    /// How many pods the watchdog deletes per minute; `None` for any number.
    pub max_pod_restarts_per_minute: Option<u32>,
    /// Whether only the leader reconciles.
    pub leader_election: bool,
    /// Whether Services are kept for workloads.
    pub service_reconciler: bool,
    /// Whether Argo Rollouts are workloads too.
    pub argo_rollout_service_reconciler: bool,
    /// Whether the watchdog labels pods it has checked.
    pub watchdog_can_patch_pod_labels: bool,
    /// The one namespace to watch; `None` for all.
    pub watch_namespace: Option<String>,
    /// An explicit kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Where the trust anchors are.
    pub trust_anchors_file: PathBuf,
    /// Address and port of the API.
    pub api: (String, u16),
    /// Port of the health server.
    pub healthz_port: u16,
    /// Address and port of the conversion webhook.
    pub webhook: (String, u16),
    /// Whether the conversion webhook is served and the CRDs are patched.
    pub webhooks: bool,
    /// How often caches are read anew; `None` for the client's own 10 hours.
    pub cache_sync_period: Option<Duration>,
    /// The metrics server.
    pub metrics: MetricsArgs,
}

/// Runs until the shutdown; binds every port before it serves any.
pub async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::info!("starting Dapr Operator -- version {VERSION} -- commit {COMMIT}");
    // `--metrics-listen-address` is accepted and not applied.
    let diagnostics = Diagnostics::bind(settings.healthz_port, &settings.metrics, "").await?;
    let (mut tasks, shown) = (JoinSet::new(), Shown::default());
    let health = shown.health.clone();
    diagnostics.serve(&mut tasks, shown, shutdown.token());
    // The handles are dropped unready: nothing in this build makes these targets ready.
    drop(TARGETS.map(|name| health.target(name)));
    tracing::warn!(
        "the resource API, conversion webhook, Service reconciler and watchdog are not part of this build yet; \
         --port and --webhook-server-port are accepted and not bound, and /healthz answers 503"
    );
    shutdown::watch(&mut tasks, shutdown.token()).await?;
    shutdown::drain_set(&mut tasks, DRAIN_LIMIT).await?;
    tracing::info!("operator shut down gracefully");
    Ok(())
}
