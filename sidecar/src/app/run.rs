//! One run of a sidecar: from the first identity to the last closed component.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dapr_components_core::Registries;
use dapr_components_core::name_resolution::{Instance, Resolver};
use dapr_crds::configuration::ConfigurationSpec;
use dapr_kit::health::{Health as HealthTargets, Target};
use dapr_kit::shutdown::Cause;
use dapr_security::{
    AnchorsSource, KeyKind, Options, Security, SpiffeId, TokenSource, TrustDomain,
};
use dapr_sidecar_actors::reminders::Disabled;
use dapr_sidecar_actors::settings::Discovery;
use dapr_sidecar_actors::{Runtime, Settings as ActorSettings};
use dapr_sidecar_api::metrics::ApiMetrics;
use dapr_sidecar_api::services::Core;
use dapr_sidecar_api::{grpc, http, internal};
use dapr_sidecar_core::access::AccessControl;
use dapr_sidecar_core::app::{AppChannel, Protocol};
use dapr_sidecar_core::invoke::{Invoker, InvokerSettings};
use dapr_sidecar_core::metrics::{ComponentMetrics, InvokeMetrics, Off, ResiliencyMetrics};
use dapr_sidecar_core::pubsub::PubSubs;
use dapr_sidecar_core::resiliency::Resiliency;
use dapr_sidecar_core::state::Stores;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::application::Application;
use super::listeners::{self, Public, Socket};
use super::{End, Process, api_settings};
use crate::actor_metrics::ActorMetrics;
use crate::actor_store::ActorStore;
use crate::actor_streams::Streams;
use crate::adapters::{Ender, Forwarder, PlacementDialer, Readiness, Tasks};
use crate::app_health::Health;
use crate::channel::external::ExternalClient;
use crate::channel::grpc::GrpcChannel;
use crate::channel::http::HttpChannel;
use crate::components::{Components, Opening};
use crate::loader::disk::{self, Resources};
use crate::loader::properties::Names;
use crate::loader::{configuration, endpoints};
use crate::metadata::{MetadataStore, app_connection};
use crate::metrics::RuntimeMetrics;
use crate::peer::{PeerClient, Pool, ProxyClient};
use crate::settings::{Mode, Settings};
use crate::{host, registries};

/// Largest message between sidecars when bodies are not limited.
const UNLIMITED_MESSAGE: usize = usize::MAX >> 1;
/// Time for what runs beside the servers: actors are deactivated within 5 s, the metrics server ends within 5 s.
const RUNNERS: Duration = Duration::from_secs(6);
/// Time the components have at least once the servers took all of theirs.
const CLOSERS: Duration = Duration::from_millis(100);
/// The health targets a sidecar has whatever it serves.
const SECURITY_TARGET: &str = "security-provider";

/// A graceful shutdown that took longer than it may. The text is upstream's fatal line.
#[derive(Debug, thiserror::Error)]
#[error("Graceful shutdown timeout exceeded, forcing shutdown")]
pub(super) struct TooLate;

/// The targets of `/v1.0/healthz`, in the order upstream names them.
struct Targets {
    security: Target,
    metrics: Target,
    grpc: Target,
    internal: Target,
    runtime: Target,
    outbound: Target,
}

/// What everything else is made of: who we are, what we may do, what is loaded.
struct Base {
    process: Process,
    security: Security,
    configuration: ConfigurationSpec,
    hostname: String,
    host_address: String,
    readiness: Arc<Readiness>,
    metrics: Option<Arc<ApiMetrics>>,
    runtime_metrics: Arc<RuntimeMetrics>,
    resiliency: Arc<Resiliency>,
    registry: prometheus::Registry,
}

/// Runs the sidecar once.
pub(super) async fn run(process: Process) -> anyhow::Result<End> {
    let settings = Arc::clone(&process.settings);
    if settings.mode == Mode::Kubernetes {
        bail!(
            "--mode kubernetes is not served by this build yet: resources are loaded from disk only, with --mode standalone"
        );
    }
    // Cancelled to end this run; tasks of the API outlive those of the application.
    let stop = CancellationToken::new();
    let tasks = Tasks::default();
    let health = HealthTargets::new();
    let outbound = HealthTargets::new();
    let targets = Targets {
        security: health.target(SECURITY_TARGET),
        metrics: health.target("metrics-exporter"),
        grpc: health.target("grpc-api-server"),
        internal: health.target("grpc-internal-server"),
        runtime: health.target("runtime"),
        outbound: outbound.target("outbound"),
    };
    let readiness = Arc::new(Readiness { health, outbound });

    let security = tokio::select! {
        security = identity(&settings, &tasks, &stop) => security?,
        () = process.shutdown.token().cancelled() => bail!("stopped before an identity was obtained from sentry"),
    };
    targets.security.ready();
    let loaded = configuration::load(&settings.config_files, &process.environment)?;

    let registry = dapr_kit::metrics::Metrics::new().registry;
    serve_metrics(&process, &registry, &tasks, &stop).await?;
    targets.metrics.ready();
    let namespace = settings.namespace.clone().unwrap_or_default();
    let metrics = api_settings::metrics(&loaded.spec)
        .map(|metrics| {
            ApiMetrics::new(&registry, &settings.app_id, &namespace, metrics).map(Arc::new)
        })
        .transpose()
        .context("registering metrics")?;
    // With metrics switched off in the Configuration everybody counts, and nobody is shown.
    let registry = match metrics {
        Some(_) => registry,
        None => prometheus::Registry::new(),
    };
    let runtime_metrics =
        Arc::new(RuntimeMetrics::new(&registry, &settings.app_id).context("registering metrics")?);
    if settings.mtls {
        runtime_metrics.mtls_initialized();
        let counting = Arc::clone(&runtime_metrics).follow(security.renewals());
        tasks.spawn_until("identity metrics", stop.clone(), counting);
    }
    let resources = disk::read(
        &settings.resource_paths,
        &settings.app_id,
        settings.namespace.as_deref(),
    )?;
    let resiliency_metrics: Arc<dyn ResiliencyMetrics> = match &metrics {
        Some(metrics) => Arc::clone(metrics) as _,
        None => Arc::new(Off),
    };
    let resiliencies = resources.resiliencies.clone();
    let base = Base {
        hostname: host::name(),
        host_address: host::address(settings.host_ip.as_deref()),
        resiliency: Arc::new(Resiliency::new(
            &settings.app_id,
            resiliencies,
            resiliency_metrics,
        )),
        process,
        security,
        configuration: loaded.spec,
        readiness,
        metrics,
        runtime_metrics,
        registry,
    };
    let ended = base.serve(resources, targets, &tasks, &stop).await;
    stop.cancel();
    if ended.is_err() {
        // Nothing is in flight yet that deserves a wait.
        drop(tasks.finish(Some(Duration::from_secs(1))).await);
    }
    ended
}

/// The identity of this sidecar, or none without mTLS.
async fn identity(
    settings: &Settings,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> anyhow::Result<Security> {
    if !settings.mtls {
        tracing::info!(target: "dapr.runtime.security", "mTLS is disabled. Skipping certificate request and tls validation");
        return Ok(Security::insecure());
    }
    let anchors = settings.trust_anchors.clone().context(
        "trust anchors are required: set the environment variable DAPR_TRUST_ANCHORS to the PEM of sentry's ca.crt",
    )?;
    let trust_domain =
        TrustDomain::new(&settings.control_plane.trust_domain).with_context(|| {
            format!(
                "--control-plane-trust-domain {:?}",
                settings.control_plane.trust_domain
            )
        })?;
    let (security, renewal) = Security::start(Options {
        trust_anchors: AnchorsSource::Inline(anchors),
        sentry_address: settings.control_plane.sentry.clone(),
        control_plane_trust_domain: trust_domain,
        control_plane_namespace: settings.control_plane.namespace.clone(),
        namespace: settings.identity_namespace().to_owned(),
        app_id: settings.sentry_id.clone(),
        token: settings
            .sentry_token_file
            .clone()
            .map_or(TokenSource::None, TokenSource::Jwks),
        jwt_audiences: settings.control_plane.jwt_audiences.clone(),
        key: KeyKind::Ed25519,
        trust_domain_in_request: None,
        mtls: true,
    })
    .await?;
    tasks.spawn_until("identity renewal", stop.clone(), renewal);
    Ok(security)
}

async fn serve_metrics(
    process: &Process,
    registry: &prometheus::Registry,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(listener) = process.metrics.bind().await? {
        let serving = dapr_kit::metrics::serve(listener, registry.clone(), stop.clone());
        tasks.spawn("metrics server", serving);
    }
    Ok(())
}

impl Base {
    async fn serve(
        self,
        resources: Resources,
        targets: Targets,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> anyhow::Result<End> {
        let settings = Arc::clone(&self.process.settings);
        let internal = listeners::internal(&settings, &self.hostname).await?;
        let internal_port = internal
            .local_addr()
            .context("the port of the internal API")?
            .port();
        let registries = registries::all();
        let resolver = self.resolver(&registries, internal_port).await;
        let components = self.components(&resources, &registries).await?;
        let channel = self.channel()?;

        let pool = Arc::new(Pool::new(self.security.clone()));
        let max_message = settings.max_body_size.unwrap_or(UNLIMITED_MESSAGE);
        let peers = Arc::new(PeerClient::new(Arc::clone(&pool), max_message));
        let invoker = Arc::new(self.invoker(&peers, internal_port));
        if let Some(resolver) = &resolver {
            invoker.set_resolver(Arc::clone(resolver));
        }
        invoker.set_endpoints(endpoints::convert(&resources.http_endpoints));
        invoker.set_access_control(self.access_control()?);

        let (actors, drive_actors) = self.actors(peers, internal_port)?;
        self.set_actor_store(&actors, &components).await?;

        let api_stop = CancellationToken::new();
        let actors_ended = CancellationToken::new();
        let core = Arc::new(Core {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            stores: Arc::clone(&components.stores),
            pubsubs: Arc::clone(&components.pubsubs),
            invoker: Arc::clone(&invoker),
            actors: Arc::clone(&actors) as _,
            actor_streams: Arc::new(Streams::new(
                &settings,
                Arc::clone(&actors),
                actors_ended.clone(),
            )),
            metadata: Arc::new(self.metadata(&components, &resources, Arc::clone(&actors))),
            health: Arc::clone(&self.readiness) as _,
            shutdown: Arc::new(Ender(self.process.shutdown.clone())),
            proxy: Arc::new(Forwarder {
                peers: ProxyClient::new(pool),
                app: channel.grpc.clone(),
            }),
            metrics: self.metrics.clone(),
            settings: api_settings::api(&settings, &self.configuration),
            stopping: api_stop.clone(),
        });

        let public = Public::bind(&settings.listen, &settings.app_id).await?;
        let files = public.files.clone();
        let apis = Tasks::default();
        serve_public(public, &core, &apis, &api_stop);
        targets.grpc.ready();
        self.serve_internal(internal, &core, &apis, &api_stop);
        targets.internal.ready();
        let actors_stop = CancellationToken::new();
        let drive_actors = drive_actors(actors_stop.clone());
        tasks.spawn("actors", async move {
            drive_actors.await;
            actors_ended.cancel();
        });
        targets.outbound.ready();

        let health = watch::Sender::new(Health::Unknown);
        let application = Application {
            settings: settings.app.clone(),
            channel: channel.app.clone(),
            invoker: Arc::clone(&invoker),
            actors,
            pubsubs: Arc::clone(&components.pubsubs),
            declarative: resources.subscriptions,
            has_pubsub: components
                .loaded
                .iter()
                .any(|component| component.component_type.starts_with("pubsub.")),
            health: health.clone(),
        };
        let ready = targets.runtime;
        let started = tokio::time::Instant::now();
        tasks.spawn_until("application", stop.clone(), async move {
            application.await_port().await;
            application.invoker.set_app(application.channel.clone());
            ready.ready();
            let elapsed = started.elapsed().as_millis();
            tracing::info!(target: "dapr.runtime", "dapr initialized. Status: Running. Init Elapsed {elapsed}ms");
            application.follow().await;
        });

        let end = self
            .wait(&targets.security, &components.pubsubs, health.subscribe())
            .await;
        self.close(Closing {
            components,
            resolver,
            actors_stop,
            api_stop,
            apis,
            tasks,
            stop,
            files,
        })
        .await?;
        Ok(end)
    }

    /// Waits for the end of this run; holds a shutdown by signal back if that is asked for.
    async fn wait(
        &self,
        security: &Target,
        pubsubs: &PubSubs,
        mut health: watch::Receiver<Health>,
    ) -> End {
        let shutdown = &self.process.shutdown;
        tokio::select! {
            () = shutdown.token().cancelled() => {}
            () = shutdown.hangup() => return End::Restart,
        }
        if let (Some(block), Some(Cause::Signal)) =
            (self.process.settings.block_shutdown, shutdown.cause())
        {
            tracing::info!(target: "dapr.runtime", "Blocking graceful shutdown for {block:?} or until app reports unhealthy...");
            security.unready();
            pubsubs.stop().await;
            let unhealthy = health.wait_for(|health| *health == Health::Unhealthy);
            tokio::select! {
                () = tokio::time::sleep(block) => {}
                Ok(_) = unhealthy => {}
            }
        }
        End::Stop
    }

    async fn close(&self, closing: Closing<'_>) -> anyhow::Result<()> {
        tracing::info!(target: "dapr.runtime", "Dapr is shutting down...");
        closing.components.pubsubs.shutdown().await;
        // Actors first: deactivation goes through the application, state through the APIs.
        closing.actors_stop.cancel();
        closing.api_stop.cancel();
        closing.stop.cancel();
        let late = closing
            .finish(self.process.settings.graceful_shutdown)
            .await;
        for file in &closing.files {
            if let Err(error) = std::fs::remove_file(file) {
                tracing::debug!(target: "dapr.runtime", %error, "a socket file was not removed: {}", file.display());
            }
        }
        match late {
            Ok(()) => Ok(()),
            Err(names) => {
                tracing::warn!(target: "dapr.runtime", "still running at the end of the graceful shutdown: {names}");
                Err(TooLate.into())
            }
        }
    }

    async fn resolver(
        &self,
        registries: &Registries,
        internal_port: u16,
    ) -> Option<Arc<dyn Resolver>> {
        let settings = &self.process.settings;
        let spec = self
            .configuration
            .name_resolution
            .as_ref()
            .filter(|spec| !spec.component.is_empty());
        let name = spec.map_or("mdns", |spec| spec.component.as_str());
        let configuration = spec
            .map(|spec| spec.configuration.clone())
            .unwrap_or_default();
        let listen = settings.listen.internal_address.as_str();
        let is_loopback = matches!(listen, "127.0.0.1" | "localhost" | "[::1]" | "::1");
        let instance = Instance {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            address: if is_loopback {
                listen.to_owned()
            } else {
                self.host_address.clone()
            },
            hostname: self.hostname.clone(),
            internal_port,
            http_port: settings.listen.http_port,
            app_port: settings.app.port.unwrap_or(0),
        };
        match registries
            .name_resolution
            .open(name, instance, configuration)
            .await
        {
            Ok(resolver) => {
                tracing::info!(target: "dapr.runtime", "Initialized name resolution to {name}");
                Some(resolver)
            }
            Err(error) => {
                tracing::warn!(target: "dapr.runtime", "failed to init name resolution: {error}");
                None
            }
        }
    }

    async fn components(
        &self,
        resources: &Resources,
        registries: &Registries,
    ) -> anyhow::Result<Components> {
        let settings = &self.process.settings;
        let (app_id, namespace) = (settings.app_id.as_str(), settings.namespace.as_deref());
        let metrics = self.component_metrics();
        let stores = Stores::new(
            app_id,
            namespace,
            Arc::clone(&self.resiliency),
            Arc::clone(&metrics),
        );
        let pubsubs = PubSubs::new(app_id, namespace, Arc::clone(&self.resiliency), metrics);
        let mut components = Components::new(
            Arc::new(stores),
            Arc::new(pubsubs),
            Arc::clone(&self.runtime_metrics),
        );
        let denied = self
            .configuration
            .components
            .as_ref()
            .map(|spec| spec.deny.clone())
            .unwrap_or_default();
        let opening = Opening {
            names: Names { app_id, namespace },
            environment: &self.process.environment,
            denied: &denied,
            actors: !settings.control_plane.placement.is_empty(),
        };
        for resource in &resources.not_served {
            tracing::warn!(target: "dapr.runtime", "{resource} has no effect: this build does not serve its kind yet");
        }
        components
            .open(&resources.components, registries, opening)
            .await?;
        Ok(components)
    }

    fn channel(&self) -> anyhow::Result<Channels> {
        let settings = &self.process.settings;
        let Some(port) = settings.app.port else {
            return Ok(Channels::default());
        };
        match settings.app.protocol {
            Protocol::Grpc | Protocol::Grpcs => {
                let max_message = settings.max_body_size.unwrap_or(UNLIMITED_MESSAGE);
                let grpc = Arc::new(GrpcChannel::new(
                    &settings.app,
                    port,
                    max_message,
                    self.metrics.clone(),
                )?);
                Ok(Channels {
                    app: Some(Arc::clone(&grpc) as _),
                    grpc: Some(grpc),
                })
            }
            Protocol::Http | Protocol::Https | Protocol::H2c => {
                let http =
                    HttpChannel::new(&settings.app_id, &settings.app, port, self.metrics.clone())?;
                Ok(Channels {
                    app: Some(Arc::new(http)),
                    grpc: None,
                })
            }
        }
    }

    fn invoker(&self, peers: &Arc<PeerClient>, internal_port: u16) -> Invoker {
        let settings = &self.process.settings;
        let metrics: Arc<dyn InvokeMetrics> = match &self.metrics {
            Some(metrics) => Arc::clone(metrics) as _,
            None => Arc::new(Off),
        };
        Invoker::new(InvokerSettings {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            internal_port,
            host_address: self.host_address.clone(),
            hostname: self.hostname.clone(),
            max_replay: settings.max_body_size.unwrap_or(UNLIMITED_MESSAGE),
            peers: Arc::clone(peers) as _,
            external: Arc::new(ExternalClient::default()),
            resiliency: Arc::clone(&self.resiliency),
            metrics,
        })
    }

    fn access_control(&self) -> anyhow::Result<Option<AccessControl>> {
        let Some(spec) = &self.configuration.access_control else {
            return Ok(None);
        };
        let spec = serde_json::from_value(serde_json::to_value(spec)?)?;
        Ok(AccessControl::parse(
            &spec,
            self.process.settings.app.protocol,
        )?)
    }

    fn actors(
        &self,
        peers: Arc<PeerClient>,
        internal_port: u16,
    ) -> anyhow::Result<(
        Arc<Runtime>,
        impl FnOnce(CancellationToken) -> futures::future::BoxFuture<'static, ()> + use<>,
    )> {
        let settings = &self.process.settings;
        let plane = &settings.control_plane;
        let has_placement = !plane.placement.is_empty();
        let placement = settings
            .mtls
            .then(|| {
                SpiffeId::new(format!(
                    "spiffe://{}/ns/{}/dapr-placement",
                    plane.trust_domain, plane.namespace
                ))
            })
            .transpose()
            .context("the identity of placement")?;
        // Exists only with placement; it is met by the first round.
        let target =
            has_placement.then(|| self.readiness.health.target("internal-placement-service"));
        Ok(Runtime::new(ActorSettings {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            own_address: own_address(&self.host_address, internal_port),
            placement_addresses: plane.placement.clone(),
            discovery: Discovery::List,
            disseminate_timeout: plane.disseminate_timeout,
            state_ttl: self
                .configuration
                .features
                .iter()
                .any(|f| f.name == "ActorStateTTL" && f.enabled),
            peers,
            dialer: Arc::new(PlacementDialer {
                security: self.security.clone(),
                placement,
            }),
            resiliency: Arc::clone(&self.resiliency),
            reminders: Arc::new(Disabled),
            metrics: Arc::new(ActorMetrics::new(&self.registry, &settings.app_id)?),
            on_ready: Arc::new(move || {
                if let Some(target) = &target {
                    target.ready();
                }
            }),
        }))
    }

    /// Gives the actors their store, if there is one and placement is configured.
    async fn set_actor_store(
        &self,
        actors: &Runtime,
        components: &Components,
    ) -> anyhow::Result<()> {
        let has_placement = !self.process.settings.control_plane.placement.is_empty();
        let Some(store) = components.stores.actor_store().filter(|_| has_placement) else {
            return Ok(());
        };
        let wrapped = ActorStore {
            name: store.name.clone(),
            inner: Arc::clone(&store.inner),
            resiliency: Arc::clone(&self.resiliency),
            metrics: self.component_metrics(),
        };
        let set = actors
            .set_state_store(Some((store.name.clone(), Arc::new(wrapped))))
            .await;
        set.with_context(|| format!("component {}", store.name))
    }

    fn component_metrics(&self) -> Arc<dyn ComponentMetrics> {
        match &self.metrics {
            Some(metrics) => Arc::clone(metrics) as _,
            None => Arc::new(Off),
        }
    }

    fn metadata(
        &self,
        components: &Components,
        resources: &Resources,
        actors: Arc<Runtime>,
    ) -> MetadataStore {
        let settings = &self.process.settings;
        MetadataStore {
            app_id: settings.app_id.clone(),
            features: features(&self.configuration),
            components: components.loaded.clone(),
            http_endpoints: resources
                .http_endpoints
                .iter()
                .map(|endpoint| endpoint.metadata.name.clone().unwrap_or_default())
                .collect(),
            resiliencies: resources
                .resiliencies
                .iter()
                .map(|resource| resource.name.clone())
                .collect(),
            app: app_connection(&settings.app),
            pubsubs: Arc::clone(&components.pubsubs),
            actors,
            extended: Arc::clone(&self.process.extended),
        }
    }

    fn serve_internal(
        &self,
        listener: TcpListener,
        core: &Arc<Core>,
        apis: &Tasks,
        stop: &CancellationToken,
    ) {
        let options = internal::server_options();
        let api = internal::service(Arc::clone(core));
        let acceptor = self.security.peer_acceptor();
        apis.spawn(
            "internal API",
            dapr_security::serve(listener, acceptor, api, options, stop.clone()),
        );
    }
}

/// What is taken apart at the end of a run.
struct Closing<'a> {
    components: Components,
    resolver: Option<Arc<dyn Resolver>>,
    actors_stop: CancellationToken,
    api_stop: CancellationToken,
    apis: Tasks,
    tasks: &'a Tasks,
    stop: &'a CancellationToken,
    files: Vec<std::path::PathBuf>,
}

impl Closing<'_> {
    /// Waits for everything to end; the error names what did not. The limit counts from the moment when only the
    /// servers and the components are left, `None` waits for ever.
    async fn finish(&self, limit: Option<Duration>) -> Result<(), String> {
        // Their own bounds end them sooner; one that hangs all the same is named after the servers.
        let runners = self.tasks.finish(limit.map(|_| RUNNERS)).await;
        let servers = async {
            self.apis.finish(limit).await?;
            self.components.close().await;
            if let Some(resolver) = &self.resolver {
                resolver.close().await;
            }
            Ok(())
        };
        let Some(limit) = limit else {
            return servers.await;
        };
        // The servers name themselves at the limit, hence the components get a moment more.
        tokio::time::timeout(limit + CLOSERS, servers)
            .await
            .unwrap_or_else(|_| Err("components".to_owned()))?;
        runners
    }
}

/// The application, once as everybody calls it and once as frames are forwarded to it.
#[derive(Default)]
struct Channels {
    app: Option<Arc<dyn AppChannel>>,
    grpc: Option<Arc<GrpcChannel>>,
}

fn serve_public(public: Public, core: &Arc<Core>, apis: &Tasks, stop: &CancellationToken) {
    for socket in public.grpc {
        let (core, stop) = (Arc::clone(core), stop.clone());
        match socket {
            Socket::Tcp(listener) => apis.spawn("gRPC API", grpc::serve(core, listener, stop)),
            Socket::Unix(listener) => apis.spawn("gRPC API", grpc::serve(core, listener, stop)),
        }
    }
    for socket in public.http {
        let (core, stop) = (Arc::clone(core), stop.clone());
        match socket {
            Socket::Tcp(listener) => apis.spawn("HTTP API", http::serve(core, listener, stop)),
            Socket::Unix(listener) => apis.spawn("HTTP API", http::serve(core, listener, stop)),
        }
    }
    if let Some(listener) = public.public {
        apis.spawn(
            "public server",
            http::serve_public(Arc::clone(core), listener, stop.clone()),
        );
    }
}

/// `host:port`, IPv6 addresses in brackets.
fn own_address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// What the metadata API lists. Features that upstream switches on by itself are listed once they are here.
fn features(configuration: &ConfigurationSpec) -> Vec<String> {
    configuration
        .features
        .iter()
        .filter(|feature| feature.enabled)
        .map(|feature| feature.name.clone())
        .collect()
}
