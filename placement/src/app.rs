//! Puts the process together: listeners, identity, election, service, and their end.

use std::future::{Future, pending};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use dapr_kit::bind::{Endpoint, bind};
use dapr_kit::flags::Environment;
use dapr_kit::health::{self, Health, Page, Target};
use dapr_kit::log::{self, LogIdentity};
use dapr_kit::metrics::{self as metrics_server};
use dapr_kit::shutdown::Shutdown;
use dapr_kit::{COMMIT, VERSION};
use dapr_security::{
    Acceptor, AnchorsSource, Expect, KeyKind, Options, Security, ServerOptions, SpiffeId,
    TrustDomain, identity, serve,
};
use http::{Response, header};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::args::{APP_ID, Args, Mode, Settings, Tls};
use crate::metrics::Metrics;
use crate::raft::{self, Disk, Network, Part, Peer};
use crate::server::{Clients, Server};

/// How often the own name of this replica is looked up before the start fails, and the pause between.
const OWN_NAME_ATTEMPTS: u32 = 240;
const OWN_NAME_PAUSE: Duration = Duration::from_millis(500);
/// How long clients may take to go away once all streams were told.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs placement until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting or from going on; the text is for the person who started it.
pub async fn run(args: Args, environment: Environment, shutdown: Shutdown) -> anyhow::Result<()> {
    let _log = log::init(args.log(), LogIdentity::new("dapr.placement"))?;
    tracing::info!("Starting Dapr Placement Service -- version {VERSION} -- commit {COMMIT}");
    let settings = args.settings(&environment)?;
    if settings.mode == Mode::Kubernetes && !settings.skip_root_check {
        dapr_kit::process::refuse_root()?;
    }
    App::bind(settings).await?.run(&shutdown).await?;
    tracing::info!("Placement service shut down gracefully");
    Ok(())
}

/// The health targets, in the order they become ready.
struct Targets {
    healthz: Target,
    metrics: Target,
    security: Target,
    grpc: Target,
    raft: Target,
}

/// The process with its ports bound and nothing running.
struct App {
    settings: Settings,
    health: Health,
    targets: Targets,
    health_listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    grpc_listener: TcpListener,
    disk: Option<(PathBuf, Disk)>,
}

impl App {
    async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let health = Health::new();
        let targets = Targets {
            healthz: health.target("healthz-server"),
            metrics: health.target("metrics-exporter"),
            security: health.target("security-provider"),
            grpc: health.target("placement-grpc-server"),
            raft: health.target("placement-raft-leadership"),
        };
        let health_listener =
            bind(&Endpoint::new("--healthz-port", "", settings.healthz_port)).await?;
        // The metrics server takes the address of the API and not that of its own flag.
        let metrics_listener = settings.metrics.bind_to(&settings.listen_address).await?;
        let grpc_listener = bind(&Endpoint::new(
            "--port",
            settings.listen_address.clone(),
            settings.port,
        ))
        .await?;
        let disk = match &settings.store {
            Some(folder) => Some(open(folder, &settings.cluster.own().id).await?),
            None => None,
        };
        Ok(Self {
            settings,
            health,
            targets,
            health_listener,
            metrics_listener,
            grpc_listener,
            disk,
        })
    }

    async fn run(self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let Self {
            settings,
            health,
            targets,
            health_listener,
            metrics_listener,
            grpc_listener,
            disk,
        } = self;
        let registry = metrics_server::Metrics::new().registry;
        let metrics = Metrics::register(&registry)?;
        let id = settings.cluster.own().id.clone();
        let clients = if settings.tls.is_some() {
            Clients::Identified
        } else {
            Clients::Anybody
        };
        let server = Server::new(id, clients, settings.rounds.clone(), metrics.clone());

        // Both outlive the drain, so that it can be watched.
        let side = CancellationToken::new();
        let page = settings.rounds.shown.then(|| state_page(server.clone()));
        let health_server = health::serve(health_listener, health, page, side.clone());
        let metrics_server = async {
            match metrics_listener {
                Some(listener) => metrics_server::serve(listener, registry, side.clone()).await,
                None => pending().await,
            }
        };
        targets.healthz.ready();
        targets.metrics.ready();

        let placement = Placement {
            settings,
            metrics,
            server,
            grpc_listener,
            disk,
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0)),
        };
        tokio::select! {
            outcome = placement.run(targets.security, targets.grpc, targets.raft, shutdown) => outcome,
            () = health_server => bail!("health server has ended"),
            () = metrics_server => bail!("metrics server has ended"),
        }
    }
}

/// The service itself, beside the servers that watch it.
struct Placement {
    settings: Settings,
    metrics: Metrics,
    server: Server,
    grpc_listener: TcpListener,
    disk: Option<(PathBuf, Disk)>,
    /// Milliseconds since 1970.
    started: u64,
}

impl Placement {
    async fn run(
        self,
        security_target: Target,
        grpc_target: Target,
        raft_target: Target,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let token = shutdown.token();
        let started = async {
            let links = Links::open(self.settings.tls.as_ref()).await?;
            security_target.ready();
            let raft_listener = bind_raft(self.settings.cluster.own()).await?;
            anyhow::Ok((links, raft_listener))
        };
        let (links, raft_listener) = tokio::select! {
            () = token.cancelled() => return Ok(()),
            started = started => started?,
        };
        let Links {
            security,
            renewal,
            clients,
            replicas,
            expect,
        } = links;

        // A failed election stops the service as a signal does.
        let stop = token.child_token();
        let (leads, leading) = watch::channel(None);
        let cluster = self.settings.cluster;
        let address = self
            .grpc_listener
            .local_addr()
            .context("failed to read the address of the gRPC server")?;
        tracing::info!(id = %cluster.own().id, %address, replicas = %cluster.fingerprint(),
            "Placement service started on port {}", address.port());
        let network = Network::new(security, expect);
        // A leader hands over only when it serves nobody any more.
        let served = CancellationToken::new();
        let election = raft::Options {
            cluster,
            listener: raft_listener,
            acceptor: replicas,
            network,
            metrics: self.metrics,
            disk: self.disk,
            started: self.started,
            // Every hasher is seeded anew, and nobody has to guess the number.
            draw: || RandomState::new().build_hasher().finish(),
            leads,
        };
        let election = async {
            let report = move |part| match part {
                Part::Taken => raft_target.ready(),
                Part::Silent | Part::Outside => raft_target.unready(),
            };
            let outcome = raft::run(election, report, served.clone()).await;
            stop.cancel();
            outcome
        };

        let options = ServerOptions {
            keepalive_interval: Some(self.settings.keepalive_time),
            keepalive_timeout: self.settings.keepalive_timeout,
            ..ServerOptions::default()
        };
        let routes = self.server.clone().routes();
        let grpc = serve(self.grpc_listener, clients, routes, options, stop.clone());
        let last = served.clone().drop_guard();
        let follow = async {
            let why = || stopped(shutdown.signal());
            self.server.follow(leading, stop.clone(), why).await;
            drop(last);
        };
        grpc_target.ready();
        let service = drained(async { tokio::join!(follow, grpc) }, stop.clone());
        tokio::select! {
            (elected, ()) = async { tokio::join!(election, service) } => Ok(elected?),
            () = renewal => bail!("renewal of the identity has ended"),
        }
    }
}

/// What open streams are told when the process stops, with Go's names of signals.
fn stopped(signal: Option<&str>) -> String {
    match signal {
        Some("SIGINT") => "cancelling context, received signal interrupt".to_owned(),
        Some("SIGTERM") => "cancelling context, received signal terminated".to_owned(),
        Some(_) | None => "cancelling context".to_owned(),
    }
}

/// Opens the store of a replica, off the threads of the runtime.
async fn open(folder: &Path, replica: &str) -> anyhow::Result<(PathBuf, Disk)> {
    let (own, id) = (folder.to_owned(), replica.to_owned());
    let opened = tokio::task::spawn_blocking(move || Disk::open(&own, &id)).await;
    Ok((folder.to_owned(), opened??))
}

/// Runs the service to its end, which it has some time for once it was told to stop.
async fn drained(service: impl Future, stop: CancellationToken) {
    let deadline = async {
        stop.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        _ = service => {}
        () = deadline => tracing::warn!("Clients did not go away, closing their connections"),
    }
}

/// How connections are made and taken.
struct Links {
    security: Security,
    renewal: Pin<Box<dyn Future<Output = ()> + Send>>,
    clients: Acceptor,
    replicas: Acceptor,
    expect: Expect,
}

impl Links {
    /// Obtains the identity, however long that takes; without TLS there is none.
    async fn open(tls: Option<&Tls>) -> anyhow::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self {
                security: Security::insecure(),
                renewal: Box::pin(pending()),
                clients: Acceptor::Plaintext,
                replicas: Acceptor::Plaintext,
                expect: Expect::Plaintext,
            });
        };
        let trust_domain = TrustDomain::new(&tls.trust_domain)
            .with_context(|| format!("invalid value {:?} for --trust-domain", tls.trust_domain))?;
        let own: SpiffeId = identity::spiffe_id(&trust_domain, &tls.namespace, APP_ID)?;
        let (security, renewal) = Security::start(Options {
            trust_anchors: AnchorsSource::File(tls.trust_anchors_file.clone()),
            sentry_address: tls.sentry_address.clone(),
            control_plane_trust_domain: trust_domain,
            control_plane_namespace: tls.namespace.clone(),
            namespace: tls.namespace.clone(),
            app_id: tls.app_id.clone(),
            token: tls.token.clone(),
            jwt_audiences: Vec::new(),
            key: KeyKind::default(),
            trust_domain_in_request: Some(tls.trust_domain.clone()),
            mtls: true,
        })
        .await?;
        Ok(Self {
            clients: Acceptor::Mutual(security.clone()),
            replicas: Acceptor::MutualExactly(security.clone(), own.clone()),
            expect: Expect::Id(own),
            security,
            renewal: Box::pin(renewal),
        })
    }
}

/// Binds the address this replica has in the list. In Kubernetes its name may need a moment to resolve.
async fn bind_raft(own: &Peer) -> anyhow::Result<TcpListener> {
    if own.host.is_empty() {
        let everywhere = Endpoint::new("--initial-cluster", "", own.port);
        return Ok(bind(&everywhere).await?);
    }
    let mut attempt = 1;
    loop {
        let error = match TcpListener::bind((own.host.as_str(), own.port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        // A name that does not resolve yet has no system error; one that still resolves to the former pod has this.
        let may_change =
            error.raw_os_error().is_none() || error.kind() == io::ErrorKind::AddrNotAvailable;
        if !may_change || attempt == OWN_NAME_ATTEMPTS {
            return Err(error).with_context(|| bind_failure(own));
        }
        tracing::debug!(address = %own.address(), %error, "Own address of this replica cannot be bound yet");
        attempt += 1;
        sleep(OWN_NAME_PAUSE).await;
    }
}

fn bind_failure(own: &Peer) -> String {
    format!(
        "failed to listen on {}: free the port or change the entry of {} in --initial-cluster",
        own.address(),
        own.id
    )
}

fn state_page(server: Server) -> Page {
    Page::new("/placement/state", move || {
        let mut response = Response::new(Full::from(server.state()));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        response
    })
}
