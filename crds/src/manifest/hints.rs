//! Ways out for fields that people expect and that do not exist.

/// Kind (`*` for all), path without indexes, and what to do instead.
const HINTS: &[(&str, &str, &str)] = &[
    (
        "*",
        "spec.scopes",
        "`scopes` stands beside `spec`, not in it",
    ),
    (
        "*",
        "metadata.scopes",
        "`scopes` stands beside `spec` at the top of the object",
    ),
    ("*", "spec.auth", "`auth` stands beside `spec`, not in it"),
    (
        "Configuration",
        "spec.health",
        "probes of a sidecar are set per workload by the annotations dapr.io/sidecar-liveness-probe-* and \
         dapr.io/sidecar-readiness-probe-*, those of an app by dapr.io/enable-app-health-check or --enable-app-health-check",
    ),
    (
        "Configuration",
        "spec.accessControl.policies[].operations[].principals",
        "callers are named by `appId` of a policy; write one policy per caller",
    ),
    ("Configuration", "spec.metric.rules[].enabled", RULE_ENABLED),
    (
        "Configuration",
        "spec.metrics.rules[].enabled",
        RULE_ENABLED,
    ),
    (
        "Configuration",
        "spec.tracing.enabled",
        "tracing is on when `samplingRate` is above 0",
    ),
    (
        "Configuration",
        "spec.tracing.exporterType",
        "exporters are `spec.tracing.zipkin`, `spec.tracing.otel` and `spec.tracing.stdout`",
    ),
    (
        "Configuration",
        "spec.tracing.exporterAddress",
        "write `spec.tracing.zipkin.endpointAddress` or `spec.tracing.otel.endpointAddress`",
    ),
    (
        "Component",
        "spec.secretStore",
        "write `auth: {secretStore: …}` beside `spec`",
    ),
    (
        "Subscription",
        "spec.routes",
        "routing rules need apiVersion dapr.io/v2alpha1; here write `route: /path`",
    ),
    (
        "Subscription",
        "spec.route",
        "here write `routes: {default: /path}`; a single `route` needs apiVersion dapr.io/v1alpha1",
    ),
];

const RULE_ENABLED: &str = "a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics";

/// Kind, path without indexes, and what to do about a field an API server refuses.
const REFUSED: &[(&str, &str, &str)] = &[
    ("Configuration", "spec.mtls.controlPlaneTrustDomain", MTLS),
    ("Configuration", "spec.mtls.sentryAddress", MTLS),
    (
        "Configuration",
        "spec.metric.rules[].labels",
        "remove the rule if it rewrites no label",
    ),
    (
        "Configuration",
        "spec.metrics.rules[].labels",
        "remove the rule if it rewrites no label",
    ),
    (
        "Configuration",
        "spec.tracing.otel.headers[]",
        "`name=value` is the spelling of files only",
    ),
];

const MTLS: &str = "leave `spec.mtls` out, only the Configuration of the control plane uses it";

/// The message for a field that works here and that an API server refuses.
pub(super) fn refused(kind: &str, path: &str, reason: &str) -> String {
    let pattern = without_indexes(path);
    match REFUSED
        .iter()
        .find(|(of, at, _)| *of == kind && *at == pattern)
    {
        Some((_, _, hint)) => format!("{reason}, Kubernetes refuses the object otherwise: {hint}"),
        None => format!("{reason}, Kubernetes refuses the object otherwise"),
    }
}

/// The message for an unknown field: the hint written for it, else the known name nearest to it.
pub(super) fn unknown_field(kind: &str, path: &str, nearest: Option<&str>) -> String {
    let pattern = without_indexes(path);
    let hint = HINTS
        .iter()
        .find(|(of, at, _)| (*of == "*" || *of == kind) && *at == pattern)
        .map(|(_, _, hint)| *hint);
    match (hint, nearest) {
        (Some(hint), _) => format!("unknown field, it has no effect: {hint}"),
        (None, Some(nearest)) => {
            format!("unknown field, it has no effect: did you mean `{nearest}`?")
        }
        (None, None) => "unknown field, it has no effect: remove it".to_owned(),
    }
}

fn without_indexes(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    let mut in_index = false;
    for character in path.chars() {
        in_index = match character {
            '[' => true,
            ']' => false,
            _ => in_index,
        };
        if !in_index || character == '[' {
            pattern.push(character);
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::{unknown_field, without_indexes};

    #[test]
    fn indexes_vanish_from_paths() {
        assert_eq!(without_indexes("spec.a[0].b[12].c"), "spec.a[].b[].c");
        assert_eq!(without_indexes("spec"), "spec");
    }

    #[test]
    fn the_written_hint_wins_over_the_nearest_name() {
        let check = |kind: &str, path: &str, nearest: Option<&str>, expected: &str| {
            assert_eq!(
                unknown_field(kind, path, nearest)
                    .split_once(": ")
                    .unwrap()
                    .1,
                expected
            );
        };
        check(
            "Component",
            "spec.scopes",
            None,
            "`scopes` stands beside `spec`, not in it",
        );
        check(
            "Subscription",
            "spec.route",
            Some("routes"),
            "here write `routes: {default: /path}`; a single `route` needs apiVersion dapr.io/v1alpha1",
        );
        check(
            "Component",
            "spec.tpye",
            Some("type"),
            "did you mean `type`?",
        );
        check("Component", "spec.health", None, "remove it");
    }
}
