//! The injector as a process: its ports, its health targets, its end.
//!
//! The webhook is not part of this build. Its health targets stay unready, so an installation sees at once that this
//! injector cannot serve it.

use std::path::PathBuf;
use std::time::Duration;

use dapr_kit::diagnostics::{Diagnostics, Shown};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::shutdown::{self, Shutdown};
use dapr_kit::{COMMIT, VERSION};
use tokio::task::JoinSet;

use crate::config::Config;

/// The health targets of the injector's own work.
const TARGETS: [&str; 3] = [
    "security-provider",
    "injector-service",
    "webhook-configuration",
];
/// How long the servers may take to finish; above their own limit of 5 s for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);

/// The settings of the injector that come from flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Port of the webhook, on every interface.
    pub port: u16,
    /// Port of the health server.
    pub healthz_port: u16,
    /// Whether sidecars are told the address of the scheduler.
    pub scheduler_enabled: bool,
    /// An explicit kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The metrics server.
    pub metrics: MetricsArgs,
}

/// Runs until the shutdown; binds every port before it serves any.
pub async fn run(settings: Settings, config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::info!(
        image = config.sidecar_image,
        "starting Dapr Sidecar Injector -- version {VERSION} -- commit {COMMIT}"
    );
    // `--metrics-listen-address` is accepted and not applied.
    let diagnostics = Diagnostics::bind(settings.healthz_port, &settings.metrics, "").await?;
    let (mut tasks, shown) = (JoinSet::new(), Shown::default());
    let health = shown.health.clone();
    diagnostics.serve(&mut tasks, shown, shutdown.token());
    // The handles are dropped unready: nothing in this build makes these targets ready.
    drop(TARGETS.map(|name| health.target(name)));
    tracing::warn!(
        "the admission webhook is not part of this build yet; --port is accepted and not bound, and /healthz answers 503"
    );
    shutdown::watch(&mut tasks, shutdown.token()).await?;
    shutdown::drain_set(&mut tasks, DRAIN_LIMIT).await?;
    tracing::info!("sidecar injector shut down gracefully");
    Ok(())
}
