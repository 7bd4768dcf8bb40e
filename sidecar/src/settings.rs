//! The checked settings of a sidecar: what the flags and the environment mean.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use dapr_kit::duration::SignedGoDuration;
use dapr_kit::flags::Environment;
use dapr_kit::process::refuse_root;
use dapr_security::TokenSource;
use dapr_sidecar_core::app::Protocol;

use crate::args::{AppArgs, AppHealthArgs, Args, ControlPlaneArgs, LimitArgs};

/// Largest body unless a flag says otherwise: 4 MiB.
const DEFAULT_MAX_BODY: usize = 4 << 20;
/// Largest request header unless a flag says otherwise: 4 KiB.
const DEFAULT_READ_BUFFER: usize = 4 << 10;
/// What a size of zero stands for: Go's own limit of a header.
const LARGEST_READ_BUFFER: usize = 1 << 20;
/// Ports in a cluster unless a flag says otherwise: all sidecars share the internal one, probes go to the public one.
const CLUSTER_INTERNAL_PORT: u16 = 50002;
const CLUSTER_PUBLIC_PORT: u16 = 3501;
/// Tokens Kubernetes puts into pods: the one for Sentry, and the one of the service account.
const SENTRY_TOKEN: &str = "/var/run/secrets/dapr.io/sentrytoken/token";
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Time between reconciles that nothing asked for.
const DEFAULT_RECONCILE: Duration = Duration::from_secs(60);

/// What is wrong with a flag. Texts are upstream's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value that fails while flags are parsed; exits with `Failed to parse flags: …`.
    #[error("Failed to parse flags: {0}")]
    Flags(String),
    /// A value that fails later; exits with `Fatal error from runtime: …`.
    #[error("Fatal error from runtime: {0}")]
    Runtime(String),
}

fn runtime(text: impl Into<String>) -> Error {
    Error::Runtime(text.into())
}

/// Kubernetes or a single machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Resources from disk.
    Standalone,
    /// Resources from the operator.
    Kubernetes,
}

/// How the application is reached.
#[derive(Debug, Clone)]
pub struct App {
    /// `None` without an application.
    pub port: Option<u16>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Host it listens on, an IPv6 address in brackets: it stands in addresses and `Host` headers.
    pub address: String,
    /// Most calls at once; 0 is unlimited.
    pub max_concurrency: usize,
    /// `GET /dapr/config` is asked for.
    pub load_config: bool,
    /// Programmatic subscriptions are asked for.
    pub load_subscriptions: bool,
    /// Token sent with every call.
    pub token: Option<String>,
    /// Health checks, when on.
    pub health: Option<AppHealth>,
}

/// Health checks of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppHealth {
    /// Path as given.
    pub path: String,
    /// Time between probes.
    pub interval: Duration,
    /// Time a probe may take.
    pub timeout: Duration,
    /// Consecutive failures before unhealthy.
    pub threshold: u32,
}

/// What is listened on.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Addresses of both public APIs; an empty one is all interfaces.
    pub addresses: Vec<String>,
    /// Port of the HTTP API.
    pub http_port: u16,
    /// Port of the gRPC API.
    pub grpc_port: u16,
    /// Port of the API between sidecars; `None` computes a stable one.
    pub internal_port: Option<u16>,
    /// Address of the API between sidecars; empty is all.
    pub internal_address: String,
    /// Address and port of the public server.
    pub public: Option<(String, u16)>,
    /// Folder for unix sockets instead of ports.
    pub socket_folder: Option<PathBuf>,
    /// `--allowed-origins`
    pub allowed_origins: String,
    /// HTTP/2 without TLS on the HTTP API.
    pub h2c: bool,
}

/// Where the control plane is.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// Address of the operator; only in Kubernetes.
    pub operator: String,
    /// Address of Sentry.
    pub sentry: String,
    /// Addresses of Placement; empty means actors are off.
    pub placement: Vec<String>,
    /// Addresses of the scheduler.
    pub scheduler: Vec<String>,
    /// Trust domain of the control plane.
    pub trust_domain: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Longest dissemination round.
    pub disseminate_timeout: Duration,
    /// Audiences of the JWT asked for.
    pub jwt_audiences: Vec<String>,
}

/// Everything daprd was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where resources come from.
    pub mode: Mode,
    /// Own app id, checked.
    pub app_id: String,
    /// `NAMESPACE`, if set and not empty.
    pub namespace: Option<String>,
    /// The application.
    pub app: App,
    /// What is listened on.
    pub listen: Listen,
    /// Where the control plane is.
    pub control_plane: ControlPlane,
    /// One state store is that of actors. `--actors-service` asks for it as well, and has no other effect.
    pub chooses_actor_store: bool,
    /// Calls between sidecars are secured with certificates from Sentry.
    pub mtls: bool,
    /// `DAPR_TRUST_ANCHORS`
    pub trust_anchors: Option<String>,
    /// `SENTRY_LOCAL_IDENTITY`, or the app id.
    pub sentry_id: String,
    /// What proves to Sentry who this is.
    pub sentry_token: TokenSource,
    /// Folders of resources.
    pub resource_paths: Vec<PathBuf>,
    /// `--config`: files in order, or the name of an object in Kubernetes.
    pub config: Vec<String>,
    /// Time between reconciles that nothing asked for.
    pub reconcile: Duration,
    /// The store `kubernetes` is there without a resource.
    pub builtin_secret_store: bool,
    /// `DAPR_API_TOKEN`
    pub api_token: Option<String>,
    /// Largest body in bytes; `None` is unlimited.
    pub max_body_size: Option<usize>,
    /// Largest request header in bytes.
    pub read_buffer_size: usize,
    /// `--enable-api-logging`, if given.
    pub api_logging: Option<bool>,
    /// Time of the closing steps; `None` waits for ever.
    pub graceful_shutdown: Option<Duration>,
    /// `--dapr-block-shutdown-duration`
    pub block_shutdown: Option<Duration>,
    /// `DAPR_HOST_IP`
    pub host_ip: Option<String>,
}

impl Settings {
    /// Checks `args` with `environment`.
    pub fn check(args: &Args, environment: &Environment) -> Result<Self, Error> {
        let limits = Limits::check(&args.limits)?;
        let disseminate_timeout = positive(args.control_plane.actors_disseminate_timeout)?;
        let namespace = environment.non_empty("NAMESPACE").map(str::to_owned);
        if args.control_plane.scheduler_job_streams < 1 {
            return Err(runtime("must define at least 1 scheduler stream, got 0"));
        }
        let app = app(&args.app, &args.health, environment)?;
        let mut listen = listen(args, app.port, environment)?;
        let mode = match args.mode.as_str() {
            "standalone" => Mode::Standalone,
            "kubernetes" => Mode::Kubernetes,
            mode => return Err(runtime(format!("invalid mode: {mode}"))),
        };
        if mode == Mode::Kubernetes {
            listen.internal_port.get_or_insert(CLUSTER_INTERNAL_PORT);
            let address = &args.listen.dapr_public_listen_address;
            listen
                .public
                .get_or_insert_with(|| (address.clone(), CLUSTER_PUBLIC_PORT));
        }
        if args.app_id.is_empty() {
            return Err(runtime("parameter app-id cannot be empty"));
        }
        if args.app_id.contains('.') {
            return Err(runtime("parameter app-id cannot contain dots"));
        }
        let sentry_token = sentry_token(mode, environment)?;
        if mode == Mode::Kubernetes {
            in_cluster(args, environment)?;
        }
        let mut resource_paths = list(&args.resources.resources_path);
        if resource_paths.is_empty() {
            let alias = args.resources.components_path.iter();
            resource_paths.extend(alias.filter(|path| !path.is_empty()).cloned());
        }
        let control_plane = control_plane(&args.control_plane, disseminate_timeout);
        Ok(Self {
            mode,
            chooses_actor_store: !control_plane.placement.is_empty()
                || !args.actors_service.is_empty(),
            sentry_id: environment
                .non_empty("SENTRY_LOCAL_IDENTITY")
                .unwrap_or(&args.app_id)
                .to_owned(),
            app_id: args.app_id.clone(),
            namespace,
            app,
            listen,
            control_plane,
            mtls: args.control_plane.enable_mtls,
            trust_anchors: environment
                .non_empty("DAPR_TRUST_ANCHORS")
                .map(str::to_owned),
            sentry_token,
            resource_paths: resource_paths.into_iter().map(PathBuf::from).collect(),
            config: list(&args.resources.config),
            reconcile: (args.resources.hot_reload_reconcile_interval)
                .positive()
                .unwrap_or(DEFAULT_RECONCILE),
            builtin_secret_store: mode == Mode::Kubernetes
                && !args.resources.disable_builtin_k8s_secret_store,
            api_token: environment.non_empty("DAPR_API_TOKEN").map(str::to_owned),
            max_body_size: limits.max_body,
            read_buffer_size: limits.read_buffer,
            api_logging: args.enable_api_logging,
            graceful_shutdown: match args.dapr_graceful_shutdown_seconds {
                0 => None,
                seconds => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(5))),
            },
            block_shutdown: args
                .dapr_block_shutdown_duration
                .map(|duration| duration.positive().unwrap_or_default()),
            host_ip: environment.non_empty("DAPR_HOST_IP").map(str::to_owned),
        })
    }

    /// Whether Sentry is asked for an identity: in Kubernetes the control plane speaks mTLS whatever sidecars do.
    pub fn has_identity(&self) -> bool {
        self.mtls || self.mode == Mode::Kubernetes
    }

    /// The namespace of this sidecar's identity.
    pub fn identity_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

/// What a sidecar in a pod needs and must not be.
fn in_cluster(args: &Args, environment: &Environment) -> Result<(), Error> {
    if !environment.truthy("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK") {
        refuse_root().map_err(|error| runtime(dapr_kit::process::chain(&error)))?;
    }
    if args.control_plane.control_plane_address.is_empty() {
        return Err(runtime(
            "--control-plane-address is empty: with --mode kubernetes it must be the operator's address",
        ));
    }
    Ok(())
}

/// A token file that is named, in Kubernetes else the first of those that pods have.
fn sentry_token(mode: Mode, environment: &Environment) -> Result<TokenSource, Error> {
    let named = match environment.get("DAPR_SENTRY_TOKEN_FILE") {
        Some("") => {
            return Err(runtime(
                "environment variable DAPR_SENTRY_TOKEN_FILE is set but empty",
            ));
        }
        file => file.map(PathBuf::from),
    };
    let mounted = || {
        [SENTRY_TOKEN, SERVICE_ACCOUNT_TOKEN]
            .iter()
            .map(PathBuf::from)
            .find(|file| file.exists())
    };
    Ok(match mode {
        Mode::Standalone => named.map_or(TokenSource::None, TokenSource::Jwks),
        Mode::Kubernetes => named
            .or_else(mounted)
            .map_or(TokenSource::None, TokenSource::Kubernetes),
    })
}

struct Limits {
    max_body: Option<usize>,
    read_buffer: usize,
}

impl Limits {
    fn check(args: &LimitArgs) -> Result<Self, Error> {
        let max_body = size(
            "max-body-size",
            args.max_body_size.as_deref(),
            args.dapr_http_max_request_size,
            20,
        )?
        .unwrap_or(DEFAULT_MAX_BODY);
        let read_buffer = size(
            "read-buffer-size",
            args.read_buffer_size.as_deref(),
            args.dapr_http_read_buffer_size,
            10,
        )?
        .unwrap_or(DEFAULT_READ_BUFFER);
        Ok(Self {
            max_body: (max_body > 0).then_some(max_body),
            read_buffer: match read_buffer {
                0 => LARGEST_READ_BUFFER,
                bytes => bytes,
            },
        })
    }
}

/// A quantity flag, or its deprecated sibling in units of `1 << shift` bytes (-1 is the default).
fn size(
    name: &str,
    quantity: Option<&str>,
    deprecated: Option<i64>,
    shift: u32,
) -> Result<Option<usize>, Error> {
    if let Some(text) = quantity {
        let bytes = dapr_kit::quantity::parse(text)
            .map_err(|error| Error::Flags(format!("invalid value for '{name}' option: {error}")))?;
        return usize::try_from(bytes).map(Some).map_err(|_| {
            Error::Flags(format!(
                "invalid value for '{name}' option: must not be negative, got {text}"
            ))
        });
    }
    Ok(deprecated
        .and_then(|units| usize::try_from(units).ok())
        .map(|units| units << shift))
}

fn positive(duration: SignedGoDuration) -> Result<Duration, Error> {
    duration.positive().ok_or_else(|| {
        Error::Flags(format!(
            "invalid value for 'actors-disseminate-timeout' option: must be positive, got {duration}"
        ))
    })
}

/// A list flag; an empty value names nothing, as an unset variable in a script leaves it.
fn list(values: &[String]) -> Vec<String> {
    let named = values.iter().filter(|value| !value.is_empty());
    named.cloned().collect()
}

/// A port flag as text; `what` is how upstream names it in the error.
fn port(what: &str, text: &str) -> Result<u16, Error> {
    let fail = |reason: &str| {
        runtime(format!(
            "error parsing {what}: strconv.Atoi: parsing {text:?}: {reason}"
        ))
    };
    match text.parse::<i64>() {
        Ok(number) => u16::try_from(number)
            .map_err(|_| fail("value out of range; a port is between 0 and 65535")),
        Err(_) => Err(fail("invalid syntax")),
    }
}

fn optional_port(what: &str, text: &str) -> Result<Option<u16>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    port(what, text).map(|port| (port > 0).then_some(port))
}

fn app(args: &AppArgs, health: &AppHealthArgs, environment: &Environment) -> Result<App, Error> {
    let protocol = match (
        args.app_protocol.to_lowercase().as_str(),
        args.app_ssl.unwrap_or(false),
    ) {
        ("" | "http", false) => Protocol::Http,
        ("" | "http", true) | ("https", _) => Protocol::Https,
        ("grpc", false) => Protocol::Grpc,
        ("grpc", true) | ("grpcs", _) => Protocol::Grpcs,
        ("h2c", _) => Protocol::H2c,
        _ => {
            return Err(runtime(format!(
                "invalid value for 'app-protocol': {}",
                args.app_protocol
            )));
        }
    };
    let (mut load_config, mut load_subscriptions) = (true, true);
    for endpoint in &list(&args.disable_init_endpoints) {
        match endpoint.trim().to_lowercase().as_str() {
            "config" => load_config = false,
            "subscribe" => load_subscriptions = false,
            _ => {
                return Err(runtime(format!(
                    "invalid value for 'disable-init-endpoints': {endpoint}"
                )));
            }
        }
    }
    let probes = app_health(health)?;
    Ok(App {
        port: optional_port("app-port", &args.app_port)?,
        protocol,
        address: match (
            args.app_channel_address.parse::<Ipv6Addr>(),
            args.app_channel_address.as_str(),
        ) {
            (Ok(address), _) => format!("[{address}]"),
            // A variable nobody has set: upstream dials this host.
            (Err(_), "") => Ipv4Addr::LOCALHOST.to_string(),
            (Err(_), name) => name.to_owned(),
        },
        max_concurrency: usize::try_from(args.app_max_concurrency).unwrap_or(0),
        load_config,
        load_subscriptions,
        token: environment.non_empty("APP_API_TOKEN").map(str::to_owned),
        health: health.enable_app_health_check.then_some(probes),
    })
}

fn app_health(args: &AppHealthArgs) -> Result<AppHealth, Error> {
    let or_default = |value: i64, default: u64| {
        u64::try_from(value)
            .ok()
            .filter(|v| *v > 0)
            .unwrap_or(default)
    };
    let interval = Duration::from_secs(or_default(args.app_health_probe_interval, 5));
    let timeout = Duration::from_millis(or_default(args.app_health_probe_timeout, 500));
    if timeout > interval {
        return Err(runtime(
            "value for 'health-probe-timeout' must be smaller than 'health-probe-interval'",
        ));
    }
    Ok(AppHealth {
        path: args.app_health_check_path.clone(),
        interval,
        timeout,
        threshold: u32::try_from(or_default(args.app_health_threshold, 3)).unwrap_or(u32::MAX),
    })
}

fn listen(args: &Args, app_port: Option<u16>, environment: &Environment) -> Result<Listen, Error> {
    let http_port = port("dapr-http-port flag", &args.listen.dapr_http_port)?;
    let grpc_port = port("dapr-grpc-port flag", &args.listen.dapr_grpc_port)?;
    port("profile-port flag", &args.profile_port)?;
    for (name, own) in [("dapr-http-port", http_port), ("dapr-grpc-port", grpc_port)] {
        if own != 0 && app_port == Some(own) {
            return Err(runtime(format!(
                "the '{name}' argument value {own} conflicts with 'app-port'"
            )));
        }
    }
    let mut addresses = list(&args.listen.dapr_listen_addresses);
    if addresses.is_empty() {
        addresses.push(String::new());
    }
    let socket_folder = &args.listen.unix_domain_socket;
    Ok(Listen {
        addresses,
        http_port,
        grpc_port,
        internal_port: optional_port(
            "dapr-internal-grpc-port",
            &args.listen.dapr_internal_grpc_port,
        )?,
        internal_address: args.listen.dapr_internal_grpc_listen_address.clone(),
        public: optional_port("dapr-public-port", &args.listen.dapr_public_port)?
            .map(|port| (args.listen.dapr_public_listen_address.clone(), port)),
        socket_folder: (!socket_folder.is_empty()).then(|| PathBuf::from(socket_folder)),
        allowed_origins: args.listen.allowed_origins.clone(),
        h2c: !environment
            .get("DAPR_HTTP_DISABLE_H2C")
            .is_some_and(dapr_kit::truthy),
    })
}

fn control_plane(args: &ControlPlaneArgs, disseminate_timeout: Duration) -> ControlPlane {
    let placement = args.placement_host_address.split(',').map(str::trim);
    ControlPlane {
        operator: args.control_plane_address.clone(),
        sentry: args.sentry_address.clone(),
        placement: placement
            .filter(|address| !address.is_empty())
            .map(str::to_owned)
            .collect(),
        scheduler: list(&args.scheduler_host_address),
        trust_domain: args.control_plane_trust_domain.clone(),
        namespace: args.control_plane_namespace.clone(),
        disseminate_timeout,
        jwt_audiences: list(&args.sentry_request_jwt_audiences),
    }
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use super::*;

    #[expect(clippy::unwrap_in_result, reason = "a test may fail here")]
    fn settings(flags: &str, environment: &[(&str, &str)]) -> Result<Settings, Error> {
        let flags = std::iter::once("daprd").chain(flags.split_whitespace());
        let args: Args = try_parse_from(Dashes::OneOrTwo, flags).expect("flags parse");
        Settings::check(&args, &environment.iter().copied().collect())
    }

    #[test]
    fn an_actor_store_is_chosen_for_placement_or_an_actors_service() {
        let check = |flags: &str, expected: bool| {
            let settings = settings(&format!("--app-id a {flags}"), &[]).expect(flags);
            assert_eq!(settings.chooses_actor_store, expected, "{flags}");
        };
        check("", false);
        check("--placement-host-address p:1", true);
        check("--actors-service placement:p:1", true);
        check("--reminders-service default", false);
    }

    #[test]
    fn bad_values_are_answered_with_upstreams_texts() {
        let check = |flags: &str, expected: &str| {
            let error = settings(flags, &[]).expect_err(flags).to_string();
            assert_eq!(error, expected, "{flags}");
        };
        check(
            "--app-id a --dapr-http-port abc",
            "Fatal error from runtime: error parsing dapr-http-port flag: strconv.Atoi: parsing \"abc\": invalid syntax",
        );
        check(
            "--app-id a --app-port x",
            "Fatal error from runtime: error parsing app-port: strconv.Atoi: parsing \"x\": invalid syntax",
        );
        check(
            "--app-id a --mode moon",
            "Fatal error from runtime: invalid mode: moon",
        );
        check(
            "",
            "Fatal error from runtime: parameter app-id cannot be empty",
        );
        check(
            "--app-id a.b",
            "Fatal error from runtime: parameter app-id cannot contain dots",
        );
        check(
            "--app-id a --app-port 3500",
            "Fatal error from runtime: the 'dapr-http-port' argument value 3500 conflicts with 'app-port'",
        );
        check(
            "--app-id a --app-protocol smtp",
            "Fatal error from runtime: invalid value for 'app-protocol': smtp",
        );
        check(
            "--app-id a --disable-init-endpoints x",
            "Fatal error from runtime: invalid value for 'disable-init-endpoints': x",
        );
        check(
            "--app-id a --scheduler-job-streams 0",
            "Fatal error from runtime: must define at least 1 scheduler stream, got 0",
        );
        check(
            "--app-id a --actors-disseminate-timeout 0s",
            "Failed to parse flags: invalid value for 'actors-disseminate-timeout' option: must be positive, got 0s",
        );
        check(
            "--app-id a --actors-disseminate-timeout -1m",
            "Failed to parse flags: invalid value for 'actors-disseminate-timeout' option: must be positive, got -1m0s",
        );
        check(
            "--app-id a --app-health-probe-timeout 6000",
            "Fatal error from runtime: value for 'health-probe-timeout' must be smaller than 'health-probe-interval'",
        );
    }

    #[test]
    fn empty_values_of_lists_are_none() {
        let flags = "--app-id a --resources-path= --config= --disable-init-endpoints= \
                     --sentry-request-jwt-audiences= --dapr-listen-addresses= --scheduler-host-address=";
        let settings = self::settings(flags, &[]).expect("valid");
        assert!(settings.resource_paths.is_empty() && settings.config.is_empty());
        assert!(settings.app.load_config && settings.app.load_subscriptions);
        assert!(settings.control_plane.jwt_audiences.is_empty());
        assert!(settings.control_plane.scheduler.is_empty());
        // All interfaces.
        assert_eq!(settings.listen.addresses, [""]);
        // An alias stands in for a list that names nothing.
        let flags = "--app-id a --resources-path= --components-path /c";
        let settings = self::settings(flags, &[]).expect("valid");
        assert_eq!(settings.resource_paths, [PathBuf::from("/c")]);
    }

    #[test]
    fn an_ipv6_application_stands_in_brackets() {
        let check = |given: &str, expected: &str| {
            let flags = format!("--app-id a --app-channel-address={given}");
            let settings = settings(&flags, &[]).expect("valid");
            assert_eq!(settings.app.address, expected);
        };
        check("::1", "[::1]");
        check("", "127.0.0.1");
        check("[::1]", "[::1]");
        check("10.0.0.1", "10.0.0.1");
        check("app.local", "app.local");
    }

    #[test]
    fn times_below_zero_are_those_of_no_flag() {
        let flags = "--app-id a --app-binding-options-timeout -1s \
                     --hot-reload-reconcile-interval -1s --dapr-block-shutdown-duration -1s";
        let settings = self::settings(flags, &[]).expect("valid");
        assert_eq!(settings.reconcile, Duration::from_secs(60));
        assert_eq!(settings.block_shutdown, Some(Duration::ZERO));
    }

    #[test]
    fn integers_are_read_as_go_reads_them() {
        let flags = ["daprd", "--app-max-concurrency", "x"];
        let exit = try_parse_from::<Args, _, _>(Dashes::OneOrTwo, flags).expect_err("no number");
        assert_eq!(
            exit.text.lines().last().unwrap_or_default(),
            "invalid argument \"x\" for \"--app-max-concurrency\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn defaults_are_upstreams() {
        let settings = settings("--app-id shop", &[]).expect("valid");
        assert_eq!(
            (settings.listen.http_port, settings.listen.grpc_port),
            (3500, 50001)
        );
        assert_eq!(settings.max_body_size, Some(4 << 20));
        assert_eq!(settings.read_buffer_size, 4 << 10);
        assert_eq!(settings.graceful_shutdown, Some(Duration::from_secs(5)));
        assert_eq!(settings.app.port, None);
        assert_eq!(settings.identity_namespace(), "default");
        assert!(!settings.mtls);
    }

    #[test]
    fn a_read_buffer_of_zero_is_a_large_one() {
        for flag in ["--read-buffer-size", "--dapr-http-read-buffer-size"] {
            let settings = settings(&format!("--app-id a {flag} 0"), &[]).expect("valid");
            assert_eq!(settings.read_buffer_size, 1 << 20, "{flag}");
        }
    }

    #[test]
    fn in_a_cluster_ports_token_and_identity_are_others() {
        let environment = [
            ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true"),
            ("DAPR_SENTRY_TOKEN_FILE", "/token"),
            ("NAMESPACE", "prod"),
        ];
        let flags = "--app-id a --mode kubernetes --control-plane-address operator:443";
        let settings = settings(flags, &environment).expect("valid");
        assert_eq!(settings.listen.internal_port, Some(50002));
        assert_eq!(settings.listen.public, Some((String::new(), 3501)));
        assert_eq!(
            settings.sentry_token,
            TokenSource::Kubernetes("/token".into())
        );
        assert!(settings.has_identity() && !settings.mtls && settings.builtin_secret_store);
        let error = self::settings("--app-id a --mode kubernetes", &environment);
        assert!(
            error
                .expect_err("no operator")
                .to_string()
                .contains("--control-plane-address")
        );
    }

    #[test]
    fn sizes_take_quantities_and_the_deprecated_units() {
        let check = |flags: &str, expected: Option<usize>| {
            let flags = format!("--app-id a {flags}");
            assert_eq!(
                settings(&flags, &[]).expect("valid").max_body_size,
                expected,
                "{flags}"
            );
        };
        check("--max-body-size 10Mi", Some(10 << 20));
        check("--max-body-size 0", None);
        check("--dapr-http-max-request-size 8", Some(8 << 20));
        check("--dapr-http-max-request-size -1", Some(4 << 20));
    }

    #[test]
    fn ssl_turns_protocols_secure() {
        let check = |flags: &str, expected: Protocol| {
            let flags = format!("--app-id a {flags}");
            assert_eq!(
                settings(&flags, &[]).expect("valid").app.protocol,
                expected,
                "{flags}"
            );
        };
        check("--app-ssl", Protocol::Https);
        check("--app-ssl --app-protocol GRPC", Protocol::Grpcs);
        check("--app-protocol h2c", Protocol::H2c);
    }
}
