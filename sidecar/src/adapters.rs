//! Small implementations of the traits through which the crates of the sidecar ask for each other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_kit::health::{Health, hold};
use dapr_kit::shutdown::Shutdown;
use dapr_security::{Expect, Security, SpiffeId};
use dapr_sidecar_actors::settings::Dialer;
use dapr_sidecar_api::services::{HealthView, Proxy, ShutdownKind};
use dapr_sidecar_core::body::{Body, BoxError};
use dapr_sidecar_core::invoke::Location;
use dapr_sidecar_core::rpc::{Code, Status};
use futures::future::BoxFuture;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::channel::grpc::GrpcChannel;
use crate::peer::ProxyClient;

/// A dial of the control plane that takes longer has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A forced shutdown leaves this long for its own answer.
const FORCED_AFTER: Duration = Duration::from_millis(100);

/// Readiness of this sidecar.
#[derive(Debug)]
pub struct Readiness {
    /// All targets.
    pub health: Health,
    /// The target of components and servers.
    pub outbound: Health,
}

impl HealthView for Readiness {
    fn unready(&self) -> Vec<String> {
        self.health.unready()
    }

    fn hold<'a>(&'a self, headers: &'a HeaderMap) -> BoxFuture<'a, ()> {
        Box::pin(hold(headers, self.health.await_ready()))
    }

    fn outbound_ready(&self) -> bool {
        self.outbound.is_ready()
    }
}

/// The end of this process, as the shutdown API asks for it.
#[derive(Debug)]
pub struct Ender(pub Shutdown);

impl dapr_sidecar_api::services::Shutdown for Ender {
    fn shutdown(&self, kind: ShutdownKind) {
        match kind {
            ShutdownKind::Graceful => self.0.trigger(),
            ShutdownKind::Forced => {
                // Nobody owns this task: the process ends with it.
                tokio::spawn(async {
                    tokio::time::sleep(FORCED_AFTER).await;
                    std::process::exit(1);
                });
            }
        }
    }
}

/// Dials placement with the identity it has to show.
#[derive(Debug)]
pub struct PlacementDialer {
    /// Own security.
    pub security: Security,
    /// The id placement must show; `None` without mTLS.
    pub placement: Option<SpiffeId>,
}

#[async_trait]
impl Dialer for PlacementDialer {
    async fn connect(&self, address: &str) -> Result<Channel, BoxError> {
        let expect = self.placement.clone().map_or(Expect::Plaintext, Expect::Id);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(DIAL_TIMEOUT)
            .tcp_nodelay(true);
        Ok(endpoint
            .connect_with_connector(self.security.connector(expect))
            .await?)
    }
}

/// Where calls of unknown gRPC services go.
#[derive(Debug)]
pub struct Forwarder {
    /// Other sidecars.
    pub peers: ProxyClient,
    /// The application, if it speaks gRPC.
    pub app: Option<Arc<GrpcChannel>>,
}

#[async_trait]
impl Proxy for Forwarder {
    async fn forward(
        &self,
        location: Location,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        match location {
            Location::Remote(target) => self.peers.forward(&target, request).await,
            Location::Local => match &self.app {
                Some(app) => app.forward(request).await,
                None => {
                    let text = "connection error: desc = \"the application does not speak gRPC: set --app-protocol grpc\"";
                    Err(Status::new(Code::Unavailable, text))
                }
            },
            Location::External { base_url, .. } => Err(Status::new(
                Code::Unimplemented,
                format!("gRPC calls cannot be proxied to {base_url}"),
            )),
        }
    }
}

/// Tasks of one run of the sidecar: cancelled and waited for together.
#[derive(Debug, Default)]
pub struct Tasks {
    tracker: tokio_util::task::TaskTracker,
    names: Arc<Mutex<Vec<&'static str>>>,
}

impl Tasks {
    /// Runs `task` until it ends or `token` is cancelled.
    pub fn spawn_until<F>(&self, name: &'static str, token: CancellationToken, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.names.lock().push(name);
        let names = Arc::clone(&self.names);
        self.tracker.spawn(async move {
            tokio::select! {
                () = task => {}
                () = token.cancelled() => {}
            }
            names.lock().retain(|other| *other != name);
        });
    }

    /// Runs `task` to its end; it watches its own token.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_until(name, CancellationToken::new(), task);
    }

    /// Waits for all tasks; the error names those that did not end in time.
    pub async fn finish(&self, limit: Option<Duration>) -> Result<(), String> {
        self.tracker.close();
        let Some(limit) = limit else {
            self.tracker.wait().await;
            return Ok(());
        };
        if tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok()
        {
            return Ok(());
        }
        Err(self.names.lock().join(", "))
    }
}
