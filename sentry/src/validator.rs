//! Who may have which identity.

use std::sync::Arc;

use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_proto::dapr::proto::sentry::v1::sign_certificate_request::TokenValidator;
use dapr_security::TrustDomain;

pub(crate) mod jwks;
pub(crate) mod kubernetes;

/// Trust domain of workloads that name none.
const PUBLIC: &str = "public";
/// Longest app id.
const APP_ID_LIMIT: usize = 64;
/// Longest trust domain, by the rules of SPIFFE.
const TRUST_DOMAIN_LIMIT: usize = 255;

/// Why a request is denied, in upstream's words where it has any.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("invalid request: {}", lines(.0))]
    Request(Vec<Flaw>),
    #[error("trust domain is missing")]
    NoTrustDomain,
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    TrustDomain,
    #[error("trust domain must be {TRUST_DOMAIN_LIMIT} characters or less")]
    LongTrustDomain,
    #[error(transparent)]
    Token(#[from] jwks::Denied),
    #[error(transparent)]
    Pod(#[from] kubernetes::Denied),
}

/// What is wrong with a request, whoever sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("parameter app-id cannot be empty")]
    NoAppId,
    #[error("parameter app-id cannot contain dots")]
    Dotted,
    #[error("app ID must be {APP_ID_LIMIT} characters or less")]
    TooLong,
    #[error("CSR is required")]
    NoRequest,
    #[error("namespace is required")]
    NoNamespace,
}

/// Why a request is not granted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The answer is no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no answer yet; worth another try.
    #[error("pods and configurations are not known yet: the API server has not listed them")]
    NotSynced,
    /// There is no answer; worth another try.
    #[error("token cannot be reviewed: the API server fails")]
    Review(#[source] kube::Error),
}

impl From<kubernetes::Denied> for Error {
    fn from(denied: kubernetes::Denied) -> Self {
        Self::Denied(denied.into())
    }
}

/// Why there is no validator for a request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unavailable {
    #[error("a validator name must be specified in this environment")]
    Unnamed,
    #[error("the requested validator is not enabled")]
    NotEnabled,
}

/// A request whose claims hold.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// The trust domain of the identity it gets.
    pub(crate) trust_domain: TrustDomain,
    /// UID of the pod that asks, where that is known.
    pub(crate) pod: Option<String>,
}

/// How the sender's claims are checked.
#[derive(Clone, Debug)]
pub(crate) enum Validator {
    /// Anybody gets what they ask for.
    Insecure,
    /// A token signed by a known key has to say the same.
    Jwks(Arc<jwks::Validator>),
    /// The token of a pod has to belong to the app.
    Kubernetes(Arc<kubernetes::Cluster>),
}

impl Validator {
    /// Checks the request and finds the trust domain of the identity it gets.
    pub(crate) async fn validate(
        &self,
        request: &SignCertificateRequest,
    ) -> Result<Granted, Error> {
        if matches!(self, Self::Jwks(_)) && request.token.is_empty() {
            return Err(Denied::Token(jwks::Denied::NoToken).into());
        }
        let trust_domain = common(request)?;
        match self {
            Self::Insecure => {}
            Self::Jwks(validator) => validator
                .validate(request, &trust_domain)
                .map_err(Denied::Token)?,
            Self::Kubernetes(cluster) => return cluster.validate(request).await,
        }
        Ok(Granted {
            trust_domain,
            pod: None,
        })
    }
}

/// The validators of a Sentry. In Kubernetes that of the cluster is the default and `jwks` comes in addition; elsewhere
/// the insecure one stands in for the configured one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Validators {
    pub(crate) kubernetes: Option<Arc<kubernetes::Cluster>>,
    pub(crate) jwks: Option<Arc<jwks::Validator>>,
}

impl Validators {
    /// The validator for a request that asks for this one.
    pub(crate) fn choose(&self, asked: i32) -> Result<Validator, Unavailable> {
        let asked = TokenValidator::try_from(asked).map_err(|_| Unavailable::NotEnabled)?;
        match (asked, &self.kubernetes, &self.jwks) {
            (TokenValidator::Unknown | TokenValidator::Kubernetes, Some(cluster), _) => {
                Ok(Validator::Kubernetes(Arc::clone(cluster)))
            }
            (TokenValidator::Jwks, _, Some(validator)) => {
                Ok(Validator::Jwks(Arc::clone(validator)))
            }
            (TokenValidator::Unknown, None, Some(_)) => Err(Unavailable::Unnamed),
            (TokenValidator::Unknown | TokenValidator::Insecure, None, None) => {
                Ok(Validator::Insecure)
            }
            (TokenValidator::Insecure, Some(_), _)
            | (TokenValidator::Insecure, _, Some(_))
            | (TokenValidator::Jwks, _, None)
            | (TokenValidator::Kubernetes, None, _) => Err(Unavailable::NotEnabled),
        }
    }
}

fn common(request: &SignCertificateRequest) -> Result<TrustDomain, Denied> {
    let flaws: Vec<Flaw> = [
        (Flaw::NoAppId, request.id.is_empty()),
        (Flaw::Dotted, request.id.contains('.')),
        (Flaw::TooLong, request.id.len() > APP_ID_LIMIT),
        (
            Flaw::NoRequest,
            request.certificate_signing_request.is_empty(),
        ),
        (Flaw::NoNamespace, request.namespace.is_empty()),
    ]
    .into_iter()
    .filter_map(|(flaw, is_there)| is_there.then_some(flaw))
    .collect();
    if !flaws.is_empty() {
        return Err(Denied::Request(flaws));
    }
    trust_domain(if request.trust_domain.is_empty() {
        PUBLIC
    } else {
        &request.trust_domain
    })
}

/// One below the other, as upstream joins them.
fn lines(flaws: &[Flaw]) -> String {
    let flaws: Vec<String> = flaws.iter().map(Flaw::to_string).collect();
    flaws.join("\n")
}

/// Parses a trust domain.
pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, Denied> {
    if text.len() > TRUST_DOMAIN_LIMIT {
        return Err(Denied::LongTrustDomain);
    }
    let name = text.strip_prefix("spiffe://");
    if name.is_some_and(|name| name.is_empty() || name.starts_with('/')) {
        return Err(Denied::NoTrustDomain);
    }
    TrustDomain::new(text).map_err(|_| Denied::TrustDomain)
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
        match common(request) {
            Ok(found) => assert_eq!(Ok(found.as_str()), expected),
            Err(found) => assert_eq!(Err(found.to_string().as_str()), expected),
        }
    }

    #[test]
    fn the_common_rules() {
        const TRUST_DOMAIN_LETTERS: &str = "trust domain characters are limited to lowercase letters, numbers, dots, \
             dashes, and underscores";
        let long = "a".repeat(256);
        check(
            &request("orders", "default", &long, "x"),
            Err("trust domain must be 255 characters or less"),
        );
        check(&request("orders", "default", "", "x"), Ok("public"));
        check(
            &request("orders", "default", "example.org", "x"),
            Ok("example.org"),
        );
        check(
            &request("", "default", "", "x"),
            Err("invalid request: parameter app-id cannot be empty"),
        );
        check(
            &request("or.ders", "default", "", "x"),
            Err("invalid request: parameter app-id cannot contain dots"),
        );
        check(&request(&"a".repeat(64), "default", "", "x"), Ok("public"));
        check(
            &request(&"a".repeat(65), "default", "", "x"),
            Err("invalid request: app ID must be 64 characters or less"),
        );
        check(
            &request("orders", "", "", "x"),
            Err("invalid request: namespace is required"),
        );
        check(
            &request("orders", "default", "", ""),
            Err("invalid request: CSR is required"),
        );
        check(
            &request("or.ders", "", "", ""),
            Err(
                "invalid request: parameter app-id cannot contain dots\nCSR is required\nnamespace is required",
            ),
        );
        check(
            &request(&"a".repeat(65), "", "", "x"),
            Err("invalid request: app ID must be 64 characters or less\nnamespace is required"),
        );
        check(
            &request("orders", "default", "spiffe://", "x"),
            Err("trust domain is missing"),
        );
        check(
            &request("orders", "default", "a b", "x"),
            Err(TRUST_DOMAIN_LETTERS),
        );
        for capital in ["Example.org", "SPIFFE://example.org"] {
            check(
                &request("orders", "default", capital, "x"),
                Err(TRUST_DOMAIN_LETTERS),
            );
        }
    }

    #[tokio::test]
    async fn without_a_token_nothing_else_matters_to_the_jwks_validator() {
        let validator = Validator::Jwks(Arc::new(jwks::Validator::for_tests()));
        let denied = validator.validate(&request("", "", "", "")).await;
        assert_eq!(
            denied.unwrap_err().to_string(),
            "the request does not contain a token"
        );
    }

    #[tokio::test]
    async fn a_configured_validator_must_be_named() {
        let jwks = Some(Arc::new(jwks::Validator::for_tests()));
        let cluster = Some(Arc::new(kubernetes::Cluster::for_tests()));
        let validators = [
            (None, None),
            (None, jwks.clone()),
            (cluster.clone(), None),
            (cluster, jwks),
        ]
        .map(|(kubernetes, jwks)| Validators { kubernetes, jwks });
        let name = |validators: &Validators, asked: i32| match validators.choose(asked) {
            Ok(Validator::Insecure) => "insecure",
            Ok(Validator::Jwks(_)) => "jwks",
            Ok(Validator::Kubernetes(_)) => "kubernetes",
            Err(Unavailable::Unnamed) => "unnamed",
            Err(Unavailable::NotEnabled) => "-",
        };
        for (asked, expected) in [
            (
                TokenValidator::Unknown as i32,
                ["insecure", "unnamed", "kubernetes", "kubernetes"],
            ),
            (TokenValidator::Insecure as i32, ["insecure", "-", "-", "-"]),
            (
                TokenValidator::Kubernetes as i32,
                ["-", "-", "kubernetes", "kubernetes"],
            ),
            (TokenValidator::Jwks as i32, ["-", "jwks", "-", "jwks"]),
            (99, ["-", "-", "-", "-"]),
        ] {
            let found = [0, 1, 2, 3].map(|at| name(&validators[at], asked));
            assert_eq!(found, expected, "{asked}");
        }
        assert_eq!(
            Unavailable::Unnamed.to_string(),
            "a validator name must be specified in this environment"
        );
        assert_eq!(
            Unavailable::NotEnabled.to_string(),
            "the requested validator is not enabled"
        );
    }
}
