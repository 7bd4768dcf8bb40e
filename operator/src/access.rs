//! Who may ask for what: a caller gets the resources of the namespace its certificate names, and of no other. Pure.
//!
//! The trust domain is not looked at: whoever the anchors admit is who the certificate says.

use dapr_security::Identity;

/// Why a call is refused; the texts are those of the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The certificate names no app in a namespace.
    #[error("failed to determine identity")]
    Unknown,
    /// The caller is of another namespace than it asks for.
    #[error("identity does not match requested namespace exp={requested} got={own}")]
    Namespace {
        /// What it asked for.
        requested: String,
        /// Where it is.
        own: String,
    },
}

/// Admits a caller to a namespace.
///
/// # Errors
/// See [`Refused`]. No namespace is never the caller's.
pub fn authorize<'a>(
    identity: Option<&'a Identity>,
    namespace: &str,
) -> Result<&'a Identity, Refused> {
    let identity = identity.ok_or(Refused::Unknown)?;
    if namespace.is_empty() || identity.namespace != namespace {
        return Err(Refused::Namespace {
            requested: namespace.to_owned(),
            own: identity.namespace.clone(),
        });
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use dapr_security::SpiffeId;

    use super::*;

    #[track_caller]
    fn check(id: &str, namespace: &str, expected: Result<&str, &str>) {
        let id = SpiffeId::new(id).expect("an id");
        let identity = Identity::from_spiffe_id(&id).ok();
        let actual = authorize(identity.as_ref(), namespace)
            .map(|identity| identity.app_id.as_str())
            .map_err(|refused| refused.to_string());
        assert_eq!(actual, expected.map_err(str::to_owned), "{id} {namespace}");
    }

    #[test]
    fn the_certificate_decides() {
        check("spiffe://public/ns/default/shop", "default", Ok("shop"));
        check("spiffe://other.org/ns/default/shop", "default", Ok("shop"));
        check("spiffe://public/ns/default/shop/x/y", "default", Ok("shop"));
        let unknown = Err("failed to determine identity");
        check("spiffe://public/ns/default", "default", unknown);
        check("spiffe://public/sa/default/shop", "default", unknown);
        check("spiffe://public", "default", unknown);
        check(
            "spiffe://public/ns/default/shop",
            "other",
            Err("identity does not match requested namespace exp=other got=default"),
        );
        check(
            "spiffe://public/ns/default/shop",
            "",
            Err("identity does not match requested namespace exp= got=default"),
        );
        check(
            "spiffe://public/ns/default/shop",
            "Default",
            Err("identity does not match requested namespace exp=Default got=default"),
        );
    }
}
