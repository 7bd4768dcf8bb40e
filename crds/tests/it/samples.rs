//! What each document of the files users brought along yields.

use std::fmt::Write;
use std::path::Path;

use dapr_crds::manifest::{self, Manifest};

/// One line per document and one, indented, per warning.
fn yields() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/samples");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut lines = String::new();
    for path in files {
        let file = path.file_name().unwrap().to_str().unwrap();
        for document in manifest::read(file, &std::fs::read_to_string(&path).unwrap()) {
            let place = format!("{file}#{} line {}", document.index, document.line);
            match &document.result {
                Ok(Manifest::Ignored(ignored)) => writeln!(lines, "{place}: ignored: {ignored}"),
                Ok(object) => writeln!(
                    lines,
                    "{place}: {} {}/{}",
                    object.kind().unwrap(),
                    object.namespace(),
                    object.name()
                ),
                Err(error) => writeln!(lines, "ERROR {error}"),
            }
            .unwrap();
            for warning in document.warnings {
                writeln!(lines, "    {warning}").unwrap();
            }
        }
    }
    lines
}

#[test]
fn samples() {
    insta::assert_snapshot!(yields(), @r#"
    accesscontrol-configuration.yaml#1 line 1: Configuration production/service-invocation-config
        spec.mtls.controlPlaneTrustDomain: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
        spec.mtls.sentryAddress: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
    components-redis-otlp.yaml#1 line 1: Component /statestore
    components-redis-otlp.yaml#2 line 18: Component /pubsub
    components-redis-otlp.yaml#3 line 33: Component /tracing
    docker-compose-sidecars.yaml#1 line 1: ignored: a Docker Compose file, not a resource: it has services, but no apiVersion and kind; its sidecars read the resources in the folder mounted for --resources-path
    enterprise-sizing.yaml#1 line 1: ignored: not a resource: it starts with "dapr_enterprise_deployment" and lacks apiVersion or kind; the size of the control plane is set by Helm values, that of a sidecar by dapr.io/sidecar-* annotations
    environments-configuration.yaml#1 line 1: Configuration development/dev-config
        spec.mtls.controlPlaneTrustDomain: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
        spec.mtls.sentryAddress: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
    environments-configuration.yaml#2 line 16: Configuration production/prod-config
        spec.metric.rules[0].enabled: unknown field, it has no effect: a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics
        spec.metric.rules[0].labels: is required, Kubernetes refuses the object otherwise: remove the rule if it rewrites no label
        spec.mtls.controlPlaneTrustDomain: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
        spec.mtls.sentryAddress: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
    metrics-health-configuration.yaml#1 line 1: Configuration production/metrics-config
        spec.health: unknown field, it has no effect: probes of a sidecar are set per workload by the annotations dapr.io/sidecar-liveness-probe-* and dapr.io/sidecar-readiness-probe-*, those of an app by dapr.io/enable-app-health-check or --enable-app-health-check
        spec.metric.rules[0].enabled: unknown field, it has no effect: a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics
        spec.metric.rules[1].enabled: unknown field, it has no effect: a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics
        spec.metric.rules[2].enabled: unknown field, it has no effect: a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics
        spec.metric.rules[0].labels: is required, Kubernetes refuses the object otherwise: remove the rule if it rewrites no label
        spec.metric.rules[1].labels: is required, Kubernetes refuses the object otherwise: remove the rule if it rewrites no label
        spec.metric.rules[2].labels: is required, Kubernetes refuses the object otherwise: remove the rule if it rewrites no label
    pubsub-rabbitmq-subscription.yaml#1 line 1: Component production/production-pubsub
    ERROR pubsub-rabbitmq-subscription.yaml, document 2 (line 35), Subscription "order-processing-subscription": spec.metadata: expected a map of names to values, found a list; write `{deadLetterTopic: "orders-deadletter", maxDeliveryCount: "3", ackWaitTime: "30s"}`
    pubsub-redis-retries.yaml#1 line 1: Component /pubsub
    resiliency.yaml#1 line 1: Resiliency production/app-resiliency
    secretstore-azure-deployment.yaml#1 line 1: Component production/production-secrets
    secretstore-azure-deployment.yaml#2 line 23: ignored: Deployment (apps/v1) is not a Dapr resource and is left to Kubernetes
    security-configuration.yaml#1 line 1: Configuration production/security-config
        spec.accessControl.policies[1].operations[0].principals: unknown field, it has no effect: callers are named by `appId` of a policy; write one policy per caller
        spec.mtls.controlPlaneTrustDomain: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
        spec.mtls.sentryAddress: is required, Kubernetes refuses the object otherwise: leave `spec.mtls` out, only the Configuration of the control plane uses it
    sidecar-resources-deployment.yaml#1 line 1: Configuration production/performance-config
        spec.metric.rules[0].enabled: unknown field, it has no effect: a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics
        spec.metric.rules[1].enabled: unknown field, it has no effect: a rule rewrites the `labels` of a metric and cannot switch it on or off; `spec.metric.enabled` does so for all metrics
        spec.metric.rules[0].labels: is required, Kubernetes refuses the object otherwise: remove the rule if it rewrites no label
        spec.metric.rules[1].labels: is required, Kubernetes refuses the object otherwise: remove the rule if it rewrites no label
    sidecar-resources-deployment.yaml#2 line 25: ignored: Deployment (apps/v1) is not a Dapr resource and is left to Kubernetes
    state-redis-mongodb.yaml#1 line 1: Component production/production-statestore
    state-redis-mongodb.yaml#2 line 27: Component production/user-session-store
    ERROR tracing-configuration-exporter.yaml, document 1 (line 1), Configuration "tracing-config": spec.tracing.stdout: expected true or false, found a map; write `stdout: true`
    tracing-configuration-exporter.yaml#2 line 20: Component production/tracing-exporter
    "#);
}
