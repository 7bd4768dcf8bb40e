//! The operator as a process: its ports, its identity, its watches, its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use dapr_kit::bind::{Endpoint, bind};
use dapr_kit::diagnostics::{Diagnostics, Shown};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::process::refuse_root;
use dapr_kit::shutdown::{self, Shutdown};
use dapr_kit::{COMMIT, VERSION};
use dapr_kubernetes::Place;
use dapr_security::{AnchorsSource, KeyKind, Options, Security, TokenSource, TrustDomain};
use kube::Client;
use tokio::task::JoinSet;

use crate::args::WatchInterval;
use crate::services;
use configuration::ControlPlane;

mod cluster;
mod configuration;
pub mod crds;
mod injector;
mod leader;
mod objects;
mod service;
mod state;

pub use service::{Listeners, Service, Targets};
pub use state::State;

/// The app id of the operator in its SPIFFE id.
const APP_ID: &str = "dapr-operator";
/// The operator's own tokens: the one for Sentry, and the one for the API server, which Sentry takes as well.
const SENTRY_TOKEN: &str = "/var/run/secrets/dapr.io/sentrytoken/token";
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How long the servers may take to finish; above their own limit of 5 s for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);

/// The checked settings of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The control-plane namespace.
    pub namespace: String,
    /// Name of the Configuration in it.
    pub config: String,
    /// What the leader does.
    pub duties: Duties,
    /// Whether only the leader does it.
    pub leader_election: bool,
    /// Where a pod finds the namespace of its service account, in which the leader is elected.
    pub account_namespace: PathBuf,
    /// The one namespace to watch; `None` for all.
    pub watch_namespace: Option<String>,
    /// Where the trust anchors are.
    pub trust_anchors_file: PathBuf,
    /// `DAPR_SENTRY_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// Whether the process may be root.
    pub may_be_root: bool,
    /// Address and port of the API.
    pub api: (String, u16),
    /// Port of the health server.
    pub healthz_port: u16,
    /// Address and port of the conversion webhook.
    pub webhook: (String, u16),
    /// Whether the conversion webhook is served and the CRD is patched.
    pub webhooks: bool,
    /// Host and port of the injector's Service, if this is a cluster that has one.
    pub injector: Option<(String, u16)>,
    /// The metrics server.
    pub metrics: MetricsArgs,
}

/// What the leader does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duties {
    /// Whether Services are kept for workloads.
    pub services: bool,
    /// Whether Argo Rollouts are workloads too.
    pub rollouts: bool,
    /// Whether everything else that owns pods through a controller is a workload too.
    pub other_workloads: bool,
    /// When the watchdog passes.
    pub watch_interval: WatchInterval,
    /// How many pods the watchdog deletes per minute; `None` for any number.
    pub restarts_per_minute: Option<u32>,
    /// Whether the watchdog labels pods it has checked.
    pub may_label_pods: bool,
}

/// Runs until the shutdown; binds every port before it serves any, and looks for the API server after that.
///
/// # Errors
/// Whatever keeps it from starting or from going on, and a shutdown before it had started.
pub async fn run(
    settings: Settings,
    place: Result<Place, dapr_kubernetes::Error>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    tracing::info!("Starting Dapr Operator -- version {VERSION} -- commit {COMMIT}");
    // `--metrics-listen-address` is accepted and not applied.
    let diagnostics = Diagnostics::bind(settings.healthz_port, &settings.metrics, "").await?;
    let listeners = bind_all(&settings).await?;
    let (mut tasks, mut shown) = (JoinSet::new(), Shown::default());
    let (health, registry) = (shown.health.clone(), shown.metrics.registry.clone());
    let metrics = services::Metrics::register(&registry)?;
    let state = State::register(&registry)?;
    shown.page = Some(state.page());
    let token = shutdown.token();
    diagnostics.serve(&mut tasks, shown, token);
    let security_provider = health.target("security-provider");
    let operator_security = health.target("operator-security");
    let targets = Targets {
        api: health.target("operator-api-server"),
        webhook: health.target("operator-webhook"),
        cluster: health.target("operator-cache"),
    };

    let injector = settings.injector.clone();
    let injector = injector.map(|service| (service, health.target("injector-service")));

    let started = async {
        let place = place.context("error creating operator")?;
        let client = dapr_kubernetes::client(&place).await;
        let client = client.context("error creating operator")?;
        let (security, renewal, election) = start(&settings, &client).await?;
        security_provider.ready();
        operator_security.ready();
        anyhow::Ok((client, security, renewal, election))
    };
    let (client, security, renewal, election) = tokio::select! {
        started = started => started?,
        () = token.cancelled() => bail!("operator was told to stop before it had started"),
    };
    let (renewal, stop) = (Box::pin(renewal), token.clone());
    tasks.spawn(async move {
        stop.run_until_cancelled(renewal).await;
    });
    let service = Service {
        client,
        security,
        namespace: settings.namespace,
        scope: settings.watch_namespace,
        webhooks: settings.webhooks,
        duties: settings.duties,
        election,
        metrics,
        state,
        targets,
    };
    if let Some((injector, target)) = injector {
        let stop = token.clone();
        tasks.spawn(async move {
            let reached = injector::await_reached(&injector, target);
            stop.run_until_cancelled(reached).await;
            stop.cancelled().await;
        });
    }
    let mut work = JoinSet::new();
    service.spawn(listeners, &mut tasks, &mut work, token);
    tracing::info!("Dapr Operator started");

    tokio::select! {
        watched = shutdown::watch(&mut tasks, token) => watched?,
        Some(ended) = work.join_next() => {
            ended.context("a background task of the operator failed")??;
            if !token.is_cancelled() {
                bail!("a background task of the operator ended");
            }
        }
    }
    token.cancel();
    let served = shutdown::drain_set(&mut tasks, DRAIN_LIMIT).await;
    // The leader gives its lease back, however the rest has ended.
    shutdown::drain_set(&mut work, DRAIN_LIMIT).await?;
    served?;
    tracing::info!("operator shut down gracefully");
    Ok(())
}

async fn bind_all(settings: &Settings) -> anyhow::Result<Listeners> {
    let (address, port) = &settings.api;
    let api = bind(&Endpoint::new("--port", address.clone(), *port)).await?;
    let webhook = match settings.webhooks {
        true => {
            let (address, port) = &settings.webhook;
            let endpoint = Endpoint::new("--webhook-server-port", address.clone(), *port);
            Some(bind(&endpoint).await?)
        }
        false => None,
    };
    Ok(Listeners { api, webhook })
}

/// What there has to be before anything is served: a Configuration, no root, a namespace to elect a leader in, and an
/// identity, in this order.
async fn start(
    settings: &Settings,
    client: &Client,
) -> anyhow::Result<(
    Security,
    impl Future<Output = ()> + Send + use<>,
    Option<String>,
)> {
    let control_plane = ControlPlane::read(client, &settings.namespace, &settings.config).await?;
    if !settings.may_be_root {
        refuse_root().context("error creating operator")?;
    }
    let election = match settings.leader_election {
        true => Some(account_namespace(&settings.account_namespace)?),
        false => None,
    };
    let options = options(settings, control_plane)?;
    let started = Security::start(options).await;
    let (security, renewal) = started.context("failed to retrieve the initial identity")?;
    Ok((security, renewal, election))
}

fn account_namespace(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "error creating operator: unable to find leader election namespace in {}; \
             outside of a cluster, run one replica with --disable-leader-election",
            path.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

fn options(settings: &Settings, control_plane: ControlPlane) -> anyhow::Result<Options> {
    let ControlPlane {
        trust_domain,
        sentry_address,
    } = control_plane;
    let token = settings.token_file.clone().unwrap_or_else(|| {
        let paths = [SENTRY_TOKEN, ACCOUNT_TOKEN];
        let found = paths.into_iter().find(|path| Path::new(path).exists());
        PathBuf::from(found.unwrap_or(SENTRY_TOKEN))
    });
    Ok(Options {
        trust_anchors: AnchorsSource::File(settings.trust_anchors_file.clone()),
        sentry_address,
        control_plane_trust_domain: TrustDomain::new(&trust_domain).with_context(|| {
            format!("invalid spec.mtls.controlPlaneTrustDomain {trust_domain:?}")
        })?,
        control_plane_namespace: settings.namespace.clone(),
        namespace: settings.namespace.clone(),
        app_id: APP_ID.to_owned(),
        token: TokenSource::Kubernetes(token),
        jwt_audiences: Vec::new(),
        // Some API servers refuse Ed25519.
        key: KeyKind::Rsa2048,
        trust_domain_in_request: Some(trust_domain),
        mtls: true,
    })
}
