//! Who may have which identity.

use std::sync::Arc;

use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_proto::dapr::proto::sentry::v1::sign_certificate_request::TokenValidator;
use dapr_security::TrustDomain;

pub(crate) mod jwks;

/// Trust domain of workloads that name none.
const PUBLIC: &str = "public";
/// Longest app id.
const APP_ID_LIMIT: usize = 64;

/// Why a request is denied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("app ID must not be empty")]
    NoAppId,
    #[error("app ID must not contain dots")]
    Dotted,
    #[error("app ID must be {APP_ID_LIMIT} characters or less")]
    TooLong,
    #[error("CSR must not be empty")]
    NoRequest,
    #[error("namespace must not be empty")]
    NoNamespace,
    #[error("invalid trust domain {0:?}")]
    TrustDomain(String),
    #[error(transparent)]
    Token(#[from] jwks::Denied),
}

/// Why there is no validator for a request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unavailable {
    #[error("a validator name must be specified in this environment")]
    Unnamed,
    #[error("the requested validator is not enabled")]
    NotEnabled,
}

/// How the sender's claims are checked.
#[derive(Clone, Debug)]
pub(crate) enum Validator {
    /// Anybody gets what they ask for.
    Insecure,
    /// A token signed by a known key has to say the same.
    Jwks(Arc<jwks::Validator>),
}

impl Validator {
    /// Checks the request and finds the trust domain of the identity it gets.
    pub(crate) fn validate(&self, request: &SignCertificateRequest) -> Result<TrustDomain, Denied> {
        let trust_domain = common(request)?;
        match self {
            Self::Insecure => {}
            Self::Jwks(validator) => validator.validate(request, &trust_domain)?,
        }
        Ok(trust_domain)
    }
}

/// The validators of a standalone Sentry: the configured one, else the insecure one.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    pub(crate) jwks: Option<Arc<jwks::Validator>>,
}

impl Validators {
    /// The validator for a request that asks for this one.
    pub(crate) fn choose(&self, asked: i32) -> Result<Validator, Unavailable> {
        match (TokenValidator::try_from(asked), &self.jwks) {
            (Ok(TokenValidator::Unknown), Some(_)) => Err(Unavailable::Unnamed),
            (Ok(TokenValidator::Unknown | TokenValidator::Insecure), None) => {
                Ok(Validator::Insecure)
            }
            (Ok(TokenValidator::Jwks), Some(validator)) => {
                Ok(Validator::Jwks(Arc::clone(validator)))
            }
            (Ok(TokenValidator::Insecure), Some(_))
            | (Ok(TokenValidator::Jwks), None)
            | (Ok(TokenValidator::Kubernetes) | Err(_), _) => Err(Unavailable::NotEnabled),
        }
    }
}

fn common(request: &SignCertificateRequest) -> Result<TrustDomain, Denied> {
    if request.id.is_empty() {
        return Err(Denied::NoAppId);
    }
    if request.id.contains('.') {
        return Err(Denied::Dotted);
    }
    if request.id.len() > APP_ID_LIMIT {
        return Err(Denied::TooLong);
    }
    if request.certificate_signing_request.is_empty() {
        return Err(Denied::NoRequest);
    }
    if request.namespace.is_empty() {
        return Err(Denied::NoNamespace);
    }
    trust_domain(if request.trust_domain.is_empty() {
        PUBLIC
    } else {
        &request.trust_domain
    })
}

/// Parses a trust domain; capital letters are refused, not lowered.
pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, Denied> {
    TrustDomain::new(text)
        .ok()
        .filter(|it| {
            it.as_str()
                == text
                    .strip_prefix("spiffe://")
                    .unwrap_or(text)
                    .split('/')
                    .next()
                    .unwrap_or(text)
        })
        .ok_or_else(|| Denied::TrustDomain(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, namespace: &str, trust_domain: &str, csr: &str) -> SignCertificateRequest {
        SignCertificateRequest {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.to_owned(),
            certificate_signing_request: csr.to_owned().into_bytes().into(),
            ..Default::default()
        }
    }

    fn check(request: &SignCertificateRequest, expected: Result<&str, &str>) {
        let found = Validator::Insecure.validate(request);
        match found {
            Ok(found) => assert_eq!(Ok(found.as_str()), expected),
            Err(found) => assert_eq!(Err(found.to_string().as_str()), expected),
        }
    }

    #[test]
    fn the_common_rules() {
        check(&request("orders", "default", "", "x"), Ok("public"));
        check(
            &request("orders", "default", "example.org", "x"),
            Ok("example.org"),
        );
        check(
            &request("", "default", "", "x"),
            Err("app ID must not be empty"),
        );
        check(
            &request("or.ders", "default", "", "x"),
            Err("app ID must not contain dots"),
        );
        check(&request(&"a".repeat(64), "default", "", "x"), Ok("public"));
        check(
            &request(&"a".repeat(65), "default", "", "x"),
            Err("app ID must be 64 characters or less"),
        );
        check(
            &request("orders", "", "", "x"),
            Err("namespace must not be empty"),
        );
        check(
            &request("orders", "default", "", ""),
            Err("CSR must not be empty"),
        );
        check(
            &request("orders", "default", "a b", "x"),
            Err("invalid trust domain \"a b\""),
        );
        check(
            &request("orders", "default", "Example.org", "x"),
            Err("invalid trust domain \"Example.org\""),
        );
    }

    #[test]
    fn a_configured_validator_must_be_named() {
        let insecure = Validators { jwks: None };
        let jwks = Validators {
            jwks: Some(Arc::new(jwks::Validator::for_tests())),
        };
        let name = |validators: &Validators, asked: i32| match validators.choose(asked) {
            Ok(Validator::Insecure) => "insecure".to_owned(),
            Ok(Validator::Jwks(_)) => "jwks".to_owned(),
            Err(error) => error.to_string(),
        };
        let (unnamed, disabled) = (
            "a validator name must be specified in this environment",
            "the requested validator is not enabled",
        );
        for (asked, without, with) in [
            (TokenValidator::Unknown as i32, "insecure", unnamed),
            (TokenValidator::Insecure as i32, "insecure", disabled),
            (TokenValidator::Kubernetes as i32, disabled, disabled),
            (TokenValidator::Jwks as i32, disabled, "jwks"),
            (99, disabled, disabled),
        ] {
            assert_eq!(name(&insecure, asked), without, "{asked}");
            assert_eq!(name(&jwks, asked), with, "{asked}");
        }
    }
}
