//! What a process says about itself when it asks for an identity.

use std::path::PathBuf;

use crate::anchors::AnchorsSource;
use crate::identity::TrustDomain;

/// The algorithm of the workload key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// What sidecars and most services use.
    #[default]
    Ed25519,
    /// For webhook servers: some API servers refuse Ed25519 serving certificates.
    Rsa2048,
}

/// How the process proves to Sentry who it is. Files are read at each request, for they are rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// Nothing is sent, and Sentry uses its default validator.
    #[default]
    None,
    /// A token from this file, checked against a key set.
    Jwks(PathBuf),
    /// A service account token from this file, checked by the Kubernetes API server.
    Kubernetes(PathBuf),
}

/// Everything [`crate::Security::start`] needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trust bundle.
    pub trust_anchors: AnchorsSource,
    /// `host:port` of Sentry.
    pub sentry_address: String,
    /// Trust domain of the control plane: Sentry must show an id of it.
    pub control_plane_trust_domain: TrustDomain,
    /// Namespace of the control plane: Sentry must show an id of it.
    pub control_plane_namespace: String,
    /// Namespace to ask an identity for.
    pub namespace: String,
    /// App id to ask an identity for, after any override.
    pub app_id: String,
    /// Proof of identity.
    pub token: TokenSource,
    /// Audiences to ask JWTs for, beside the trust domain.
    pub jwt_audiences: Vec<String>,
    /// Algorithm of the private key; a new key is made for every certificate.
    pub key: KeyKind,
    /// The `trust_domain` field of the request, which only control-plane services set.
    pub trust_domain_in_request: Option<String>,
    /// Whether calls between apps use TLS; calls to the control plane always do once there is an identity.
    pub mtls: bool,
}
