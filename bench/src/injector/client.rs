//! An API server as far as the injector sees it: HTTP/2 over TLS, trusting the bundle for the name of the Service.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use dapr_security::certificate;
use h2::client::SendRequest;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::sentry::server::NAMESPACE;

const PATH: &str = "https://dapr-sidecar-injector/mutate?timeout=10s";

/// A connection to the injector; clones share it.
#[derive(Debug, Clone)]
pub struct Connection(SendRequest<Bytes>);

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
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(format!("dapr-sidecar-injector.{NAMESPACE}.svc"))?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .context("the injector's certificate is not accepted")?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        // It ends by itself once the sender is gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                drop(error); // The call fails with it.
            }
        });
        Ok(Self(sender))
    }

    /// The answer to a review.
    pub async fn review(&self, body: &Bytes) -> Result<Bytes> {
        let head = http::Request::post(PATH)
            .header("content-type", "application/json")
            .header("content-length", body.len())
            .body(())?;
        let mut sender = self.0.clone().ready().await?;
        let (answer, mut stream) = sender.send_request(head, false)?;
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
}
