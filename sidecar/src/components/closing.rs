//! The end of a component that was taken out: calls in flight first.

use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::pubsub::PubSub;
use dapr_components_core::secret_store::SecretStore;
use dapr_components_core::state::StateStore;
use dapr_sidecar_core::lease::Lease;

/// Longest wait for calls in flight.
const DRAIN: Duration = Duration::from_secs(30);

/// Where a component stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    State,
    PubSub,
    Secrets,
}

/// A component, and what tells that nobody uses it any more.
pub(super) enum Part {
    State(Arc<dyn StateStore>, Lease),
    PubSub(Arc<dyn PubSub>, Lease),
    Secrets(Arc<dyn SecretStore>, Lease),
}

impl Part {
    pub(super) fn block(&self) -> Block {
        match self {
            Self::State(..) => Block::State,
            Self::PubSub(..) => Block::PubSub,
            Self::Secrets(..) => Block::Secrets,
        }
    }

    fn lease(&self) -> &Lease {
        match self {
            Self::State(_, lease) | Self::PubSub(_, lease) | Self::Secrets(_, lease) => lease,
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::State(store, _) => store.close().await,
            Self::PubSub(pubsub, _) => pubsub.close().await,
            Self::Secrets(store, _) => store.close().await,
        }
    }
}

/// A component that no new call finds.
#[must_use = "a component that is taken out is to be closed"]
pub struct Taken {
    log_name: String,
    part: Part,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Taken({})", self.log_name)
    }
}

impl Taken {
    pub(super) fn new(log_name: String, part: Part) -> Self {
        Self { log_name, part }
    }

    /// Waits for the calls in flight, then closes it.
    pub async fn close(self) {
        let lease = self.part.lease().clone();
        if tokio::time::timeout(DRAIN, lease.ended()).await.is_err() {
            tracing::warn!(target: "dapr.runtime", "{} is closed while calls of it are in flight for {} s", self.log_name, DRAIN.as_secs());
        }
        self.part.close().await;
    }
}
