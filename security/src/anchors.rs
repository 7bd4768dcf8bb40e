//! The trust bundle: which root certificates a peer's chain may end in.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::certificate;

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
    use rcgen::{CertificateParams, KeyPair};

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

    proptest! {
        #[test]
        fn no_text_panics(text in "(-----BEGIN [A-Z]{1,12}-----\n)?.{0,200}(\n-----END [A-Z]{1,12}-----\n)?") {
            prop_assert!(TrustAnchors::from_pem(text.as_bytes()).is_err());
        }
    }
}
