//! The API between sidecars: calls of this application by others, and calls of its actors.
//!
//! Who calls is known from the certificate of the connection, not from what the call says.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::HeaderValue;
use ::http::{Extensions, Request, Response};
use async_trait::async_trait;
use bytes::Bytes;
use dapr_proto::dapr::proto::internals::v1::service_invocation_server::{
    ServiceInvocation, ServiceInvocationServer,
};
use dapr_proto::dapr::proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeRequestStream, InternalInvokeResponse,
    InternalInvokeResponseStream, Reminder,
};
use dapr_security::{Peer, ServerOptions};
use dapr_sidecar_core::actors::REMOTE_HEADER;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::invoke::{self, CallerId};
use dapr_sidecar_core::rpc;
use http_body_util::BodyExt as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{Grpc, StreamingService};
use tonic::{Status, Streaming};
use tower::Service;

use crate::grpc::{Reflected, Side, is_reflection, message_limit, proxy, reflect};
use crate::services::Core;
use crate::wire;

const SERVICE: &str = "/dapr.proto.internals.v1.ServiceInvocation/";

/// The internal API as a tower service. Requests carry [`Peer`] in their extensions; without one the caller
/// has no identity.
#[derive(Clone)]
pub struct InternalApi {
    core: Arc<Core>,
    invocation: ServiceInvocationServer<Invocation>,
    /// Largest message in either direction, in bytes.
    limit: usize,
}

impl std::fmt::Debug for InternalApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InternalApi").finish_non_exhaustive()
    }
}

/// The internal API over `core`.
pub fn service(core: Arc<Core>) -> InternalApi {
    let limit = message_limit(&core);
    let invocation = Invocation {
        core: Arc::clone(&core),
    };
    InternalApi {
        invocation: ServiceInvocationServer::new(invocation)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit),
        core,
        limit,
    }
}

/// The internal API as a router, as `dapr_security::serve` takes one.
pub fn routes(core: Arc<Core>) -> axum::Router {
    axum::Router::new().fallback_service(service(core))
}

/// Limits of the internal server, for `dapr_security::serve`.
pub fn server_options() -> ServerOptions {
    ServerOptions {
        keepalive_interval: Some(Duration::from_secs(10)),
        keepalive_timeout: Duration::from_secs(5),
        max_header_list_size: 4 << 20,
        max_connection_idle: Some(Duration::from_secs(3 * 60)),
        ..ServerOptions::default()
    }
}

impl<B> Service<Request<B>> for InternalApi
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if path == wire::CALL_LOCAL_STREAM {
            let invocation = Invocation {
                core: Arc::clone(&self.core),
            };
            let mut server = Grpc::new(wire::CalleeCodec::default())
                .max_decoding_message_size(self.limit)
                .max_encoding_message_size(self.limit);
            return Box::pin(async move { Ok(server.streaming(invocation, request).await) });
        }
        if path.starts_with(SERVICE) {
            return Box::pin(self.invocation.call(request));
        }
        if is_reflection(path) {
            return Box::pin(async move { Ok(reflect(Reflected::Internal, request).await) });
        }
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let caller = caller(request.extensions());
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let result = proxy(&core, Side::Internal(caller.as_ref()), request).await;
            Ok(match result {
                Ok(response) => response.map(tonic::body::Body::new),
                Err(status) => wire::to_tonic(status).into_http(),
            })
        })
    }
}

/// The identity in the certificate of the caller.
fn caller(extensions: &Extensions) -> Option<CallerId> {
    let identity = extensions.get::<Peer>()?.identity.as_deref()?;
    Some(CallerId {
        trust_domain: identity.trust_domain.to_string(),
        namespace: identity.namespace.clone(),
        app_id: identity.app_id.clone(),
        url: identity.to_string(),
    })
}

#[derive(Clone)]
struct Invocation {
    core: Arc<Core>,
}

impl Invocation {
    async fn run(
        &self,
        caller: Option<CallerId>,
        request: Result<invoke::Request, rpc::Status>,
    ) -> Result<invoke::Response, Status> {
        let request = request.map_err(wire::to_tonic)?;
        let result = self
            .core
            .invoker
            .invoke_local(caller.as_ref(), request)
            .await;
        result.map_err(|failure| {
            let mut status = wire::to_tonic(failure.status);
            if failure.is_untouched {
                mark(status.metadata_mut());
            }
            status
        })
    }
}

impl StreamingService<wire::IncomingRequest> for Invocation {
    type Response = wire::Outgoing<wire::ResponseHead>;
    type ResponseStream = wire::ResponseStream;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<wire::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<wire::IncomingRequest>>) -> Self::Future {
        let invocation = self.clone();
        Box::pin(async move {
            let (_, extensions, mut messages) = request.into_parts();
            let first = messages.message().await?.ok_or_else(no_message)?;
            let request = wire::request_from_stream(first, messages);
            let response = invocation.run(caller(&extensions), request).await?;
            let is_untouched = response.is_untouched;
            Ok(marked(wire::response_stream(response), is_untouched))
        })
    }
}

/// An answer that says whether its request reached the application.
fn marked<T>(answer: T, is_untouched: bool) -> tonic::Response<T> {
    let mut answer = tonic::Response::new(answer);
    if is_untouched {
        mark(answer.metadata_mut());
    }
    answer
}

fn mark(metadata: &mut MetadataMap) {
    metadata.insert(wire::UNTOUCHED, MetadataValue::from_static("true"));
}

/// An answer without any call to answer: the peer gave up before it said what it wanted.
fn no_message() -> Status {
    Status::unknown("EOF")
}

#[async_trait]
impl ServiceInvocation for Invocation {
    type CallLocalStreamStream =
        futures::stream::Empty<Result<InternalInvokeResponseStream, Status>>;
    type CallActorStreamStream = futures::stream::Empty<Result<InternalInvokeResponse, Status>>;

    async fn call_local(
        &self,
        request: tonic::Request<InternalInvokeRequest>,
    ) -> Result<tonic::Response<InternalInvokeResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let response = self
            .run(caller(&extensions), wire::request_from_unary(message))
            .await?;
        let is_untouched = response.is_untouched;
        let (mut leading, body) = wire::internal_response(response);
        let value = body
            .collect()
            .await
            .map_err(|error| Status::internal(format!("error invoking app channel: {error}")))?
            .to_bytes();
        if let Some(message) = &mut leading.message {
            message.data.get_or_insert_default().value = value.into();
        }
        Ok(marked(leading, is_untouched))
    }

    async fn call_local_stream(
        &self,
        _: tonic::Request<Streaming<InternalInvokeRequestStream>>,
    ) -> Result<tonic::Response<Self::CallLocalStreamStream>, Status> {
        // `InternalApi` serves it with messages of its own.
        Err(Status::unimplemented(wire::CALL_LOCAL_STREAM))
    }

    async fn call_actor(
        &self,
        request: tonic::Request<InternalInvokeRequest>,
    ) -> Result<tonic::Response<InternalInvokeResponse>, Status> {
        let mut call = wire::actor_call(request.into_inner()).map_err(wire::to_tonic)?;
        // A call that was routed once is not routed again.
        call.headers
            .insert(REMOTE_HEADER, HeaderValue::from_static("true"));
        let reply = self.core.actors.invoke_from_peer(call).await;
        let reply = reply.map_err(wire::to_tonic)?;
        Ok(tonic::Response::new(wire::internal_actor_response(reply)))
    }

    async fn call_actor_reminder(
        &self,
        request: tonic::Request<Reminder>,
    ) -> Result<tonic::Response<()>, Status> {
        let call = wire::reminder_call(request.into_inner());
        let result = self.core.actors.remind_from_peer(call).await;
        result.map(tonic::Response::new).map_err(wire::to_tonic)
    }

    async fn call_actor_stream(
        &self,
        _: tonic::Request<InternalInvokeRequest>,
    ) -> Result<tonic::Response<Self::CallActorStreamStream>, Status> {
        Err(Status::unimplemented(
            "CallActorStream serves workflows, which this version of the sidecar does not have",
        ))
    }
}
