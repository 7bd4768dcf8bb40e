//! Names of the annotations and labels on pods, workloads and Components, and what sort of value each takes.
//!
//! What a value does is decided by its reader: the injector, the operator or the watchdog.

/// What sort of value an annotation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read by [`is_truthy`].
    Bool,
    /// A whole number to base ten.
    Int,
    /// Any text.
    Text,
    /// A Kubernetes quantity, see [`crate::Quantity`].
    Quantity,
    /// A Go duration.
    Duration,
    /// JSON.
    Json,
}

/// An annotation users write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// Its full name.
    pub name: &'static str,
    /// What sort of value it takes.
    pub kind: Kind,
}

macro_rules! annotations {
    ($($(#[$doc:meta])* $constant:ident = $name:literal: $kind:ident,)*) => {
        $($(#[$doc])* pub const $constant: &str = $name;)*

        /// Every annotation users write, in the order of the constants.
        pub const ALL: &[Annotation] = &[$(Annotation { name: $constant, kind: Kind::$kind },)*];
    };
}

annotations! {
    /// Whether a pod gets a sidecar and a workload a Service.
    ENABLED = "dapr.io/enabled": Bool,
    /// The app's id.
    APP_ID = "dapr.io/app-id": Text,
    /// Port the app listens on.
    APP_PORT = "dapr.io/app-port": Int,
    /// `dapr.io/app-protocol`.
    APP_PROTOCOL = "dapr.io/app-protocol": Text,
    /// `dapr.io/app-ssl`.
    APP_SSL = "dapr.io/app-ssl": Bool,
    /// `dapr.io/app-channel-address`.
    APP_CHANNEL_ADDRESS = "dapr.io/app-channel-address": Text,
    /// `dapr.io/app-max-concurrency`.
    APP_MAX_CONCURRENCY = "dapr.io/app-max-concurrency": Int,
    /// Name of the Configuration.
    CONFIG = "dapr.io/config": Text,
    /// `dapr.io/log-level`.
    LOG_LEVEL = "dapr.io/log-level": Text,
    /// `dapr.io/log-as-json`.
    LOG_AS_JSON = "dapr.io/log-as-json": Bool,
    /// `dapr.io/enable-api-logging`.
    ENABLE_API_LOGGING = "dapr.io/enable-api-logging": Bool,
    /// `dapr.io/enable-profiling`.
    ENABLE_PROFILING = "dapr.io/enable-profiling": Bool,
    /// `dapr.io/enable-metrics`.
    ENABLE_METRICS = "dapr.io/enable-metrics": Bool,
    /// `dapr.io/metrics-port`.
    METRICS_PORT = "dapr.io/metrics-port": Int,
    /// `dapr.io/enable-debug`.
    ENABLE_DEBUG = "dapr.io/enable-debug": Bool,
    /// `dapr.io/debug-port`.
    DEBUG_PORT = "dapr.io/debug-port": Int,
    /// `dapr.io/grpc-port`.
    GRPC_PORT = "dapr.io/grpc-port": Int,
    /// `dapr.io/internal-grpc-port`.
    INTERNAL_GRPC_PORT = "dapr.io/internal-grpc-port": Int,
    /// `dapr.io/sidecar-listen-addresses`.
    SIDECAR_LISTEN_ADDRESSES = "dapr.io/sidecar-listen-addresses": Text,
    /// `dapr.io/sidecar-image`.
    SIDECAR_IMAGE = "dapr.io/sidecar-image": Text,
    /// `dapr.io/sidecar-cpu-request`.
    SIDECAR_CPU_REQUEST = "dapr.io/sidecar-cpu-request": Quantity,
    /// `dapr.io/sidecar-cpu-limit`.
    SIDECAR_CPU_LIMIT = "dapr.io/sidecar-cpu-limit": Quantity,
    /// `dapr.io/sidecar-memory-request`.
    SIDECAR_MEMORY_REQUEST = "dapr.io/sidecar-memory-request": Quantity,
    /// `dapr.io/sidecar-memory-limit`.
    SIDECAR_MEMORY_LIMIT = "dapr.io/sidecar-memory-limit": Quantity,
    /// `dapr.io/sidecar-liveness-probe-delay-seconds`.
    SIDECAR_LIVENESS_PROBE_DELAY_SECONDS = "dapr.io/sidecar-liveness-probe-delay-seconds": Int,
    /// `dapr.io/sidecar-liveness-probe-timeout-seconds`.
    SIDECAR_LIVENESS_PROBE_TIMEOUT_SECONDS = "dapr.io/sidecar-liveness-probe-timeout-seconds": Int,
    /// `dapr.io/sidecar-liveness-probe-period-seconds`.
    SIDECAR_LIVENESS_PROBE_PERIOD_SECONDS = "dapr.io/sidecar-liveness-probe-period-seconds": Int,
    /// `dapr.io/sidecar-liveness-probe-threshold`.
    SIDECAR_LIVENESS_PROBE_THRESHOLD = "dapr.io/sidecar-liveness-probe-threshold": Int,
    /// `dapr.io/sidecar-readiness-probe-delay-seconds`.
    SIDECAR_READINESS_PROBE_DELAY_SECONDS = "dapr.io/sidecar-readiness-probe-delay-seconds": Int,
    /// `dapr.io/sidecar-readiness-probe-timeout-seconds`.
    SIDECAR_READINESS_PROBE_TIMEOUT_SECONDS = "dapr.io/sidecar-readiness-probe-timeout-seconds": Int,
    /// `dapr.io/sidecar-readiness-probe-period-seconds`.
    SIDECAR_READINESS_PROBE_PERIOD_SECONDS = "dapr.io/sidecar-readiness-probe-period-seconds": Int,
    /// `dapr.io/sidecar-readiness-probe-threshold`.
    SIDECAR_READINESS_PROBE_THRESHOLD = "dapr.io/sidecar-readiness-probe-threshold": Int,
    /// `dapr.io/sidecar-seccomp-profile-type`.
    SIDECAR_SECCOMP_PROFILE_TYPE = "dapr.io/sidecar-seccomp-profile-type": Text,
    /// `dapr.io/max-body-size`.
    MAX_BODY_SIZE = "dapr.io/max-body-size": Quantity,
    /// `dapr.io/http-max-request-size`.
    HTTP_MAX_REQUEST_SIZE = "dapr.io/http-max-request-size": Int,
    /// `dapr.io/read-buffer-size`.
    READ_BUFFER_SIZE = "dapr.io/read-buffer-size": Quantity,
    /// `dapr.io/http-read-buffer-size`.
    HTTP_READ_BUFFER_SIZE = "dapr.io/http-read-buffer-size": Int,
    /// `dapr.io/graceful-shutdown-seconds`.
    GRACEFUL_SHUTDOWN_SECONDS = "dapr.io/graceful-shutdown-seconds": Int,
    /// `dapr.io/block-shutdown-duration`.
    BLOCK_SHUTDOWN_DURATION = "dapr.io/block-shutdown-duration": Duration,
    /// `dapr.io/unix-domain-socket-path`.
    UNIX_DOMAIN_SOCKET_PATH = "dapr.io/unix-domain-socket-path": Text,
    /// `dapr.io/volume-mounts`.
    VOLUME_MOUNTS = "dapr.io/volume-mounts": Text,
    /// `dapr.io/volume-mounts-rw`.
    VOLUME_MOUNTS_RW = "dapr.io/volume-mounts-rw": Text,
    /// `dapr.io/env`.
    ENV = "dapr.io/env": Text,
    /// `dapr.io/env-from-secret`.
    ENV_FROM_SECRET = "dapr.io/env-from-secret": Text,
    /// `dapr.io/api-token-secret`.
    API_TOKEN_SECRET = "dapr.io/api-token-secret": Text,
    /// `dapr.io/app-token-secret`.
    APP_TOKEN_SECRET = "dapr.io/app-token-secret": Text,
    /// `dapr.io/disable-builtin-k8s-secret-store`.
    DISABLE_BUILTIN_K8S_SECRET_STORE = "dapr.io/disable-builtin-k8s-secret-store": Bool,
    /// `dapr.io/enable-app-health-check`.
    ENABLE_APP_HEALTH_CHECK = "dapr.io/enable-app-health-check": Bool,
    /// `dapr.io/app-health-check-path`.
    APP_HEALTH_CHECK_PATH = "dapr.io/app-health-check-path": Text,
    /// `dapr.io/app-health-probe-interval`.
    APP_HEALTH_PROBE_INTERVAL = "dapr.io/app-health-probe-interval": Int,
    /// `dapr.io/app-health-probe-timeout`.
    APP_HEALTH_PROBE_TIMEOUT = "dapr.io/app-health-probe-timeout": Int,
    /// `dapr.io/app-health-threshold`.
    APP_HEALTH_THRESHOLD = "dapr.io/app-health-threshold": Int,
    /// `dapr.io/app-binding-options-timeout`.
    APP_BINDING_OPTIONS_TIMEOUT = "dapr.io/app-binding-options-timeout": Duration,
    /// `dapr.io/placement-host-address`.
    PLACEMENT_HOST_ADDRESS = "dapr.io/placement-host-address": Text,
    /// `dapr.io/actors-disseminate-timeout`.
    ACTORS_DISSEMINATE_TIMEOUT = "dapr.io/actors-disseminate-timeout": Duration,
    /// `dapr.io/scheduler-host-address`.
    SCHEDULER_HOST_ADDRESS = "dapr.io/scheduler-host-address": Text,
    /// `dapr.io/sentry-request-jwt-audiences`.
    SENTRY_REQUEST_JWT_AUDIENCES = "dapr.io/sentry-request-jwt-audiences": Text,
    /// `dapr.io/disable-init-endpoints`.
    DISABLE_INIT_ENDPOINTS = "dapr.io/disable-init-endpoints": Text,
    /// `dapr.io/pluggable-components`.
    PLUGGABLE_COMPONENTS = "dapr.io/pluggable-components": Text,
    /// `dapr.io/pluggable-components-sockets-folder`.
    PLUGGABLE_COMPONENTS_SOCKETS_FOLDER = "dapr.io/pluggable-components-sockets-folder": Text,
    /// `dapr.io/inject-pluggable-components`.
    INJECT_PLUGGABLE_COMPONENTS = "dapr.io/inject-pluggable-components": Bool,
    /// A container as JSON; stands on Components, not on pods.
    COMPONENT_CONTAINER = "dapr.io/component-container": Json,
    /// Annotations for the app's Service; read by the operator alone.
    SIDECAR_SVC_ANNOTATIONS = "dapr.io/sidecar-svc-annotations": Text,
    /// `dapr.io/enable-native-sidecar`.
    ENABLE_NATIVE_SIDECAR = "dapr.io/enable-native-sidecar": Bool,
}

/// On pods of the control plane: which service it is.
pub const CONTROL_PLANE: &str = "dapr.io/control-plane";

/// Label of pods that got a sidecar.
pub const LABEL_SIDECAR_INJECTED: &str = "dapr.io/sidecar-injected";
/// Label with the app's id on pods with a sidecar.
pub const LABEL_APP_ID: &str = "dapr.io/app-id";
/// Label of pods that says whether the sidecar serves metrics.
pub const LABEL_METRICS_ENABLED: &str = "dapr.io/metrics-enabled";
/// Label of pods the watchdog has seen with a sidecar.
pub const LABEL_WATCHDOG_PATCHED: &str = "dapr.io/watchdog-patched";
/// Name of the sidecar's container; a pod that has one is not injected again.
pub const SIDECAR_CONTAINER: &str = "daprd";

/// What sort of value an annotation takes, `None` when there is no such annotation.
pub fn kind(name: &str) -> Option<Kind> {
    ALL.iter()
        .find(|annotation| annotation.name == name)
        .map(|annotation| annotation.kind)
}

/// Whether a text means yes: `y`, `yes`, `true`, `t`, `on` or `1`, trimmed and in any case.
pub fn is_truthy(text: &str) -> bool {
    ["y", "yes", "true", "t", "on", "1"]
        .iter()
        .any(|word| text.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ALL, Kind, is_truthy, kind};

    #[test]
    fn names_are_unique_and_have_a_kind() {
        let names: BTreeSet<_> = ALL.iter().map(|annotation| annotation.name).collect();
        assert_eq!((names.len(), ALL.len()), (64, 64));
        assert!(names.iter().all(|name| name.starts_with("dapr.io/")));
        assert_eq!(kind("dapr.io/sidecar-memory-limit"), Some(Kind::Quantity));
        assert_eq!(kind("dapr.io/sidecar"), None);
    }

    #[test]
    fn truth_has_six_spellings() {
        let check = |text: &str, expected: bool| assert_eq!(is_truthy(text), expected, "{text:?}");
        for text in ["y", "yes", "true", "t", "on", "1", " TRUE ", "On\n"] {
            check(text, true);
        }
        for text in ["", "no", "false", "0", "truee", "2", "enabled"] {
            check(text, false);
        }
    }
}
