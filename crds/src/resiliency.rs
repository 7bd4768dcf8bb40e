//! Resiliency: named timeouts, retries and circuit breakers, and the targets they apply to.
//!
//! Durations stay text here: what `5s` or `5000` means is decided where the policies are built.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::meta::{V1Alpha1, or_default, or_default_values, resource};
use crate::schema::{Schema, integer, map, object, text};
use crate::value::scopes_schema;

/// Policies and targets of one file or object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename = "Resiliency", default, rename_all = "camelCase")]
pub struct Resiliency {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// Policies and targets.
    #[serde(deserialize_with = "or_default")]
    pub spec: ResiliencySpec,
    /// App ids it applies to; empty means all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(Resiliency, "Resiliency", "v1alpha1", "resiliencies", |it| {
    &it.scopes
});

/// What is done on failures, and to whom.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResiliencySpec {
    /// The named policies.
    #[serde(deserialize_with = "or_default")]
    pub policies: Policies,
    /// Who uses them.
    #[serde(deserialize_with = "or_default")]
    pub targets: Targets,
}

/// The policies by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policies {
    /// Go durations, or milliseconds without a unit.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub timeouts: BTreeMap<String, String>,
    /// Retries by name.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub retries: BTreeMap<String, Retry>,
    /// Circuit breakers by name.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub circuit_breakers: BTreeMap<String, CircuitBreaker>,
}

/// A retry policy; empty fields take the defaults of the runtime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retry {
    /// `constant` (default) or `exponential`, in any case.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub policy: String,
    /// Interval of a constant policy, default `5s`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub duration: String,
    /// Largest interval of an exponential policy, default `60s`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub max_interval: String,
    /// Retries after the first try; none means without limit, as does -1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
    /// Which status codes are retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<RetryMatching>,
}

/// Status codes that are retried; an empty list retries all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryMatching {
    /// Codes and ranges such as `429,500-599`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub http_status_codes: String,
    /// Codes and ranges such as `1-4,8`.
    #[serde(
        rename = "gRPCStatusCodes",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub grpc_status_codes: String,
}

/// A circuit breaker; empty fields take the defaults of the runtime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Calls admitted while half open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<i64>,
    /// Period after which the counters are cleared while closed.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub interval: String,
    /// Delay from open to half open.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub timeout: String,
    /// CEL expression over the counters.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub trip: String,
}

/// Who uses which policies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Targets {
    /// By app id, URL or HTTPEndpoint name.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub apps: BTreeMap<String, AppTarget>,
    /// By actor type.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub actors: BTreeMap<String, ActorTarget>,
    /// By component name.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub components: BTreeMap<String, ComponentTarget>,
}

/// Policies of one app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AppTarget {
    /// Name of a timeout.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub timeout: String,
    /// Name of a retry.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub retry: String,
    /// Name of a circuit breaker.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub circuit_breaker: String,
    /// Breakers kept per app, default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<i64>,
}

/// Policies of one actor type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ActorTarget {
    /// Name of a timeout.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub timeout: String,
    /// Name of a retry.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub retry: String,
    /// Name of a circuit breaker.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub circuit_breaker: String,
    /// `type`, `id` or `both`; needed when a breaker is named.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub circuit_breaker_scope: String,
    /// Breakers kept per type, default 5000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<i64>,
}

/// Policies of one component in both directions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ComponentTarget {
    /// Deliveries to the app.
    #[serde(deserialize_with = "or_default")]
    pub inbound: PolicyNames,
    /// Calls to the component.
    #[serde(deserialize_with = "or_default")]
    pub outbound: PolicyNames,
}

/// Names of the policies used in one direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyNames {
    /// Name of a timeout.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub timeout: String,
    /// Name of a retry.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub retry: String,
    /// Name of a circuit breaker.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub circuit_breaker: String,
}

pub(crate) fn schema() -> Schema {
    let spec = object()
        .required(
            "policies",
            "The policies, by names that targets refer to.",
            policies_schema(),
        )
        .required(
            "targets",
            "Which policies apply to whom; a target named here has no default policies.",
            targets_schema(),
        );
    object()
        .optional(
            "scopes",
            "App ids whose sidecars apply it; all of the namespace when empty.",
            scopes_schema(),
        )
        .optional("spec", "What is done about failures, and where.", spec)
}

fn policies_schema() -> Schema {
    let matching = object()
        .optional(
            "httpStatusCodes",
            "HTTP codes to retry, with commas and ranges such as 429,500-599; all when empty.",
            text(),
        )
        .optional(
            "gRPCStatusCodes",
            "gRPC codes to retry, with commas and ranges such as 1-4,8; all when empty.",
            text(),
        );
    let retry = object()
        .optional(
            "policy",
            "How pauses grow: constant (the default) or exponential.",
            text(),
        )
        .optional(
            "duration",
            "Pause of a constant policy, a duration or milliseconds; 5s by default.",
            text(),
        )
        .optional(
            "maxInterval",
            "Longest pause of an exponential policy, a duration or milliseconds; 60s by \
             default.",
            text(),
        )
        .optional(
            "maxRetries",
            "Tries after the first one; 0 for none, -1 (the default) for no limit.",
            integer(),
        )
        .optional(
            "matching",
            "Which status codes are retried; failures without one always are.",
            matching,
        );
    let breaker = object()
        .optional(
            "maxRequests",
            "Calls let through while half open, and successes that close it; 1 by default.",
            integer(),
        )
        .optional(
            "interval",
            "Period after which a closed breaker clears its counters; never by default.",
            text(),
        )
        .optional(
            "timeout",
            "How long it stays open before calls are tried again; 60s by default.",
            text(),
        )
        .optional(
            "trip",
            "CEL condition that opens it, over requests, totalSuccesses, totalFailures, \
             consecutiveSuccesses and consecutiveFailures; consecutiveFailures > 5 by \
             default.",
            text(),
        );
    object()
        .optional(
            "timeouts",
            "Limits of one attempt by name: a duration such as 5s, or milliseconds.",
            map(text()),
        )
        .optional("retries", "Retries by name.", map(retry))
        .optional("circuitBreakers", "Circuit breakers by name.", map(breaker))
}

fn targets_schema() -> Schema {
    let names = || {
        object()
            .optional("timeout", "Name of a timeout.", text())
            .optional("retry", "Name of a retry.", text())
            .optional("circuitBreaker", "Name of a circuit breaker.", text())
    };
    let app = names().optional(
        "circuitBreakerCacheSize",
        "How many circuit breakers are kept, one per endpoint; 100 by default.",
        integer(),
    );
    let actor = names()
        .optional(
            "circuitBreakerScope",
            "What shares a circuit breaker: type or id (both means id); required where one \
             is named.",
            text(),
        )
        .optional(
            "circuitBreakerCacheSize",
            "How many circuit breakers are kept; 5000 by default.",
            integer(),
        );
    let component = object()
        .optional(
            "inbound",
            "Policies for what it delivers to the app.",
            names(),
        )
        .optional("outbound", "Policies for calls of it.", names());
    object()
        .optional(
            "apps",
            "Policies for calls of apps, by app id, URL or name of an HTTPEndpoint.",
            map(app),
        )
        .optional(
            "actors",
            "Policies for calls of actors, by actor type.",
            map(actor),
        )
        .optional(
            "components",
            "Policies for components, by name.",
            map(component),
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{ComponentTarget, Resiliency, ResiliencySpec};

    #[test]
    fn names_with_nothing_behind_them_are_entries() {
        let spec: ResiliencySpec = serde_json::from_value(json!({
            "policies": {"timeouts": {"t": null}, "retries": {"r": null}, "circuitBreakers": {"c": null}},
            "targets": {"apps": {"a": null}, "actors": {"b": null}, "components": {"c": null}},
        }))
        .expect("read");
        let (policies, targets) = (spec.policies, spec.targets);
        assert_eq!(policies.timeouts["t"], "");
        assert_eq!(policies.retries.len() + policies.circuit_breakers.len(), 2);
        assert_eq!(targets.apps.len() + targets.actors.len(), 2);
        assert_eq!(targets.components["c"], ComponentTarget::default());
    }

    #[test]
    fn empty_fields_are_written_as_upstream_writes_them() {
        let mut resiliency = Resiliency::default();
        resiliency
            .spec
            .targets
            .components
            .insert("store".to_owned(), ComponentTarget::default());
        assert_eq!(
            serde_json::to_value(&resiliency).unwrap(),
            json!({
                "kind": "Resiliency", "apiVersion": "dapr.io/v1alpha1", "metadata": {},
                "spec": {"policies": {}, "targets": {"components": {"store": {"inbound": {}, "outbound": {}}}}},
            })
        );
    }
}
