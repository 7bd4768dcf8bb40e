//! The OIDC port: plain HTTP, or TLS with a certificate from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use dapr_kit::health::Target;
use dapr_security::certificate::chain_from_pem;
use dapr_security::watch::Changes;
use dapr_security::{Acceptor, ServerOptions, serve};
use http::{HeaderValue, Response, header};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::jwt::Signer;

/// Pause between looks for the certificate while it is missing or broken.
const RETRY: Duration = Duration::from_secs(5);
/// How long the head of a request may take, as upstream has it; over HTTP/1.1 also the pause before it.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may be without a request, and how long with one that does not end: the answers are small.
const IDLE: Duration = Duration::from_secs(60);
const BUSY: Duration = Duration::from_secs(20);
/// Connections at once, and requests at once on one of them: who verifies tokens asks about once an hour.
const CONNECTIONS: usize = 512;
const STREAMS: u32 = 16;
/// Bytes of the header fields of a request over HTTP/2.
const HEADERS: u32 = 16 * 1024;

/// Why the certificate cannot be served.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("file {path:?} cannot be read")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("certificate is unusable")]
    Certificate(#[source] dapr_security::certificate::Error),
    #[error("private key is unusable")]
    Key(#[source] rustls_pki_types::pem::Error),
    #[error("certificate and private key cannot be served")]
    Tls(#[source] rustls::Error),
}

/// Certificate and key of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsFiles {
    pub(crate) fn paths(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }

    async fn load(&self) -> Result<ServerConfig, Error> {
        let (certificate, key) = (read(&self.certificate).await?, read(&self.key).await?);
        let chain = chain_from_pem(&certificate).map_err(Error::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(Error::Key)?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(Error::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Waits for a certificate that can be served.
    async fn first(&self) -> ServerConfig {
        loop {
            match self.load().await {
                Ok(config) => return config,
                Err(error) => {
                    let error = dapr_kit::process::chain(&error);
                    tracing::warn!(
                        error,
                        "Certificate of the OIDC server is not there yet, waiting"
                    );
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn keep(&self, mut changes: Changes, current: &ArcSwap<ServerConfig>) {
        loop {
            changes.changed().await;
            sleep(crate::app::BATCH).await;
            match self.load().await {
                Ok(config) => current.store(Arc::new(config)),
                Err(error) => {
                    let error = dapr_kit::process::chain(&error);
                    tracing::error!(
                        error,
                        "Certificate of the OIDC server cannot be reloaded, keeping the old one"
                    );
                }
            }
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// A bound OIDC server.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) config: Config,
    pub(crate) signer: Arc<ArcSwap<Signer>>,
    pub(crate) tls: Option<(TlsFiles, Changes)>,
    pub(crate) target: Target,
}

impl Server {
    /// Serves until the token is cancelled.
    pub(crate) async fn run(self, token: CancellationToken) {
        let Self {
            listener,
            config,
            signer,
            tls,
            target,
        } = self;
        let routes = routes(Arc::new(config), signer);
        let Some((files, changes)) = tls else {
            target.ready();
            return serve(listener, Acceptor::PlainWeb, routes, limits(), token).await;
        };
        let Some(config) = token.run_until_cancelled(files.first()).await else {
            return;
        };
        let config = Arc::new(ArcSwap::from_pointee(config));
        target.ready();
        let acceptor = Acceptor::Own(Arc::clone(&config));
        tokio::select! {
            () = serve(listener, acceptor, routes, limits(), token) => {}
            () = files.keep(changes, &config) => {}
        }
    }
}

/// The limits of strangers: the port may be open to the world.
fn limits() -> ServerOptions {
    ServerOptions {
        max_concurrent_streams: Some(STREAMS),
        max_header_list_size: HEADERS,
        max_connection_idle: Some(IDLE),
        max_connection_busy: Some(BUSY),
        header_timeout: Some(HEAD),
        max_connections: Some(CONNECTIONS),
        date: true,
        ..ServerOptions::default()
    }
}

fn routes(config: Arc<Config>, signer: Arc<ArcSwap<Signer>>) -> Router {
    let respond =
        move |request: Request| std::future::ready(respond(&config, &signer.load(), request));
    Router::new().fallback(respond)
}

fn respond(config: &Config, signer: &Signer, request: Request) -> Response<Body> {
    let (mut head, _) = request.into_parts();
    // HTTP/2 names the host in the URI.
    if let Some(host) = head
        .uri
        .authority()
        .and_then(|host| HeaderValue::from_str(host.as_str()).ok())
    {
        head.headers.entry(header::HOST).or_insert(host);
    }
    config
        .respond(
            &head.method,
            head.uri.path(),
            &head.headers,
            signer.key_set(),
        )
        .map(Body::from)
}
