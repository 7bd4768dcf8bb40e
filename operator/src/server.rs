//! The gRPC API sidecars call: sixteen methods, who may call them, and their answers.
//!
//! What a caller sees is decided in `access.rs`, `hub.rs` and `assignment.rs`; here stand codes and texts of the wire.

mod lists;
mod streams;

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dapr_proto::dapr::proto::operator::v1 as wire;
use dapr_security::{Identity, Peer, grpc};
use futures::stream;
use http::{HeaderValue, Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use parking_lot::Mutex;
use prost::Message;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::access::authorize;
use crate::resources::Resources;
use streams::Told;

/// The name of the service.
const SERVICE: &str = "dapr.proto.operator.v1.Operator";

/// The API. Clones serve the same.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    resources: Resources,
    /// The only namespace that is known; `None` for all.
    scope: Option<String>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("scope", &self.0.scope)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// An API for these resources, restricted to the namespace `scope` if there is one.
    pub fn new(resources: Resources, scope: Option<String>) -> Self {
        Self(Arc::new(Shared { resources, scope }))
    }
}

impl Service<HttpRequest<Incoming>> for Api {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { Ok(shared.respond(request).await) })
    }
}

impl Shared {
    async fn respond(self: Arc<Self>, request: HttpRequest<Incoming>) -> HttpResponse<Body> {
        let path = request.uri().path();
        let method = path
            .strip_prefix('/')
            .and_then(|it| it.strip_prefix(SERVICE));
        let Some(method) = method.and_then(|it| it.strip_prefix('/')) else {
            return grpc::unserved(path, SERVICE).into_http();
        };
        let it = self;
        match method {
            "ListComponents" => unary(request, move |r| it.clone().components(r)).await,
            "ListHTTPEndpoints" => unary(request, move |r| it.clone().http_endpoints(r)).await,
            "ListMCPServers" => unary(request, move |r| it.clone().mcp_servers(r)).await,
            "ListResiliency" => unary(request, move |r| it.clone().resiliencies(r)).await,
            "ListSubscriptions" => unary(request, move |r| it.clone().legacy(r)).await,
            "ListSubscriptionsV2" => unary(request, move |r| it.clone().subscriptions(r)).await,
            "ListWorkflowAccessPolicy" => unary(request, move |r| it.clone().policies(r)).await,
            "GetConfiguration" => unary(request, move |r| it.clone().configuration(r)).await,
            "GetResiliency" => unary(request, move |r| it.clone().resiliency(r)).await,
            "ComponentUpdate" => {
                let open = |caller, r: wire::ComponentUpdateRequest| {
                    let shelf = &it.resources.components;
                    ready(streams::scoped(shelf, caller, &r.namespace))
                };
                streaming(request, open).await
            }
            "HTTPEndpointUpdate" => {
                let open = |caller, r: wire::HttpEndpointUpdateRequest| {
                    let shelf = &it.resources.http_endpoints;
                    ready(streams::scoped(shelf, caller, &r.namespace))
                };
                streaming(request, open).await
            }
            "MCPServerUpdate" => {
                let open = |caller, r: wire::McpServerUpdateRequest| {
                    let shelf = &it.resources.mcp_servers;
                    ready(streams::scoped(shelf, caller, &r.namespace))
                };
                streaming(request, open).await
            }
            "ResiliencyUpdate" => {
                let open = |caller, r: wire::ResiliencyUpdateRequest| {
                    let shelf = &it.resources.resiliencies;
                    ready(streams::scoped(shelf, caller, &r.namespace))
                };
                streaming(request, open).await
            }
            "SubscriptionUpdate" => {
                let open = |caller, r: wire::SubscriptionUpdateRequest| {
                    let shelf = &it.resources.subscriptions;
                    ready(streams::scoped(shelf, caller, &r.namespace))
                };
                streaming(request, open).await
            }
            "WorkflowAccessPolicyUpdate" => {
                let open = |caller, r: wire::WorkflowAccessPolicyUpdateRequest| {
                    let shelf = &it.resources.workflow_access_policies;
                    ready(streams::scoped(shelf, caller, &r.namespace))
                };
                streaming(request, open).await
            }
            "ConfigurationUpdate" => {
                let open = |caller, r: wire::ConfigurationUpdateRequest| {
                    streams::assigned(it.resources.clone(), caller, r.namespace)
                };
                streaming(request, open).await
            }
            _ => grpc::unserved(path, SERVICE).into_http(),
        }
    }
}

/// Who calls, and from where.
struct Caller {
    identity: Option<Arc<Identity>>,
    connection: Option<SocketAddr>,
}

impl Caller {
    fn of<R>(request: &Request<R>) -> Self {
        let peer = request.extensions().get::<Peer>();
        Self {
            identity: peer.and_then(|peer| peer.identity.clone()),
            connection: peer.map(|peer| peer.remote),
        }
    }

    /// The app id of a caller that may see the namespace.
    fn admitted(&self, namespace: &str) -> Result<&str, Status> {
        match authorize(self.identity.as_deref(), namespace) {
            Ok(identity) => Ok(&identity.app_id),
            Err(refused) => Err(Status::permission_denied(refused.to_string())),
        }
    }
}

async fn unary<R, A, F>(
    request: HttpRequest<Incoming>,
    method: impl FnMut(Request<R>) -> F,
) -> HttpResponse<Body>
where
    R: Message + Default + 'static,
    A: Message + 'static,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut grpc = Grpc::new(ProstCodec::<A, R>::default());
    as_upstream(grpc.unary(service_fn(method), request).await)
}

/// A request that is too large is out of range for tonic, and uses up a resource for everybody else.
fn as_upstream<B>(mut answer: HttpResponse<B>) -> HttpResponse<B> {
    if let Some(code) = answer.headers_mut().get_mut(Status::GRPC_STATUS)
        && Code::from_bytes(code.as_bytes()) == Code::OutOfRange
    {
        *code = HeaderValue::from(Code::ResourceExhausted as i32);
    }
    answer
}

/// tonic reads the request and writes the head of the answer; its body is [`Told`].
async fn streaming<R, F>(
    request: HttpRequest<Incoming>,
    open: impl Fn(Caller, R) -> F,
) -> HttpResponse<Body>
where
    R: Message + Default + 'static,
    F: Future<Output = Result<Told, Status>>,
{
    let opened = Mutex::new(None);
    let method = |request: Request<R>| {
        let caller = Caller::of(&request);
        let (open, opened) = (open(caller, request.into_inner()), &opened);
        async move {
            let told = open.await?;
            *opened.lock() = Some(told);
            Ok(Response::new(stream::empty::<Result<(), Status>>()))
        }
    };
    let mut grpc = Grpc::new(ProstCodec::<(), R>::default());
    let answer = as_upstream(grpc.server_streaming(service_fn(method), request).await);
    match opened.into_inner() {
        Some(told) => answer.map(|_| Body::new(told)),
        None => answer,
    }
}
