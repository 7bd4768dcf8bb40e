//! The gRPC API: the `Dapr` service, reflection, and a proxy for services this sidecar does not have.

mod actors;
pub(crate) mod body;
mod invoke;
pub(crate) mod method;
mod proxy;
mod publish;
mod secrets;
mod serve;
mod service;
mod state;
mod subscribe;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use ::http::header::{HeaderMap, HeaderValue, USER_AGENT};
use ::http::{Request, Response};
use bytes::Bytes;
use dapr_proto::dapr::proto::runtime::v1::dapr_server::DaprServer;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::invoke::headers::AUTHORITY;
use dapr_sidecar_core::rpc;
use http_body_util::BodyExt as _;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tower::Service;

use crate::error::details::Detail;
use crate::http::{API_TOKEN, same_secret};
use crate::services::Core;
use crate::{trace, wire};
pub use body::GrpcBody;
use body::{Counted, Record};
pub(crate) use proxy::{Side, proxy};
pub use serve::serve;

const INVOKE_SERVICE: &str = "/dapr.proto.runtime.v1.Dapr/InvokeService";
/// Methods of the workflow engine's own service; they have no package.
const TASK_HUB: &str = "/TaskHubSidecarService/";
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// The gRPC API as a tower service. Clones share everything.
#[derive(Clone)]
pub struct GrpcApi {
    core: Arc<Core>,
    dapr: DaprServer<service::Service>,
}

impl std::fmt::Debug for GrpcApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcApi").finish_non_exhaustive()
    }
}

/// The gRPC API over `core`.
pub fn service(core: Arc<Core>) -> GrpcApi {
    let limit = message_limit(&core);
    GrpcApi {
        dapr: DaprServer::new(service::Service::new(Arc::clone(&core)))
            // Upstream takes compressed requests, and some SDKs send them.
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit),
        core,
    }
}

/// The gRPC API as a router, for servers that take one.
pub fn routes(core: Arc<Core>) -> axum::Router {
    axum::Router::new().fallback_service(service(core))
}

/// Most bytes of a message.
pub(crate) fn message_limit(core: &Core) -> usize {
    match core.settings.max_body_size {
        0 => usize::MAX,
        limit => limit,
    }
}

/// Reflection of the API and of the API between sidecars, made when it is first asked for: the decoded descriptors
/// are large, and most sidecars never need them.
static API_REFLECTION: LazyLock<Routes> =
    LazyLock::new(|| reflection("dapr.proto.runtime.v1.Dapr"));
static INTERNAL_REFLECTION: LazyLock<Routes> =
    LazyLock::new(|| reflection("dapr.proto.internals.v1.ServiceInvocation"));

/// Whose services reflection tells of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reflected {
    Api,
    Internal,
}

/// Reflection, in both versions, listing `service` and itself. An unreadable descriptor set would be a defect of the
/// build; the services work without.
fn reflection(service: &str) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(dapr_proto::FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name("grpc.reflection.v1.ServerReflection")
            .with_service_name("grpc.reflection.v1alpha.ServerReflection")
    };
    let mut routes = Routes::default();
    match builder().build_v1() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::error!(%error, "gRPC reflection is not available"),
    }
    match builder().build_v1alpha() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::error!(%error, "gRPC reflection v1alpha is not available"),
    }
    routes
}

pub(crate) fn is_reflection(path: &str) -> bool {
    REFLECTION.iter().any(|prefix| path.starts_with(prefix))
}

impl<B> Service<Request<B>> for GrpcApi
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = Response<GrpcBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

/// Where a call goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    Dapr,
    TaskHub,
    Reflection,
    Proxy,
}

fn destination(path: &str) -> Destination {
    if method::index(path).is_some() {
        Destination::Dapr
    } else if path.starts_with(TASK_HUB) {
        Destination::TaskHub
    } else if is_reflection(path) {
        Destination::Reflection
    } else {
        Destination::Proxy
    }
}

impl GrpcApi {
    async fn handle<B>(self, request: Request<B>) -> Response<GrpcBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let started = Instant::now();
        let core = Arc::clone(&self.core);
        let path = request.uri().path().to_owned();
        let destination = destination(&path);
        let logs = core.settings.api_logging.is_some();
        let user_agent = logs
            .then(|| request.headers().get(USER_AGENT).cloned())
            .flatten();
        let (request, received) = body::counted(request, core.metrics.is_some());
        let response = self.guarded(request, &path, destination).await;
        let measured = body::is_measured(&path, destination == Destination::Proxy);
        GrpcBody::wrap(
            response,
            Record {
                started,
                received,
                user_agent,
                measured,
                path,
                core,
            },
        )
    }

    async fn guarded<B>(
        self,
        mut request: Request<Counted<B>>,
        path: &str,
        destination: Destination,
    ) -> Response<tonic::body::Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let core = Arc::clone(&self.core);
        if let Err(status) = authenticate(&core, request.headers_mut()) {
            return status.into_http();
        }
        if let Err(status) = permit(&core, path) {
            return status.into_http();
        }
        let answer = match trace::grpc(core.settings.tracing, request.headers_mut()) {
            Ok(answer) => answer,
            Err(text) => return tonic::Status::invalid_argument(text).into_http(),
        };
        let is_invocation = path == INVOKE_SERVICE;
        if is_invocation {
            note_authority(&mut request);
        }
        let mut response = self.dispatch(request, destination).await;
        let headers = response.headers_mut();
        if is_invocation {
            answer.write_invocation(core.settings.tracing, headers);
            return invoke::end(response);
        }
        if destination == Destination::Proxy {
            answer.write_baggage(headers);
        } else {
            answer.write_grpc(headers);
        }
        response
    }

    async fn dispatch<B>(
        mut self,
        request: Request<Counted<B>>,
        destination: Destination,
    ) -> Response<tonic::body::Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError> + Send,
    {
        match destination {
            Destination::Dapr => match self.dapr.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Destination::TaskHub => tonic::Status::unimplemented(
                "workflows are not available in this version of the sidecar: run the workflow worker against a sidecar that has them",
            )
            .into_http(),
            Destination::Reflection => reflect(Reflected::Api, request).await,
            Destination::Proxy => {
                let request = request.map(|body| body.boxed_unsync());
                match proxy(&self.core, Side::Api, request).await {
                    Ok(response) => response.map(tonic::body::Body::new),
                    Err(status) => wire::to_tonic(status).into_http(),
                }
            }
        }
    }
}

pub(crate) async fn reflect<B>(
    reflected: Reflected,
    request: Request<B>,
) -> Response<tonic::body::Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let request = request.map(tonic::body::Body::new);
    let mut routes = match reflected {
        Reflected::Api => API_REFLECTION.clone(),
        Reflected::Internal => INTERNAL_REFLECTION.clone(),
    };
    match routes.call(request).await {
        Ok(response) => response.map(tonic::body::Body::new),
        Err(never) => match never {},
    }
}

/// Checks the token and takes it out of the metadata, for it is not the application's.
fn authenticate(core: &Core, headers: &mut HeaderMap) -> Result<(), tonic::Status> {
    let Some(token) = core.settings.api_token.as_deref() else {
        return Ok(());
    };
    let reason = match headers.remove(API_TOKEN) {
        Some(given) if same_secret(given.as_bytes(), token.as_bytes()) => return Ok(()),
        Some(_) => "authentication error: api token mismatch",
        None => "missing api token in request metadata",
    };
    Err(refusal(
        rpc::Code::Unauthenticated,
        "Unauthorized",
        "401",
        reason,
    ))
}

/// Applies the allow and deny lists.
fn permit(core: &Core, path: &str) -> Result<(), tonic::Status> {
    if !path.starts_with("/dapr.proto.runtime.") {
        return Ok(());
    }
    let group = method::index(path).map_or("", |index| method::METHODS[index].1);
    if core.settings.rules.allows_grpc(group) {
        return Ok(());
    }
    Err(refusal(
        rpc::Code::Unimplemented,
        "Not Implemented",
        "501",
        "requested endpoint is not available",
    ))
}

/// A status in the form upstream gives what its middleware refuses.
fn refusal(code: rpc::Code, text: &str, http_code: &str, reason: &str) -> tonic::Status {
    let facts = [("http.code", http_code), ("http.error_message", reason)];
    let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let detail = Detail::Info {
        reason: text.to_owned(),
        metadata: Some(facts.into()),
    };
    wire::to_tonic(rpc::Status {
        code,
        message: text.to_owned(),
        details: vec![detail.to_rpc()],
    })
}

/// Puts whom a call of another application was addressed to among its metadata, as the name HTTP applications see.
fn note_authority<B>(request: &mut Request<B>) {
    let authority = request.uri().authority();
    if let Some(value) = authority.and_then(|authority| value(authority.as_str())) {
        request.headers_mut().insert(AUTHORITY, value);
    }
}

/// A header value from text, if it is one.
fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}
