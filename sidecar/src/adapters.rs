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
use http::{HeaderMap, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Error};
use tower::{Service, ServiceExt as _};
use watched::Watched;

use crate::channel::grpc::GrpcChannel;
use crate::peer::ProxyClient;

mod watched;

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
        Ok(connect(&endpoint, self.security.connector(expect)).await?)
    }
}

/// Connects in a way that notices when the other side falls silent.
async fn connect<C, T>(endpoint: &Endpoint, connector: C) -> Result<Channel, Error>
where
    C: Service<Uri, Response = TokioIo<T>> + Send + 'static,
    C::Error: std::error::Error + Send + Sync + 'static,
    C::Future: Send,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watched = |stream: TokioIo<T>| TokioIo::new(Watched::new(stream.into_inner()));
    let connector = connector.map_response(watched);
    endpoint.connect_with_connector(connector).await
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

    async fn reach(&self, location: &Location) -> Result<(), Status> {
        match location {
            Location::Remote(target) => self.peers.reach(target).await,
            Location::Local | Location::External { .. } => Ok(()),
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use dapr_proto::dapr::proto::placement::v1::placement_client::PlacementClient;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioTimer};
    use tokio::io::DuplexStream;
    use tokio::time::Instant;

    use super::*;

    /// Keeps a stream open and pings, as placement does, for that long. Then nothing comes from there any more.
    async fn serve(connection: DuplexStream, time: Duration) {
        let service = service_fn(|_| async {
            let body =
                StreamBody::new(stream::pending::<Result<Frame<bytes::Bytes>, Infallible>>());
            let response = http::Response::builder().header("content-type", "application/grpc");
            response.body(body)
        });
        let mut serving = std::pin::pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(3))
                .serve_connection(TokioIo::new(connection), service)
        );
        tokio::select! {
            _ = serving.as_mut() => panic!("the client stays"),
            () = tokio::time::sleep(time) => {}
        }
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_to_a_placement_that_falls_silent_ends() {
        let well = Duration::from_secs(60);
        let connector = tower::service_fn(move |_: Uri| async move {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(serve(theirs, well));
            Ok::<_, Infallible>(TokioIo::new(ours))
        });
        let endpoint = Endpoint::from_static("http://placement:50005");
        let channel = connect(&endpoint, connector).await.expect("connected");
        let before = Instant::now();
        let mut client = PlacementClient::new(channel);
        let orders = client.report_dapr_status(stream::pending()).await;
        let mut orders = orders.expect("it is opened").into_inner();
        orders.message().await.expect_err("it ends");
        let silence = before.elapsed() - well;
        assert!(
            silence > Duration::from_secs(10) && silence < Duration::from_secs(20),
            "{silence:?}"
        );
    }
}
