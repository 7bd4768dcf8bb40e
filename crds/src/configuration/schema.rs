//! The schema of a Configuration, one function per subject.

use serde_json::json;

use crate::schema::{Schema, any_object, boolean, int32, integer, list, map, object, text};
use crate::value::pairs_schema;

pub(crate) fn schema() -> Schema {
    let api = object()
        .optional(
            "allowed",
            "APIs that are open; where a protocol has an entry, all its others are closed.",
            api_rules(),
        )
        .optional(
            "denied",
            "APIs that are closed, also when they are allowed.",
            api_rules(),
        );
    let components = object().optional(
        "deny",
        "Types that are not loaded, as type or type/version.",
        list(text()),
    );
    let feature = object()
        .required(
            "name",
            "Name of the feature, for example HotReload.",
            text(),
        )
        .required("enabled", "On or off.", boolean());
    let logging = object().optional(
        "apiLogging",
        "Log lines for calls of the sidecar's API.",
        api_logging(),
    );
    let wasm = object().optional(
        "strictSandbox",
        "Whether they all run with a made-up clock and predictable random numbers; false \
         by default.",
        boolean(),
    );
    let spec = object()
        .optional(
            "accessControl",
            "Which apps may call this one, and what.",
            access_control(),
        )
        .optional(
            "api",
            "Which APIs of the sidecar its app may use; all by default.",
            api,
        )
        .optional(
            "appHttpPipeline",
            "Middleware for HTTP calls on their way to the app.",
            pipeline(),
        )
        .optional("components", "Which components are refused.", components)
        .optional("features", "Features switched on or off.", list(feature))
        .optional(
            "httpPipeline",
            "Middleware for the sidecar's HTTP API.",
            pipeline(),
        )
        .optional("logging", "What is logged.", logging)
        .optional(
            "metric",
            "Metrics; fields set in metrics win, whose enabled is true by default, so switch \
             them off there.",
            metric(),
        )
        .optional(
            "metrics",
            "Metrics; each field set here overrides that of metric.",
            metric(),
        )
        .optional(
            "mtls",
            "Certificates of workloads; only the control plane's own Configuration, \
             daprsystem, is asked for it.",
            mtls(),
        )
        .optional(
            "nameResolution",
            "How app ids become addresses; the resolver kubernetes by default, mdns outside \
             of a cluster.",
            name_resolution(),
        )
        .optional(
            "secrets",
            "Which secrets the app may read through the sidecar.",
            secrets(),
        )
        .optional(
            "tracing",
            "How many traces are kept, and where they go.",
            tracing(),
        )
        .optional("wasm", "Components that run WebAssembly.", wasm)
        .optional(
            "workflow",
            "Limits of the workflow engine, and how long it keeps what is finished.",
            workflow(),
        );
    object().optional("spec", "The settings by subject.", spec)
}

fn access_control() -> Schema {
    let operation = object()
        .required(
            "name",
            "Path of the operation, with * for any text inside a segment; covers what is \
             below it.",
            text(),
        )
        .required("action", "allow or deny.", text())
        .optional(
            "httpVerb",
            "HTTP methods in capitals, or * for all.",
            list(text()),
        );
    let policy = object()
        .required("appId", "App id of the caller.", text())
        .optional(
            "defaultAction",
            "allow or deny for operations without an entry; as for other callers by default.",
            text(),
        )
        .optional(
            "trustDomain",
            "Trust domain of the caller, required; public unless its Configuration names \
             another.",
            text(),
        )
        .optional("namespace", "Namespace of the caller, required.", text())
        .optional(
            "operations",
            "Actions for single operations.",
            list(operation),
        );
    object()
        .optional(
            "defaultAction",
            "allow (the default) or deny for callers without a policy.",
            text(),
        )
        .optional(
            "trustDomain",
            "Trust domain in the identity of apps with this Configuration; public by default.",
            text(),
        )
        .optional("policies", "What single callers may do.", list(policy))
}

fn api_rules() -> Schema {
    list(
        object()
            .required("name", "Name of the API, for example state.", text())
            .required("version", "Its version, for example v1.", text())
            .optional(
                "protocol",
                "http or grpc; an entry without it has no effect.",
                text(),
            ),
    )
}

fn pipeline() -> Schema {
    let field = object()
        .required("field", "Name of a field.", text())
        .required("value", "Value of the field.", text());
    let selector = object().required("fields", "Fields and their values.", list(field));
    let handler = object()
        .required("name", "Name of the component.", text())
        .required(
            "type",
            "Its type, for example middleware.http.bearer.",
            text(),
        )
        .optional(
            "selector",
            "Accepted for older files, without effect.",
            selector,
        )
        .files_only("version", text());
    object().required(
        "handlers",
        "Components in order, the first outermost; those that are not loaded are skipped.",
        list(handler),
    )
}

fn api_logging() -> Schema {
    object()
        .optional(
            "enabled",
            "Whether calls are logged; false by default.",
            boolean(),
        )
        .optional(
            "obfuscateURLs",
            "Whether names of operations are logged instead of paths; false by default.",
            boolean(),
        )
        .optional(
            "omitHealthChecks",
            "Whether health checks over HTTP are left out; false by default.",
            boolean(),
        )
}

fn metric() -> Schema {
    let http = object()
        .optional(
            "increasedCardinality",
            "Whether series carry the path of requests; true by default, at the cost of many \
             series.",
            boolean(),
        )
        .optional(
            "excludeVerbs",
            "Whether series go without the HTTP method; false by default.",
            boolean(),
        )
        .optional(
            "pathMatching",
            "Path patterns such as /orders/{id} that stand in series for the paths they \
             match.",
            list(text()),
        );
    let label = object()
        .required("name", "Name of the label.", text())
        .required(
            "regex",
            "Replacement to regular expression; every match in the value of the label is \
             replaced.",
            map(text()),
        );
    let rule = object()
        .required("name", "Name of the metric.", text())
        .required("labels", "Labels whose values are rewritten.", list(label));
    object()
        .required(
            "enabled",
            "Whether metrics are kept; true by default.",
            boolean(),
        )
        .optional(
            "recordErrorCodes",
            "Whether error codes of the API are counted; false by default.",
            boolean(),
        )
        .optional("http", "Labels of the HTTP metrics.", http)
        .optional(
            "latencyDistributionBuckets",
            "Upper bounds of all latency histograms in milliseconds; from 1 to 100000 in 34 \
             steps by default.",
            list(integer()),
        )
        .optional("rules", "How label values are rewritten.", list(rule))
        // Both spellings are defaulted, which makes `metric.enabled: false` alone ineffective in a cluster, as upstream.
        .default_value(json!({"enabled": true}))
}

fn mtls() -> Schema {
    let validator = object()
        .required("name", "Kind of validator: jwks.", text().one_of(&["jwks"]))
        .optional(
            "options",
            "Its options: source, caCertificate, minRefreshInterval and requestTimeout for \
             jwks.",
            any_object(),
        );
    object()
        .required(
            "enabled",
            "Whether sidecars speak mutual TLS to each other; true by default.",
            boolean(),
        )
        .required(
            "controlPlaneTrustDomain",
            "Trust domain in the identities of the control plane.",
            text(),
        )
        .required("sentryAddress", "Host and port of sentry.", text())
        .optional(
            "workloadCertTTL",
            "How long a certificate is valid, a duration; 24h by default.",
            text(),
        )
        .optional(
            "allowedClockSkew",
            "How far clocks may differ, a duration; 15m by default.",
            text(),
        )
        .optional(
            "tokenValidators",
            "Further ways for workloads to prove to sentry who they are.",
            list(validator),
        )
}

fn name_resolution() -> Schema {
    object()
        .required(
            "component",
            "Name of the resolver, for example consul.",
            text(),
        )
        .required(
            "version",
            "Version of the resolver, for example v1.",
            text(),
        )
        .required("configuration", "Settings of the resolver.", any_object())
}

fn secrets() -> Schema {
    let scope = object()
        .required(
            "storeName",
            "Name of the secret store; each only once.",
            text(),
        )
        .optional(
            "defaultAccess",
            "allow (the default) or deny for secrets in neither list.",
            text(),
        )
        .optional(
            "allowedSecrets",
            "Names of secrets that may be read; unless empty, no others may.",
            list(text()),
        )
        .optional(
            "deniedSecrets",
            "Names of secrets that may not be read.",
            list(text()),
        );
    object().required(
        "scopes",
        "Limits by store; a store without an entry is open.",
        list(scope),
    )
}

fn tracing() -> Schema {
    let zipkin = object().required("endpointAddress", "URL that spans are posted to.", text());
    let otel = object()
        .required("protocol", "http or grpc.", text())
        .required(
            "endpointAddress",
            "Host and port, without a scheme.",
            text(),
        )
        .required("isSecure", "Whether TLS is used.", boolean())
        .optional(
            "headers",
            "Headers of every export; a reference to a secret has to name its key.",
            pairs_schema().or_texts_in_files(),
        )
        .optional("timeout", "Longest time of an export, a duration.", text());
    object()
        .required(
            "samplingRate",
            "Share of traces kept, a number from 0 to 1 in quotes; 0 switches tracing off, \
             anything but a number means 0.0001.",
            text(),
        )
        .optional(
            "stdout",
            "Whether spans are written to standard output; false by default.",
            boolean(),
        )
        .optional("zipkin", "A Zipkin collector.", zipkin)
        .optional("otel", "An OpenTelemetry collector.", otel)
}

fn workflow() -> Schema {
    let limits = || {
        list(
            object()
                .optional("name", "Name of the workflow or activity.", text())
                .optional("maxConcurrent", "How many of them run at once.", int32()),
        )
    };
    let retention = object()
        .optional(
            "anyTerminal",
            "For all that have no field of their own, a duration; for ever by default.",
            text(),
        )
        .optional(
            "completed",
            "For workflows that completed, a duration.",
            text(),
        )
        .optional("failed", "For workflows that failed, a duration.", text())
        .optional(
            "terminated",
            "For workflows that were terminated, a duration.",
            text(),
        );
    object()
        .optional(
            "maxConcurrentWorkflowInvocations",
            "Workflows that run at once in one sidecar; no limit by default.",
            int32(),
        )
        .optional(
            "maxConcurrentActivityInvocations",
            "Activities that run at once in one sidecar; no limit by default.",
            int32(),
        )
        .optional(
            "globalMaxConcurrentWorkflowInvocations",
            "Workflows that run at once over all replicas of the app; no limit by default.",
            int32(),
        )
        .optional(
            "globalMaxConcurrentActivityInvocations",
            "Activities that run at once over all replicas of the app; no limit by default.",
            int32(),
        )
        .optional(
            "workflowConcurrencyLimits",
            "Limits for single workflows over all replicas of the app.",
            limits(),
        )
        .optional(
            "activityConcurrencyLimits",
            "Limits for single activities over all replicas of the app.",
            limits(),
        )
        .optional(
            "stateRetentionPolicy",
            "How long finished workflows are kept; 0s removes them at once.",
            retention,
        )
}
