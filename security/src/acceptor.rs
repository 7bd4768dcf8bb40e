//! What a server demands of who connects.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate;
use crate::identity::{Identity, SpiffeId};
use crate::security::Security;
use crate::stream::Stream;

/// How connections are accepted. The settings current at each accept are used.
#[derive(Clone, Debug)]
pub enum Acceptor {
    /// Unencrypted HTTP/2, nobody has an identity.
    Plaintext,
    /// Unencrypted HTTP/1.1 or HTTP/2, as the client begins; nobody has an identity.
    PlainWeb,
    /// TLS with a client certificate chained to the trust bundle, any SPIFFE id.
    Mutual(Security),
    /// As [`Acceptor::Mutual`], but exactly this id.
    MutualExactly(Security, SpiffeId),
    /// TLS without asking for a client certificate: Sentry and webhooks.
    ServerOnly(Security),
    /// TLS with settings of the caller's own, for a certificate that is not of SPIFFE.
    Own(Arc<ArcSwap<ServerConfig>>),
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no identity to serve with.
    #[error("no identity to serve with")]
    NoIdentity,
    /// The TLS handshake failed.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The client's certificate is no SPIFFE leaf.
    #[error("client certificate refused")]
    Certificate(#[from] certificate::Error),
    /// The client resumed a session with a certificate that has ended since.
    #[error("client certificate has expired")]
    Expired,
    /// The client is somebody else.
    #[error("unexpected SPIFFE ID: \"{0}\"")]
    UnexpectedId(SpiffeId),
}

/// The protocol agreed in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    /// Nothing was agreed; the client's first bytes tell. Go's clients with HTTP/2 switched off are like this, and
    /// everybody without TLS.
    Unsaid,
}

pub(crate) struct Accepted {
    pub(crate) stream: Stream<TlsStream<TcpStream>>,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) protocol: Protocol,
}

/// How a connection begins.
enum Opening {
    Handshake(Arc<ServerConfig>),
    Plain(Protocol),
}

impl Acceptor {
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Accepted, Error> {
        let config = match self.opening()? {
            Opening::Handshake(config) => config,
            Opening::Plain(protocol) => {
                return Ok(Accepted {
                    stream: Stream::Plain(stream),
                    identity: None,
                    protocol,
                });
            }
        };
        let stream = TlsAcceptor::from(config)
            .accept(stream)
            .await
            .map_err(Error::Handshake)?;
        let connection = stream.get_ref().1;
        let protocol = match connection.alpn_protocol() {
            Some(b"http/1.1") => Protocol::Http1,
            Some(_) => Protocol::Http2,
            None => Protocol::Unsaid,
        };
        let identity = match connection.peer_certificates().and_then(<[_]>::first) {
            Some(leaf) => self.authorise(leaf)?,
            None => None,
        };
        Ok(Accepted {
            stream: Stream::Tls(Box::new(stream)),
            identity,
            protocol,
        })
    }

    fn opening(&self) -> Result<Opening, Error> {
        let material = |security: &Security| security.material().ok_or(Error::NoIdentity);
        Ok(Opening::Handshake(match self {
            Self::Plaintext => return Ok(Opening::Plain(Protocol::Http2)),
            Self::PlainWeb => return Ok(Opening::Plain(Protocol::Unsaid)),
            Self::Mutual(security) | Self::MutualExactly(security, _) => {
                Arc::clone(&material(security)?.mutual)
            }
            Self::Own(config) => config.load_full(),
            Self::ServerOnly(security) => Arc::clone(&material(security)?.server_only),
        }))
    }

    fn authorise(&self, leaf: &[u8]) -> Result<Option<Arc<Identity>>, Error> {
        let leaf = certificate::leaf(leaf)?;
        // A ticket may outlive the certificate it was given for, and a resumed session is not verified again.
        if leaf.not_after < SystemTime::now() {
            return Err(Error::Expired);
        }
        match self {
            Self::MutualExactly(_, expected) if *expected != leaf.spiffe_id => {
                Err(Error::UnexpectedId(leaf.spiffe_id))
            }
            Self::Plaintext
            | Self::PlainWeb
            | Self::Mutual(_)
            | Self::MutualExactly(..)
            | Self::ServerOnly(_)
            | Self::Own(_) => Ok(Identity::from_spiffe_id(&leaf.spiffe_id).ok().map(Arc::new)),
        }
    }
}
