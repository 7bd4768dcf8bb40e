//! The gRPC service `Placement`: takes streams while this replica leads, and refuses them otherwise.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use dapr_proto::dapr::proto::placement::v1::{Host, PlacementOrder};
use dapr_security::{Identity, Peer, grpc};
use http::Uri;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codec::BufferSettings;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::dissemination::StreamId;
use crate::metrics::Metrics;
use crate::namespace::Settings;
use crate::stream::{self, Orders, Reader};
use crate::term::{Lead, Term};

#[cfg(test)]
mod tests;

/// The path of the only method.
const REPORT_DAPR_STATUS: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// The longest message a sidecar may send, as gRPC has it by default.
const MESSAGE_LIMIT: usize = 4 << 20;
/// What is kept for a stream's messages, in bytes: replies have a few, reports a few dozen, and a longer one takes more for
/// itself. By default it would be 8 KiB for each of ten thousand streams.
const MESSAGE_USUAL: usize = 128;
/// What open streams are told when the replica no longer leads.
const LOST_LEADERSHIP: &str = "lost leadership";

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
    tasks: TaskTracker,
}

#[derive(Debug)]
enum Role {
    Follower,
    Leader(Lead, Arc<Term>),
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
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Serves while there is a lead, until the token is cancelled. Returns when every stream has been told `why`.
    pub(crate) async fn follow(
        &self,
        mut leads: watch::Receiver<Option<Lead>>,
        token: CancellationToken,
        why: impl FnOnce() -> String,
    ) {
        loop {
            let lead = leads.borrow_and_update().clone();
            self.lead(lead);
            let changed = tokio::select! {
                () = token.cancelled() => break,
                changed = leads.changed() => changed,
            };
            if changed.is_err() {
                break;
            }
        }
        // Leadership that was lost at the same time is the better reason.
        let lead = leads.borrow().clone();
        self.lead(lead);
        self.turn(Role::Stopping, &why());
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn lead(&self, lead: Option<Lead>) {
        let same = match (&*self.shared.role.read(), &lead) {
            (Role::Leader(held, _), Some(lead)) => held.proposals.is_same(&lead.proposals),
            (Role::Follower | Role::Stopping, None) => true,
            (Role::Leader(..), None) | (Role::Follower | Role::Stopping, Some(_)) => false,
        };
        if same {
            return;
        }
        if matches!(*self.shared.role.read(), Role::Leader(..)) {
            tracing::warn!(id = %self.shared.id, "Lost leadership: closing all streams");
            self.turn(Role::Follower, LOST_LEADERSHIP);
        }
        if let Some(lead) = lead {
            let Shared {
                settings,
                metrics,
                tasks,
                ..
            } = self.shared.as_ref();
            let namespaces = lead.tables.lock().namespaces.len();
            tracing::info!(
                namespaces,
                "Node id={} has acquired leadership",
                self.shared.id
            );
            let term = Term::start(settings.clone(), metrics.clone(), tasks.clone(), &lead);
            self.turn(Role::Leader(lead, term), LOST_LEADERSHIP);
        }
    }

    /// Takes on a role; the streams of the one before end with the text.
    fn turn(&self, role: Role, text: &str) {
        self.shared
            .metrics
            .set_leader(matches!(role, Role::Leader(..)));
        let before = std::mem::replace(&mut *self.shared.role.write(), role);
        if let Role::Leader(_, term) = before {
            term.end(Status::unknown(text));
        }
    }

    /// The service, and an answer for whoever calls another one.
    pub(crate) fn routes(self) -> Router {
        Routes::new(self)
            .into_axum_router()
            .fallback(async |uri: Uri| grpc::unserved(uri.path(), Self::NAME).into_http::<Body>())
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

    fn open(&self, request: http::Request<Body>) -> Result<Orders, Status> {
        let path = request.uri().path();
        if path != REPORT_DAPR_STATUS {
            return Err(grpc::unserved(path, Self::NAME));
        }
        if let Some(encoding) = request.headers().get("grpc-encoding")
            && encoding != "identity"
        {
            return Err(Status::unimplemented(format!(
                "grpc: Decompressor is not installed for grpc-encoding {encoding:?}"
            )));
        }
        let term = self.term()?;
        let identity = self.identity(request.extensions().get::<Peer>())?;
        let stream = StreamId(term.next_id());
        let (outbox, orders, over) = stream::channel();
        let reader = Reader {
            stream,
            identity,
            term: Arc::clone(&term),
            over,
        };
        let decoder = ProstCodec::<PlacementOrder, Host>::raw_decoder(BufferSettings::new(
            MESSAGE_USUAL,
            MESSAGE_LIMIT,
        ));
        let messages =
            Streaming::new_request(decoder, request.into_body(), None, Some(MESSAGE_LIMIT));
        // The response starts at once: some clients send nothing before they have its headers.
        term.tasks.spawn(reader.run(messages, outbox));
        Ok(orders)
    }

    fn term(&self) -> Result<Arc<Term>, Status> {
        match &*self.shared.role.read() {
            Role::Leader(_, term) => Ok(Arc::clone(term)),
            Role::Follower => Err(Status::failed_precondition(format!(
                "node id={} is not a leader. Only the leader can serve requests",
                self.shared.id
            ))),
            Role::Stopping => Err(Status::unavailable("placement server is shutting down")),
        }
    }

    fn identity(&self, peer: Option<&Peer>) -> Result<Option<Arc<Identity>>, Status> {
        match self.shared.clients {
            Clients::Anybody => Ok(None),
            Clients::Identified => match peer.and_then(|peer| peer.identity.clone()) {
                Some(identity) => Ok(Some(identity)),
                None => Err(Status::unauthenticated(
                    "failed to get client ID from context",
                )),
            },
        }
    }
}

impl NamedService for Server {
    const NAME: &'static str = "dapr.proto.placement.v1.Placement";
}

/// Written out instead of generated, because the orders are framed already.
impl tower::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = match self.open(request) {
            Ok(orders) => {
                let mut response = http::Response::new(Body::new(orders));
                response.headers_mut().insert(
                    http::header::CONTENT_TYPE,
                    http::HeaderValue::from_static("application/grpc"),
                );
                response
            }
            Err(status) => status.into_http(),
        };
        std::future::ready(Ok(response))
    }
}
