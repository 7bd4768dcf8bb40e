//! The two ports every control-plane service has beside its API: health and metrics.

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bind::{self, Endpoint};
use crate::health::{self, Health, Page};
use crate::metrics::{self, Metrics, MetricsArgs};

/// Both listeners, bound but not served yet.
#[derive(Debug)]
pub struct Diagnostics {
    healthz: TcpListener,
    /// Absent when metrics are off.
    metrics: Option<TcpListener>,
}

/// What a service shows on its diagnostic ports.
#[derive(Debug, Default)]
pub struct Shown {
    /// The health targets. `healthz-server` and `metrics-exporter` are added here, before those of the service.
    pub health: Health,
    /// The metrics.
    pub metrics: Metrics,
    /// A page beside `/healthz`.
    pub page: Option<Page>,
}

impl Diagnostics {
    /// Binds `healthz_port` on every interface (`--healthz-listen-address` is accepted by all services and applied by
    /// none) and, unless metrics are off, the metrics port on `metrics_address`.
    pub async fn bind(
        healthz_port: u16,
        metrics: &MetricsArgs,
        metrics_address: &str,
    ) -> Result<Self, metrics::Error> {
        // First, so that a bad port is told before anything is open.
        metrics.port()?;
        Ok(Self {
            healthz: bind::bind(&Endpoint::new("--healthz-port", "", healthz_port)).await?,
            metrics: metrics.bind_to(metrics_address).await?,
        })
    }

    /// Serves both until the token is cancelled. The tasks belong to `tasks`; they end only by the token.
    pub fn serve(self, tasks: &mut JoinSet<()>, shown: Shown, token: &CancellationToken) {
        let Shown {
            health,
            metrics,
            page,
        } = shown;
        let healthz_target = health.target("healthz-server");
        let metrics_target = health.target("metrics-exporter");
        log_address("healthz", &self.healthz);
        tasks.spawn(health::serve(self.healthz, health, page, token.clone()));
        healthz_target.ready();
        if let Some(listener) = self.metrics {
            log_address("metrics", &listener);
            tasks.spawn(metrics::serve(listener, metrics.registry, token.clone()));
        }
        metrics_target.ready();
    }
}

/// Port 0 lets the system choose, so what it chose is worth a line.
fn log_address(server: &str, listener: &TcpListener) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "{server} server is listening"),
        Err(error) => tracing::warn!(%error, "{server} server is listening on an unknown address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics_args(port: &str, enable_metrics: bool) -> MetricsArgs {
        MetricsArgs {
            enable_metrics,
            metrics_port: port.to_owned(),
            metrics_listen_address: String::new(),
        }
    }

    #[tokio::test]
    async fn serves_both_and_keeps_the_order_of_targets() {
        for enabled in [true, false] {
            let diagnostics = Diagnostics::bind(0, &metrics_args("0", enabled), "127.0.0.1")
                .await
                .expect("free ports");
            assert_eq!(diagnostics.metrics.is_some(), enabled);
            let shown = Shown::default();
            let health = shown.health.clone();
            let (mut tasks, token) = (JoinSet::new(), CancellationToken::new());
            diagnostics.serve(&mut tasks, shown, &token);
            assert!(health.is_ready(), "{:?}", health.unready());
            assert_eq!(tasks.len(), 1 + usize::from(enabled));
            token.cancel();
            while let Some(ended) = tasks.join_next().await {
                ended.expect("no panic");
            }
        }
    }

    #[tokio::test]
    async fn a_bad_metrics_port_is_told_first() {
        let error = Diagnostics::bind(0, &metrics_args("x", true), "")
            .await
            .expect_err("no number");
        assert!(matches!(error, metrics::Error::Port(_)));
    }
}
