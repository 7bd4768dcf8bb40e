//! The wiring: files, authority, servers, and the tasks that keep them fresh.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use dapr_kit::bind::bind;
use dapr_kit::health::{self, Health, Target};
use dapr_kit::metrics;
use dapr_kit::shutdown::Shutdown;
use dapr_kit::{COMMIT, VERSION};
use dapr_security::identity::spiffe_id;
use dapr_security::watch::Changes;
use dapr_security::{Acceptor, SENTRY_APP_ID, Security, serve};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::args::{Oidc, Settings};
use crate::jwt::Signer;
use crate::material;
use crate::metrics::Metrics;
use crate::oidc;
use crate::rotation::ledger::Ledger;
use crate::server::{self, Policy, Service};
use crate::storage::Storage;
use crate::validator::Validators;
use crate::validator::jwks::{self, Origin};
use crate::validator::kubernetes::ControlPlane;

mod cluster;
mod keeper;
mod open;
mod workloads;

use keeper::{Again, Keeper, Triggers};
use open::Place;
use workloads::Workloads;

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
        directory,
        cluster,
        api_server,
        root_validity,
        rotate_before,
        replica_lag,
        watch_namespace,
        jwt,
        oidc,
        mtls,
        grpc,
        healthz,
        metrics: metrics_args,
    } = settings;
    tracing::info!(
        %trust_domain,
        namespace,
        "Starting Dapr Sentry certificate authority -- version {VERSION} -- commit {COMMIT}"
    );
    let metrics = metrics::Metrics::new();
    let counters = Metrics::register(&metrics.registry)?;
    let id = spiffe_id(&trust_domain, &namespace, SENTRY_APP_ID)
        .context("identity of sentry cannot be formed")?;

    // Bound before anything is done, so that a bad port changes nothing, and served for who asks why it takes long.
    let grpc_listener = bind(&grpc).await?;
    let health_listener = bind(&healthz).await?;
    // The address flag is accepted and not applied, as in upstream.
    let metrics_listener = metrics_args.bind_to("").await?;
    let oidc = match oidc {
        Some(oidc) => Some((bind(&oidc.endpoint).await?, oidc)),
        None => None,
    };
    let health = Health::new();
    let targets = targets(&health, metrics_listener.is_some());
    let token = shutdown.token();
    let mut servers = JoinSet::new();
    servers.spawn(health::serve(
        health_listener,
        health.clone(),
        None,
        token.clone(),
    ));
    if let Some(listener) = metrics_listener {
        servers.spawn(metrics::serve(listener, metrics.registry, token.clone()));
    }

    let control_plane = ControlPlane {
        trust_domain: trust_domain.clone(),
        namespace: namespace.clone(),
    };
    let cluster = cluster
        .map(|client| cluster::Parts::new(client, control_plane, &id, watch_namespace.as_deref()));
    // The watch comes before the first look, so that no change is lost between.
    let files = Changes::of_files(directory.watched())?;
    let source = open::jwks_source(mtls.jwks.as_ref())?;
    let key_changes = watch_keys(source.as_ref())?;
    let place = Place {
        storage: match &cluster {
            Some(cluster) => {
                let address = cluster::address(grpc_listener.local_addr(), api_server.as_deref());
                Storage::Cluster(Box::new(cluster.storage(&directory, address)))
            }
            None => Storage::Directory(directory),
        },
        jwt,
        trust_domain: trust_domain.clone(),
        id,
        clock_skew: mtls.clock_skew,
        root_validity,
        workload_ttl: mtls.workload_ttl,
        metrics: counters.clone(),
    };
    let load = async {
        let jwks = open::jwks(source, &place.id).await?;
        let opened = place.open().await?;
        let domain = match &cluster {
            Some(_) => cluster::domain().await,
            None => None,
        };
        anyhow::Ok((jwks, opened, domain))
    };
    let Some(loaded) = token.run_until_cancelled(load).await else {
        stop(servers).await;
        return Ok(());
    };
    let (jwks, opened, cluster_domain) = loaded?;
    counters.show_expiry(opened.authority.not_after());
    let authority = Arc::new(ArcSwap::from_pointee(opened.authority));
    let signer = opened
        .signer
        .map(|signer| Arc::new(ArcSwap::from_pointee(signer)));

    let validator_target = cluster
        .is_some()
        .then(|| health.target("sentry-kubernetes-validator"));
    let oidc = match (oidc, &signer) {
        (Some((listener, oidc)), Some(signer)) => {
            Some(oidc_server(listener, oidc, Arc::clone(signer), &health)?)
        }
        // Without JWTs there is none.
        (Some(_), None) | (None, _) => None,
    };

    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let longest_ttl = material::longest_ttl(&opened.kept, mtls.workload_ttl);
    let policy = Policy {
        cluster_domain: cluster_domain.unwrap_or_else(|| trust_domain.to_string()),
        namespace,
        workload_ttl: mtls.workload_ttl,
        clock_skew: mtls.clock_skew,
    };
    let workloads = match &cluster {
        Some(cluster) => Workloads::Pods {
            pods: cluster.pods(),
            has_others: jwks.is_some(),
            namespace: policy.namespace.clone(),
            replica_lag,
        },
        None if opened.is_new => Workloads::Processes {
            known_from: SystemTime::UNIX_EPOCH,
        },
        None => Workloads::Processes {
            known_from: SystemTime::now() + longest_ttl,
        },
    };
    let keeper = Keeper {
        place,
        authority: Arc::clone(&authority),
        signer: signer.clone(),
        policy: policy.clone(),
        ledger: Arc::clone(&ledger),
        workloads,
        rotate_before,
        kept: opened.kept,
        record: opened.record,
        again: Again::default(),
    };
    let (svid, anchors) = keeper
        .serving_certificate()
        .context("certificate of sentry cannot be issued")?;
    let (security, publisher) = Security::from_issuer(svid.clone(), anchors)?;
    let service = Service {
        authority,
        signer,
        validators: Validators {
            kubernetes: cluster.as_ref().map(cluster::Parts::validator),
            jwks: jwks.clone(),
        },
        policy,
        metrics: counters,
        ledger: Arc::clone(&ledger),
    };
    servers.spawn(serve(
        grpc_listener,
        Acceptor::ServerOnly(security),
        server::routes(service),
        server::limits(),
        token.clone(),
    ));
    if let Some(oidc) = oidc {
        servers.spawn(oidc.run(token.clone()));
    }
    let mut keepers = JoinSet::new();
    // One slot: what matters is that something changed, not how often.
    let (changed, published) = mpsc::channel(1);
    let triggers = Triggers { files, published };
    keepers.spawn(keeper.run(triggers, svid, publisher));
    match (cluster, validator_target) {
        (Some(cluster), Some(target)) => cluster.spawn(&mut keepers, ledger, changed, target),
        // The channel stays open, and silent.
        (Some(_), None) | (None, _) => {
            keepers.spawn(async move { changed.closed().await });
        }
    }
    if let Some(validator) = jwks {
        let target = health.target("sentry-jwks-validator");
        keepers.spawn(keep_keys(validator, key_changes, target));
    }
    targets.iter().for_each(Target::ready);
    tracing::info!(address = %grpc.address, "Running gRPC server on port {}", grpc.port);

    tokio::select! {
        () = token.cancelled() => {}
        ended = servers.join_next() => anyhow::ensure!(token.is_cancelled(), "a server ended: {ended:?}"),
        ended = keepers.join_next() => anyhow::bail!("a background task ended: {ended:?}"),
    }
    stop(servers).await;
    Ok(())
}

fn oidc_server(
    listener: TcpListener,
    oidc: Oidc,
    signer: Arc<ArcSwap<Signer>>,
    health: &Health,
) -> anyhow::Result<oidc::server::Server> {
    let Oidc {
        endpoint: _,
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
    tracing::info!("Shutting down gRPC server");
    let drained = timeout(DRAIN, async {
        while servers.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        tracing::warn!("Requests in flight were cut off");
    }
    tracing::info!("Sentry shut down gracefully");
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
