//! Calls of other sidecars, without sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dapr_proto::dapr::proto::common::v1::StreamPayload;
use dapr_proto::dapr::proto::internals::v1::service_invocation_client::ServiceInvocationClient;
use dapr_proto::dapr::proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeRequestStream, InternalInvokeResponse, Reminder,
};
use dapr_security::Peer;
use dapr_sidecar_api::internal::{self, InternalApi};
use dapr_sidecar_api::wire;
use dapr_sidecar_core::body;
use dapr_sidecar_core::invoke::{Origin, Request, Status};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use tonic::Code;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tower::ServiceExt as _;

use crate::fixture::{World, world};

fn client(world: &World) -> ServiceInvocationClient<InternalApi> {
    ServiceInvocationClient::new(internal::service(Arc::clone(&world.core)))
}

fn request(method: &str, data: &'static str) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("x-own", HeaderValue::from_static("1"));
    Request {
        verb: Some(Method::POST),
        method: method.to_owned(),
        query: String::new(),
        headers,
        type_url: String::new(),
        origin: Origin::Http,
        body: body::full(data),
    }
}

#[tokio::test]
async fn streaming_calls() {
    let world = world();
    let answer = stream(&mut client(&world), request("/a/../echo", "hello")).await;
    let (response, body) = answer;
    assert_eq!(response.status.expect("a status").code, 200);
    assert_eq!(response.headers["X-Seen"].values, ["POST /echo "]);
    assert_eq!(body, "hello");
}

/// A streaming call as others make it, with the generated messages: the head of the answer, and its body.
pub(crate) async fn stream<T>(
    client: &mut ServiceInvocationClient<T>,
    request: Request,
) -> (InternalInvokeResponse, Bytes)
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let (leading, body) = wire::internal_request(request);
    let body = body.collect().await.expect("a body").to_bytes();
    let mut leading = Some(leading);
    let messages = body.chunks(30_000).zip(0..).map(|(chunk, seq)| {
        let data = Bytes::copy_from_slice(chunk);
        InternalInvokeRequestStream {
            request: leading.take(),
            payload: Some(StreamPayload { data, seq }),
        }
    });
    let messages: Vec<_> = messages.collect();
    let answer = client.call_local_stream(tokio_stream::iter(messages)).await;
    let mut messages = answer.expect("answers").into_inner();
    let (mut head, mut body) = (None, BytesMut::new());
    while let Some(message) = messages.message().await.expect("no error") {
        head = head.or(message.response);
        body.extend_from_slice(&message.payload.unwrap_or_default().data);
    }
    (head.expect("a head"), body.freeze())
}

#[tokio::test]
async fn bad_streams() {
    let world = world();
    let call = async |messages: Vec<InternalInvokeRequestStream>| {
        let result = client(&world)
            .call_local_stream(tokio_stream::iter(messages))
            .await;
        let status = result.map(|_| ()).expect_err("refused");
        (status.code(), status.message().to_owned())
    };
    assert_eq!(call(Vec::new()).await, (Code::Unknown, "EOF".to_owned()));
    let (code, message) = call(vec![InternalInvokeRequestStream::default()]).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        message.ends_with("does not contain the required fields in the leading chunk"),
        "{message}"
    );
    let (leading, _) = wire::internal_request(request("a#b", ""));
    let first = InternalInvokeRequestStream {
        request: Some(leading),
        payload: None,
    };
    let (code, message) = call(vec![first]).await;
    assert_eq!(
        (code, message.as_str()),
        (
            Code::InvalidArgument,
            "invalid method: method contains forbidden character: \"a#b\""
        )
    );
}

#[tokio::test]
async fn unary_calls() {
    let world = world();
    let message = wire::buffered_request(request("teapot", "hello"))
        .await
        .expect("reads");
    let answer = client(&world)
        .call_local(message)
        .await
        .expect("answers")
        .into_inner();
    let response = wire::response_from_unary(answer).expect("well formed");
    assert_eq!(response.status, Status::Http(StatusCode::IM_A_TEAPOT));
    let body = response.body.collect().await.expect("a body").to_bytes();
    assert_eq!(body, "short and stout");
    let status = client(&world)
        .call_local(InternalInvokeRequest::default())
        .await
        .expect_err("empty");
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::InvalidArgument,
            "parsing InternalInvokeRequest error: field Message is nil"
        )
    );
    let message = wire::buffered_request(request("fail", ""))
        .await
        .expect("reads");
    let status = client(&world)
        .call_local(message)
        .await
        .expect_err("no answer");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "error invoking app channel: EOF")
    );
    world.core.invoker.set_app(None);
    let message = wire::buffered_request(request("echo", ""))
        .await
        .expect("reads");
    let status = client(&world)
        .call_local(message)
        .await
        .expect_err("no app");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "app channel is not initialized")
    );
}

#[tokio::test]
async fn actor_calls() {
    let world = world();
    let call = dapr_sidecar_core::actors::Call {
        actor_type: "T".to_owned(),
        actor_id: "1".to_owned(),
        method: "m".to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        spelling: dapr_sidecar_core::actors::Spelling::default(),
        body: Bytes::from_static(b"x"),
    };
    let answer = client(&world)
        .call_actor(wire::internal_actor_request(call))
        .await
        .expect("answers")
        .into_inner();
    let reply = wire::actor_reply(answer).expect("well formed");
    assert_eq!(
        (reply.headers["x-remote"].as_bytes(), reply.body.as_ref()),
        (b"true".as_ref(), b"x".as_ref())
    );
    let status = client(&world)
        .call_actor(InternalInvokeRequest::default())
        .await
        .expect_err("empty");
    assert_eq!(status.code(), Code::InvalidArgument);
    client(&world)
        .call_actor_reminder(Reminder::default())
        .await
        .expect("fires");
    let gone = Reminder {
        name: "gone".to_owned(),
        ..Default::default()
    };
    let status = client(&world)
        .call_actor_reminder(gone)
        .await
        .expect_err("gone");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "gone"));
    let status = client(&world)
        .call_actor_stream(InternalInvokeRequest::default())
        .await
        .expect_err("not there");
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn forwarded_calls_end_here() {
    let world = world();
    let raw = async |target: &'static str| {
        let mut request = http::Request::post("/shop.Orders/Get")
            .header("content-type", "application/grpc")
            .header("dapr-callee-app-id", target)
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
            .expect("a request");
        request.extensions_mut().insert(Peer {
            identity: None,
            remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        });
        let Ok(response) = internal::service(Arc::clone(&world.core))
            .oneshot(request)
            .await;
        response.headers().clone()
    };
    assert_eq!(raw("app").await["x-location"], "local");
    let status = tonic::Status::from_header_map(&raw("other").await).expect("a status");
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Unknown,
            "cannot proxy request: other is not the app of this sidecar"
        )
    );
}
