//! The trust bundle: which root certificates a peer's chain may end in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate;
use crate::verifier::{SpiffeVerifier, clients};

/// Where the trust bundle comes from.
#[derive(Clone, Debug)]
pub enum AnchorsSource {
    /// The PEM text itself. It counts for the life of the process; roots that Sentry hands out beside it, while it
    /// rotates its own, are taken in addition.
    Inline(String),
    /// A file, waited for if missing and read again whenever something in its directory changes.
    File(PathBuf),
}

/// Why a trust bundle is refused. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was given.
    #[error("trust anchors are required")]
    Missing,
    /// No certificate could be read from what was given.
    #[error("failed to decode trust anchors: {0}")]
    Decode(String),
}

/// Why peers do not accept a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// No chain at all.
    #[error("there is no certificate")]
    Empty,
    /// As that of a server.
    #[error("clients do not accept it")]
    Server(#[source] rustls::Error),
    /// As that of a client.
    #[error("servers do not accept it")]
    Client(#[source] rustls::Error),
    /// The TLS library refuses the bundle itself.
    #[error("trust anchors cannot be used to verify clients")]
    Anchors(#[from] rustls::server::VerifierBuilderError),
}

/// A parsed, non-empty trust bundle; cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustAnchors {
    pem: Arc<str>,
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
}

impl TrustAnchors {
    /// Parses a PEM bundle. Text around the blocks is dropped.
    ///
    /// # Errors
    /// [`Error::Missing`] for blank text, [`Error::Decode`] if it has no certificate or one that is broken.
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        if text.trim_ascii().is_empty() {
            return Err(Error::Missing);
        }
        let chain = certificate::chain_from_pem(text).map_err(|error| match error {
            certificate::Error::Pem(_) | certificate::Error::Empty => {
                Error::Decode(certificate::Error::Empty.to_string())
            }
            other => Error::Decode(other.to_string()),
        })?;
        Self::from_chain(chain)
    }

    /// Builds a bundle from root certificates.
    ///
    /// # Errors
    /// [`Error::Decode`] if there is none or one cannot be parsed.
    pub fn from_chain(chain: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        if chain.is_empty() {
            return Err(Error::Decode(certificate::Error::Empty.to_string()));
        }
        let mut roots = RootCertStore::empty();
        for root in &chain {
            roots
                .add(root.clone())
                .map_err(|error| Error::Decode(error.to_string()))?;
        }
        let pem = certificate::chain_to_pem(&chain).into();
        Ok(Self {
            pem,
            certificates: chain.into(),
            roots: Arc::new(roots),
        })
    }

    /// The bundle as PEM without comments.
    #[must_use]
    pub fn pem(&self) -> &Arc<str> {
        &self.pem
    }

    /// The root certificates in the order of the bundle.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether peers that have this bundle accept a workload's chain, leaf first, at this moment: by the very code that
    /// they judge each other with.
    ///
    /// # Errors
    /// See [`Untrusted`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Untrusted> {
        let (leaf, rest) = chain.split_first().ok_or(Untrusted::Empty)?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO));
        // Host names play no part.
        let any = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        SpiffeVerifier::new(Arc::clone(&self.roots))
            .verify_server_cert(leaf, rest, &any, &[], now)
            .map_err(Untrusted::Server)?;
        clients(&self.roots)?
            .verify_client_cert(leaf, rest, now)
            .map_err(Untrusted::Client)?;
        Ok(())
    }

    /// This bundle and the roots of another that it lacks.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut all = self.certificates.to_vec();
        let new = other
            .certificates
            .iter()
            .filter(|it| !self.certificates.contains(it));
        all.extend(new.cloned());
        // Both were read before, so there is nothing that could fail to parse.
        Self::from_chain(all).unwrap_or_else(|_| self.clone())
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl PartialEq for TrustAnchors {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Eq for TrustAnchors {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    use super::*;

    fn root() -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let root = CertificateParams::default().self_signed(&key).unwrap();
        root.der().clone()
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(
            TrustAnchors::from_pem(text.as_bytes())
                .unwrap_err()
                .to_string(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn texts_are_upstreams() {
        check("", "trust anchors are required");
        check(" \n", "trust anchors are required");
        check(
            "nonsense",
            "failed to decode trust anchors: no certificates found",
        );
        check(
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            "failed to decode trust anchors: no certificates found",
        );
    }

    #[test]
    fn several_roots_are_kept_in_order() {
        let chain = vec![root(), root()];
        let anchors = TrustAnchors::from_chain(chain.clone()).unwrap();
        assert_eq!(anchors.certificates(), chain);
        let again =
            TrustAnchors::from_pem(format!("# roots\n{}", anchors.pem()).as_bytes()).unwrap();
        assert_eq!(again, anchors);
    }

    #[test]
    fn what_is_learned_comes_in_addition() {
        let (first, second) = (root(), root());
        let own = TrustAnchors::from_chain(vec![first.clone()]).unwrap();
        let learned = TrustAnchors::from_chain(vec![first.clone(), second.clone()]).unwrap();
        assert_eq!(own.with(&own), own);
        assert_eq!(
            own.with(&learned).certificates(),
            [first.clone(), second.clone()]
        );
        let retired = TrustAnchors::from_chain(vec![second.clone()]).unwrap();
        assert_eq!(own.with(&retired).certificates(), [first, second]);
    }

    #[test]
    fn a_chain_is_judged_as_peers_judge_it() {
        let make = |is_ca, id: Option<&str>| {
            let mut params = CertificateParams::default();
            params.is_ca = is_ca;
            params.subject_alt_names = id
                .map(|id| SanType::URI(id.try_into().unwrap()))
                .into_iter()
                .collect();
            (params, KeyPair::generate().unwrap())
        };
        let check = |middle_is_ca, id: Option<&str>, now, expected: Option<&str>| {
            let (root, root_key) = make(IsCa::Ca(BasicConstraints::Unconstrained), None);
            let anchors =
                TrustAnchors::from_chain(vec![root.self_signed(&root_key).unwrap().into()])
                    .unwrap();
            let (middle, middle_key) = make(middle_is_ca, None);
            let middle_der = middle
                .signed_by(&middle_key, &Issuer::new(root, root_key))
                .unwrap();
            let (leaf, key) = make(IsCa::NoCa, id);
            let leaf = leaf
                .signed_by(&key, &Issuer::new(middle, middle_key))
                .unwrap();
            let chain = [leaf.der().clone(), middle_der.der().clone()];
            let found = anchors.verify(&chain, now).map_err(|it| it.to_string());
            assert_eq!(found.err().as_deref(), expected);
        };
        let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
        let orders = Some("spiffe://public/ns/default/orders");
        let now = SystemTime::now();
        let refused = Some("clients do not accept it");
        check(ca(), orders, now, None);
        check(IsCa::NoCa, orders, now, refused);
        check(ca(), None, now, refused);
        check(ca(), orders, SystemTime::UNIX_EPOCH, refused);
        let anchors = TrustAnchors::from_chain(vec![root()]).unwrap();
        assert!(matches!(anchors.verify(&[], now), Err(Untrusted::Empty)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(-----BEGIN [A-Z]{1,12}-----\n)?.{0,200}(\n-----END [A-Z]{1,12}-----\n)?") {
            prop_assert!(TrustAnchors::from_pem(text.as_bytes()).is_err());
        }
    }
}
