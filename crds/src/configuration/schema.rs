//! The schema of a Configuration, one function per subject.

use serde_json::json;

use crate::schema::{Schema, any_object, boolean, int32, integer, list, map, object, text};
use crate::value::pairs_schema;

pub(crate) fn schema() -> Schema {
    let spec = object()
        .optional("accessControl", access_control())
        .optional(
            "api",
            object()
                .optional("allowed", api_rules())
                .optional("denied", api_rules()),
        )
        .optional("appHttpPipeline", pipeline())
        .optional("components", object().optional("deny", list(text())))
        .optional(
            "features",
            list(
                object()
                    .required("name", text())
                    .required("enabled", boolean()),
            ),
        )
        .optional("httpPipeline", pipeline())
        .optional("logging", object().optional("apiLogging", api_logging()))
        .optional("metric", metric())
        .optional("metrics", metric())
        .optional("mtls", mtls())
        .optional("nameResolution", name_resolution())
        .optional("secrets", secrets())
        .optional("tracing", tracing())
        .optional("wasm", object().optional("strictSandbox", boolean()))
        .optional("workflow", workflow());
    object().optional("spec", spec)
}

fn access_control() -> Schema {
    let operation = object()
        .required("name", text())
        .required("action", text())
        .optional("httpVerb", list(text()));
    let policy = object()
        .required("appId", text())
        .optional("defaultAction", text())
        .optional("trustDomain", text())
        .optional("namespace", text())
        .optional("operations", list(operation));
    object()
        .optional("defaultAction", text())
        .optional("trustDomain", text())
        .optional("policies", list(policy))
}

fn api_rules() -> Schema {
    list(
        object()
            .required("name", text())
            .required("version", text())
            .optional("protocol", text()),
    )
}

fn pipeline() -> Schema {
    let field = object().required("field", text()).required("value", text());
    let handler = object()
        .required("name", text())
        .required("type", text())
        .optional("selector", object().required("fields", list(field)))
        .files_only("version", text());
    object().required("handlers", list(handler))
}

fn api_logging() -> Schema {
    object()
        .optional("enabled", boolean())
        .optional("obfuscateURLs", boolean())
        .optional("omitHealthChecks", boolean())
}

fn metric() -> Schema {
    let http = object()
        .optional("increasedCardinality", boolean())
        .optional("excludeVerbs", boolean())
        .optional("pathMatching", list(text()));
    let label = object()
        .required("name", text())
        .required("regex", map(text()));
    object()
        .required("enabled", boolean())
        .optional("recordErrorCodes", boolean())
        .optional("http", http)
        .optional("latencyDistributionBuckets", list(integer()))
        .optional(
            "rules",
            list(
                object()
                    .required("name", text())
                    .required("labels", list(label)),
            ),
        )
        // Both spellings are defaulted, which makes `metric.enabled: false` alone ineffective in a cluster, as upstream.
        .default_value(json!({"enabled": true}))
}

fn mtls() -> Schema {
    let validator = object()
        .required("name", text().one_of(&["jwks"]))
        .optional("options", any_object());
    object()
        .required("enabled", boolean())
        .required("controlPlaneTrustDomain", text())
        .required("sentryAddress", text())
        .optional("workloadCertTTL", text())
        .optional("allowedClockSkew", text())
        .optional("tokenValidators", list(validator))
}

fn name_resolution() -> Schema {
    object()
        .required("component", text())
        .required("version", text())
        .required("configuration", any_object())
}

fn secrets() -> Schema {
    let scope = object()
        .required("storeName", text())
        .optional("defaultAccess", text())
        .optional("allowedSecrets", list(text()))
        .optional("deniedSecrets", list(text()));
    object().required("scopes", list(scope))
}

fn tracing() -> Schema {
    let otel = object()
        .required("protocol", text())
        .required("endpointAddress", text())
        .required("isSecure", boolean())
        .optional("headers", pairs_schema().or_texts_in_files())
        .optional("timeout", text());
    object()
        .required("samplingRate", text())
        .optional("stdout", boolean())
        .optional("zipkin", object().required("endpointAddress", text()))
        .optional("otel", otel)
}

fn workflow() -> Schema {
    let limits = || {
        list(
            object()
                .optional("name", text())
                .optional("maxConcurrent", int32()),
        )
    };
    let retention = object()
        .optional("anyTerminal", text())
        .optional("completed", text())
        .optional("failed", text())
        .optional("terminated", text());
    object()
        .optional("maxConcurrentWorkflowInvocations", int32())
        .optional("maxConcurrentActivityInvocations", int32())
        .optional("globalMaxConcurrentWorkflowInvocations", int32())
        .optional("globalMaxConcurrentActivityInvocations", int32())
        .optional("workflowConcurrencyLimits", limits())
        .optional("activityConcurrencyLimits", limits())
        .optional("stateRetentionPolicy", retention)
}
