//! Flags and environment of the operator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use dapr_kit::duration::{self, GoDuration};
use dapr_kit::flags::{self, Environment};
use dapr_kit::log::{self, LogArgs, LogIdentity};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::shutdown::Shutdown;
use dapr_kubernetes::Place;

use crate::app::{self, Duties, Settings};

/// Where every pod finds the namespace of its service account.
const ACCOUNT_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Serves Dapr resources to sidecars and keeps the Services of annotated workloads.
#[derive(Debug, Parser)]
#[command(name = "operator")]
pub struct Args {
    /// Name of the Configuration in the operator's own namespace.
    #[arg(long, default_value = "daprsystem", value_name = "NAME")]
    config: String,
    /// How often the watchdog looks for pods without a sidecar: 0 for never, "once", or at least 1s.
    #[arg(long, default_value = "0", value_name = "INTERVAL")]
    watch_interval: String,
    /// How many pods per minute the watchdog restarts at most; 0 or less for no limit.
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = flags::int::<i64>)]
    max_pod_restarts_per_minute: i64,
    /// Run every controller in every replica.
    #[arg(long)]
    disable_leader_election: bool,
    /// Do not keep Services for annotated workloads.
    #[arg(long)]
    disable_service_reconciler: bool,
    /// Also keep Services for Argo Rollouts.
    #[arg(long)]
    enable_argo_rollout_service_reconciler: bool,
    /// Also keep Services for whatever else owns annotated pods through a controller, but for Jobs.
    #[arg(long)]
    enable_generic_service_reconciler: bool,
    /// Let the watchdog label the pods it has checked.
    #[arg(long)]
    watchdog_can_patch_pod_labels: bool,
    /// Watch this namespace only; empty for all.
    #[arg(long, default_value = "", value_name = "NAMESPACE")]
    watch_namespace: String,
    /// Path of a kubeconfig; before KUBECONFIG, the cluster's own and the home directory's.
    #[arg(long, default_value = "", value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Path of the trust anchors.
    #[arg(
        long,
        default_value = "/var/run/secrets/dapr.io/tls/ca.crt",
        value_name = "FILE"
    )]
    trust_anchors_file: PathBuf,
    /// Port of the API.
    #[arg(long, default_value_t = 6500, value_parser = flags::int::<u16>)]
    port: u16,
    /// Address of the API; empty for every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    listen_address: String,
    /// Port of the health server.
    #[arg(long, default_value_t = 8080, value_name = "PORT", value_parser = flags::int::<u16>)]
    healthz_port: u16,
    /// Accepted and not applied: the health server listens on every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    healthz_listen_address: String,
    /// Port of the conversion webhook.
    #[arg(long, default_value_t = 19443, value_name = "PORT", value_parser = flags::int::<u16>)]
    webhook_server_port: u16,
    /// Address of the conversion webhook; empty for every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    webhook_server_listen_address: String,
    /// Accepted and not applied: nothing has to be read anew, and nobody is told of what is the same.
    #[arg(long, default_value = "0", value_name = "DURATION")]
    cache_sync_period: GoDuration,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
}

/// How often the watchdog passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchInterval {
    /// Never.
    Disabled,
    /// One pass at the start.
    Once,
    /// A pass at the start and one per interval.
    Every(Duration),
}

/// A setting that does not let the operator start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--watch-interval` is none of its words and no duration.
    #[error("invalid value for watch-interval: {0}")]
    WatchInterval(duration::ParseError),
    /// `--watch-interval` is a duration below a second.
    #[error("invalid watch-interval value: must be at least 1s, got {0}")]
    WatchIntervalTooShort(String),
    /// The control-plane namespace is unknown.
    #[error(
        "error creating operator: unable to load configuration, config: {config}, \
         err: 'NAMESPACE' environment variable not set"
    )]
    Namespace {
        /// The value of `--config`.
        config: String,
    },
}

impl Args {
    /// Runs the operator until the shutdown.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let _log = log::init(&self.log, LogIdentity::new("dapr.operator"))?;
        let environment = Environment::of_process();
        let kubeconfig = self.kubeconfig.clone();
        let settings = self.settings(&environment)?;
        let place = place(&kubeconfig, &environment);
        app::run(settings, place, shutdown).await
    }

    fn settings(self, environment: &Environment) -> Result<Settings, Error> {
        let Self {
            config,
            watch_interval,
            max_pod_restarts_per_minute,
            disable_leader_election,
            disable_service_reconciler,
            enable_argo_rollout_service_reconciler,
            enable_generic_service_reconciler,
            watchdog_can_patch_pod_labels,
            watch_namespace,
            kubeconfig: _,
            trust_anchors_file,
            port,
            listen_address,
            healthz_port,
            healthz_listen_address: _,
            webhook_server_port,
            webhook_server_listen_address,
            cache_sync_period: _,
            log: _,
            metrics,
        } = self;
        let watch_interval = parse_watch_interval(&watch_interval)?;
        let Some(namespace) = environment.non_empty("NAMESPACE") else {
            return Err(Error::Namespace { config });
        };
        Ok(Settings {
            namespace: namespace.to_owned(),
            config,
            duties: Duties {
                services: !disable_service_reconciler,
                rollouts: enable_argo_rollout_service_reconciler,
                other_workloads: enable_generic_service_reconciler,
                watch_interval,
                restarts_per_minute: (max_pod_restarts_per_minute > 0)
                    .then(|| u32::try_from(max_pod_restarts_per_minute).unwrap_or(u32::MAX)),
                may_label_pods: watchdog_can_patch_pod_labels,
            },
            leader_election: !disable_leader_election,
            account_namespace: ACCOUNT_NAMESPACE.into(),
            watch_namespace: Some(watch_namespace).filter(|name| !name.is_empty()),
            trust_anchors_file,
            token_file: environment
                .non_empty("DAPR_SENTRY_TOKEN_FILE")
                .map(PathBuf::from),
            may_be_root: environment.truthy("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK"),
            api: (listen_address, port),
            healthz_port,
            webhook: (webhook_server_listen_address, webhook_server_port),
            webhooks: environment
                .get("ENABLE_WEBHOOKS")
                .is_none_or(|text| !text.eq_ignore_ascii_case("false")),
            injector: injector(environment),
            metrics,
        })
    }
}

/// Where the kubelet says that the Service of the injector is; it says so of those that were there before the pod.
fn injector(environment: &Environment) -> Option<(String, u16)> {
    let host = environment.non_empty("DAPR_SIDECAR_INJECTOR_SERVICE_HOST")?;
    let port = environment.non_empty("DAPR_SIDECAR_INJECTOR_SERVICE_PORT")?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// Where the API server is: the flag, `KUBECONFIG`, the cluster around the process, the home directory.
pub(crate) fn place(
    kubeconfig: &Path,
    environment: &Environment,
) -> Result<Place, dapr_kubernetes::Error> {
    let host = environment.non_empty("KUBERNETES_SERVICE_HOST");
    let port = environment.non_empty("KUBERNETES_SERVICE_PORT");
    let flag = Some(kubeconfig).filter(|path| !path.as_os_str().is_empty());
    match environment.non_empty("KUBECONFIG") {
        Some(variable) if flag.is_none() => Ok(Place::listed(variable, host, port)),
        _ => {
            let home = environment.non_empty("HOME").map(Path::new);
            Place::choose(flag, host, port, home)
        }
    }
}

fn parse_watch_interval(text: &str) -> Result<WatchInterval, Error> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "false" | "f" | "no" | "off" => Ok(WatchInterval::Disabled),
        "once" => Ok(WatchInterval::Once),
        lower => {
            let interval = duration::parse(lower).map_err(Error::WatchInterval)?;
            match Duration::try_from(interval) {
                Ok(interval) if interval >= Duration::from_secs(1) => {
                    Ok(WatchInterval::Every(interval))
                }
                _ => Err(Error::WatchIntervalTooShort(duration::format(interval))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use super::*;

    fn args(line: &str) -> Args {
        let words = std::iter::once("operator").chain(line.split_whitespace());
        try_parse_from(Dashes::OneOrTwo, words).expect(line)
    }

    fn settings(line: &str, environment: &Environment) -> Result<Settings, Error> {
        args(line).settings(environment)
    }

    #[track_caller]
    fn accepted(line: &str) -> Settings {
        settings(line, &Environment::from([("NAMESPACE", "dapr-system")])).expect(line)
    }

    #[test]
    fn defaults() {
        let expected = Settings {
            namespace: "dapr-system".to_owned(),
            config: "daprsystem".to_owned(),
            duties: Duties {
                services: true,
                rollouts: false,
                other_workloads: false,
                watch_interval: WatchInterval::Disabled,
                restarts_per_minute: Some(20),
                may_label_pods: false,
            },
            leader_election: true,
            account_namespace: ACCOUNT_NAMESPACE.into(),
            watch_namespace: None,
            trust_anchors_file: "/var/run/secrets/dapr.io/tls/ca.crt".into(),
            token_file: None,
            may_be_root: false,
            api: (String::new(), 6500),
            healthz_port: 8080,
            webhook: (String::new(), 19443),
            webhooks: true,
            injector: None,
            metrics: MetricsArgs {
                enable_metrics: true,
                metrics_port: "9090".to_owned(),
                metrics_listen_address: "0.0.0.0".to_owned(),
            },
        };
        assert_eq!(accepted(""), expected);
    }

    #[test]
    fn every_flag_is_read() {
        let settings = accepted(
            "-config c -watch-interval=once --max-pod-restarts-per-minute 5 --disable-leader-election \
             --disable-service-reconciler=true -enable-argo-rollout-service-reconciler \
             --enable-generic-service-reconciler --watchdog-can-patch-pod-labels \
             --watch-namespace apps --kubeconfig /k --trust-anchors-file /ca --port 1 --listen-address 127.0.0.1 \
             --healthz-port 2 --healthz-listen-address 127.0.0.2 --webhook-server-port 3 \
             --webhook-server-listen-address 127.0.0.3 --cache-sync-period 1h --log-level debug --log-as-json \
             --log-file /l --enable-metrics=false --metrics-port 4 --metrics-listen-address 127.0.0.4",
        );
        let expected = Settings {
            namespace: "dapr-system".to_owned(),
            config: "c".to_owned(),
            duties: Duties {
                services: false,
                rollouts: true,
                other_workloads: true,
                watch_interval: WatchInterval::Once,
                restarts_per_minute: Some(5),
                may_label_pods: true,
            },
            leader_election: false,
            account_namespace: ACCOUNT_NAMESPACE.into(),
            watch_namespace: Some("apps".to_owned()),
            trust_anchors_file: "/ca".into(),
            token_file: None,
            may_be_root: false,
            api: ("127.0.0.1".to_owned(), 1),
            healthz_port: 2,
            webhook: ("127.0.0.3".to_owned(), 3),
            webhooks: true,
            injector: None,
            metrics: MetricsArgs {
                enable_metrics: false,
                metrics_port: "4".to_owned(),
                metrics_listen_address: "127.0.0.4".to_owned(),
            },
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn the_injectors_service_is_where_the_kubelet_says() {
        #[track_caller]
        fn check(host: &str, port: &str, expected: Option<(&str, u16)>) {
            let environment = Environment::from([
                ("DAPR_SIDECAR_INJECTOR_SERVICE_HOST", host),
                ("DAPR_SIDECAR_INJECTOR_SERVICE_PORT", port),
            ]);
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(injector(&environment), expected, "{host} {port}");
        }
        check("10.96.0.9", "443", Some(("10.96.0.9", 443)));
        check("", "443", None);
        check("10.96.0.9", "", None);
        check("10.96.0.9", "tcp://10.96.0.9:443", None);
    }

    #[test]
    fn watch_intervals() {
        #[track_caller]
        fn check(text: &str, expected: Result<WatchInterval, &str>) {
            let actual = parse_watch_interval(text).map_err(|error| error.to_string());
            assert_eq!(actual, expected.map_err(str::to_owned), "{text:?}");
        }
        for never in ["0", "false", "F", "no", "OFF"] {
            check(never, Ok(WatchInterval::Disabled));
        }
        check("Once", Ok(WatchInterval::Once));
        check("1s", Ok(WatchInterval::Every(Duration::from_secs(1))));
        check("2m30s", Ok(WatchInterval::Every(Duration::from_secs(150))));
        check(
            "500ms",
            Err("invalid watch-interval value: must be at least 1s, got 500ms"),
        );
        check(
            "-5s",
            Err("invalid watch-interval value: must be at least 1s, got -5s"),
        );
        check(
            "5",
            Err(r#"invalid value for watch-interval: time: missing unit in duration "5""#),
        );
        check(
            "never",
            Err(r#"invalid value for watch-interval: time: invalid duration "never""#),
        );
    }

    #[test]
    fn restarts_without_a_limit() {
        assert_eq!(
            accepted("--max-pod-restarts-per-minute 0")
                .duties
                .restarts_per_minute,
            None
        );
        assert_eq!(
            accepted("--max-pod-restarts-per-minute -3")
                .duties
                .restarts_per_minute,
            None
        );
        assert_eq!(
            accepted("--max-pod-restarts-per-minute 9999999999")
                .duties
                .restarts_per_minute,
            Some(u32::MAX)
        );
    }

    #[test]
    fn the_flag_comes_before_the_variable() {
        let environment = Environment::from([("KUBECONFIG", "/a:/b"), ("HOME", "/home/me")]);
        let check = |flag: &str, environment: &Environment, expected: Place| {
            let place = place(Path::new(flag), environment).expect("a place");
            assert_eq!(place, expected);
        };
        check("/flag", &environment, Place::Kubeconfig("/flag".into()));
        let listed = Place::Kubeconfigs(vec!["/a".into(), "/b".into()]);
        check("", &environment, listed);
        let home = Environment::from([("HOME", "/home/me")]);
        let config = Place::Kubeconfig("/home/me/.kube/config".into());
        check("", &home, config);
    }

    #[test]
    fn the_environment() {
        let namespace = ("NAMESPACE", "dapr-system");
        assert!(
            !settings(
                "",
                &Environment::from([namespace, ("ENABLE_WEBHOOKS", "False")])
            )
            .expect("fine")
            .webhooks
        );
        assert!(
            settings("", &Environment::from([namespace, ("ENABLE_WEBHOOKS", "")]))
                .expect("fine")
                .webhooks
        );
        for environment in [
            Environment::default(),
            Environment::from([("NAMESPACE", "")]),
        ] {
            assert_eq!(
                settings("--config other", &environment)
                    .expect_err("no namespace")
                    .to_string(),
                "error creating operator: unable to load configuration, config: other, \
                 err: 'NAMESPACE' environment variable not set"
            );
        }
    }
}
