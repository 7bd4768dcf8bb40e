//! The gRPC service `Placement`: takes streams while this replica leads, and refuses them otherwise.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use dapr_proto::dapr::proto::placement::v1::Host;
use dapr_security::{Identity, Peer};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use crate::codec::OrderCodec;
use crate::dissemination::StreamId;
use crate::metrics::Metrics;
use crate::namespace::Settings;
use crate::stream::{self, Orders, Reader};
use crate::term::Term;

#[cfg(test)]
mod tests;

/// The path of the only method.
const REPORT_DAPR_STATUS: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// What open streams are told when the replica no longer leads.
const LOST_LEADERSHIP: &str = "lost leadership";
/// What open streams are told when the process stops.
const STOPPED: &str = "cancelling context, received signal terminated";

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// TLS is off, nobody is asked.
    Anybody,
    /// Every client has an identity, and its messages must agree with it.
    Identified,
}

/// The service; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: String,
    clients: Clients,
    settings: Settings,
    metrics: Metrics,
    role: RwLock<Role>,
    next_stream: AtomicU64,
    tasks: TaskTracker,
}

#[derive(Debug)]
enum Role {
    Follower,
    Leader(Arc<Term>),
    Stopping,
}

impl Server {
    pub(crate) fn new(id: String, clients: Clients, settings: Settings, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                id,
                clients,
                settings,
                metrics,
                role: RwLock::new(Role::Follower),
                next_stream: AtomicU64::new(1),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Serves while `leads` says so, until the token is cancelled. Returns when every stream has been told.
    pub(crate) async fn follow(&self, mut leads: watch::Receiver<bool>, token: CancellationToken) {
        loop {
            let leading = *leads.borrow_and_update();
            self.lead(leading);
            let changed = tokio::select! {
                () = token.cancelled() => break,
                changed = leads.changed() => changed,
            };
            if changed.is_err() {
                break;
            }
        }
        // Leadership that was lost at the same time is the better reason.
        let leading = *leads.borrow();
        self.lead(leading);
        self.turn(Role::Stopping, STOPPED);
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn lead(&self, leading: bool) {
        let leads_now = matches!(*self.shared.role.read(), Role::Leader(_));
        match (leads_now, leading) {
            (false, true) => {
                tracing::info!(id = %self.shared.id, "Leading: serving sidecars");
                let Shared {
                    settings,
                    metrics,
                    tasks,
                    ..
                } = self.shared.as_ref();
                let term = Term::new(settings.clone(), metrics.clone(), tasks.clone());
                self.turn(Role::Leader(term), LOST_LEADERSHIP);
            }
            (true, false) => {
                tracing::warn!(id = %self.shared.id, "Lost leadership: closing all streams");
                self.turn(Role::Follower, LOST_LEADERSHIP);
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Takes on a role; the streams of the one before end with the text.
    fn turn(&self, role: Role, text: &str) {
        self.shared
            .metrics
            .set_leader(matches!(role, Role::Leader(_)));
        let before = std::mem::replace(&mut *self.shared.role.write(), role);
        if let Role::Leader(term) = before {
            term.end(Status::unknown(text));
        }
    }

    /// The body of `/placement/state`.
    pub(crate) fn state(&self) -> String {
        let Ok(term) = self.term() else {
            return "null".to_owned();
        };
        serde_json::to_string(&term.tables()).unwrap_or_else(|error| {
            tracing::error!(%error, "Tables cannot be shown");
            "null".to_owned()
        })
    }

    fn open(&self, request: Request<Streaming<Host>>) -> Result<Response<Orders>, Status> {
        let term = self.term()?;
        let identity = self.identity(request.extensions().get::<Peer>())?;
        let stream = StreamId(self.shared.next_stream.fetch_add(1, Ordering::Relaxed));
        let (outbox, orders, over) = stream::channel();
        let reader = Reader {
            stream,
            identity,
            term: Arc::clone(&term),
            over,
        };
        // The response starts at once: some clients send nothing before they have its headers.
        term.tasks.spawn(reader.run(request.into_inner(), outbox));
        Ok(Response::new(orders))
    }

    fn term(&self) -> Result<Arc<Term>, Status> {
        match &*self.shared.role.read() {
            Role::Leader(term) => Ok(Arc::clone(term)),
            Role::Follower => Err(Status::failed_precondition(format!(
                "node id={} is not a leader. Only the leader can serve requests",
                self.shared.id
            ))),
            Role::Stopping => Err(Status::unavailable("placement is shutting down")),
        }
    }

    fn identity(&self, peer: Option<&Peer>) -> Result<Option<Arc<Identity>>, Status> {
        match self.shared.clients {
            Clients::Anybody => Ok(None),
            Clients::Identified => match peer.and_then(|peer| peer.identity.clone()) {
                Some(identity) => Ok(Some(identity)),
                None => Err(Status::unauthenticated(
                    "client certificate has no usable SPIFFE ID",
                )),
            },
        }
    }
}

impl StreamingService<Host> for Server {
    type Response = bytes::Bytes;
    type ResponseStream = Orders;
    type Future = std::future::Ready<Result<Response<Orders>, Status>>;

    fn call(&mut self, request: Request<Streaming<Host>>) -> Self::Future {
        std::future::ready(self.open(request))
    }
}

impl NamedService for Server {
    const NAME: &'static str = "dapr.proto.placement.v1.Placement";
}

/// Written out instead of generated, because the orders are encoded already.
impl tower::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.uri().path() != REPORT_DAPR_STATUS {
                return Ok(Status::unimplemented("").into_http());
            }
            Ok(Grpc::new(OrderCodec).streaming(server, request).await)
        })
    }
}
