//! Who a workload is: the SPIFFE id `spiffe://<trust domain>/ns/<namespace>/<app id>`, taken apart.

use std::fmt;

use crate::{certificate, id};

pub use crate::id::{SpiffeId, TrustDomain};

/// A Dapr identity, read from a SPIFFE id whose path starts with `/ns/<namespace>/<app id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The trust domain that issued the identity.
    pub trust_domain: TrustDomain,
    /// The namespace of the workload, never empty.
    pub namespace: String,
    /// The app id of the workload, never empty.
    pub app_id: String,
}

/// Why no identity could be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The string is no SPIFFE id.
    #[error("invalid SPIFFE ID")]
    Invalid(#[from] id::Error),
    /// The SPIFFE id has no `/ns/<namespace>/<app id>` path.
    #[error("SPIFFE ID {0} has no path of the form /ns/<namespace>/<app id>")]
    Path(SpiffeId),
    /// The certificate is no SPIFFE leaf certificate.
    #[error("certificate carries no usable SPIFFE ID")]
    Certificate(#[from] certificate::Error),
}

impl Identity {
    /// Reads an identity from a SPIFFE id; what follows the app id in the path is ignored.
    ///
    /// # Errors
    /// [`Error::Path`] if the path does not start with `/ns/<namespace>/<app id>`.
    pub fn from_spiffe_id(id: &SpiffeId) -> Result<Self, Error> {
        let mut segments = id.path().split('/').skip(1);
        match (segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some(app_id)) => Ok(Self {
                trust_domain: TrustDomain::new(id.trust_domain_name())?,
                namespace: namespace.to_owned(),
                app_id: app_id.to_owned(),
            }),
            _ => Err(Error::Path(id.clone())),
        }
    }

    /// Reads an identity from a peer's leaf certificate, which must have exactly one URI SAN and must not be a CA.
    ///
    /// # Errors
    /// [`Error::Certificate`] if it is no SPIFFE leaf, [`Error::Path`] if its id is not one of Dapr.
    pub fn from_certificate(der: &[u8]) -> Result<Self, Error> {
        Self::from_spiffe_id(&certificate::leaf(der)?.spiffe_id)
    }

    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a part has characters a SPIFFE id does not allow.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, app_id: &str) -> Result<Self, Error> {
        spiffe_id(trust_domain, namespace, app_id)?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/{}",
            self.trust_domain, self.namespace, self.app_id
        )
    }
}

/// Builds `spiffe://<trust domain>/ns/<namespace>/<app id>`.
///
/// # Errors
/// [`Error::Invalid`] if a part is empty or has a character other than letters, digits, `.`, `-`, `_`.
pub fn spiffe_id(
    trust_domain: &TrustDomain,
    namespace: &str,
    app_id: &str,
) -> Result<SpiffeId, Error> {
    Ok(SpiffeId::from_segments(
        trust_domain.clone(),
        &["ns", namespace, app_id],
    )?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(id: &str, expected: Option<(&str, &str, &str)>) {
        let found = SpiffeId::new(id)
            .ok()
            .and_then(|id| Identity::from_spiffe_id(&id).ok());
        let expected = expected.map(|(trust_domain, namespace, app_id)| Identity {
            trust_domain: TrustDomain::new(trust_domain).unwrap(),
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
        });
        assert_eq!(found, expected, "{id}");
    }

    #[test]
    fn paths_are_taken_apart() {
        check(
            "spiffe://public/ns/default/orders",
            Some(("public", "default", "orders")),
        );
        check(
            "spiffe://a.example/ns/n/app/more/parts",
            Some(("a.example", "n", "app")),
        );
        check("spiffe://public/ns/default", None);
        check("spiffe://public/namespace/default/orders", None);
        check("spiffe://public", None);
        check("https://public/ns/default/orders", None);
    }

    #[test]
    fn ids_are_built_from_valid_parts_only() {
        let trust_domain = TrustDomain::new("localhost").unwrap();
        let id = spiffe_id(&trust_domain, "default", "dapr-sentry").unwrap();
        assert_eq!(id.to_string(), "spiffe://localhost/ns/default/dapr-sentry");
        for (namespace, app_id) in [
            ("", "a"),
            ("n", ""),
            ("n/m", "a"),
            ("n", "a b"),
            ("..", "a"),
            ("n", "ä"),
        ] {
            assert!(
                spiffe_id(&trust_domain, namespace, app_id).is_err(),
                "{namespace} {app_id}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_id_parses_or_fails(id in ".{0,80}") {
            if let Ok(id) = SpiffeId::new(format!("spiffe://{id}"))
                && let Ok(identity) = Identity::from_spiffe_id(&id)
            {
                prop_assert!(!identity.namespace.is_empty() && !identity.app_id.is_empty());
            }
        }

        #[test]
        fn built_ids_read_back(namespace in "[a-z][a-z0-9-]{0,20}", app_id in "[a-zA-Z0-9_-]{1,20}") {
            let trust_domain = TrustDomain::new("public").unwrap();
            let id = spiffe_id(&trust_domain, &namespace, &app_id).unwrap();
            let identity = Identity::from_spiffe_id(&id).unwrap();
            prop_assert_eq!(identity.to_string(), id.to_string());
        }
    }
}
