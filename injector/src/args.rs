//! Flags of the injector.

use std::path::{Path, PathBuf};

use clap::Parser;
use dapr_kit::flags::{self, Environment};
use dapr_kit::log::{self, LogArgs, LogIdentity};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::process::refuse_root;
use dapr_kit::shutdown::Shutdown;
use dapr_kubernetes::Place;

use crate::app::{self, Settings};
use crate::config::{self, Config};

mod explain;

pub use explain::ExplainArgs;

/// Adds the Dapr sidecar to annotated pods.
#[derive(Debug, Parser)]
#[command(name = "injector")]
pub struct Args {
    /// Port of the webhook.
    #[arg(long, default_value_t = 4000, value_parser = flags::int::<u16>)]
    port: u16,
    /// Accepted and not applied: the webhook listens on every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    listen_address: String,
    /// Port of the health server.
    #[arg(long, default_value_t = 8080, value_name = "PORT", value_parser = flags::int::<u16>)]
    healthz_port: u16,
    /// Accepted and not applied: the health server listens on every interface.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    healthz_listen_address: String,
    /// Tell sidecars the address of the scheduler.
    #[arg(long, default_value_t = true)]
    scheduler_enabled: bool,
    /// Path of a kubeconfig for use outside a cluster; the home directory's when not given.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
}

impl Args {
    /// Runs the injector until the shutdown.
    ///
    /// # Errors
    /// Everything that keeps it from starting or going on.
    pub async fn run(self, environment: Environment, shutdown: Shutdown) -> anyhow::Result<()> {
        let _log = log::init(&self.log, LogIdentity::new("dapr.injector"))?;
        let config = Config::from_environment(&environment)?;
        if environment
            .non_empty(config::OLD_ALLOWED_SERVICE_ACCOUNTS)
            .is_some()
        {
            tracing::warn!(
                "{} is deprecated, use {}",
                config::OLD_ALLOWED_SERVICE_ACCOUNTS,
                config::ALLOWED_SERVICE_ACCOUNTS
            );
        }
        if let Some(warning) = config.warning() {
            tracing::warn!("{warning}");
        }
        if config.sentry_address.is_empty() {
            return Err(config::Error::NoSentry.into());
        }
        if !environment.truthy("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK") {
            refuse_root()?;
        }
        let settings = self.settings(&environment);
        let place = Place::choose(
            settings.kubeconfig.as_deref(),
            environment.non_empty("KUBERNETES_SERVICE_HOST"),
            environment.non_empty("KUBERNETES_SERVICE_PORT"),
            environment.non_empty("HOME").map(Path::new),
        )?;
        let client = dapr_kubernetes::client(&place).await?;
        app::run(settings, config, client, shutdown).await
    }

    fn settings(self, environment: &Environment) -> Settings {
        let Self {
            port,
            listen_address: _,
            healthz_port,
            healthz_listen_address: _,
            scheduler_enabled,
            kubeconfig,
            log: _,
            metrics,
        } = self;
        let token_file = environment.non_empty("DAPR_SENTRY_TOKEN_FILE");
        Settings {
            port,
            healthz_port,
            scheduler_enabled,
            kubeconfig,
            metrics,
            token_file: token_file.map(PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Settings) {
        let words = std::iter::once("injector").chain(line.split_whitespace());
        let args: Args = try_parse_from(Dashes::OneOrTwo, words).expect(line);
        assert_eq!(args.settings(&Environment::default()), expected, "{line}");
    }

    #[test]
    fn flags() {
        let metrics = MetricsArgs {
            enable_metrics: true,
            metrics_port: "9090".to_owned(),
            metrics_listen_address: "0.0.0.0".to_owned(),
        };
        check(
            "",
            Settings {
                port: 4000,
                healthz_port: 8080,
                scheduler_enabled: true,
                kubeconfig: None,
                metrics,
                token_file: None,
            },
        );
        check(
            "-port 1 --listen-address a --healthz-port=2 --healthz-listen-address b --scheduler-enabled=false \
             --kubeconfig /k --log-level debug --log-as-json --log-file /l --enable-metrics=false --metrics-port 4 \
             --metrics-listen-address c",
            Settings {
                port: 1,
                healthz_port: 2,
                scheduler_enabled: false,
                kubeconfig: Some("/k".into()),
                metrics: MetricsArgs {
                    enable_metrics: false,
                    metrics_port: "4".to_owned(),
                    metrics_listen_address: "c".to_owned(),
                },
                token_file: None,
            },
        );
    }
}
