//! The calls one sidecar makes on another.

use std::sync::Arc;

use async_trait::async_trait;
use dapr_proto::dapr::proto::internals::v1::service_invocation_client::ServiceInvocationClient;
use dapr_sidecar_api::{trace, wire};
use dapr_sidecar_core::peer::{Failure, Peers, ReminderCall, Target};
use dapr_sidecar_core::rpc::{Code, Status};
use dapr_sidecar_core::{actors, invoke};
use http::HeaderMap;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;

use super::pool::{Connection, Pool, REACH, is_untouched};

/// Headers of trace context, which also travel as gRPC metadata.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];
/// The same in binary form.
const TRACE_BIN: &str = "grpc-trace-bin";

/// [`Peers`] over pooled connections.
#[derive(Debug)]
pub struct PeerClient {
    pool: Arc<Pool>,
    /// Largest message in either direction, in bytes.
    max_message: usize,
}

impl PeerClient {
    /// Calls on connections of `pool`.
    pub fn new(pool: Arc<Pool>, max_message: usize) -> Self {
        Self { pool, max_message }
    }

    async fn client(&self, target: &Target) -> Result<ServiceInvocationClient<Connection>, Status> {
        let connection = self.pool.connection(target).await?;
        let origin = connection.origin().clone();
        Ok(ServiceInvocationClient::with_origin(connection, origin)
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message))
    }

    /// The core's status of a failed call. A connection that cannot be used is not handed out again.
    fn failed(&self, target: &Target, status: &tonic::Status) -> Status {
        let status = wire::from_tonic(status);
        if matches!(status.code, Code::Unavailable | Code::Unauthenticated) {
            self.pool.discard(target);
        }
        status
    }
}

#[async_trait]
impl Peers for PeerClient {
    async fn reach(&self, target: &Target) -> Result<(), Status> {
        let reached = tokio::time::timeout(REACH, self.pool.connection(target)).await;
        reached
            .unwrap_or_else(|_| Err(Status::new(Code::Unavailable, "i/o timeout")))
            .map(drop)
    }

    async fn call_local(
        &self,
        target: &Target,
        request: invoke::Request,
    ) -> Result<invoke::Response, Failure> {
        let connection = self.pool.connection(target).await;
        let connection = connection.map_err(|status| Failure {
            is_untouched: true,
            ..Failure::from(status)
        })?;
        let origin = connection.origin().clone();
        let mut client = Grpc::with_origin(connection, origin)
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message);
        let metadata = trace_metadata(&request.headers);
        let (stream, body_error) = wire::request_stream(request);
        let mut call = tonic::Request::new(stream);
        *call.metadata_mut() = metadata;

        let answer = async {
            let failed = |status: tonic::Status| self.streaming_failed(target, &status);
            let path = PathAndQuery::from_static(wire::CALL_LOCAL_STREAM);
            let answer = client.streaming(call, path, wire::CallerCodec::default());
            let answer = answer.await.map_err(failed)?;
            let is_untouched = answer.metadata().contains_key(wire::UNTOUCHED);
            let mut messages = answer.into_inner();
            let first = messages.message().await.map_err(failed)?;
            let first = first.ok_or_else(|| Status::new(Code::Unknown, "EOF"))?;
            Ok(invoke::Response {
                is_untouched,
                ..wire::response_from_stream(first, messages)?
            })
        };
        tokio::select! {
            // A finished answer counts, also when the rest of the request's body fails afterwards.
            biased;
            answer = answer => answer,
            Ok(error) = body_error => Err(Failure {
                is_own: true,
                ..Failure::from(Status::new(Code::Internal, error.to_string()))
            }),
        }
    }

    async fn call_actor(
        &self,
        target: &Target,
        call: actors::Call,
    ) -> Result<actors::Reply, Status> {
        let mut client = self.client(target).await?;
        let metadata = trace_metadata(&call.headers);
        let mut request = tonic::Request::new(wire::internal_actor_request(call));
        *request.metadata_mut() = metadata;
        let response = client
            .call_actor(request)
            .await
            .map_err(|status| self.failed(target, &status))?;
        wire::actor_reply(response.into_inner())
    }

    async fn call_actor_reminder(&self, target: &Target, call: ReminderCall) -> Result<(), Status> {
        let mut client = self.client(target).await?;
        let request = wire::internal_reminder(call);
        client
            .call_actor_reminder(request)
            .await
            .map_err(|status| self.failed(target, &status))?;
        Ok(())
    }
}

impl PeerClient {
    fn streaming_failed(&self, target: &Target, status: &tonic::Status) -> Failure {
        let is_untouched = is_untouched(status) || status.metadata().contains_key(wire::UNTOUCHED);
        let mut status = self.failed(target, status);
        if status.code == Code::Unimplemented {
            let text = format!(
                "target app '{}' is running a version of Dapr that does not support streaming-based service invocation",
                target.app_id
            );
            status = Status::new(Code::Unknown, text);
        }
        Failure {
            is_untouched,
            ..Failure::from(status)
        }
    }
}

/// The trace context of a request as metadata of the call that carries it.
fn trace_metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = HeaderMap::new();
    for name in TRACE_HEADERS {
        if let Some(value) = headers.get(name) {
            metadata.insert(name, value.clone());
        }
    }
    let binary = match headers.get("traceparent") {
        Some(traceparent) => trace::to_binary(traceparent),
        None => headers
            .get(TRACE_BIN)
            .filter(|binary| trace::from_binary(binary).is_some())
            .cloned(),
    };
    if let Some(binary) = binary {
        metadata.insert(TRACE_BIN, binary);
    }
    MetadataMap::from_headers(metadata)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use bytes::Bytes;
    use dapr_security::Security;
    use futures::stream;
    use http::HeaderValue;
    use http_body_util::StreamBody;
    use hyper::body::{Body, Frame};
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    use super::*;

    /// When a connection is reset.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Reset {
        /// While the first call is carried out.
        InFlight,
        /// After the first call was answered.
        Idle,
    }

    /// Hosts an actor. The first connection is reset once it has got its first call.
    async fn host(listener: TcpListener, reset: Reset, over: Arc<Notify>) {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_zero_linger().expect("an option of sockets");
            let begun = Arc::new(Notify::new());
            let first = (number == 0 && reset == Reset::InFlight).then(|| Arc::clone(&begun));
            let service = service_fn(move |_| {
                let first = first.clone();
                async move {
                    if let Some(begun) = first {
                        begun.notify_one();
                        pending::<()>().await;
                    }
                    reply()
                }
            });
            let connection = server::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // The client leaves at the end of the test.
                _ = connection => {}
                () = begun.notified() => {}
                () = over.notified() => {}
            }
        }
    }

    /// A message without fields.
    fn reply() -> Result<http::Response<impl Body<Data = Bytes, Error = Infallible>>, http::Error> {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let message = Frame::data(Bytes::from_static(&[0; 5]));
        let frames = [Ok(message), Ok(Frame::trailers(trailers))];
        http::Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(stream::iter(frames)))
    }

    fn actor_call() -> actors::Call {
        actors::Call {
            actor_type: "T".to_owned(),
            actor_id: "1".to_owned(),
            method: "m".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            spelling: actors::Spelling::default(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn trace_context_travels_as_text_and_in_binary_form() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = HeaderMap::new();
        assert!(trace_metadata(&headers).is_empty());
        headers.insert("traceparent", traceparent.parse().expect("a value"));
        headers.insert("tracestate", "a=b".parse().expect("a value"));
        headers.insert("other", "x".parse().expect("a value"));
        let metadata = trace_metadata(&headers).into_headers();
        assert_eq!(metadata.len(), 3);
        let binary = metadata[TRACE_BIN].clone();
        let back = trace::from_binary(&binary).expect("a context");
        assert_eq!(back, traceparent);
        // A gRPC caller may send nothing else.
        let only = HeaderMap::from_iter([(http::HeaderName::from_static(TRACE_BIN), binary)]);
        assert_eq!(trace_metadata(&only).into_headers(), only);
        let broken = HeaderValue::from_static("AA");
        let broken = HeaderMap::from_iter([(http::HeaderName::from_static(TRACE_BIN), broken)]);
        assert!(trace_metadata(&broken).is_empty());
    }

    async fn start(reset: Reset) -> (Target, Arc<Notify>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = Target {
            app_id: "orders".to_owned(),
            namespace: "default".to_owned(),
            address: listener.local_addr().expect("an address").to_string(),
        };
        let over = Arc::new(Notify::new());
        let server = tokio::spawn(host(listener, reset, Arc::clone(&over)));
        (target, over, server)
    }

    #[tokio::test]
    async fn a_host_that_dies_with_a_call_in_flight_is_unavailable() {
        let (target, _, server) = start(Reset::InFlight).await;
        let pool = Arc::new(Pool::new(Security::insecure()));
        let peers = PeerClient::new(pool, 1 << 20);
        let lost = peers.call_actor(&target, actor_call()).await;
        let status = lost.expect_err("nobody answers");
        assert_eq!(status.code, Code::Unavailable, "{status}");
        // The host is there again, behind another connection.
        let answer = peers.call_actor(&target, actor_call()).await;
        answer.expect("it is dialled again");
        server.abort();
    }

    #[tokio::test]
    async fn a_call_shortly_after_its_host_died_is_unavailable_or_dials_again() {
        let (target, over, server) = start(Reset::Idle).await;
        let pool = Arc::new(Pool::new(Security::insecure()));
        let peers = PeerClient::new(pool, 1 << 20);
        let answer = peers.call_actor(&target, actor_call()).await;
        answer.expect("the host is there");
        over.notify_one();
        // Whether this one notices is a matter of microseconds.
        if let Err(status) = peers.call_actor(&target, actor_call()).await {
            assert_eq!(status.code, Code::Unavailable, "{status}");
        }
        let answer = peers.call_actor(&target, actor_call()).await;
        answer.expect("it is dialled again");
        server.abort();
    }

    #[tokio::test]
    async fn a_request_whose_callee_dies_is_lost_but_not_untouched() {
        let (target, _, server) = start(Reset::InFlight).await;
        let pool = Arc::new(Pool::new(Security::insecure()));
        let peers = PeerClient::new(pool, 1 << 20);
        let request = invoke::Request {
            verb: Some(http::Method::POST),
            method: "m".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            type_url: String::new(),
            origin: invoke::Origin::Http,
            body: dapr_sidecar_core::body::full("x"),
        };
        let lost = peers.call_local(&target, request).await;
        let failure = lost.expect_err("nobody answers");
        assert_eq!(failure.status.code, Code::Unavailable, "{failure:?}");
        assert!(!failure.is_untouched);
        server.abort();
    }
}
