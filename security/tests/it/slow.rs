//! Clients that are slow on purpose, and those that do not say in the handshake what they speak.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::{Acceptor, Expect, Security, ServerOptions};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::service::{Server, dial, server_with};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_millis(200);
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// What a client of HTTP/2 begins with, and its empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HALF: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ";

/// A server with a certificate of its own, and how to reach it.
struct Stage {
    server: Server,
    roots: RootCertStore,
}

impl Stage {
    async fn start(options: ServerOptions) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let acceptor = Acceptor::Own(Arc::new(ArcSwap::from_pointee(config)));
        let server = server_with(acceptor, options).await;
        Self { server, roots }
    }

    async fn dial(&self, protocol: Option<&[u8]>) -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
        let stream = TcpStream::connect(self.server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    }
}

#[tokio::test]
async fn who_does_not_ask_in_time_is_cut() {
    let options = ServerOptions {
        header_timeout: Some(LIMIT),
        ..Default::default()
    };
    let stage = Stage::start(options).await;
    for (protocol, sent) in [
        (Some(HTTP1), &b""[..]),
        (Some(HTTP1), HALF),
        (Some(HTTP2), b""),
        (Some(HTTP2), PREFACE),
        (None, b""),
        (None, HALF),
        (None, &PREFACE[..10]),
        (None, PREFACE),
    ] {
        let mut stream = stage.dial(protocol).await;
        stream.write_all(sent).await.unwrap();
        let mut said = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "{protocol:?} {sent:?} is still open");
    }
}

#[tokio::test]
async fn who_asks_in_time_stays() {
    let options = ServerOptions {
        header_timeout: Some(SOON),
        ..Default::default()
    };
    let stage = Stage::start(options).await;
    for protocol in [Some(HTTP1), None] {
        let mut stream = stage.dial(protocol).await;
        for _ in 0..2 {
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await
                .unwrap();
            let mut status = [0; b"HTTP/1.1 200".len()];
            timeout(SOON, stream.read_exact(&mut status))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&status, b"HTTP/1.1 200", "{protocol:?}");
            let mut rest = Vec::new();
            while !rest.ends_with(b"\r\n\r\n") {
                rest.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
            }
        }
    }
    for protocol in [Some(HTTP2), None] {
        let mut stream = stage.dial(protocol).await;
        stream.write_all(PREFACE).await.unwrap();
        let mut frame = [0; 9];
        timeout(SOON, stream.read_exact(&mut frame))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame[3], 4, "settings: {frame:?}");
    }
}

#[tokio::test]
async fn without_tls_both_protocols_are_spoken_and_silence_is_cut() {
    let options = |limit| ServerOptions {
        header_timeout: Some(limit),
        ..Default::default()
    };
    let server = server_with(Acceptor::PlainWeb, options(SOON)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut status = [0; b"HTTP/1.1 200".len()];
    let read = timeout(SOON, stream.read_exact(&mut status)).await;
    read.unwrap().unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let connector = Security::insecure().connector(Expect::Plaintext);
    let mut client = dial(server.address, connector).await.unwrap();
    let asked = client.sign_certificate(SignCertificateRequest::default());
    assert!(timeout(SOON, asked).await.unwrap().is_ok());

    let server = server_with(Acceptor::PlainWeb, options(LIMIT)).await;
    for sent in [&b""[..], HALF, &PREFACE[..10], PREFACE] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut said = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "{sent:?} is still open");
    }
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let options = ServerOptions {
        max_header_list_size: 16 * 1024,
        ..Default::default()
    };
    let stage = Stage::start(options).await;
    for protocol in [Some(HTTP1), None] {
        for (length, expected) in [(1_000, b"HTTP/1.1 200"), (20_000, b"HTTP/1.1 431")] {
            let mut stream = stage.dial(protocol).await;
            let head = [HALF, &vec![b'x'; length], b"\r\n\r\n"].concat();
            stream.write_all(&head).await.unwrap();
            let mut status = [0; b"HTTP/1.1 200".len()];
            let read = timeout(SOON, stream.read_exact(&mut status)).await;
            read.unwrap().unwrap();
            assert_eq!(&status, expected, "{protocol:?} {length}");
        }
    }
}

#[tokio::test]
async fn requests_that_never_end_are_cut() {
    let options = ServerOptions {
        max_connection_busy: Some(LIMIT),
        ..Default::default()
    };
    let server = server_with(Acceptor::Plaintext, options).await;
    let connector = Security::insecure().connector(Expect::Plaintext);
    let mut client = dial(server.address, connector).await.unwrap();
    let endless = SignCertificateRequest {
        id: "wait".to_owned(),
        ..Default::default()
    };
    let answer = timeout(SOON, client.sign_certificate(endless)).await;
    assert!(answer.unwrap().is_err());
}
