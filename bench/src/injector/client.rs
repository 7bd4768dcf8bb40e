//! An API server as far as the injector sees it: HTTP over TLS, trusting the bundle for the name of the Service.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use dapr_security::certificate;
use h2::client::SendRequest;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::spawn;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::sentry::server::NAMESPACE;

const HOST: &str = "dapr-sidecar-injector";
const PATH: &str = "/mutate?timeout=10s";

/// A connection to the injector, or as many as it takes: one that does not speak HTTP/2 answers one review at a time on each.
/// Clones share them.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    http2: Option<SendRequest<Bytes>>,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
}

impl Connection {
    /// A new one, with a handshake.
    pub async fn dial(address: SocketAddr, anchors: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in certificate::chain_from_pem(anchors)? {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut shared = Shared {
            address,
            tls: Arc::new(tls),
            http2: None,
            idle: Mutex::default(),
        };
        let stream = shared.connect().await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) = h2::client::handshake(stream).await?;
            spawn(async move { drop(connection.await) });
            shared.http2 = Some(sender);
        } else {
            shared.idle.get_mut().push(shake(stream).await?);
        }
        Ok(Self(Arc::new(shared)))
    }

    /// The answer to a review.
    pub async fn review(&self, body: &Bytes) -> Result<Bytes> {
        match &self.0.http2 {
            Some(sender) => review(sender.clone(), body).await,
            None => self.0.review(body).await,
        }
    }
}

impl Shared {
    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(format!("dapr-sidecar-injector.{NAMESPACE}.svc"))?;
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .context("the injector's certificate is not accepted")
    }

    async fn review(&self, body: &Bytes) -> Result<Bytes> {
        let request = http::Request::post(PATH)
            .header("host", HOST)
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))?;
        let idle = self.idle.lock().pop();
        let mut sender = match idle {
            Some(sender) => sender,
            None => shake(self.connect().await?).await?,
        };
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let whole = body.collect().await?.to_bytes();
        ensure!(head.status.is_success(), "{}", head.status);
        self.idle.lock().push(sender);
        Ok(whole)
    }
}

async fn shake(stream: TlsStream<TcpStream>) -> Result<http1::SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn review(sender: SendRequest<Bytes>, body: &Bytes) -> Result<Bytes> {
    let head = http::Request::post(format!("https://{HOST}{PATH}"))
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(())?;
    let (answer, mut stream) = sender.ready().await?.send_request(head, false)?;
    stream.send_data(body.clone(), true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        whole.extend_from_slice(&chunk);
    }
    ensure!(head.status.is_success(), "{}", head.status);
    Ok(whole.freeze())
}
