use base64::Engine as _;
use bytes::Bytes;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_proto::dapr::proto::sentry::v1::sign_certificate_request::TokenValidator;
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{KeyKind, Security, TokenSource};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::Code::{self, Internal, InvalidArgument, PermissionDenied};

use crate::process::{Place, SOON, Sentry, eventually, id};

fn request() -> SignCertificateRequest {
    let key = generate_key(KeyKind::Ed25519).unwrap();
    SignCertificateRequest {
        id: "orders".to_owned(),
        namespace: "default".to_owned(),
        certificate_signing_request: signing_request(&key).unwrap().into_bytes().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn refusals_have_upstreams_codes() {
    let place = Place::new("spec: {}");
    let sentry = place.start().await;
    let mut client = sentry.client(&sentry.security("orders").await).await;
    let mut check = async |change: fn(&mut SignCertificateRequest), code: Code, text: &str| {
        let mut request = request();
        change(&mut request);
        let status = client.sign_certificate(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    };
    let disabled = "the requested validator is not enabled";
    check(
        |it| it.set_token_validator(TokenValidator::Kubernetes),
        InvalidArgument,
        disabled,
    )
    .await;
    check(
        |it| it.set_token_validator(TokenValidator::Jwks),
        InvalidArgument,
        disabled,
    )
    .await;
    check(
        |it| it.id.clear(),
        PermissionDenied,
        "invalid request: parameter app-id cannot be empty",
    )
    .await;
    check(
        |it| it.id = "a.b".to_owned(),
        PermissionDenied,
        "invalid request: parameter app-id cannot contain dots",
    )
    .await;
    check(
        |it| it.namespace.clear(),
        PermissionDenied,
        "invalid request: namespace is required",
    )
    .await;
    check(
        |it| it.certificate_signing_request.clear(),
        PermissionDenied,
        "invalid request: CSR is required",
    )
    .await;
    check(
        |it| it.trust_domain = "A".to_owned(),
        PermissionDenied,
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
    )
    .await;
    let no_pem = "invalid certificate signing request: no PEM block";
    check(
        |it| it.certificate_signing_request = "text".into(),
        InvalidArgument,
        no_pem,
    )
    .await;
    check(
        |it| it.id = "a b".to_owned(),
        Internal,
        "failed to sign certificate",
    )
    .await;
    check(
        |it| it.namespace = "a/b".to_owned(),
        Internal,
        "failed to sign certificate",
    )
    .await;
    check(
        |it| it.certificate_signing_request = vec![b'x'; 1 << 20].into(),
        InvalidArgument,
        "request is larger than 262144 bytes",
    )
    .await;
    let long = "A".repeat(100_000);
    let mut named = request();
    (named.trust_domain, named.namespace) = (long.clone(), long);
    let status = client.sign_certificate(named).await.unwrap_err();
    assert_eq!(status.code(), PermissionDenied);
    assert!(status.message().len() <= 1024, "{}", status.message().len());
    // All that reached the service; the first was the identity above.
    let metrics = sentry.metrics().await;
    for expected in [
        "dapr_sentry_cert_sign_request_received_total 12",
        "dapr_sentry_cert_sign_success_total 1",
        "dapr_sentry_cert_sign_failure_total{reason=\"sign\"} 11",
    ] {
        assert!(metrics.contains(expected), "{expected} in {metrics}");
    }
}

/// A call, and the beginning of its message: so many bytes are announced, and as many of them sent.
fn begin(
    connection: &mut SendRequest<Bytes>,
    announced: usize,
    sent: usize,
) -> (ResponseFuture, SendStream<Bytes>) {
    let head = http::Request::post("http://sentry/dapr.proto.sentry.v1.CA/SignCertificate")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let length = u32::try_from(announced).unwrap().to_be_bytes();
    let message = [&[0], &length[..], &vec![b'x'; sent]].concat();
    let (answer, mut body) = connection.send_request(head, false).unwrap();
    body.send_data(message.into(), false).unwrap();
    (answer, body)
}

/// Strangers need no certificate to begin requests, so what they begin and do not end must cost little.
#[tokio::test]
async fn requests_that_are_sent_by_half_cost_little_memory() {
    const REQUESTS: usize = 100;
    let place = Place::new("spec: {}");
    let sentry = place.start().await;
    let security = sentry.security("orders").await;
    let mut connection = sentry.connect(&security).await;
    let before = sentry.memory();
    // Refused for what they announce.
    for _ in 0..REQUESTS {
        connection = connection.ready().await.unwrap();
        let (answer, _body) = begin(&mut connection, 4_000_000, 1_000);
        let answer = timeout(SOON, answer).await.unwrap().unwrap();
        assert_eq!(answer.headers()["grpc-status"], "3");
    }
    // The largest that are not refused.
    let mut begun = Vec::new();
    for _ in 0..REQUESTS {
        connection = connection.ready().await.unwrap();
        begun.push(begin(&mut connection, 256 * 1024, 250 * 1024));
    }
    for (_, body) in &mut begun {
        // There is room for one byte more once those before it are on their way.
        body.reserve_capacity(1);
        let room = std::future::poll_fn(|context| body.poll_capacity(context));
        timeout(SOON, room).await.unwrap().unwrap().unwrap();
    }
    let grown = sentry.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {grown} bytes");
    // Others are served meanwhile.
    assert!(sentry.security("orders").await.identity().is_some());
    drop(begun);
}

struct Keys {
    key: EncodingKey,
    set: String,
}

fn keys() -> Keys {
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .unwrap()
        .serialize_pem();
    let key = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    let set = JwkSet {
        keys: vec![Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()],
    };
    Keys {
        set: serde_json::to_string(&set).unwrap(),
        key,
    }
}

fn place(source: &str) -> Place {
    Place::new(&format!(
        "spec: {{mtls: {{tokenValidators: [{{name: jwks, options: {{source: '{source}'}}}}]}}}}"
    ))
}

/// Asks for an identity with a token signed by the key.
async fn identity(place: &Place, sentry: &Sentry, key: &EncodingKey) -> Option<Security> {
    let claims = json!({"aud": id().to_string(), "sub": "spiffe://public/ns/default/orders"});
    std::fs::write(
        place.path("token"),
        encode(&Header::new(Algorithm::ES256), &claims, key).unwrap(),
    )
    .unwrap();
    let mut options = sentry.options("orders");
    options.token = TokenSource::Jwks(place.path("token"));
    let started = timeout(SOON, Security::start(options)).await.unwrap();
    started.ok().map(|(security, _task)| security)
}

#[tokio::test]
async fn a_token_has_to_name_the_identity() {
    let keys = keys();
    let place = place(&base64::engine::general_purpose::STANDARD.encode(&keys.set));
    let sentry = place.start().await;
    let security = identity(&place, &sentry, &keys.key).await.unwrap();
    assert_eq!(security.identity().unwrap().app_id, "orders");

    let mut client = sentry.client(&security).await;
    let status = client.sign_certificate(request()).await.unwrap_err();
    assert_eq!(status.code(), InvalidArgument);
    assert_eq!(
        status.message(),
        "a validator name must be specified in this environment"
    );
    let mut named = request();
    named.set_token_validator(TokenValidator::Jwks);
    let status = client.sign_certificate(named).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (PermissionDenied, "the request does not contain a token")
    );
}

#[tokio::test]
async fn keys_of_a_file_are_followed() {
    let (first, second) = (keys(), keys());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, &first.set).unwrap();
    let place = place(path.to_str().unwrap());
    let sentry = place.start().await;
    assert!(identity(&place, &sentry, &first.key).await.is_some());
    std::fs::write(&path, &second.set).unwrap();
    eventually("the new keys", async || {
        identity(&place, &sentry, &second.key).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn keys_of_a_url_are_fetched_before_sentry_is_ready() {
    let keys = keys();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = place(&format!("http://{}/keys", listener.local_addr().unwrap()));
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}",
        keys.set.len(),
        keys.set
    );
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let sentry = place.start().await;
    assert!(
        timeout(SOON, server)
            .await
            .unwrap()
            .unwrap()
            .starts_with("GET /keys HTTP/1.1")
    );
    assert!(identity(&place, &sentry, &keys.key).await.is_some());
}

#[tokio::test]
async fn a_source_that_is_down_slow_huge_or_garbage_keeps_the_last_good_keys() {
    use axum::http::StatusCode;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let keys = keys();
    let asked = Arc::new(AtomicUsize::new(0));
    let (set, count) = (keys.set.clone(), Arc::clone(&asked));
    let answer = async move || match count.fetch_add(1, Ordering::Relaxed) {
        0 => (StatusCode::OK, set.clone()),
        1 => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        2 => (StatusCode::OK, "<html>".to_owned()),
        3 => (
            StatusCode::OK,
            format!("{{\"keys\": [{}]}}", " ".repeat(2 << 20)),
        ),
        4 => std::future::pending().await,
        _ => (StatusCode::OK, "{\"keys\": \"none\"}".to_owned()),
    };
    let router = axum::Router::new().route("/keys", axum::routing::get(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let place = Place::new(&format!(
        "spec: {{mtls: {{tokenValidators: [{{name: jwks, options: {{source: '{url}', \
         minRefreshInterval: 1001ms, requestTimeout: 300ms}}}}]}}}}"
    ));
    let sentry = place.start().await;
    for times in 1..=6 {
        eventually("the next try", async || {
            asked.load(Ordering::Relaxed) >= times
        })
        .await;
        assert!(
            identity(&place, &sentry, &keys.key).await.is_some(),
            "{times}"
        );
    }
    server.abort();
    assert!(identity(&place, &sentry, &keys.key).await.is_some(), "down");
    assert_eq!(sentry.stop().await.code(), Some(0));
}
