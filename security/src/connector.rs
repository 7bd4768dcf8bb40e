//! Dialling a peer and making sure it is the one meant.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate;
use crate::dial::dial;
use crate::identity::SpiffeId;
use crate::security::Security;
use crate::stream::Stream;

/// Who has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this id: a control-plane service.
    Id(SpiffeId),
    /// An app in any trust domain: the path of its id must equal `/ns/<namespace>/<app id>`.
    Path {
        /// Namespace of the app.
        namespace: String,
        /// Id of the app.
        app_id: String,
    },
    /// Anybody, unencrypted.
    Plaintext,
}

impl Expect {
    fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Id(expected) => expected == id,
            Self::Path { namespace, app_id } => id
                .path()
                .strip_prefix("/ns/")
                .and_then(|rest| rest.strip_prefix(namespace.as_str()))
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| rest == app_id),
            Self::Plaintext => true,
        }
    }
}

/// Why a dial failed. The texts appear in the status of the call that needed the connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address has no host or port.
    #[error("address {0} has no host and port")]
    Address(Uri),
    /// No TCP connection.
    #[error("dial {address}: {source}")]
    Dial {
        /// `host:port`.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("authentication handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The peer showed no certificate that can be read.
    #[error("authentication handshake failed: {0}")]
    Certificate(#[from] certificate::Error),
    /// The session was resumed, and the peer's certificate has ended since.
    #[error("authentication handshake failed: certificate has expired")]
    Expired,
    /// The peer is somebody else.
    #[error("authentication handshake failed: unexpected SPIFFE ID: \"{0}\"")]
    UnexpectedId(SpiffeId),
}

/// The dialler; a `tower::Service<Uri>` for tonic's `Endpoint::connect_with_connector`. It sets no time limit.
#[derive(Clone)]
pub struct Connector {
    source: Source,
    expect: Arc<Expect>,
}

#[derive(Clone)]
enum Source {
    Current(Security),
    Fixed(Arc<ClientConfig>),
}

impl Connector {
    pub(crate) fn new(security: Security, expect: Expect) -> Self {
        Self {
            source: Source::Current(security),
            expect: Arc::new(expect),
        }
    }

    /// A dialler without a client certificate, for the time before there is an identity.
    pub(crate) fn anonymous(config: Arc<ClientConfig>, expect: Expect) -> Self {
        Self {
            source: Source::Fixed(config),
            expect: Arc::new(expect),
        }
    }

    fn config(&self) -> Option<Arc<ClientConfig>> {
        match (&self.source, self.expect.as_ref()) {
            (_, Expect::Plaintext) => None,
            (Source::Fixed(config), _) => Some(Arc::clone(config)),
            (Source::Current(security), Expect::Path { .. }) if !security.is_mtls() => None,
            (Source::Current(security), _) => Some(Arc::clone(&security.material()?.client)),
        }
    }

    async fn dial(self, uri: Uri) -> Result<Stream<TlsStream<TcpStream>>, Error> {
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
            return Err(Error::Address(uri));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let dialled = |source| Error::Dial {
            address: format!("{host}:{port}"),
            source,
        };
        let stream = dial(host, port).await.map_err(dialled)?;
        stream.set_nodelay(true).map_err(dialled)?;
        let Some(config) = self.config() else {
            return Ok(Stream::Plain(stream));
        };
        let stream = TlsConnector::from(config)
            .connect(server_name(host), stream)
            .await
            .map_err(Error::Handshake)?;
        self.authorise(&stream)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Checks the id here and not in the verifier, which a resumed session skips.
    fn authorise(&self, stream: &TlsStream<TcpStream>) -> Result<(), Error> {
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or(certificate::Error::Empty)?;
        let leaf = certificate::leaf(leaf)?;
        if leaf.not_after < SystemTime::now() {
            return Err(Error::Expired);
        }
        if self.expect.accepts(&leaf.spiffe_id) {
            Ok(())
        } else {
            Err(Error::UnexpectedId(leaf.spiffe_id))
        }
    }
}

/// The name in the handshake. Nobody verifies it; a host that is no valid name gets a placeholder.
fn server_name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream<TlsStream<TcpStream>>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connector.dial(uri).await?)) })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expect: &Expect, id: &str, expected: bool) {
        assert_eq!(
            expect.accepts(&SpiffeId::new(id).unwrap()),
            expected,
            "{expect:?} {id}"
        );
    }

    #[test]
    fn a_path_matches_in_any_trust_domain() {
        let expect = Expect::Path {
            namespace: "default".to_owned(),
            app_id: "orders".to_owned(),
        };
        check(&expect, "spiffe://public/ns/default/orders", true);
        check(&expect, "spiffe://other.example/ns/default/orders", true);
        check(&expect, "spiffe://public/ns/default/orders2", false);
        check(&expect, "spiffe://public/ns/default/orders/more", false);
        check(&expect, "spiffe://public/ns/default2/orders", false);
        check(&expect, "spiffe://public/ns/defaultorders", false);
        check(&expect, "spiffe://public/default/orders", false);
    }

    #[test]
    fn an_id_matches_exactly() {
        let expect =
            Expect::Id(SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap());
        check(&expect, "spiffe://localhost/ns/default/dapr-sentry", true);
        check(&expect, "spiffe://public/ns/default/dapr-sentry", false);
        check(
            &expect,
            "spiffe://localhost/ns/default/dapr-operator",
            false,
        );
    }

    #[test]
    fn every_host_has_a_server_name() {
        for host in [
            "localhost",
            "127.0.0.1",
            "::1",
            "with_underscore",
            "a b",
            "",
        ] {
            let _ = server_name(host);
        }
    }
}
