//! The command line and environment of `daprd`, as written. Checked settings are in `settings.rs`.

use clap::{ArgAction, Args as ClapArgs, Parser};
use dapr_kit::duration::SignedGoDuration;
use dapr_kit::flags::{int, uint};
use dapr_kit::log::LogArgs;
use dapr_kit::metrics::MetricsArgs;

/// The Dapr sidecar.
#[derive(Debug, Parser)]
#[command(name = "daprd", disable_version_flag = true)]
pub struct Args {
    /// Runtime mode: standalone or kubernetes
    #[arg(long, default_value = "standalone")]
    pub mode: String,
    /// A unique id of the application
    #[arg(long, default_value = "")]
    pub app_id: String,
    #[command(flatten)]
    pub app: AppArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
    #[command(flatten)]
    pub control_plane: ControlPlaneArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub health: AppHealthArgs,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// Serve profiles on --profile-port
    #[arg(long)]
    pub enable_profiling: bool,
    /// Port of the profiling server
    #[arg(long, default_value = "7777")]
    pub profile_port: String,
    /// Log every API call; unset takes the Configuration's setting
    #[arg(long)]
    pub enable_api_logging: Option<bool>,
    /// Seconds a graceful shutdown may take; 0 waits for ever
    #[arg(long, default_value = "5", allow_hyphen_values = true, value_parser = int::<i64>)]
    pub dapr_graceful_shutdown_seconds: i64,
    /// Time the shutdown is held back so that requests in flight can still use the sidecar
    #[arg(long)]
    pub dapr_block_shutdown_duration: Option<SignedGoDuration>,
    /// Print the version and exit
    #[arg(long)]
    pub version: bool,
    /// Print the build info and exit
    #[arg(long)]
    pub build_info: bool,
    /// Wait for a running sidecar's outbound readiness and exit
    #[arg(long)]
    pub wait: bool,
    /// Has no effect, but that a state store is chosen for actors
    #[arg(long, default_value = "", hide = true)]
    pub actors_service: String,
    /// Has no effect
    #[arg(long, default_value = "", hide = true)]
    pub reminders_service: String,
}

/// How the application is reached.
#[derive(Debug, ClapArgs)]
pub struct AppArgs {
    /// Port the application listens on; empty means no application
    #[arg(long, default_value = "")]
    pub app_port: String,
    /// Protocol of the application: http, https, grpc, grpcs or h2c
    #[arg(long, default_value = "http")]
    pub app_protocol: String,
    /// Host the application listens on
    #[arg(long, default_value = "127.0.0.1")]
    pub app_channel_address: String,
    /// Most calls to the application at once; -1 is unlimited
    #[arg(long, default_value = "-1", allow_hyphen_values = true, value_parser = int::<i64>)]
    pub app_max_concurrency: i64,
    /// Deprecated: use --app-protocol https or grpcs
    #[arg(long, hide = true)]
    pub app_ssl: Option<bool>,
    /// Requests to the application not made at start: config, subscribe
    #[arg(long, value_delimiter = ',')]
    pub disable_init_endpoints: Vec<String>,
    /// Time for the discovery of input bindings
    #[arg(long, default_value = "3s")]
    pub app_binding_options_timeout: SignedGoDuration,
}

/// What is listened on.
#[derive(Debug, ClapArgs)]
pub struct ListenArgs {
    /// Port of the HTTP API
    #[arg(long, default_value = "3500")]
    pub dapr_http_port: String,
    /// Port of the gRPC API
    #[arg(long, default_value = "50001")]
    pub dapr_grpc_port: String,
    /// Port of the API between sidecars; empty computes a stable one
    #[arg(long, default_value = "")]
    pub dapr_internal_grpc_port: String,
    /// Address of the API between sidecars; empty is all
    #[arg(long, default_value = "")]
    pub dapr_internal_grpc_listen_address: String,
    /// Port of the public server: metadata and health only
    #[arg(long, default_value = "")]
    pub dapr_public_port: String,
    /// Address of the public server
    #[arg(long, default_value = "")]
    pub dapr_public_listen_address: String,
    /// Addresses of the HTTP and gRPC APIs; empty is all
    #[arg(long, value_delimiter = ',')]
    pub dapr_listen_addresses: Vec<String>,
    /// Folder for unix sockets instead of ports
    #[arg(long, default_value = "")]
    pub unix_domain_socket: String,
    /// CORS origins; empty switches CORS off
    #[arg(long, default_value = "")]
    pub allowed_origins: String,
}

/// Where the control plane is.
#[derive(Debug, ClapArgs)]
pub struct ControlPlaneArgs {
    /// Address of the operator
    #[arg(long, default_value = "")]
    pub control_plane_address: String,
    /// Address of Sentry
    #[arg(long, default_value = "")]
    pub sentry_address: String,
    /// Trust domain of the control plane
    #[arg(
        long,
        env = "DAPR_CONTROLPLANE_TRUST_DOMAIN",
        default_value = "localhost"
    )]
    pub control_plane_trust_domain: String,
    /// Namespace of the control plane
    #[arg(long, env = "DAPR_CONTROLPLANE_NAMESPACE", default_value = "default")]
    pub control_plane_namespace: String,
    /// Audiences of the JWT requested from Sentry
    #[arg(long, value_delimiter = ',')]
    pub sentry_request_jwt_audiences: Vec<String>,
    /// Addresses of Placement
    #[arg(long, default_value = "")]
    pub placement_host_address: String,
    /// Addresses of the scheduler
    #[arg(long, value_delimiter = ',', env = "DAPR_SCHEDULER_HOST_ADDRESS_DNS_A")]
    pub scheduler_host_address: Vec<String>,
    /// Parallel job streams per scheduler
    #[arg(long, default_value = "3", value_parser = uint::<u32>)]
    pub scheduler_job_streams: u32,
    /// Longest dissemination round
    #[arg(long, default_value = "30s")]
    pub actors_disseminate_timeout: SignedGoDuration,
    /// Secure calls between sidecars with certificates from Sentry
    #[arg(long)]
    pub enable_mtls: bool,
}

/// What is loaded.
#[derive(Debug, ClapArgs)]
pub struct ResourceArgs {
    /// Folders of resources
    #[arg(long, value_delimiter = ',')]
    pub resources_path: Vec<String>,
    /// Deprecated: use --resources-path
    #[arg(long)]
    pub components_path: Option<String>,
    /// Configuration files
    #[arg(long, value_delimiter = ',')]
    pub config: Vec<String>,
    /// Interval of the reconcile that backs the file watch
    #[arg(long, default_value = "0s")]
    pub hot_reload_reconcile_interval: SignedGoDuration,
    /// Do not load the built-in Kubernetes secret store
    #[arg(long)]
    pub disable_builtin_k8s_secret_store: bool,
}

/// Sizes.
#[derive(Debug, ClapArgs)]
pub struct LimitArgs {
    /// Largest body, as a Kubernetes quantity
    #[arg(long)]
    pub max_body_size: Option<String>,
    /// Deprecated: use --max-body-size (megabytes)
    #[arg(long, hide = true, allow_hyphen_values = true, value_parser = int::<i64>)]
    pub dapr_http_max_request_size: Option<i64>,
    /// Largest request header, as a Kubernetes quantity
    #[arg(long)]
    pub read_buffer_size: Option<String>,
    /// Deprecated: use --read-buffer-size (kilobytes)
    #[arg(long, hide = true, allow_hyphen_values = true, value_parser = int::<i64>)]
    pub dapr_http_read_buffer_size: Option<i64>,
}

/// Health checks of the application.
#[derive(Debug, ClapArgs)]
pub struct AppHealthArgs {
    /// Probe the application
    #[arg(long)]
    pub enable_app_health_check: bool,
    /// Path of the probe
    #[arg(long, default_value = "/healthz")]
    pub app_health_check_path: String,
    /// Seconds between probes
    #[arg(long, default_value = "5", allow_hyphen_values = true, value_parser = int::<i64>)]
    pub app_health_probe_interval: i64,
    /// Milliseconds a probe may take
    #[arg(long, default_value = "500", allow_hyphen_values = true, value_parser = int::<i64>)]
    pub app_health_probe_timeout: i64,
    /// Failures before the application counts as unhealthy
    #[arg(long, default_value = "3", allow_hyphen_values = true, action = ArgAction::Set, value_parser = int::<i64>)]
    pub app_health_threshold: i64,
}
