//! SPIFFE ids and trust domains as upstream takes them.
//!
//! SPIFFE lets a reader take capital letters in a trust domain for small ones; go-spiffe refuses them. So do we: a policy
//! and a certificate that name one trust domain then spell it alike.

use std::fmt;
use std::str::FromStr;

/// Why a text is no SPIFFE id or no trust domain.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The trust domain has a letter it may not have.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    TrustDomain,
    /// Everything else.
    #[error(transparent)]
    Invalid(spiffe::SpiffeIdError),
}

impl From<spiffe::SpiffeIdError> for Error {
    fn from(error: spiffe::SpiffeIdError) -> Self {
        match error {
            spiffe::SpiffeIdError::BadTrustDomainChar => Self::TrustDomain,
            other => Self::Invalid(other),
        }
    }
}

/// The name of a trust domain, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(spiffe::TrustDomain);

impl TrustDomain {
    /// Reads a name, or the one in a SPIFFE id.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        if text.contains(":/") {
            if !text.starts_with("spiffe://") {
                return Err(Error::Invalid(spiffe::SpiffeIdError::WrongScheme));
            }
            return Ok(Self(SpiffeId::new(text)?.0.trust_domain().clone()));
        }
        let domain = spiffe::TrustDomain::new(text)?;
        if domain.as_str() == text {
            Ok(Self(domain))
        } else {
            Err(Error::TrustDomain)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SPIFFE id, `spiffe://<trust domain>/<path>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(spiffe::SpiffeId);

impl SpiffeId {
    /// Reads an id. Capital letters of the scheme become small ones, as in any URL of a certificate.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        let id = spiffe::SpiffeId::new(text)?;
        let written = text.split_once("://").map_or(text, |(_, rest)| rest);
        if written.starts_with(id.trust_domain_name()) {
            Ok(Self(id))
        } else {
            Err(Error::TrustDomain)
        }
    }

    /// Joins a trust domain with the segments of a path.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a segment that is empty or has a character it may not have.
    pub fn from_segments(trust_domain: TrustDomain, segments: &[&str]) -> Result<Self, Error> {
        Ok(Self(spiffe::SpiffeId::from_segments(
            trust_domain.0,
            segments,
        )?))
    }

    /// The name of the trust domain.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        self.0.trust_domain_name()
    }

    /// The path with its leading slash; empty for the id of a trust domain.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }
}

impl FromStr for SpiffeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_trust_domain_has_small_letters() {
        for text in [
            "example.org",
            "spiffe://example.org",
            "spiffe://example.org/ns/N/A",
        ] {
            let found = TrustDomain::new(text).map(|it| it.to_string());
            assert_eq!(found.as_deref(), Ok("example.org"), "{text}");
        }
        for text in [
            "Example.org",
            "spiffe://example.Org",
            "spiffe://Example.org/ns/n/a",
            "a b",
        ] {
            assert_eq!(TrustDomain::new(text), Err(Error::TrustDomain), "{text}");
        }
        for text in [
            "",
            "SPIFFE://example.org",
            "spiffe:/example.org",
            "https://example.org",
            "spiffe://example.org//",
        ] {
            let found = TrustDomain::new(text);
            assert!(matches!(found, Err(Error::Invalid(_))), "{text}: {found:?}");
        }
    }

    #[test]
    fn an_id_has_a_trust_domain_of_small_letters_and_any_path() {
        let id = SpiffeId::new("SPIFFE://public/ns/Default/Orders").expect("an id");
        assert_eq!(id.to_string(), "spiffe://public/ns/Default/Orders");
        for text in ["spiffe://Public/ns/default/orders", "spiffe://PUBLIC"] {
            assert_eq!(SpiffeId::new(text), Err(Error::TrustDomain), "{text}");
        }
        assert!(matches!(
            SpiffeId::new("https://a/b"),
            Err(Error::Invalid(_))
        ));
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(text in "(spiffe://)?[a-cA-C./:-]{0,20}") {
            if let Ok(id) = SpiffeId::new(&text) {
                prop_assert_eq!(id.to_string(), text.as_str());
            }
            if let Ok(domain) = TrustDomain::new(&text) {
                prop_assert!(text.contains(domain.as_str()), "{}", domain);
            }
        }
    }
}
