//! `spec` of a Resiliency resource, as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Policies by name.
    pub policies: Policies,
    /// Where they apply.
    pub targets: Targets,
}

/// Policies by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policies {
    /// Durations: an integer is milliseconds, everything else Go's notation.
    pub timeouts: BTreeMap<String, String>,
    /// Retries.
    pub retries: BTreeMap<String, Retry>,
    /// Circuit breakers.
    pub circuit_breakers: BTreeMap<String, CircuitBreaker>,
}

/// A retry policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// `constant` (default) or `exponential`.
    pub policy: String,
    /// Interval of `constant`; 5 s.
    pub duration: String,
    /// Cap of `exponential`; 60 s.
    pub max_interval: String,
    /// Retries after the first try; `None` and negative are unlimited.
    pub max_retries: Option<i64>,
    /// Which answers are retried.
    pub matching: Option<Matching>,
}

/// Which answers are retried; an empty list is all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Matching {
    /// For instance `429,500-599`.
    #[serde(rename = "httpStatusCodes")]
    pub http_status_codes: String,
    /// For instance `1-4,8`.
    #[serde(rename = "gRPCStatusCodes")]
    pub grpc_status_codes: String,
}

/// A circuit breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Calls admitted half-open; 0 is 1.
    pub max_requests: i64,
    /// How often counters are cleared while closed; 0 is never.
    pub interval: String,
    /// Time open; 0 is 60 s.
    pub timeout: String,
    /// CEL expression; empty is `consecutiveFailures > 5`.
    pub trip: String,
}

/// Where policies apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Targets {
    /// By app id.
    pub apps: BTreeMap<String, App>,
    /// By actor type.
    pub actors: BTreeMap<String, Actor>,
    /// By component name.
    pub components: BTreeMap<String, Component>,
}

/// Names of policies for an application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct App {
    /// Timeout policy.
    pub timeout: String,
    /// Retry policy.
    pub retry: String,
    /// Circuit breaker policy.
    pub circuit_breaker: String,
    /// Endpoints with breakers of their own; 0 is 100.
    pub circuit_breaker_cache_size: i64,
}

/// Names of policies for an actor type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Actor {
    /// Timeout policy.
    pub timeout: String,
    /// Retry policy.
    pub retry: String,
    /// Circuit breaker policy.
    pub circuit_breaker: String,
    /// `type`, `id` or `both`.
    pub circuit_breaker_scope: String,
    /// Actors with breakers of their own; 0 is 5000.
    pub circuit_breaker_cache_size: i64,
}

/// Names of policies for a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Component {
    /// Deliveries to the application.
    pub inbound: PolicyNames,
    /// Calls of the component.
    pub outbound: PolicyNames,
}

/// Names of policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyNames {
    /// Timeout policy.
    pub timeout: String,
    /// Retry policy.
    pub retry: String,
    /// Circuit breaker policy.
    pub circuit_breaker: String,
}
