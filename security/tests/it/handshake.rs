use std::sync::Arc;
use std::time::Duration;

use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::{Acceptor, Expect, Security, ServerOptions, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Code;

use crate::authority::Authority;
use crate::service::{ask, dial, server, server_with};

const ORDERS: &str = "spiffe://public/ns/default/orders";
const CART: &str = "spiffe://public/ns/default/cart";
const SOON: Duration = Duration::from_secs(10);

fn path(app_id: &str) -> Expect {
    Expect::Path {
        namespace: "default".to_owned(),
        app_id: app_id.to_owned(),
    }
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let authority = Authority::new();
    let (orders, _keep) = authority.security(ORDERS);
    let (cart, _keep) = authority.security(CART);
    let server = server(Acceptor::Mutual(orders)).await;
    for expect in [path("orders"), Expect::Id(id(ORDERS))] {
        let mut client = dial(server.address, cart.connector(expect)).await.unwrap();
        assert_eq!(ask(&mut client).await.unwrap(), CART);
    }
}

#[tokio::test]
async fn a_resumed_session_is_authorised_again() {
    let authority = Authority::new();
    let (orders, _keep) = authority.security(ORDERS);
    let (cart, _keep) = authority.security(CART);
    let server = server(Acceptor::Mutual(orders)).await;
    for _ in 0..3 {
        let mut client = dial(server.address, cart.connector(path("orders")))
            .await
            .unwrap();
        assert_eq!(ask(&mut client).await.unwrap(), CART);
        let error = dial(server.address, cart.connector(path("other")))
            .await
            .unwrap_err();
        assert!(
            error.contains(&format!("unexpected SPIFFE ID: \"{ORDERS}\"")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_wrong_server_is_refused_with_upstreams_text() {
    let authority = Authority::new();
    let (orders, _keep) = authority.security(ORDERS);
    let (cart, _keep) = authority.security(CART);
    let server = server(Acceptor::Mutual(orders)).await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.connect_with_connector_lazy(cart.connector(path("payments")));
    let mut client = dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient::new(channel);
    let status = ask(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        format!("authentication handshake failed: unexpected SPIFFE ID: \"{ORDERS}\"")
    );
}

#[tokio::test]
async fn a_foreign_authority_is_refused_both_ways() {
    let (orders, _keep) = Authority::new().security(ORDERS);
    let (cart, _keep) = Authority::new().security(CART);
    let server = server(Acceptor::Mutual(orders)).await;
    let error = dial(server.address, cart.connector(path("orders")))
        .await
        .unwrap_err();
    assert!(
        error.contains("authentication handshake failed: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_of_a_foreign_authority_gets_no_answer() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (orders, _keep) = ours.security(ORDERS);
    // This client trusts the server's authority and has a certificate of another one.
    let (cart, _keep) = Security::from_issuer(theirs.svid(CART), ours.anchors()).unwrap();
    let server = server(Acceptor::Mutual(orders)).await;
    let answer = match dial(server.address, cart.connector(path("orders"))).await {
        Ok(mut client) => ask(&mut client).await.map_err(|status| status.to_string()),
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_nothing() {
    let authority = Authority::new();
    for exactly in [false, true] {
        let (orders, _keep) = authority.security(ORDERS);
        let acceptor = if exactly {
            Acceptor::MutualExactly(orders, id(CART))
        } else {
            Acceptor::Mutual(orders)
        };
        let server = server(acceptor).await;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connected = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await;
        // With TLS 1.3 it hears of it with the first byte that it reads.
        let answer = match connected {
            Ok(mut stream) => {
                let read = timeout(SOON, stream.read_u8()).await;
                read.expect("an end in time").map(drop)
            }
            Err(error) => Err(error),
        };
        let error = answer.expect_err("no byte").to_string();
        assert!(error.contains("CertificateRequired"), "{error}");
    }
}

#[tokio::test]
async fn a_plaintext_client_is_refused() {
    let (orders, _keep) = Authority::new().security(ORDERS);
    let server = server(Acceptor::Mutual(orders)).await;
    let connector = Security::insecure().connector(path("orders"));
    let answer = match dial(server.address, connector).await {
        Ok(mut client) => ask(&mut client).await.map_err(|status| status.code()),
        Err(_) => Err(Code::Unavailable),
    };
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn exactly_one_id_is_accepted() {
    let authority = Authority::new();
    let (sentry, _keep) = authority.security(ORDERS);
    let server = server(Acceptor::MutualExactly(sentry, id(CART))).await;
    let (cart, _keep) = authority.security(CART);
    let mut client = dial(server.address, cart.connector(path("orders")))
        .await
        .unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), CART);
    let (other, _keep) = authority.security("spiffe://public/ns/default/cart2");
    let answer = match dial(server.address, other.connector(path("orders"))).await {
        Ok(mut client) => ask(&mut client).await.map_err(|status| status.to_string()),
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_server_without_client_certificates_sees_nobody() {
    let authority = Authority::new();
    let (orders, _keep) = authority.security(ORDERS);
    let (cart, _keep) = authority.security(CART);
    let server = server(Acceptor::ServerOnly(orders)).await;
    let mut client = dial(server.address, cart.connector(path("orders")))
        .await
        .unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), "");
}

#[tokio::test]
async fn plaintext_has_no_identity_and_speaks_first() {
    let server = server(Acceptor::Plaintext).await;
    let mut client = dial(server.address, Security::insecure().connector(path("any")))
        .await
        .unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), "");
    // A SETTINGS frame comes before the client has said anything.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut frame = [0; 9];
    timeout(SOON, stream.read_exact(&mut frame))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame[3], 4, "{frame:?}");
}

#[tokio::test]
async fn an_id_of_another_form_has_no_identity() {
    let authority = Authority::new();
    let (orders, _keep) = authority.security(ORDERS);
    let (odd, _keep) = authority.security("spiffe://public/some/thing");
    let server = server(Acceptor::Mutual(orders)).await;
    let mut client = dial(server.address, odd.connector(path("orders")))
        .await
        .unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), "");
}

#[tokio::test]
async fn a_rotation_keeps_open_connections_and_changes_new_ones() {
    let (old, new) = (Authority::new(), Authority::new());
    let (orders, orders_publisher) = old.security(ORDERS);
    let (cart, cart_publisher) = old.security(CART);
    let mut changes = cart.subscribe();
    let server = server(Acceptor::Mutual(orders)).await;
    let mut before = dial(server.address, cart.connector(path("orders")))
        .await
        .unwrap();
    assert_eq!(ask(&mut before).await.unwrap(), CART);

    orders_publisher
        .replace(new.svid(ORDERS), new.anchors())
        .unwrap();
    let stale = match dial(server.address, cart.connector(path("orders"))).await {
        Ok(mut client) => ask(&mut client).await.map_err(|status| status.to_string()),
        Err(error) => Err(error),
    };
    assert!(stale.is_err(), "{stale:?}");

    cart_publisher
        .replace(new.svid(CART), new.anchors())
        .unwrap();
    timeout(SOON, changes.changed()).await.unwrap().unwrap();
    let mut after = dial(server.address, cart.connector(path("orders")))
        .await
        .unwrap();
    assert_eq!(ask(&mut after).await.unwrap(), CART);
    assert_eq!(ask(&mut before).await.unwrap(), CART);
    assert_eq!(cart.trust_anchors_pem().unwrap(), *new.anchors().pem());
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight() {
    let server = server(Acceptor::Plaintext).await;
    let mut client = dial(
        server.address,
        Security::insecure().connector(Expect::Plaintext),
    )
    .await
    .unwrap();
    let waiting = tokio::spawn(async move {
        client
            .sign_certificate(SignCertificateRequest {
                id: "wait".to_owned(),
                ..Default::default()
            })
            .await
    });
    timeout(SOON, server.service.entered.notified())
        .await
        .unwrap();
    server.shutdown.cancel();
    let mut task = server.task;
    assert!(
        timeout(Duration::from_millis(100), &mut task)
            .await
            .is_err(),
        "ended with a request in flight"
    );
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "still accepts"
    );
    server.service.gate.notify_one();
    timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    timeout(SOON, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let options = ServerOptions {
        max_connection_idle: Some(Duration::from_millis(50)),
        ..Default::default()
    };
    let server = server_with(Acceptor::Plaintext, options).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn answers_tell_the_time_only_where_asked() {
    for date in [false, true] {
        let options = ServerOptions {
            date,
            ..Default::default()
        };
        for acceptor in [Acceptor::Plaintext, Acceptor::PlainWeb] {
            let server = server_with(acceptor, options.clone()).await;
            let mut client = dial(server.address, Security::insecure().connector(path("any")))
                .await
                .unwrap();
            let answer = client.sign_certificate(SignCertificateRequest::default());
            let answer = timeout(SOON, answer).await.unwrap().unwrap();
            assert_eq!(answer.metadata().contains_key("date"), date);
        }
    }
}
