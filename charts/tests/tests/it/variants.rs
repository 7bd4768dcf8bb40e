//! The ways the chart is installed: each is rendered, kept as a snapshot, and shown to an API server.

/// A PEM as far as templates are concerned.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n";

/// One way: its name, and its values.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) values: String,
}

fn variant(name: &'static str, values: impl Into<String>) -> Variant {
    Variant {
        name,
        values: values.into(),
    }
}

/// All of them. The first is that of an install without values.
pub(crate) fn all() -> Vec<Variant> {
    vec![
        variant("plain", ""),
        variant("high_availability", "global: {ha: {enabled: true}}"),
        variant(
            "high_availability_in_memory",
            "global: {ha: {enabled: true, podAntiAffinityPolicy: requiredDuringSchedulingIgnoredDuringExecution,
               disruption: {minimumAvailable: 2, maximumUnavailable: ''}}}
dapr_placement: {cluster: {forceInMemoryLog: true}}
dapr_sidecar_injector: {sidecarRequired: false}",
        ),
        variant("namespaced", "global: {rbac: {namespaced: true}}"),
        variant(
            "own_authority",
            format!(
                "global: {{issuerFilenames: {{ca: root.pem, cert: issuer.pem, key: issuer.key}}}}
dapr_sentry: {{tls: {{issuer: {{certPEM: {PEM:?}, keyPEM: {PEM:?}}}, root: {{certPEM: {PEM:?}}}}}}}"
            ),
        ),
        variant(
            "tokens",
            "dapr_sentry:
  jwt: {enabled: true, issuer: https://issuer.example, signingAlgorithm: ES256, keyID: one, keyFilename: /keys/jwt.key, jwksFilename: /keys/jwks.json}
  oidc: {enabled: true, jwksURI: https://issuer.example/jwks.json, pathPrefix: /oidc, allowedHosts: [a.example, b.example], tls: {certFile: /tls/tls.crt, keyFile: /tls/tls.key}}",
        ),
        variant(
            "no_metrics_and_logs_as_json",
            "global: {prometheus: {enabled: false}, logAsJson: true}",
        ),
        variant("scheduler", "global: {scheduler: {enabled: true}, reminders: {serviceName: scheduler}}"),
        variant(
            "scheduler_in_memory",
            "global: {scheduler: {enabled: true}}
dapr_scheduler: {cluster: {inMemoryStorage: true}, etcdEmbed: false, etcdClientEndpoints: [https://one:2379, https://two:2379], etcdClientUsername: dapr, overrideBroadcastHostPort: scheduler.example:443}",
        ),
        variant("no_actors", "global: {actors: {enabled: false}}"),
        variant("actors_of_the_scheduler", "global: {actors: {serviceName: scheduler}}"),
        variant("no_injector", "dapr_sidecar_injector: {enabled: false}"),
        variant("no_mtls", "global: {mtls: {enabled: false, mountSentryVolume: false, sentryAddress: sentry.example:443, controlPlaneTrustDomain: example.org}}"),
        variant(
            "injector",
            "dapr_sidecar_injector:
  sidecarRequired: true
  webhookFailurePolicy: Fail
  hostNetwork: true
  healthzPort: 8081
  runAsNonRoot: false
  sidecarRunAsUser: 1000
  sidecarRunAsGroup: 3000
  nativeSidecar: false
  allowedServiceAccounts: shop:deployer
  allowedServiceAccountsPrefixNames: team-*:deploy-*
  namespaceSelector: {matchLabels: {team: shop}, matchExpressions: [{key: dapr, operator: Exists}]}
  objectSelector: {matchLabels: {app: orders}}",
        ),
        variant(
            "operator",
            "global: {argoRolloutServiceReconciler: {enabled: true}, operator: {watchdogCanPatchPodLabels: true, otherWorkloads: true}}
dapr_operator: {watchInterval: 1m, watchNamespace: shop, maxPodRestartsPerMinute: 5, serviceReconciler: {enabled: false}}",
        ),
        variant(
            "placement",
            "dapr_placement: {ha: true, scaleZero: true, metadataEnabled: true, replicationFactor: 200, volumeclaims: {storageClassName: fast, storageSize: 2Gi}}",
        ),
        variant("pods", include_str!("values/pods.yaml")),
        variant("spelling", include_str!("values/spelling.yaml")),
        variant("as_upstream", include_str!("values/upstream.yaml")),
    ]
}
