//! Who may call what: `spec.accessControl`, `spec.api`, `spec.mtls` and `spec.secrets`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::or_default;

/// Which apps may call this one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessControl {
    /// `allow` or `deny` for callers without a policy; empty means allow.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub default_action: String,
    /// Trust domain of the workloads that use this configuration; empty means `public`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub trust_domain: String,
    /// Policies per caller.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<AccessControlPolicy>,
}

/// What one caller may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessControlPolicy {
    /// App id of the caller.
    #[serde(deserialize_with = "or_default")]
    pub app_id: String,
    /// `allow` or `deny` for operations that are not listed.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub default_action: String,
    /// Trust domain of the caller; empty means `public`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub trust_domain: String,
    /// Namespace of the caller; empty means `default`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub namespace: String,
    /// The operations.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<AccessControlOperation>,
}

/// One operation of the app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessControlOperation {
    /// Path with `*` wildcards.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// HTTP verbs, or `*`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub http_verb: Vec<String>,
    /// `allow` or `deny`.
    #[serde(deserialize_with = "or_default")]
    pub action: String,
}

/// APIs of the sidecar that are open or closed to the app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiAccess {
    /// Open APIs; none means all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<ApiRule>,
    /// Closed APIs.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<ApiRule>,
}

/// One API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiRule {
    /// Name, for example `state`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Version, for example `v1`.
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// `http` or `grpc`; empty means both.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub protocol: String,
}

/// Workload certificates and the identity of the control plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MtlsSpec {
    /// Whether sidecars use mTLS between each other; unset means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Life of a workload certificate as a Go duration, default `24h`.
    #[serde(
        rename = "workloadCertTTL",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub workload_cert_ttl: String,
    /// Clock difference tolerated as a Go duration, default `15m`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub allowed_clock_skew: String,
    /// Trust domain of the control plane.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub control_plane_trust_domain: String,
    /// Host and port of Sentry.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub sentry_address: String,
    /// Further validators of Sentry.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub token_validators: Vec<TokenValidator>,
}

/// A further validator of Sentry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TokenValidator {
    /// `jwks`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its options, free JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Value>,
}

/// Which secrets the app may read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretsSpec {
    /// One entry per store.
    #[serde(deserialize_with = "or_default")]
    pub scopes: Vec<SecretsScope>,
}

/// Which secrets of one store the app may read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretsScope {
    /// Name of the store, once per list.
    #[serde(deserialize_with = "or_default")]
    pub store_name: String,
    /// `allow` or `deny`; empty means allow.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub default_access: String,
    /// Names that are allowed.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed_secrets: Vec<String>,
    /// Names that are denied.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub denied_secrets: Vec<String>,
}
