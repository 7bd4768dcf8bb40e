//! The command line and the environment of placement.

use std::path::PathBuf;
use std::time::Duration;

use dapr_kit::duration::GoDuration;
use dapr_kit::flags::{Environment, int};
use dapr_kit::log::LogArgs;
use dapr_kit::metrics::MetricsArgs;
use dapr_security::TokenSource;

use crate::namespace;
use crate::raft::{Cluster, ClusterError};

/// App id of placement: all replicas and all sidecars expect a certificate with it.
pub(crate) const APP_ID: &str = "dapr-placement";
/// The shortest and the longest time for pings and their answers.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Where Kubernetes projects the token for Sentry.
const KUBERNETES_TOKEN_FILE: &str = "/var/run/secrets/dapr.io/sentrytoken/token";

/// The flags as they are written; `Settings` are what they mean.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "placement",
    about = "Tells sidecars which of them host which actor types"
)]
pub struct Args {
    /// Id of this replica; must be in --initial-cluster.
    #[arg(long, default_value = "dapr-placement-0")]
    id: String,
    /// All replicas as id=host:port, separated by commas; may be given more than once.
    #[arg(
        long,
        default_value = "dapr-placement-0=127.0.0.1:8201",
        action = clap::ArgAction::Append
    )]
    initial_cluster: Vec<String>,
    /// Port of the gRPC server.
    #[arg(long, default_value = "50005", value_parser = int::<u16>)]
    port: u16,
    /// Address of the gRPC server and of the metrics server; empty means every interface.
    #[arg(long, default_value = "")]
    listen_address: String,
    /// Port of the health server.
    #[arg(long, default_value = "8080", value_parser = int::<u16>)]
    healthz_port: u16,
    /// Accepted, but the health server listens on every interface.
    #[arg(long, default_value = "")]
    healthz_listen_address: String,
    /// Serve /placement/state on the health port; without the flag, DAPR_PLACEMENT_METADATA_ENABLED decides.
    #[arg(long)]
    metadata_enabled: Option<bool>,
    /// Virtual nodes per host on the ring of the sidecars.
    #[arg(long = "replicationFactor", default_value = "100", value_parser = int::<i64>)]
    replication_factor: i64,
    /// Pause between keepalive pings, 1s to 10s.
    #[arg(long, default_value = "2s")]
    keepalive_time: GoDuration,
    /// How long a keepalive ping may stay unanswered, 1s to 10s.
    #[arg(long, default_value = "3s")]
    keepalive_timeout: GoDuration,
    /// Limit for one whole dissemination round.
    #[arg(long, default_value = "8s")]
    disseminate_timeout: GoDuration,
    /// Pause after a round in which connects and disconnects are collected; 0s is none.
    #[arg(long, default_value = "0s")]
    disseminate_coalesce_window: GoDuration,
    /// Use mTLS for gRPC and between replicas.
    #[arg(long)]
    tls_enabled: bool,
    /// Trust domain of the control plane.
    #[arg(long, default_value = "localhost")]
    trust_domain: String,
    /// File with the trust anchors.
    #[arg(long, default_value = "/var/run/secrets/dapr.io/tls/ca.crt")]
    trust_anchors_file: PathBuf,
    /// Address of Sentry as host:port; the default is `dapr-sentry.<NAMESPACE>.svc:443`.
    #[arg(long)]
    sentry_address: Option<String>,
    /// kubernetes or standalone.
    #[arg(long, default_value = "standalone")]
    mode: String,
    /// No effect: --raft-logstore-path decides.
    #[arg(long, default_value_t = true)]
    inmem_store_enabled: bool,
    /// Folder for the log of this replica; empty keeps it in memory.
    #[arg(long, default_value = "")]
    raft_logstore_path: String,
    /// Deprecated, no effect.
    #[arg(long, default_value = "10", value_parser = int::<i64>, hide = true)]
    max_api_level: i64,
    /// Deprecated, no effect.
    #[arg(long, default_value = "0", value_parser = int::<i64>, hide = true)]
    min_api_level: i64,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
}

/// The flags and the environment do not fit together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("invalid value {value} for --{flag}: give a duration from 1s to 10s")]
    Keepalive {
        flag: &'static str,
        value: GoDuration,
    },
    #[error("invalid value {0:?} for --mode: give kubernetes or standalone")]
    Mode(String),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Where the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Kubernetes,
    Standalone,
}

/// The settings of mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) trust_domain: String,
    pub(crate) trust_anchors_file: PathBuf,
    pub(crate) sentry_address: String,
    pub(crate) namespace: String,
    /// The app id to ask an identity for.
    pub(crate) app_id: String,
    pub(crate) token: TokenSource,
}

/// The checked settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cluster: Cluster,
    /// Folder of the log, none for one in memory.
    pub(crate) store: Option<PathBuf>,
    pub(crate) port: u16,
    pub(crate) listen_address: String,
    pub(crate) healthz_port: u16,
    pub(crate) keepalive_time: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) rounds: namespace::Settings,
    pub(crate) mode: Mode,
    /// Whether the check for running as root is off.
    pub(crate) skip_root_check: bool,
    /// None means plaintext.
    pub(crate) tls: Option<Tls>,
    pub(crate) metrics: MetricsArgs,
}

impl Args {
    /// The flags of the log, which is set up before anything else can fail.
    pub(crate) fn log(&self) -> &LogArgs {
        &self.log
    }

    pub(crate) fn settings(self, environment: &Environment) -> Result<Settings, Error> {
        let Self {
            id,
            initial_cluster,
            port,
            listen_address,
            healthz_port,
            healthz_listen_address: _,
            metadata_enabled,
            replication_factor,
            keepalive_time,
            keepalive_timeout,
            disseminate_timeout,
            disseminate_coalesce_window,
            tls_enabled,
            trust_domain,
            trust_anchors_file,
            sentry_address,
            mode,
            inmem_store_enabled: _,
            raft_logstore_path,
            max_api_level: _,
            min_api_level: _,
            log: _,
            metrics,
        } = self;
        let mode = match mode.as_str() {
            "kubernetes" => Mode::Kubernetes,
            "standalone" => Mode::Standalone,
            _ => return Err(Error::Mode(mode)),
        };
        let tls = if tls_enabled {
            let namespace = environment
                .non_empty("NAMESPACE")
                .unwrap_or("default")
                .to_owned();
            Some(Tls {
                trust_domain,
                trust_anchors_file,
                sentry_address: sentry_address
                    .unwrap_or_else(|| format!("dapr-sentry.{namespace}.svc:443")),
                namespace,
                app_id: environment
                    .non_empty("SENTRY_LOCAL_IDENTITY")
                    .unwrap_or(APP_ID)
                    .to_owned(),
                token: token(mode, environment),
            })
        } else {
            None
        };
        Ok(Settings {
            cluster: Cluster::parse(&id, &initial_cluster.join(","))?,
            store: (!raft_logstore_path.is_empty()).then(|| raft_logstore_path.into()),
            port,
            listen_address,
            healthz_port,
            keepalive_time: keepalive("keepalive-time", keepalive_time)?,
            keepalive_timeout: keepalive("keepalive-timeout", keepalive_timeout)?,
            rounds: namespace::Settings {
                replication_factor,
                timeout: disseminate_timeout.0,
                window: disseminate_coalesce_window.0,
                // As long as a sidecar that is gone may take to be found.
                lease: keepalive_time.0 + keepalive_timeout.0,
                shown: metadata_enabled
                    .unwrap_or_else(|| environment.truthy("DAPR_PLACEMENT_METADATA_ENABLED")),
            },
            mode,
            skip_root_check: environment.get("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK")
                == Some("true"),
            tls,
            metrics,
        })
    }
}

fn keepalive(flag: &'static str, value: GoDuration) -> Result<Duration, Error> {
    let (least, most) = KEEPALIVE;
    if (least..=most).contains(&value.0) {
        Ok(value.0)
    } else {
        Err(Error::Keepalive { flag, value })
    }
}

fn token(mode: Mode, environment: &Environment) -> TokenSource {
    match (mode, environment.non_empty("DAPR_SENTRY_TOKEN_FILE")) {
        (Mode::Kubernetes, Some(path)) => TokenSource::Kubernetes(path.into()),
        (Mode::Standalone, Some(path)) => TokenSource::Jwks(path.into()),
        (Mode::Kubernetes, None) => TokenSource::Kubernetes(KUBERNETES_TOKEN_FILE.into()),
        // Outside of Kubernetes the file is there only if somebody put it there on purpose.
        (Mode::Standalone, None) if PathBuf::from(KUBERNETES_TOKEN_FILE).exists() => {
            TokenSource::Kubernetes(KUBERNETES_TOKEN_FILE.into())
        }
        (Mode::Standalone, None) => TokenSource::None,
    }
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use super::*;

    fn args(flags: &[&str]) -> Args {
        try_parse_from(Dashes::OneOrTwo, ["placement"].iter().chain(flags)).expect("flags parse")
    }

    fn settings<const N: usize>(
        flags: &[&str],
        environment: [(&str, &str); N],
    ) -> Result<Settings, Error> {
        args(flags).settings(&Environment::from(environment))
    }

    #[test]
    fn defaults() {
        let settings = settings(&[], []).expect("defaults are valid");
        assert_eq!((settings.port, settings.healthz_port), (50005, 8080));
        assert_eq!(settings.cluster.own().address(), "127.0.0.1:8201");
        assert_eq!(settings.rounds.replication_factor, 100);
        assert_eq!(
            (settings.rounds.timeout, settings.rounds.window),
            (Duration::from_secs(8), Duration::ZERO)
        );
        assert!(!settings.rounds.shown && settings.tls.is_none());
        assert_eq!(settings.mode, Mode::Standalone);
    }

    #[test]
    fn replicas_may_be_listed_one_by_one() {
        let flags = [
            "--id=b",
            "--initial-cluster=a=x:1",
            "--initial-cluster=b=y:2",
        ];
        let settings = settings(&flags, []).expect("flags are valid");
        assert_eq!(settings.cluster.fingerprint(), "a=x:1,b=y:2");
    }

    #[test]
    fn every_flag_is_known() {
        let settings = settings(
            &[
                "-id=p1",
                "--initial-cluster=p1=a:1,p2=b:2",
                "--port=1",
                "--listen-address=127.0.0.1",
                "--healthz-port=2",
                "--healthz-listen-address=127.0.0.1",
                "--metadata-enabled",
                "--replicationFactor=7",
                "--keepalive-time=1s",
                "--keepalive-timeout=10s",
                "--disseminate-timeout=1m",
                "--disseminate-coalesce-window=500ms",
                "--tls-enabled",
                "--trust-domain=td",
                "--trust-anchors-file=/ca.crt",
                "--sentry-address=sentry:1",
                "--mode=kubernetes",
                "--inmem-store-enabled=false",
                "--raft-logstore-path=/x",
                "--max-api-level=1",
                "--min-api-level=1",
                "--log-level=debug",
                "--log-as-json",
                "--log-file=/dev/null",
                "--enable-metrics=false",
                "--metrics-port=3",
                "--metrics-listen-address=::1",
            ],
            [("NAMESPACE", "dapr-system")],
        )
        .expect("flags are valid");
        assert_eq!(settings.rounds.window, Duration::from_millis(500));
        assert!(settings.rounds.shown);
        let tls = Tls {
            trust_domain: "td".to_owned(),
            trust_anchors_file: "/ca.crt".into(),
            sentry_address: "sentry:1".to_owned(),
            namespace: "dapr-system".to_owned(),
            app_id: APP_ID.to_owned(),
            token: TokenSource::Kubernetes(KUBERNETES_TOKEN_FILE.into()),
        };
        assert_eq!(settings.tls, Some(tls));
    }

    #[test]
    fn the_environment() {
        let metadata = [("DAPR_PLACEMENT_METADATA_ENABLED", "true")];
        assert!(settings(&[], metadata).expect("valid").rounds.shown);
        assert!(
            !settings(&["--metadata-enabled=false"], metadata)
                .expect("valid")
                .rounds
                .shown
        );
        let tls = settings(&["--tls-enabled"], [])
            .expect("valid")
            .tls
            .expect("TLS is on");
        assert_eq!(
            (tls.namespace.as_str(), tls.app_id.as_str()),
            ("default", APP_ID)
        );
        let environment = [
            ("NAMESPACE", "ns"),
            ("DAPR_SENTRY_TOKEN_FILE", "/token"),
            ("SENTRY_LOCAL_IDENTITY", "me"),
        ];
        let tls = settings(&["--tls-enabled"], environment)
            .expect("valid")
            .tls
            .expect("TLS is on");
        assert_eq!(tls.sentry_address, "dapr-sentry.ns.svc:443");
        assert_eq!(tls.app_id, "me");
        assert_eq!(tls.token, TokenSource::Jwks("/token".into()));
    }

    #[test]
    fn refusals() {
        let check = |flags: &[&str], expected: &str| {
            let error = settings(flags, []).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        };
        check(
            &["--keepalive-time=999ms"],
            "invalid value 999ms for --keepalive-time: give a duration from 1s to 10s",
        );
        check(
            &["--keepalive-timeout=11s"],
            "invalid value 11s for --keepalive-timeout: give a duration from 1s to 10s",
        );
        check(
            &["--mode=other"],
            "invalid value \"other\" for --mode: give kubernetes or standalone",
        );
        check(
            &["--id=x"],
            "--id \"x\" is not in --initial-cluster \"dapr-placement-0=127.0.0.1:8201\": add x=host:port to the list",
        );
    }
}
