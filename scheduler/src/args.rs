//! Flags and environment of the scheduler.

use std::path::PathBuf;

use clap::Parser;
use dapr_kit::duration::GoDuration;
use dapr_kit::flags::{self, Environment};
use dapr_kit::log::{self, LogArgs, LogIdentity};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::quantity;
use dapr_kit::shutdown::Shutdown;

use crate::app::{self, Settings};
use crate::etcd::{self, Embedded, Etcd, External};

/// Keeps and fires jobs and reminders.
#[derive(Debug, Parser)]
#[command(name = "scheduler")]
pub struct Args {
    /// Port of the API.
    #[arg(long, default_value_t = 50006, value_parser = flags::int::<u16>)]
    port: u16,
    /// Address of the API and the metrics server; empty for every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    listen_address: String,
    /// Host and port told to sidecars in place of the detected ones.
    #[arg(long, value_name = "HOST:PORT")]
    override_broadcast_host_port: Option<String>,
    /// Port of the health server.
    #[arg(long, default_value_t = 8080, value_name = "PORT", value_parser = flags::int::<u16>)]
    healthz_port: u16,
    /// Accepted and not applied: the health server listens on every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    healthz_listen_address: String,
    /// Serve with mTLS; always on in Kubernetes mode.
    #[arg(long)]
    tls_enabled: bool,
    /// Trust domain of the control plane.
    #[arg(long, default_value = "localhost", value_name = "DOMAIN")]
    trust_domain: String,
    /// Path of the trust anchors; /var/run/secrets/dapr.io/tls/ca.crt in a cluster.
    #[arg(long, value_name = "FILE")]
    trust_anchors_file: Option<PathBuf>,
    /// Address of Sentry; `dapr-sentry.<NAMESPACE>.svc:443` when not given.
    #[arg(long, value_name = "ADDRESS")]
    sentry_address: Option<String>,
    /// kubernetes or standalone.
    #[arg(long, default_value = "standalone")]
    mode: String,
    /// Name of this replica; must be in the initial cluster.
    #[arg(long, default_value = "dapr-scheduler-server-0")]
    id: String,
    /// Keep the jobs in this process instead of an external etcd.
    #[arg(long, default_value_t = true)]
    etcd_embed: bool,
    /// All replicas as id=url.
    #[arg(
        long,
        default_value = "dapr-scheduler-server-0=http://localhost:2380",
        value_name = "ID=URL",
        value_delimiter = ','
    )]
    etcd_initial_cluster: Vec<String>,
    /// Folder of the jobs.
    #[arg(long, default_value = "./data", value_name = "FOLDER")]
    etcd_data_dir: PathBuf,
    /// Port of the etcd client API.
    #[arg(long, default_value_t = 2379, value_name = "PORT", value_parser = flags::int::<u16>)]
    etcd_client_port: u16,
    /// Address of the etcd client API.
    #[arg(long, default_value = "localhost", value_name = "ADDRESS")]
    etcd_client_listen_address: String,
    /// How large the store may grow.
    #[arg(long, default_value = "9.2E", value_name = "QUANTITY", value_parser = quantity::parse)]
    etcd_space_quota: i64,
    /// periodic or revision.
    #[arg(long, default_value = "revision", value_name = "MODE")]
    etcd_compaction_mode: String,
    /// How much history compaction keeps.
    #[arg(long, default_value = "1000000", value_name = "RETENTION")]
    etcd_compaction_retention: String,
    /// Changes between two snapshots.
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = flags::uint::<u64>)]
    etcd_snapshot_count: u64,
    /// Snapshots to keep.
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = flags::uint::<u32>)]
    etcd_max_snapshots: u32,
    /// Write-ahead logs to keep.
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = flags::uint::<u32>)]
    etcd_max_wals: u32,
    /// Changes per batch written to disk.
    #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = flags::int::<i64>)]
    etcd_backend_batch_limit: i64,
    /// Longest time until a batch is written to disk.
    #[arg(long, default_value = "100ms", value_name = "DURATION")]
    etcd_backend_batch_interval: GoDuration,
    /// Operations per transaction.
    #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = flags::uint::<u32>)]
    etcd_max_txn_ops: u32,
    /// Free megabytes from which the store is defragmented at the start.
    #[arg(long, default_value_t = 100, value_name = "MEGABYTES", value_parser = flags::uint::<u32>)]
    etcd_experimental_bootstrap_defrag_threshold_megabytes: u32,
    /// Elect a leader sooner after the start.
    #[arg(long)]
    etcd_initial_election_tick_advance: bool,
    /// basic or extensive.
    #[arg(long, default_value = "basic", value_name = "DETAIL")]
    etcd_metrics: String,
    /// Endpoints of an external etcd.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    etcd_client_endpoints: Vec<String>,
    /// User at an external etcd.
    #[arg(long, default_value = "", value_name = "NAME")]
    etcd_client_username: String,
    /// Password at an external etcd.
    #[arg(
        long,
        default_value = "",
        value_name = "PASSWORD",
        hide_default_value = true
    )]
    etcd_client_password: Secret,
    /// How many jobs are handled at a time.
    #[arg(long, default_value_t = 2048, value_name = "COUNT", value_parser = flags::uint::<u32>)]
    workers: u32,
    /// Path of a kubeconfig.
    #[arg(long, hide = true, default_value = "", value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Folder the identity is written to.
    #[arg(long, hide = true, value_name = "FOLDER")]
    identity_directory_write: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
}

/// A value that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() {
            "Secret(empty)"
        } else {
            "Secret(..)"
        })
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Where the scheduler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a cluster, with mTLS always.
    Kubernetes,
    /// As a plain process.
    Standalone,
}

/// A setting that does not let the scheduler start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `--mode` is neither word.
    #[error("invalid value for --mode: {0:?}: must be kubernetes or standalone")]
    Mode(String),
    /// `--kubeconfig` outside Kubernetes mode.
    #[error("--kubeconfig is only valid in kubernetes mode: drop it or add --mode=kubernetes")]
    Kubeconfig,
    /// The flags of the store contradict each other.
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
}

impl Args {
    /// Runs the scheduler until the shutdown.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let _log = log::init(&self.log, LogIdentity::new("dapr.scheduler"))?;
        app::run(self.settings(&Environment::of_process())?, shutdown).await
    }

    fn settings(self, environment: &Environment) -> Result<Settings, Error> {
        let Self {
            port,
            listen_address,
            override_broadcast_host_port,
            healthz_port,
            healthz_listen_address: _,
            tls_enabled,
            trust_domain,
            trust_anchors_file,
            sentry_address,
            mode,
            id,
            etcd_embed,
            etcd_initial_cluster,
            etcd_data_dir,
            etcd_client_port,
            etcd_client_listen_address,
            etcd_space_quota,
            etcd_compaction_mode,
            etcd_compaction_retention,
            etcd_snapshot_count,
            etcd_max_snapshots,
            etcd_max_wals,
            etcd_backend_batch_limit,
            etcd_backend_batch_interval,
            etcd_max_txn_ops,
            etcd_experimental_bootstrap_defrag_threshold_megabytes,
            etcd_initial_election_tick_advance,
            etcd_metrics,
            etcd_client_endpoints,
            etcd_client_username,
            etcd_client_password,
            workers,
            kubeconfig,
            identity_directory_write,
            log: _,
            metrics,
        } = self;
        let mode = parse_mode(&mode)?;
        let kubeconfig = Some(kubeconfig).filter(|path| !path.as_os_str().is_empty());
        if kubeconfig.is_some() && mode != Mode::Kubernetes {
            return Err(Error::Kubeconfig);
        }
        let namespace = environment
            .non_empty("NAMESPACE")
            .unwrap_or("default")
            .to_owned();
        let external = External {
            endpoints: etcd_client_endpoints,
            username: etcd_client_username,
            password: etcd_client_password,
        };
        let etcd = if etcd_embed {
            external.refuse_if_given()?;
            Etcd::Embedded(Embedded {
                initial_cluster: etcd::parse_initial_cluster(&etcd_initial_cluster, &id)?,
                data_dir: etcd_data_dir,
                client: (etcd_client_listen_address, etcd_client_port),
                space_quota: etcd_space_quota,
                compaction_mode: etcd_compaction_mode,
                compaction_retention: etcd_compaction_retention,
                snapshot_count: etcd_snapshot_count,
                max_snapshots: etcd_max_snapshots,
                max_wals: etcd_max_wals,
                backend_batch_limit: etcd_backend_batch_limit,
                backend_batch_interval: etcd_backend_batch_interval.0,
                max_txn_ops: etcd_max_txn_ops,
                bootstrap_defrag_threshold_megabytes:
                    etcd_experimental_bootstrap_defrag_threshold_megabytes,
                initial_election_tick_advance: etcd_initial_election_tick_advance,
                metrics: etcd_metrics,
            })
        } else {
            Etcd::External(external.checked()?)
        };
        Ok(Settings {
            mode,
            may_be_root: environment.truthy("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK"),
            id,
            api: (listen_address, port),
            broadcast_host_port: override_broadcast_host_port.filter(|text| !text.is_empty()),
            host_ip: environment.non_empty("DAPR_HOST_IP").map(str::to_owned),
            healthz_port,
            tls: tls_enabled || mode == Mode::Kubernetes,
            trust_domain,
            trust_anchors_file,
            sentry_address: sentry_address
                .unwrap_or_else(|| format!("dapr-sentry.{namespace}.svc:443")),
            namespace,
            etcd,
            workers,
            kubeconfig,
            identity_directory: identity_directory_write
                .unwrap_or_else(|| std::env::temp_dir().join("secrets/dapr.io/tls")),
            metrics,
        })
    }
}

fn parse_mode(text: &str) -> Result<Mode, Error> {
    match text {
        "kubernetes" => Ok(Mode::Kubernetes),
        "standalone" => Ok(Mode::Standalone),
        _ => Err(Error::Mode(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
