//! The wiring: files, authority, servers, and the tasks that keep them fresh.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use dapr_kit::bind::bind;
use dapr_kit::health::{self, Health, Target};
use dapr_kit::metrics;
use dapr_kit::shutdown::Shutdown;
use dapr_proto::dapr::proto::sentry::v1::ca_server::CaServer;
use dapr_security::identity::spiffe_id;
use dapr_security::watch::Changes;
use dapr_security::{Acceptor, SENTRY_APP_ID, Security, ServerOptions, serve};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;

use crate::args::{Oidc, Settings};
use crate::jwt::Signer;
use crate::metrics::Metrics;
use crate::oidc;
use crate::server::{Policy, Service};
use crate::validator::Validators;
use crate::validator::jwks::{self, Origin};

mod keeper;
mod open;

use keeper::Keeper;

/// How long to wait after an event, for files are replaced one after the other.
pub(crate) const BATCH: Duration = Duration::from_secs(2);
/// Pause after keys could not be fetched.
const RETRY: Duration = Duration::from_secs(5);
/// How long requests in flight may take after the signal.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs Sentry until `shutdown`.
pub(crate) async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let Settings {
        trust_domain,
        namespace,
        files,
        jwt,
        oidc,
        mtls,
        grpc,
        healthz,
        metrics: metrics_args,
    } = settings;
    tracing::info!(%trust_domain, namespace, "Starting Dapr Sentry");
    let metrics = metrics::Metrics::new();
    let counters = Metrics::register(&metrics.registry)?;
    let id = spiffe_id(&trust_domain, &namespace, SENTRY_APP_ID)
        .context("identity of sentry cannot be formed")?;

    // The watch comes before the first look, so that no change is lost between.
    let changes = Changes::of_files(files.paths().into_iter().chain(jwt.paths()))?;
    let source = open::jwks_source(mtls.jwks.as_ref())?;
    let key_changes = watch_keys(source.as_ref())?;
    let validators = Validators {
        jwks: open::jwks(source, &id).await?,
    };
    let authority = open::authority(&files, &trust_domain, &id, mtls.clock_skew, &counters).await?;
    let authority = Arc::new(ArcSwap::from_pointee(authority));
    let signer = open::signer(&jwt)
        .await?
        .map(|signer| Arc::new(ArcSwap::from_pointee(signer)));

    let grpc_listener = bind(&grpc).await?;
    let health_listener = bind(&healthz).await?;
    // The address flag is accepted and not applied, as in upstream.
    let metrics_listener = metrics_args.bind_to("").await?;
    let health = Health::new();
    let targets = targets(&health, metrics_listener.is_some());
    let oidc = match (oidc, &signer) {
        (Some(oidc), Some(signer)) => Some(bind_oidc(oidc, Arc::clone(signer), &health).await?),
        _ => None,
    };

    let policy = Policy {
        trust_domain,
        namespace,
        workload_ttl: mtls.workload_ttl,
        clock_skew: mtls.clock_skew,
    };
    let keeper = Keeper {
        files,
        jwt,
        id,
        authority: Arc::clone(&authority),
        signer: signer.clone(),
        policy: policy.clone(),
        metrics: counters.clone(),
    };
    let (svid, anchors) = keeper
        .serving_certificate()
        .context("certificate of sentry cannot be issued")?;
    let (security, publisher) = Security::from_issuer(svid.clone(), anchors)?;
    let service = Service {
        authority,
        signer,
        validators: validators.clone(),
        policy,
        metrics: counters,
    };
    let routes = Routes::new(CaServer::new(service)).into_axum_router();

    let token = shutdown.token();
    let mut servers = JoinSet::new();
    let acceptor = Acceptor::ServerOnly(security);
    servers.spawn(serve(
        grpc_listener,
        acceptor,
        routes,
        ServerOptions::default(),
        token.clone(),
    ));
    servers.spawn(health::serve(
        health_listener,
        health.clone(),
        None,
        token.clone(),
    ));
    if let Some(listener) = metrics_listener {
        servers.spawn(metrics::serve(listener, metrics.registry, token.clone()));
    }
    if let Some(oidc) = oidc {
        servers.spawn(oidc.run(token.clone()));
    }
    let mut keepers = JoinSet::new();
    keepers.spawn(keeper.run(changes, svid, publisher));
    if let Some(validator) = validators.jwks {
        let target = health.target("sentry-jwks-validator");
        keepers.spawn(keep_keys(validator, key_changes, target));
    }
    targets.iter().for_each(Target::ready);
    tracing::info!(address = %grpc.address, port = grpc.port, "Sentry is running");

    tokio::select! {
        () = token.cancelled() => {}
        ended = servers.join_next() => anyhow::ensure!(token.is_cancelled(), "a server ended: {ended:?}"),
        ended = keepers.join_next() => anyhow::bail!("a background task ended: {ended:?}"),
    }
    stop(servers).await;
    Ok(())
}

async fn bind_oidc(
    oidc: Oidc,
    signer: Arc<ArcSwap<Signer>>,
    health: &Health,
) -> anyhow::Result<oidc::server::Server> {
    let Oidc {
        endpoint,
        tls,
        config,
    } = oidc;
    let tls = match tls {
        Some(files) => {
            let changes = Changes::of_files(files.paths())?;
            Some((files, changes))
        }
        None => None,
    };
    let listener = bind(&endpoint).await?;
    Ok(oidc::server::Server {
        listener,
        config,
        signer,
        tls,
        target: health.target("oidc-server"),
    })
}

/// Keeps the keys of the `jwks` validator fresh; its target is ready once it has keys.
async fn keep_keys(validator: Arc<jwks::Validator>, changes: Option<Changes>, target: Target) {
    match (validator.origin(), changes) {
        (Origin::Remote(remote), _) => loop {
            let pause = if reload_keys(&validator).await {
                target.ready();
                remote.refresh()
            } else {
                RETRY.min(remote.refresh())
            };
            sleep(pause).await;
        },
        (Origin::File(_), Some(mut changes)) => {
            target.ready();
            loop {
                changes.changed().await;
                sleep(BATCH).await;
                reload_keys(&validator).await;
            }
        }
        (Origin::Fixed, _) | (Origin::File(_), None) => {
            target.ready();
            std::future::pending().await
        }
    }
}

async fn reload_keys(validator: &jwks::Validator) -> bool {
    match validator.reload().await {
        Ok(()) => {
            tracing::debug!("Keys of the jwks validator reloaded");
            true
        }
        Err(error) => {
            let error = dapr_kit::process::chain(&error);
            tracing::error!(
                error,
                "Keys of the jwks validator cannot be reloaded, keeping the old ones"
            );
            false
        }
    }
}

/// The watch on the validator's file, from before it is read for the first time.
fn watch_keys(
    source: Option<&jwks::Source>,
) -> Result<Option<Changes>, dapr_security::watch::Error> {
    match source {
        Some(jwks::Source::File(path)) => Changes::of_files([path.as_path()]).map(Some),
        Some(jwks::Source::Inline(_) | jwks::Source::Url(_)) | None => Ok(None),
    }
}

async fn stop(mut servers: JoinSet<()>) {
    tracing::info!("Sentry is shutting down");
    let drained = timeout(DRAIN, async {
        while servers.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        tracing::warn!("Requests in flight were cut off");
    }
}

fn targets(health: &Health, metrics: bool) -> Vec<Target> {
    [
        ("healthz-server", true),
        ("metrics-exporter", metrics),
        ("security-provider", true),
        ("sentry-server", true),
    ]
    .into_iter()
    .filter(|(_, exists)| *exists)
    .map(|(name, _)| health.target(name))
    .collect()
}
