//! The flags of the sidecar, in upstream's order. The one place that knows them.

use dapr_crds::annotations as names;

use super::Sidecar;
use super::volumes::SOCKETS;

/// Ports that no annotation changes.
pub(super) const HTTP_PORT: i32 = 3500;
pub(super) const PUBLIC_PORT: i32 = 3501;

/// The ports of the sidecar that annotations change.
pub(super) struct Ports {
    pub(super) grpc: i32,
    pub(super) internal_grpc: i32,
    pub(super) metrics: i32,
    pub(super) debug: i32,
}

impl Ports {
    pub(super) fn of(sidecar: &Sidecar<'_>) -> Self {
        let port = |name, default| sidecar.annotations.int32(name, default);
        Self {
            grpc: port(names::GRPC_PORT, 50001),
            internal_grpc: port(names::INTERNAL_GRPC_PORT, 50002),
            metrics: port(names::METRICS_PORT, 9090),
            debug: port(names::DEBUG_PORT, 40000),
        }
    }
}

/// Flags and their values as separate words.
#[derive(Default)]
struct Flags(Vec<String>);

impl Flags {
    fn switch(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn switch_if(&mut self, on: bool, name: &str) {
        if on {
            self.switch(name);
        }
    }

    fn pair(&mut self, name: &str, value: impl ToString) {
        self.0.extend([name.to_owned(), value.to_string()]);
    }

    fn pair_if(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.pair(name, value);
        }
    }
}

pub(super) fn flags(sidecar: &Sidecar<'_>) -> Vec<String> {
    let (annotations, settings) = (sidecar.annotations, sidecar.settings);
    let ports = Ports::of(sidecar);
    let is_on = |name| annotations.flag(name).unwrap_or(false);
    let text_or = |name, default| annotations.get(name).unwrap_or(default);
    let mut flags = Flags::default();
    flags.pair("--dapr-http-port", HTTP_PORT);
    flags.pair("--dapr-grpc-port", ports.grpc);
    flags.pair("--dapr-internal-grpc-port", ports.internal_grpc);
    let listen = text_or(names::SIDECAR_LISTEN_ADDRESSES, "[::1],127.0.0.1");
    flags.pair("--dapr-listen-addresses", listen);
    flags.pair("--dapr-public-port", PUBLIC_PORT);
    flags.pair("--app-id", sidecar.app_id);
    flags.pair("--app-protocol", text_or(names::APP_PROTOCOL, "http"));
    flags.pair("--log-level", text_or(names::LOG_LEVEL, "info"));
    let grace = annotations.int(names::GRACEFUL_SHUTDOWN_SECONDS);
    flags.pair("--dapr-graceful-shutdown-seconds", grace.unwrap_or(-1));
    flags.pair("--mode", "kubernetes");
    flags.pair("--control-plane-address", &settings.operator);
    flags.pair("--sentry-address", &settings.sentry);
    let app_port = annotations.int32(names::APP_PORT, 0);
    flags.pair_if("--app-port", (app_port > 0).then_some(app_port));
    if sidecar.has_metrics() {
        flags.switch("--enable-metrics");
        flags.pair("--metrics-port", ports.metrics);
    }
    flags.pair_if("--config", annotations.non_empty(names::CONFIG));
    let channel = annotations.non_empty(names::APP_CHANNEL_ADDRESS);
    flags.pair_if("--app-channel-address", channel);
    actors(sidecar, &mut flags);
    flags.pair_if("--reminders-service", settings.reminders.as_ref());
    let audiences = annotations.non_empty(names::SENTRY_REQUEST_JWT_AUDIENCES);
    flags.pair_if("--sentry-request-jwt-audiences", audiences);
    if let Some(on) = annotations.flag(names::ENABLE_API_LOGGING) {
        flags.switch(&format!("--enable-api-logging={on}"));
    }
    let no_secrets = is_on(names::DISABLE_BUILTIN_K8S_SECRET_STORE);
    flags.switch_if(no_secrets, "--disable-builtin-k8s-secret-store");
    if is_on(names::ENABLE_APP_HEALTH_CHECK) {
        app_health(sidecar, &mut flags);
    }
    let bindings = annotations.get(names::APP_BINDING_OPTIONS_TIMEOUT);
    flags.pair_if("--app-binding-options-timeout", bindings);
    flags.switch_if(is_on(names::LOG_AS_JSON), "--log-as-json");
    flags.switch_if(is_on(names::ENABLE_PROFILING), "--enable-profiling");
    flags.switch_if(sidecar.request.mtls, "--enable-mtls");
    flags.switch_if(is_on(names::APP_SSL), "--app-ssl");
    let concurrency = annotations.int(names::APP_MAX_CONCURRENCY);
    flags.pair_if("--app-max-concurrency", concurrency);
    let request_size = annotations.int(names::HTTP_MAX_REQUEST_SIZE);
    flags.pair_if("--dapr-http-max-request-size", request_size);
    flags.pair_if(
        "--max-body-size",
        annotations.non_empty(names::MAX_BODY_SIZE),
    );
    let read_buffer = annotations.int(names::HTTP_READ_BUFFER_SIZE);
    flags.pair_if("--dapr-http-read-buffer-size", read_buffer);
    flags.pair_if(
        "--read-buffer-size",
        annotations.non_empty(names::READ_BUFFER_SIZE),
    );
    flags.pair_if(
        "--unix-domain-socket",
        sidecar.app_socket().map(|_| SOCKETS),
    );
    let block = annotations.get(names::BLOCK_SHUTDOWN_DURATION);
    flags.pair_if("--dapr-block-shutdown-duration", block);
    let disseminate = annotations.get(names::ACTORS_DISSEMINATE_TIMEOUT);
    flags.pair_if("--actors-disseminate-timeout", disseminate);
    let scheduler = match annotations.get(names::SCHEDULER_HOST_ADDRESS) {
        // Empty is passed too: it tells the sidecar to do without.
        Some(text) => Some(address(text)),
        None => settings.scheduler.as_deref(),
    };
    flags.pair_if("--scheduler-host-address", scheduler);
    let endpoints = annotations.get(names::DISABLE_INIT_ENDPOINTS);
    flags.pair_if("--disable-init-endpoints", endpoints);
    flags.0
}

/// Placement, or another service of actors, or neither.
fn actors(sidecar: &Sidecar<'_>, flags: &mut Flags) {
    let placement = match sidecar.annotations.get(names::PLACEMENT_HOST_ADDRESS) {
        Some(text) => address(text),
        None => sidecar.settings.placement.as_deref().unwrap_or_default(),
    };
    if placement.is_empty() {
        flags.pair_if("--actors-service", sidecar.settings.actors.as_ref());
    } else {
        flags.pair("--placement-host-address", placement);
    }
}

fn app_health(sidecar: &Sidecar<'_>, flags: &mut Flags) {
    let annotations = sidecar.annotations;
    flags.switch("--enable-app-health-check");
    let path = annotations.get(names::APP_HEALTH_CHECK_PATH);
    flags.pair("--app-health-check-path", path.unwrap_or("/healthz"));
    for (flag, name, default) in [
        (
            "--app-health-probe-interval",
            names::APP_HEALTH_PROBE_INTERVAL,
            5,
        ),
        (
            "--app-health-probe-timeout",
            names::APP_HEALTH_PROBE_TIMEOUT,
            500,
        ),
        ("--app-health-threshold", names::APP_HEALTH_THRESHOLD, 3),
    ] {
        flags.pair(flag, annotations.int32(name, default));
    }
}

/// Without the quotation marks around it, and then without blanks.
fn address(text: &str) -> &str {
    text.trim_matches(['"', '\'']).trim()
}
