//! The scheduler as a process: its ports, its health targets, its end.
//!
//! The job API and the store are not part of this build. Their health targets stay unready, so an installation sees at
//! once that this scheduler cannot serve it.

use std::path::PathBuf;
use std::time::Duration;

use dapr_kit::diagnostics::{Diagnostics, Shown};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::process::refuse_root;
use dapr_kit::shutdown::{self, Shutdown};
use dapr_kit::{COMMIT, VERSION};
use tokio::task::JoinSet;

use crate::args::Mode;
use crate::etcd::Etcd;

/// How long the servers may take to finish; above their own limit of 5 s for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);

/// The checked settings of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it runs.
    pub mode: Mode,
    /// Whether it may run as root in a cluster.
    pub may_be_root: bool,
    /// Name of this replica.
    pub id: String,
    /// Address and port of the API; the address is the metrics server's too.
    pub api: (String, u16),
    /// What sidecars are told in place of the detected address.
    pub broadcast_host_port: Option<String>,
    /// `DAPR_HOST_IP`, the IP sidecars are told.
    pub host_ip: Option<String>,
    /// Port of the health server.
    pub healthz_port: u16,
    /// Whether the API is served with mTLS.
    pub tls: bool,
    /// Trust domain of the control plane.
    pub trust_domain: String,
    /// Where the trust anchors are, when the flag was given.
    pub trust_anchors_file: Option<PathBuf>,
    /// Address of Sentry.
    pub sentry_address: String,
    /// The control-plane namespace.
    pub namespace: String,
    /// Where jobs are kept.
    pub etcd: Etcd,
    /// How many jobs are handled at a time.
    pub workers: u32,
    /// An explicit kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Folder the identity is written to.
    pub identity_directory: PathBuf,
    /// The metrics server.
    pub metrics: MetricsArgs,
}

/// Runs until the shutdown; binds every port before it serves any.
pub async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::info!("starting Dapr Scheduler Service -- version {VERSION} -- commit {COMMIT}");
    if settings.mode == Mode::Kubernetes && !settings.may_be_root {
        refuse_root()?;
    }
    // Metrics listen where the API does; `--metrics-listen-address` is not applied.
    let diagnostics =
        Diagnostics::bind(settings.healthz_port, &settings.metrics, &settings.api.0).await?;
    let (mut tasks, shown) = (JoinSet::new(), Shown::default());
    let health = shown.health.clone();
    diagnostics.serve(&mut tasks, shown, shutdown.token());
    // The handles are dropped unready: nothing in this build makes these targets ready.
    for name in targets(&settings) {
        drop(health.target(name));
    }
    tracing::warn!(
        "the job API and the job store are not part of this build yet; --port and --etcd-client-port are accepted and \
         not bound, and /healthz answers 503"
    );
    shutdown::watch(&mut tasks, shutdown.token()).await?;
    shutdown::drain_set(&mut tasks, DRAIN_LIMIT).await?;
    tracing::info!("scheduler shut down gracefully");
    Ok(())
}

/// The health targets of the scheduler's own work.
fn targets(settings: &Settings) -> impl Iterator<Item = &'static str> {
    let store = match &settings.etcd {
        Etcd::Embedded(_) => "scheduler-etcd-embed",
        Etcd::External(_) => "scheduler-etcd-external",
    };
    let controller = match settings.mode {
        Mode::Kubernetes => Some("scheduler-controller"),
        Mode::Standalone => None,
    };
    ["security-provider", "scheduler-server", store]
        .into_iter()
        .chain(controller)
}
