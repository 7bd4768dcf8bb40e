//! The process's security: its current identity and bundle, replaced under the feet of servers and clients that go on.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::acceptor::Acceptor;
use crate::anchors::{self, AnchorsSource, TrustAnchors};
use crate::connector::{Connector, Expect};
use crate::identity::{self, Identity, SpiffeId, TrustDomain};
use crate::material::{self, Material};
use crate::options::Options;
use crate::published::Published;
use crate::svid::{self, Svid};
use crate::{renewal, request, sentry, token};

/// Why a process gets no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trust bundle is missing or broken.
    #[error(transparent)]
    TrustAnchors(#[from] anchors::Error),
    /// The trust bundle's directory cannot be watched.
    #[error("trust anchors file {path} cannot be watched")]
    Watch {
        /// The file.
        path: String,
        /// What the system said.
        source: crate::watch::Error,
    },
    /// Namespace or app id of the control plane form no SPIFFE id.
    #[error("identity of sentry cannot be formed")]
    Identity(#[from] identity::Error),
    /// The address of Sentry is no `host:port`.
    #[error("invalid sentry address {0:?}")]
    Address(String),
    /// The token file cannot be read.
    #[error("failed to read sentry token file {path}")]
    TokenFile {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Sentry answered, and the answer is no.
    #[error("sentry refused the certificate request: {0}")]
    Refused(tonic::Status),
    /// Sentry cannot be reached, or what answers is not Sentry; worth another try.
    #[error("sentry cannot be reached: {}", .0.message())]
    Unreachable(tonic::Status),
    /// Sentry's answer has no usable certificate.
    #[error(transparent)]
    Svid(#[from] svid::Error),
    /// Sentry's answer has tokens that are not those asked for.
    #[error(transparent)]
    Token(#[from] token::Error),
    /// Sentry's answer contradicts itself.
    #[error("invalid answer of sentry: {0}")]
    Answer(&'static str),
    /// No key or signing request could be made.
    #[error(transparent)]
    Request(#[from] request::Error),
    /// The TLS library refuses the identity or the bundle.
    #[error(transparent)]
    Tls(#[from] material::Error),
}

/// The security of a process; cheap to clone, always showing the current identity.
#[derive(Clone)]
pub struct Security {
    inner: Arc<Inner>,
}

struct Inner {
    current: Option<ArcSwap<Material>>,
    changes: watch::Sender<u64>,
    renewals: watch::Sender<Renewals>,
    mtls: bool,
}

/// How often the identity was renewed since the start, and how often that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    /// New identities in use.
    pub succeeded: u64,
    /// Attempts that left the old identity in use because Sentry could not be reached.
    pub unreachable: u64,
    /// Attempts that left the old identity in use because the token for Sentry could not be read.
    pub no_token: u64,
    /// Attempts that left the old identity in use because of the JWT that came with the new one.
    pub bad_jwt: u64,
    /// All other attempts that left the old identity in use.
    pub failed: u64,
}

impl Security {
    /// Obtains the first identity from Sentry, waiting without limit while Sentry or the bundle's file is missing, and
    /// returns it with the task that renews it. Dropping either future stops it; the task never ends by itself.
    ///
    /// # Errors
    /// What waiting cannot mend: broken options or bundle, an unreadable token, a request that Sentry refuses.
    pub async fn start(
        options: Options,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), Error> {
        let mtls = options.mtls;
        // Who was handed the bundle itself, as sidecars are, may not read the ConfigMap.
        let published = match options.trust_anchors {
            AnchorsSource::File(_) => Published::here(&options.control_plane_namespace),
            AnchorsSource::Inline(_) => None,
        };
        let mut bundle = renewal::Bundle::open(&options.trust_anchors, published.as_ref()).await?;
        let client = sentry::Client::new(options, published)?;
        tracing::info!("Fetching initial identity");
        let svid = renewal::first(&client, &mut bundle).await?;
        tracing::info!(id = %svid.spiffe_id(), "Identity obtained");
        let security = Self::with(Material::new(svid, bundle.anchors().clone())?, mtls);
        let task = renewal::run(Publisher(security.clone()), client, bundle);
        Ok((security, task))
    }

    /// A process without mTLS: plaintext everywhere.
    #[must_use]
    pub fn insecure() -> Self {
        Self {
            inner: Arc::new(Inner {
                current: None,
                changes: watch::Sender::new(0),
                renewals: watch::Sender::default(),
                mtls: false,
            }),
        }
    }

    /// A process that signs its own certificate, as Sentry does, and publishes each new one itself.
    ///
    /// # Errors
    /// [`Error::Tls`] if identity and bundle make no TLS settings.
    pub fn from_issuer(svid: Svid, anchors: TrustAnchors) -> Result<(Self, Publisher), Error> {
        let security = Self::with(Material::new(svid, anchors)?, true);
        Ok((security.clone(), Publisher(security)))
    }

    fn with(material: Material, mtls: bool) -> Self {
        let current = Some(ArcSwap::from_pointee(material));
        Self {
            inner: Arc::new(Inner {
                current,
                changes: watch::Sender::new(0),
                renewals: watch::Sender::default(),
                mtls,
            }),
        }
    }

    /// Whether apps talk TLS to each other.
    #[must_use]
    pub fn is_mtls(&self) -> bool {
        self.inner.mtls
    }

    /// The process's own identity; none without an identity or if its id is not one of Dapr.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        Identity::from_spiffe_id(&self.spiffe_id()?).ok()
    }

    /// The process's own SPIFFE id.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        Some(self.material()?.svid.spiffe_id().clone())
    }

    /// The trust domain of the process's own certificate.
    #[must_use]
    pub fn trust_domain(&self) -> Option<TrustDomain> {
        TrustDomain::new(self.spiffe_id()?.trust_domain_name()).ok()
    }

    /// The current trust bundle as PEM.
    #[must_use]
    pub fn trust_anchors_pem(&self) -> Option<Arc<str>> {
        Some(Arc::clone(self.material()?.anchors.pem()))
    }

    /// Sees a new value whenever the identity or the bundle was replaced.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Sees how often the identity was renewed, for those who count it.
    #[must_use]
    pub fn renewals(&self) -> watch::Receiver<Renewals> {
        self.inner.renewals.subscribe()
    }

    /// A dialler for tonic's `connect_with_connector` that authorises the server. Without an identity, and for
    /// [`Expect::Path`] without mTLS, it dials plaintext.
    #[must_use]
    pub fn connector(&self, expect: Expect) -> Connector {
        Connector::new(self.clone(), expect)
    }

    /// How the port other sidecars call accepts: [`Acceptor::Mutual`] with mTLS, else [`Acceptor::Plaintext`].
    #[must_use]
    pub fn peer_acceptor(&self) -> Acceptor {
        if self.is_mtls() {
            Acceptor::Mutual(self.clone())
        } else {
            Acceptor::Plaintext
        }
    }

    pub(crate) fn material(&self) -> Option<Arc<Material>> {
        Some(self.inner.current.as_ref()?.load_full())
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.spiffe_id().map(|id| id.to_string());
        f.debug_struct("Security")
            .field("id", &id)
            .field("mtls", &self.inner.mtls)
            .finish()
    }
}

/// The right to replace the identity of one [`Security`]; there is one per process.
#[derive(Debug)]
pub struct Publisher(Security);

impl Publisher {
    /// Replaces identity and bundle. Open connections stay; new ones use the new settings.
    ///
    /// # Errors
    /// [`Error::Tls`] if identity and bundle make no TLS settings; the old ones then stay.
    pub fn replace(&self, svid: Svid, anchors: TrustAnchors) -> Result<(), Error> {
        let Some(current) = &self.0.inner.current else {
            return Ok(());
        };
        current.store(Arc::new(Material::new(svid, anchors)?));
        self.0.inner.changes.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Counts a renewal.
    pub(crate) fn renewed(&self, result: Result<(), &Error>) {
        self.0.inner.renewals.send_modify(|count| match result {
            Ok(()) => count.succeeded += 1,
            Err(Error::Unreachable(_)) => count.unreachable += 1,
            Err(Error::TokenFile { .. }) => count.no_token += 1,
            Err(Error::Token(_)) => count.bad_jwt += 1,
            Err(_) => count.failed += 1,
        });
    }

    pub(crate) fn current(&self) -> Option<Arc<Material>> {
        self.0.material()
    }
}
