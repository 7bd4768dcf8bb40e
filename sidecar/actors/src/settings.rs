//! What a runtime is made of, and the traits that the sidecar fills for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::peer::Peers;
use dapr_sidecar_core::resiliency::Resiliency;
use tonic::transport::Channel;

use crate::metrics::Metrics;
use crate::reminders::Reminders;

/// How placement's addresses are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// One address after the other.
    List,
    /// The first address only: its name is resolved before each connection and its IPs are used in turn.
    Dns,
}

/// Makes connections to placement; TLS and the check of its identity are done there.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `host:port`.
    async fn connect(&self, address: &str) -> Result<Channel, BoxError>;
}

/// What a runtime needs.
#[derive(Clone)]
pub struct Settings {
    /// Own app id.
    pub app_id: String,
    /// Own namespace; actors of other namespaces are out of reach.
    pub namespace: String,
    /// `host:port` of the own internal API, as other sidecars reach it.
    pub own_address: String,
    /// Placement's addresses; empty disables actors.
    pub placement_addresses: Vec<String>,
    /// How these addresses are used.
    pub discovery: Discovery,
    /// From `lock` to `update`; a longer round is given up.
    pub disseminate_timeout: Duration,
    /// Feature `ActorStateTTL`.
    pub state_ttl: bool,
    /// Other sidecars.
    pub peers: Arc<dyn Peers>,
    /// Connections to placement.
    pub dialer: Arc<dyn Dialer>,
    /// The user's policies: retries and breaker around lookup and call, the timeout around the execution.
    pub resiliency: Arc<Resiliency>,
    /// The scheduler, or [`crate::reminders::Disabled`].
    pub reminders: Arc<dyn Reminders>,
    /// What is counted.
    pub metrics: Arc<dyn Metrics>,
    /// Called when the health target of the actor runtime is met; more than once does no harm.
    pub on_ready: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("app_id", &self.app_id)
            .field("namespace", &self.namespace)
            .field("own_address", &self.own_address)
            .field("placement_addresses", &self.placement_addresses)
            .finish_non_exhaustive()
    }
}
