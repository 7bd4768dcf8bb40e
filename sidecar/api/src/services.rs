//! What the surfaces call: the core's services, and the traits the process fulfils.

use std::sync::Arc;

use async_trait::async_trait;
use dapr_proto::dapr::proto::runtime::v1::{
    SubscribeActorEventsRequestAlpha1, SubscribeActorEventsResponseAlpha1,
};
use dapr_sidecar_core::actors::Actors;
use dapr_sidecar_core::body::Body;
use dapr_sidecar_core::invoke::{Invoker, Location};
use dapr_sidecar_core::metadata::Metadata;
use dapr_sidecar_core::pubsub::PubSubs;
use dapr_sidecar_core::rpc;
use dapr_sidecar_core::secrets::Secrets;
use dapr_sidecar_core::state::Stores;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::metrics::ApiMetrics;
use crate::settings::Settings;

/// Readiness of this process.
pub trait HealthView: Send + Sync + 'static {
    /// Names of the targets that are not ready; empty when all are.
    fn unready(&self) -> Vec<String>;

    /// Waits until there is no such target, or for as long as who asks with these headers may be kept waiting.
    fn hold<'a>(&'a self, headers: &'a HeaderMap) -> BoxFuture<'a, ()>;

    /// Whether components and servers are up, whatever the application does.
    fn outbound_ready(&self) -> bool;
}

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownKind {
    /// With all graceful steps.
    Graceful,
    /// With exit code 1 after 100 ms.
    Forced,
}

/// Ends the process.
pub trait Shutdown: Send + Sync + 'static {
    /// Starts the shutdown and returns at once.
    fn shutdown(&self, kind: ShutdownKind);
}

/// Forwards gRPC calls of services this sidecar does not have.
#[async_trait]
pub trait Proxy: Send + Sync + 'static {
    /// Forwards one call under the same path, frames untouched. Metadata is prepared: what is not to be
    /// sent is gone, what is to be added is there, but for the application's token.
    ///
    /// Never called with an external location.
    async fn forward(
        &self,
        location: Location,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, rpc::Status>;

    /// Makes sure that a call can be forwarded, so that the call itself need not be repeated.
    async fn reach(&self, location: &Location) -> Result<(), rpc::Status>;
}

/// What an application sends on its actor stream.
pub type ActorAnswers =
    BoxStream<'static, Result<SubscribeActorEventsRequestAlpha1, tonic::Status>>;

/// What an application receives on its actor stream.
pub type ActorCalls = BoxStream<'static, Result<SubscribeActorEventsResponseAlpha1, tonic::Status>>;

/// Hosts the actors of applications that open a stream for them.
pub trait ActorStreams: Send + Sync + 'static {
    /// Serves one stream until either side ends it; the implementer owns the task for that. An application
    /// that cannot host actors this way is refused.
    fn serve(&self, incoming: ActorAnswers) -> Result<ActorCalls, rpc::Status>;
}

/// Everything the surfaces need.
pub struct Core {
    /// Own app id.
    pub app_id: String,
    /// Own namespace.
    pub namespace: String,
    /// State stores.
    pub stores: Arc<Stores>,
    /// Pub/sub components.
    pub pubsubs: Arc<PubSubs>,
    /// Secret stores.
    pub secrets: Arc<Secrets>,
    /// Service invocation.
    pub invoker: Arc<Invoker>,
    /// Actor runtime.
    pub actors: Arc<dyn Actors>,
    /// Actors of applications that open a stream.
    pub actor_streams: Arc<dyn ActorStreams>,
    /// What the metadata API shows.
    pub metadata: Arc<dyn Metadata>,
    /// Readiness.
    pub health: Arc<dyn HealthView>,
    /// The end.
    pub shutdown: Arc<dyn Shutdown>,
    /// Calls of unknown gRPC services.
    pub proxy: Arc<dyn Proxy>,
    /// Metrics; `None` when they are off.
    pub metrics: Option<Arc<ApiMetrics>>,
    /// Settings.
    pub settings: Settings,
    /// Cancelled when the servers stop: streams that would never end by themselves end then.
    pub stopping: CancellationToken,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("app_id", &self.app_id)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
