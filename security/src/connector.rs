//! Dialling a peer and making sure it is the one meant.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate;
use crate::dial::dial;
use crate::identity::SpiffeId;
use crate::published::Published;
use crate::security::Security;
use crate::stream::Stream;

/// How long an address may take before another way is tried beside it, and then twice as long each time.
const COMPANY: Duration = Duration::from_millis(50);
/// How long the other way may go on when the address has failed.
const GRACE: Duration = Duration::from_millis(500);
/// Limit of one attempt of the other way, and the longest pause before one.
const LIMIT: Duration = Duration::from_secs(1);

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
    beside: Option<Published>,
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
            beside: None,
        }
    }

    /// A dialler without a client certificate, for the time before there is an identity. It dials Sentry: also where
    /// `published` says that it is, if there is no answer at once.
    pub(crate) fn anonymous(
        config: Arc<ClientConfig>,
        expect: Expect,
        published: Option<Published>,
    ) -> Self {
        Self {
            source: Source::Fixed(config),
            expect: Arc::new(expect),
            beside: published,
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
        let reached = self.reach(host, port);
        match &self.beside {
            None => reached.await,
            Some(published) => with_company(reached, self.reach_published(published)).await,
        }
    }

    /// Connects, and makes sure who is there.
    async fn reach(&self, host: &str, port: u16) -> Result<Stream<TlsStream<TcpStream>>, Error> {
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

    /// Connects to whom the ConfigMap names, as soon as that succeeds. Addresses of pods are given away again: a stranger
    /// at one is as good as nobody.
    async fn reach_published(&self, published: &Published) -> Stream<TlsStream<TcpStream>> {
        let mut pause = COMPANY;
        loop {
            sleep(pause).await;
            let found = published.read().await.ok().and_then(|found| found.sentry);
            if let Some(address) = found {
                let host = address.ip().to_string();
                let reached = timeout(LIMIT, self.reach(&host, address.port())).await;
                match reached {
                    Ok(Ok(stream)) => return stream,
                    Ok(Err(error)) => tracing::debug!(%address, %error, "Sentry is not there"),
                    Err(_) => tracing::debug!(%address, "Sentry does not answer there"),
                }
            }
            pause = (pause * 2).min(LIMIT);
        }
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

/// The first attempt that succeeds. The company never fails: it ends some time after the main attempt has failed.
async fn with_company<T, E>(
    main: impl Future<Output = Result<T, E>>,
    company: impl Future<Output = T>,
) -> Result<T, E> {
    tokio::pin!(main, company);
    tokio::select! {
        // Who is asked first is not left to chance.
        biased;
        ended = &mut main => match ended {
            Ok(reached) => Ok(reached),
            Err(error) => timeout(GRACE, company).await.map_err(|_| error),
        },
        reached = &mut company => Ok(reached),
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
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use tokio::time::Instant;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::material;
    use crate::published::tests::Server;

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Dials an address where nobody is, and with it where somebody says that Sentry is: there `a` is, of the namespace
    /// `default`.
    async fn dial_published(expected: &str) -> Result<Stream<TlsStream<TcpStream>>, Error> {
        let material = material::tests::material();
        let (listener, address) = listen().await;
        let tls = TlsAcceptor::from(Arc::clone(&material.server_only));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tls.accept(stream));
            }
        });
        let server = Server::start().await;
        server.tells(address);
        let connector = Connector::anonymous(
            material::anonymous_client(&material.anchors).unwrap(),
            Expect::Id(SpiffeId::new(expected).unwrap()),
            Some(server.published.clone()),
        );
        let (_, nobody) = listen().await;
        let uri = format!("http://{nobody}").parse().unwrap();
        connector.dial(uri).await
    }

    #[tokio::test]
    async fn sentry_is_found_where_it_says_that_it_is() {
        let found = dial_published("spiffe://public/ns/default/a").await;
        assert!(matches!(found, Ok(Stream::Tls(_))), "{found:?}");
    }

    #[tokio::test]
    async fn a_stranger_there_is_nobody() {
        let found = dial_published("spiffe://public/ns/default/dapr-sentry").await;
        let error = found.err().unwrap();
        assert!(matches!(error, Error::Dial { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn company_counts_until_a_moment_after_a_failure() {
        const STEP: Duration = Duration::from_millis(100);
        /// What comes after how many steps: the address's answer, and the company's.
        async fn check(
            main: Option<(u32, Result<char, char>)>,
            company: Option<u32>,
            expected: (u32, Result<char, char>),
        ) {
            let began = Instant::now();
            let main = async {
                let Some((steps, result)) = main else {
                    return std::future::pending().await;
                };
                sleep(STEP * steps).await;
                result
            };
            let company = async {
                let Some(steps) = company else {
                    return std::future::pending().await;
                };
                sleep(STEP * steps).await;
                'c'
            };
            let ended = with_company(main, company).await;
            assert_eq!((began.elapsed(), ended), (STEP * expected.0, expected.1));
        }
        check(Some((1, Ok('m'))), Some(2), (1, Ok('m'))).await;
        check(Some((2, Ok('m'))), Some(1), (1, Ok('c'))).await;
        check(Some((1, Err('e'))), Some(3), (3, Ok('c'))).await;
        check(Some((1, Err('e'))), Some(7), (6, Err('e'))).await;
        check(Some((1, Err('e'))), None, (6, Err('e'))).await;
        check(None, Some(50), (50, Ok('c'))).await;
    }

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
