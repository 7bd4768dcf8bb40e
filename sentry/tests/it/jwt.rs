use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{KeyKind, Security};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::process::{Place, SOON, free_port, get, read};

fn body(response: &str) -> Value {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn tokens_are_issued_and_can_be_verified_with_the_published_keys() {
    let place = Place::new("spec: {}");
    let port = free_port().await;
    let flags = [
        "--jwt-enabled".to_owned(),
        "--oidc-enabled".to_owned(),
        "--oidc-server-tls-enabled=false".to_owned(),
        "--oidc-server-listen-address=127.0.0.1".to_owned(),
        format!("--oidc-server-listen-port={port}"),
        "--oidc-path-prefix=/oidc".to_owned(),
    ];
    let sentry = place.start_with(&flags).await;
    for name in ["jwt.key", "jwks.json"] {
        let mode = std::fs::metadata(place.credential(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    let mut options = sentry.options("orders");
    options.jwt_audiences = vec!["billing".to_owned()];
    let (security, _task) = timeout(SOON, Security::start(options))
        .await
        .unwrap()
        .unwrap();
    let mut client = sentry.client(&security).await;
    let request = SignCertificateRequest {
        id: "orders".to_owned(),
        namespace: "default".to_owned(),
        certificate_signing_request: signing_request(&generate_key(KeyKind::Ed25519).unwrap())
            .unwrap()
            .into(),
        jwt_audiences: vec!["billing".to_owned()],
        ..Default::default()
    };
    let response = client.sign_certificate(request).await.unwrap().into_inner();
    let mut audiences: Vec<_> = response.per_audience_jwts.keys().cloned().collect();
    audiences.sort();
    assert_eq!(audiences, ["billing", "public"]);

    let document = body(
        &get(port, "/oidc/.well-known/openid-configuration")
            .await
            .unwrap(),
    );
    assert_eq!(document["issuer"], "http://test");
    assert_eq!(document["jwks_uri"], "http://test/oidc/jwks.json");
    let keys: JwkSet =
        serde_json::from_value(body(&get(port, "/oidc/jwks.json").await.unwrap())).unwrap();
    let token = response.jwt.unwrap();
    let key = keys
        .find(&decode_header(&token).unwrap().kid.unwrap())
        .unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&["billing"]);
    let claims = decode::<Value>(&token, &DecodingKey::from_jwk(key).unwrap(), &validation)
        .unwrap()
        .claims;
    assert_eq!(claims["sub"], "spiffe://public/ns/default/orders");
    assert_eq!(sentry.stop().await.code(), Some(0));

    let before = read(&place.credential("jwt.key"));
    let sentry = place.start_with(&flags).await;
    assert_eq!(read(&place.credential("jwt.key")), before);
    drop(sentry);
}

#[tokio::test]
async fn discovery_is_served_with_the_certificate_of_files() {
    let place = Place::new("spec: {}");
    let port = free_port().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(place.path("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(place.path("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let flags = [
        "--jwt-enabled".to_owned(),
        "--oidc-enabled".to_owned(),
        "--oidc-server-listen-address=127.0.0.1".to_owned(),
        format!("--oidc-server-listen-port={port}"),
        format!(
            "--oidc-server-tls-cert-file={}",
            place.path("tls.crt").display()
        ),
        format!(
            "--oidc-server-tls-key-file={}",
            place.path("tls.key").display()
        ),
    ];
    let _sentry = place.start_with(&flags).await;

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let request = "GET /.well-known/openid-configuration HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(body(&text)["issuer"], "https://localhost");
}

#[tokio::test]
async fn a_pair_of_any_algorithm_may_lie_there_while_jwts_are_off() {
    let place = Place::new("spec: {}");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let (x, y) = pair.public_key_raw()[1..].split_at(66);
    let encode = |bytes| URL_SAFE_NO_PAD.encode::<&[u8]>(bytes);
    let public =
        json!({"kty": "EC", "crv": "P-521", "x": encode(x), "y": encode(y), "alg": "ES512"});
    std::fs::write(place.credential("jwt.key"), pair.serialize_pem()).unwrap();
    let keys = json!({"keys": [public]}).to_string();
    std::fs::write(place.credential("jwks.json"), &keys).unwrap();
    let algorithm = "--jwt-signing-algorithm=other".to_owned();
    for flags in [&[][..], &[algorithm]] {
        assert_eq!(place.start_with(flags).await.stop().await.code(), Some(0));
    }
    // It is used for its own, and told about.
    let port = free_port().await;
    let flags = [
        "--jwt-enabled".to_owned(),
        "--jwt-signing-algorithm=ES512".to_owned(),
        "--oidc-enabled".to_owned(),
        "--oidc-server-tls-enabled=false".to_owned(),
        "--oidc-server-listen-address=127.0.0.1".to_owned(),
        format!("--oidc-server-listen-port={port}"),
    ];
    let sentry = place.start_with(&flags).await;
    let answer = get(port, "/.well-known/openid-configuration").await;
    let document = body(&answer.unwrap());
    let told = &document["id_token_signing_alg_values_supported"];
    assert_eq!(told, &json!(["ES512"]));
    // A client that sends no whole head is cut, and another may begin.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut said = Vec::new();
    let ended = timeout(SOON, slow.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "it is still open");
    assert_eq!(sentry.stop().await.code(), Some(0));
    // But it has to be a pair.
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(place.credential("jwt.key"), other).unwrap();
    let ports = ["--port=0", "--healthz-port=0", "--metrics-port=0"];
    crate::start::check(&place, &ports, 1, "key set lacks the public key").await;
}
