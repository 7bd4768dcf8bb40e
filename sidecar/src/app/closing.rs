//! The end of a run: what it waits for, and the order in which it is taken apart.

use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::name_resolution::Resolver;
use dapr_kit::health::Target;
use dapr_kit::shutdown::Cause;
use dapr_sidecar_core::pubsub::PubSubs;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::End;
use super::base::Base;
use crate::adapters::Tasks;
use crate::app_health::Health;
use crate::components::Components;

/// Time for what runs beside the servers: actors are deactivated within 5 s, the metrics server ends within 5 s.
const RUNNERS: Duration = Duration::from_secs(6);
/// Time the components have at least once the servers took all of theirs.
const CLOSERS: Duration = Duration::from_millis(100);

/// A graceful shutdown that took longer than it may. The text is upstream's fatal line.
#[derive(Debug, thiserror::Error)]
#[error("Graceful shutdown timeout exceeded, forcing shutdown")]
pub(super) struct TooLate;

/// What is taken apart at the end of a run.
pub(super) struct Closing<'a> {
    pub(super) components: Arc<Components>,
    pub(super) resolver: Option<Arc<dyn Resolver>>,
    pub(super) actors_stop: CancellationToken,
    pub(super) api_stop: CancellationToken,
    pub(super) apis: Tasks,
    pub(super) tasks: &'a Tasks,
    pub(super) stop: &'a CancellationToken,
    pub(super) files: Vec<std::path::PathBuf>,
}

impl Closing<'_> {
    /// Waits for everything to end; the error names what did not. The limit counts from the moment when only the
    /// servers and the components are left, `None` waits for ever.
    async fn finish(&self, limit: Option<Duration>) -> Result<(), String> {
        // Their own bounds end them sooner; one that hangs all the same is named after the servers.
        let runners = self.tasks.finish(limit.map(|_| RUNNERS)).await;
        let servers = async {
            self.apis.finish(limit).await?;
            self.components.close().await;
            if let Some(resolver) = &self.resolver {
                resolver.close().await;
            }
            Ok(())
        };
        let Some(limit) = limit else {
            return servers.await;
        };
        // The servers name themselves at the limit, hence the components get a moment more.
        tokio::time::timeout(limit + CLOSERS, servers)
            .await
            .unwrap_or_else(|_| Err("components".to_owned()))?;
        runners
    }
}

impl Base {
    /// Waits for the end of this run; holds a shutdown by signal back if that is asked for. `reload` ends a run that
    /// has to begin anew, or that cannot go on.
    pub(super) async fn wait(
        &self,
        security: &Target,
        pubsubs: &PubSubs,
        mut health: watch::Receiver<Health>,
        reload: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<End> {
        let shutdown = &self.process.shutdown;
        tokio::select! {
            () = shutdown.token().cancelled() => {
                if shutdown.cause() == Some(Cause::Request) {
                    tracing::info!(target: "dapr.api", "Shutdown requested via API");
                }
            }
            () = shutdown.hangup() => {
                tracing::info!(target: "dapr.runtime", "Received signal 'hangup'; restarting");
                return Ok(End::Restart);
            }
            changed = reload => return changed.map(|()| End::Restart),
        }
        if let (Some(block), Some(Cause::Signal)) =
            (self.process.settings.block_shutdown, shutdown.cause())
        {
            tracing::info!(target: "dapr.runtime", "Blocking graceful shutdown for {block:?} or until app reports unhealthy...");
            security.unready();
            // For good: streams end, too, and an application that turns healthy meanwhile gets no events any more.
            pubsubs.shutdown().await;
            let unhealthy = health.wait_for(|health| *health == Health::Unhealthy);
            tokio::select! {
                () = tokio::time::sleep(block) => {
                    tracing::info!(target: "dapr.runtime", "Block shutdown period expired, entering shutdown...");
                }
                Ok(_) = unhealthy => {}
            }
        }
        Ok(End::Stop)
    }

    pub(super) async fn close(&self, closing: Closing<'_>) -> anyhow::Result<()> {
        tracing::info!(target: "dapr.runtime", "Dapr is shutting down...");
        closing.components.pubsubs.shutdown().await;
        // Actors first: deactivation goes through the application, state through the APIs.
        closing.actors_stop.cancel();
        closing.api_stop.cancel();
        closing.stop.cancel();
        let late = closing
            .finish(self.process.settings.graceful_shutdown)
            .await;
        for file in &closing.files {
            if let Err(error) = std::fs::remove_file(file) {
                tracing::debug!(target: "dapr.runtime", %error, "a socket file was not removed: {}", file.display());
            }
        }
        match late {
            Ok(()) => Ok(()),
            Err(names) => {
                tracing::warn!(target: "dapr.runtime", "still running at the end of the graceful shutdown: {names}");
                Err(TooLate.into())
            }
        }
    }
}
