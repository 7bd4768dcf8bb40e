//! The process's own identity: a certificate chain, its private key, and when to replace them.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate;
use crate::identity::SpiffeId;

/// Why a chain and key are no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain is broken or its leaf no SPIFFE leaf.
    #[error("issued certificate is unusable")]
    Certificate(#[from] certificate::Error),
    /// The key is unsupported or belongs to another certificate.
    #[error("private key does not fit the issued certificate")]
    Key(#[source] rustls::Error),
}

/// An X.509 SVID with its private key; cheap to clone.
#[derive(Clone, Debug)]
pub struct Svid {
    key: Arc<CertifiedKey>,
    leaf: Arc<certificate::Leaf>,
    renew_by: Option<(SystemTime, SystemTime)>,
}

impl Svid {
    /// Joins a PEM chain, leaf first, with the key it was issued for.
    ///
    /// # Errors
    /// See [`Error`]; the chain is not verified against any root here.
    pub fn from_pem(chain: &[u8], key: &KeyPair) -> Result<Self, Error> {
        Self::new(certificate::chain_from_pem(chain)?, key)
    }

    /// Joins a chain, leaf first, with the key it was issued for.
    ///
    /// # Errors
    /// See [`Error`]; the chain is not verified against any root here.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, Error> {
        let leaf = chain.first().ok_or(certificate::Error::Empty)?;
        let leaf = Arc::new(certificate::leaf(leaf)?);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = crate::verifier::provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(Error::Key)?;
        Ok(Self {
            key: Arc::new(key),
            leaf,
            renew_by: None,
        })
    }

    /// Also lets the validity of a token issued with the certificate decide when to renew.
    #[must_use]
    pub fn with_token_validity(mut self, not_before: SystemTime, not_after: SystemTime) -> Self {
        self.renew_by = Some((not_before, not_after));
        self
    }

    /// The SPIFFE id of the leaf.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.leaf.spiffe_id
    }

    /// Serial number of the certificate in lower-case hexadecimal without leading zeros.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// End of the certificate's validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// When to ask for the next one: half of the lifetime, of the certificate or the token, whichever is earlier.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let certificate = midpoint(self.leaf.not_before, self.leaf.not_after);
        match self.renew_by {
            Some((not_before, not_after)) => certificate.min(midpoint(not_before, not_after)),
            None => certificate,
        }
    }

    /// Waits until [`Svid::renew_at`] by the wall clock, and at least a second: a lifetime shorter than the allowed
    /// clock skew is due at once, every time. Cancel safe.
    pub async fn renewal_due(&self) {
        tokio::time::sleep(crate::renewal::AT_LEAST).await;
        crate::renewal::due(self.renew_at()).await;
    }

    pub(crate) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// The middle of a validity period; its start if it ends before it starts.
#[must_use]
pub fn midpoint(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    not_before + not_after.duration_since(not_before).unwrap_or_default() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(not_before: i64, not_after: i64, expected: i64) {
        let found = midpoint(
            certificate::moment(not_before),
            certificate::moment(not_after),
        );
        assert_eq!(
            found,
            certificate::moment(expected),
            "{not_before}..{not_after}"
        );
    }

    #[test]
    fn renewal_is_due_at_half_of_the_lifetime() {
        check(0, 100, 50);
        check(1_000, 1_000, 1_000);
        check(2_000, 1_000, 2_000);
        // 24 h with the 15 min of clock skew before: 11:52:30 after issue.
        check(
            1_700_000_000 - 900,
            1_700_000_000 + 86_400,
            1_700_000_000 + 42_750,
        );
        check(i64::MIN, 100, 50);
    }
}
