//! Each server once on a real socket.

use std::sync::Arc;
use std::time::Duration;

use dapr_proto::dapr::proto::internals::v1::service_invocation_client::ServiceInvocationClient;
use dapr_proto::dapr::proto::runtime::v1::GetMetadataRequest;
use dapr_proto::dapr::proto::runtime::v1::dapr_client::DaprClient;
use dapr_security::Acceptor;
use dapr_sidecar_api::settings::Settings;
use dapr_sidecar_api::{grpc, http, internal};
use dapr_sidecar_core::body;
use dapr_sidecar_core::invoke::{Origin, Request};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::fixture::{with_settings, world};

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn http_server() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let token = CancellationToken::new();
    let server = tokio::spawn(http::serve(
        Arc::clone(&world.core),
        listener,
        token.clone(),
    ));
    let connect = async || TcpStream::connect(address).await.expect("connects");
    let answer = talk(connect().await, &get("/v1.0/healthz")).await;
    assert!(
        answer.starts_with("HTTP/1.1 204 No Content\r\n"),
        "{answer}"
    );
    let post = "POST /v1.0/invoke/app/method/echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    let answer = talk(connect().await, post).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );
    let long = format!(
        "GET /v1.0/healthz HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-long: {}\r\n\r\n",
        "x".repeat(9000)
    );
    let answer = talk(connect().await, &long).await;
    assert!(
        answer.starts_with("HTTP/1.1 431 ")
            && answer.ends_with("431 Request Header Fields Too Large"),
        "{answer}"
    );
    token.cancel();
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_kept_connection_is_not_cut() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let token = CancellationToken::new();
    let server = tokio::spawn(http::serve(
        Arc::clone(&world.core),
        listener,
        token.clone(),
    ));
    let mut kept = TcpStream::connect(address).await.expect("connects");
    for _ in 0..3 {
        kept.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: test\r\n\r\n")
            .await
            .expect("open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let read = kept.read_buf(&mut answer).await.expect("open");
            assert_ne!(read, 0, "closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 204 "), "{answer:?}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3600)).await;
        tokio::time::resume();
    }
    // The drain does not wait for it.
    token.cancel();
    server.await.expect("no panic");
}

#[tokio::test]
async fn an_early_answer_to_a_large_body_arrives() {
    const LENGTH: usize = 16 << 20;
    let world = with_settings(Settings {
        api_token: Some("secret".to_owned()),
        ..Settings::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let token = CancellationToken::new();
    let server = tokio::spawn(http::serve(
        Arc::clone(&world.core),
        listener,
        token.clone(),
    ));
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "POST /v1.0/publish/pubsub/t HTTP/1.1\r\nhost: test\r\ncontent-length: {LENGTH}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.expect("written");
    client.write_all(&vec![b' '; LENGTH]).await.expect("taken");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("no reset");
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("invalid api token\n"),
        "{answer}"
    );
    drop(client);
    token.cancel();
    server.await.expect("no panic");
}

#[tokio::test]
async fn public_server_on_a_unix_socket() {
    let world = world();
    let folder =
        std::env::temp_dir().join(format!("dapr-api-{}-public.socket", std::process::id()));
    let listener = UnixListener::bind(&folder).expect("a free path");
    let token = CancellationToken::new();
    let server = tokio::spawn(http::serve_public(
        Arc::clone(&world.core),
        listener,
        token.clone(),
    ));
    let connect = async || UnixStream::connect(&folder).await.expect("connects");
    let answer = talk(connect().await, &get("/v1.0/metadata")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // Who asks for health may be kept waiting.
    assert_eq!(world.health.held.lock().len(), 0);
    let answer = talk(connect().await, &get("/v1.0/healthz")).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert_eq!(world.health.held.lock().len(), 1);
    let answer = talk(connect().await, &get("/v1.0/state/store/k")).await;
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("404 page not found\n"),
        "{answer}"
    );
    let answer = talk(connect().await, &get("/v1.0/metadata/k")).await;
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: PUT\r\n"),
        "{answer}"
    );
    token.cancel();
    server.await.expect("no panic");
    std::fs::remove_file(&folder).expect("removes");
}

#[tokio::test]
async fn grpc_server() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let token = CancellationToken::new();
    let server = tokio::spawn(grpc::serve(
        Arc::clone(&world.core),
        listener,
        token.clone(),
    ));
    let mut client = DaprClient::connect(format!("http://{address}"))
        .await
        .expect("connects");
    let metadata = client
        .get_metadata(GetMetadataRequest {})
        .await
        .expect("answers")
        .into_inner();
    assert_eq!(metadata.id, "app");
    drop(client);
    token.cancel();
    server.await.expect("no panic");
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let world = world();
    let names = async |channel: tonic::transport::Channel| {
        let mut client = ServerReflectionClient::new(channel);
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let answers = client
            .server_reflection_info(tokio_stream::once(request))
            .await;
        let mut answers = answers.expect("answers").into_inner();
        let answer = answers.message().await.expect("no error");
        match answer.and_then(|answer| answer.message_response) {
            Some(MessageResponse::ListServicesResponse(list)) => {
                let mut names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
                names.sort();
                names
            }
            other => panic!("{other:?}"),
        }
    };
    let reflection = [
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let token = CancellationToken::new();

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let api = tokio::spawn(grpc::serve(
        Arc::clone(&world.core),
        listener,
        token.clone(),
    ));
    let connect = async |address| {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.expect("an address");
        endpoint.connect().await.expect("connects")
    };
    let listed = names(connect(address).await).await;
    assert_eq!(listed[0], "dapr.proto.runtime.v1.Dapr");
    assert_eq!(listed[1..], reflection);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let internal = tokio::spawn(dapr_security::serve(
        listener,
        Acceptor::Plaintext,
        internal::routes(Arc::clone(&world.core)),
        internal::server_options(),
        token.clone(),
    ));
    let listed = names(connect(address).await).await;
    assert_eq!(listed[0], "dapr.proto.internals.v1.ServiceInvocation");
    assert_eq!(listed[1..], reflection);
    token.cancel();
    api.await.expect("no panic");
    internal.await.expect("no panic");
}

#[tokio::test]
async fn internal_server() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let token = CancellationToken::new();
    let routes = internal::routes(Arc::clone(&world.core));
    let server = tokio::spawn(dapr_security::serve(
        listener,
        Acceptor::Plaintext,
        routes,
        internal::server_options(),
        token.clone(),
    ));
    let mut client = ServiceInvocationClient::connect(format!("http://{address}"))
        .await
        .expect("connects");
    let request = Request {
        verb: Some(::http::Method::POST),
        method: "echo".to_owned(),
        query: String::new(),
        headers: [(
            "x-own".parse().expect("a name"),
            "1".parse().expect("a value"),
        )]
        .into_iter()
        .collect(),
        type_url: String::new(),
        origin: Origin::Http,
        body: body::full(vec![7; 100_000]),
    };
    let (_, body) = crate::internal::stream(&mut client, request).await;
    assert_eq!(body, vec![7; 100_000]);
    drop(client);
    token.cancel();
    server.await.expect("no panic");
}
