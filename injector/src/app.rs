//! The injector as a process: its ports, its identity, its watches, its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dapr_kit::bind::{Endpoint, bind};
use dapr_kit::diagnostics::{Diagnostics, Shown};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::shutdown::{self, Shutdown};
use dapr_kit::{COMMIT, VERSION};
use dapr_security::{AnchorsSource, KeyKind, Options, Security, TokenSource, TrustDomain};
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::{Config, NativeSidecar};
use crate::metrics::Metrics;
use crate::requester::Rules;
use crate::settings::{Mode, Settings as Sidecars, Surroundings, Token};

mod cluster;
mod domain;
mod objects;
mod service;
mod state;
mod webhook;

pub use domain::domain;
pub use service::{Prepared, Service, Targets};
pub use state::State;

/// The app id of the injector in its SPIFFE id.
const APP_ID: &str = "dapr-injector";
/// The injector's own tokens: the one for Sentry, and the one for the API server, which Sentry takes as well.
const SENTRY_TOKEN: &str = "/var/run/secrets/dapr.io/sentrytoken/token";
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The first API server that runs native sidecars without a feature gate, as major and minor version.
const NATIVE_SINCE: (u32, u32) = (1, 29);
/// The pause before an API server that is away is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// How long the servers may take to finish; above their own limit of 5 s for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);

/// The settings of the injector that come from flags, and what they lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Port of the webhook, on every interface.
    pub port: u16,
    /// Port of the health server.
    pub healthz_port: u16,
    /// Whether sidecars are told the address of the scheduler.
    pub scheduler_enabled: bool,
    /// An explicit kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The metrics server.
    pub metrics: MetricsArgs,
    /// `DAPR_SENTRY_TOKEN_FILE`, for the injector's own identity.
    pub token_file: Option<PathBuf>,
}

/// Runs until the shutdown; binds every port before it serves any.
pub async fn run(
    settings: Settings,
    config: Config,
    client: Client,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    tracing::info!(
        image = config.sidecar_image,
        "Starting Dapr Sidecar Injector -- version {VERSION} -- commit {COMMIT}"
    );
    // `--metrics-listen-address` is accepted and not applied.
    let diagnostics = Diagnostics::bind(settings.healthz_port, &settings.metrics, "").await?;
    let listener = bind(&Endpoint::new("--port", "", settings.port)).await?;
    let address = listener
        .local_addr()
        .context("failed to read the webhook's address")?;
    let state = State::default();
    let shown = Shown {
        page: Some(state.page()),
        ..Shown::default()
    };
    let mut tasks = JoinSet::new();
    let (health, registry) = (shown.health.clone(), shown.metrics.registry.clone());
    let metrics = Metrics::register(&registry)?;
    let token = shutdown.token();
    diagnostics.serve(&mut tasks, shown, token);
    let security_target = health.target("security-provider");
    let targets = Targets {
        service: health.target("injector-service"),
        webhook: health.target("webhook-configuration"),
    };

    let started = async {
        let (security, renewal) = Security::start(options(&settings, &config)?).await?;
        security_target.ready();
        let surroundings = surroundings(&settings, &config, &client).await;
        let service = Service {
            sidecars: Sidecars::new(&config, &surroundings),
            rules: Rules::new(&config.allowed_service_accounts),
            client,
            security,
            metrics,
            targets,
            state,
        };
        anyhow::Ok((service.prepare().await?, renewal))
    };
    let started = tokio::select! {
        started = started => Some(started?),
        () = token.cancelled() => None,
    };
    if let Some((service, renewal)) = started {
        let (renewal, stop) = (Box::pin(renewal), token.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(renewal).await;
        });
        service.spawn(listener, &mut tasks, token);
        tracing::info!("Sidecar injector is listening on {address}, patching Dapr-enabled pods");
    }
    shutdown::watch(&mut tasks, token).await?;
    shutdown::drain_set(&mut tasks, DRAIN_LIMIT).await?;
    tracing::info!("Dapr sidecar injector shut down gracefully");
    Ok(())
}

fn options(settings: &Settings, config: &Config) -> anyhow::Result<Options> {
    let trust_domain = &config.control_plane_trust_domain;
    let own = settings.token_file.clone();
    let token = own.unwrap_or_else(|| {
        let paths = [SENTRY_TOKEN, ACCOUNT_TOKEN];
        let found = paths.into_iter().find(|path| Path::new(path).exists());
        PathBuf::from(found.unwrap_or(SENTRY_TOKEN))
    });
    Ok(Options {
        trust_anchors: AnchorsSource::File(config.trust_anchors_file.clone()),
        sentry_address: config.sentry_address.clone(),
        control_plane_trust_domain: TrustDomain::new(trust_domain)
            .with_context(|| format!("invalid DAPR_CONTROL_PLANE_TRUST_DOMAIN {trust_domain:?}"))?,
        control_plane_namespace: config.namespace.clone(),
        namespace: config.namespace.clone(),
        app_id: APP_ID.to_owned(),
        token: TokenSource::Kubernetes(token),
        jwt_audiences: Vec::new(),
        // Some API servers refuse Ed25519.
        key: KeyKind::Rsa2048,
        trust_domain_in_request: Some(trust_domain.clone()),
        mtls: true,
    })
}

async fn surroundings(settings: &Settings, config: &Config, client: &Client) -> Surroundings {
    let has_token = [SENTRY_TOKEN, ACCOUNT_TOKEN]
        .iter()
        .any(|path| Path::new(path).exists());
    Surroundings {
        cluster_domain: domain(config.cluster_domain.as_deref()).await,
        scheduler_enabled: settings.scheduler_enabled,
        token: if has_token {
            Token::Projected
        } else {
            Token::Absent
        },
        mode: match config.native_sidecar {
            NativeSidecar::Yes => Mode::Native,
            NativeSidecar::No => Mode::Regular,
            NativeSidecar::Auto => Mode::of(knows_native_sidecars(client).await),
        },
    }
}

/// Waits for an API server that is away: nothing can be served before it is back, and a guess would stay.
async fn knows_native_sidecars(client: &Client) -> bool {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                let knows = is_native(&version.major, &version.minor);
                let version = version.git_version;
                tracing::info!(version, native_sidecars = knows, "API server");
                return knows;
            }
            Err(error) if is_away(&error) => {
                tracing::warn!(%error, "the API server cannot be asked for its version yet");
                sleep(RETRY).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the API server's version is unknown; sidecars are regular ones");
                return false;
            }
        }
    }
}

/// Whether a second attempt may succeed.
fn is_away(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        _ => false,
    }
}

/// Providers append signs to the minor version, such as `29+`.
fn is_native(major: &str, minor: &str) -> bool {
    let number = |text: &str| -> u32 {
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        digits.parse().unwrap_or_default()
    };
    (number(major), number(minor)) >= NATIVE_SINCE
}

#[cfg(test)]
mod tests {
    use super::is_native;

    #[test]
    fn native_sidecars_came_with_1_29() {
        for (major, minor, expected) in [
            ("1", "28", false),
            ("1", "29", true),
            ("1", "29+", true),
            ("2", "0", true),
            ("", "", false),
        ] {
            assert_eq!(is_native(major, minor), expected, "{major}.{minor}");
        }
    }
}
