//! One run of a sidecar: from the first identity to the last closed component.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dapr_components_core::name_resolution::Resolver;
use dapr_kit::health::Health as HealthTargets;
use dapr_sidecar_actors::Runtime;
use dapr_sidecar_api::metrics::ApiMetrics;
use dapr_sidecar_api::services::Core;
use dapr_sidecar_core::invoke::Invoker;
use dapr_sidecar_core::metrics::{Off, ResiliencyMetrics};
use dapr_sidecar_core::pubsub::check_rules;
use dapr_sidecar_core::resiliency::Resiliency;
use dapr_sidecar_core::state::Store;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::application::Application;
use super::base::{Base, Targets, UNLIMITED_MESSAGE};
use super::channels::Channels;
use super::closing::Closing;
use super::identity::identity;
use super::listeners::{Internal, Public};
use super::loading::loader;
use super::reloading::Reload;
use super::surfaces::{announce, has_hot_reload, serve_public};
use super::{End, Process, api_settings, loading};
use crate::actor_streams::Streams;
use crate::adapters::{Ender, Forwarder, Readiness, Tasks};
use crate::app_health::Health;
use crate::components::Components;
use crate::host;
use crate::loader::{Loader, Resources, endpoints};
use crate::metadata::Listed;
use crate::metrics::RuntimeMetrics;
use crate::peer::{PeerClient, Pool, ProxyClient};
use crate::settings::Mode;

/// Runs the sidecar once.
pub(super) async fn run(process: Process) -> anyhow::Result<End> {
    let settings = Arc::clone(&process.settings);
    // Cancelled to end this run; tasks of the API outlive those of the application.
    let stop = CancellationToken::new();
    let tasks = Tasks::default();
    let health = HealthTargets::new();
    let outbound = HealthTargets::new();
    let targets = Targets {
        security: health.target("security-provider"),
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
    let loader = loader(&process, &security)?;
    let loaded = tokio::select! {
        loaded = loader.configuration() => loaded?,
        () = process.shutdown.token().cancelled() => bail!("stopped before the Configuration was loaded"),
    };
    api_settings::check(&loaded.spec)?;

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
    if settings.has_identity() {
        runtime_metrics.mtls_initialized();
        let counting = Arc::clone(&runtime_metrics).follow(security.renewals());
        tasks.spawn_until("identity metrics", stop.clone(), counting);
    }
    let mut resources = tokio::select! {
        resources = loading::resources(&*loader, &loaded.spec) => resources?,
        () = process.shutdown.token().cancelled() => bail!("stopped before resources were loaded"),
    };
    if let (Mode::Kubernetes, Some(name)) = (settings.mode, settings.config.first()) {
        let spec = loaded.spec.clone();
        resources.configurations.insert(name.clone(), spec);
    }
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
    let ended = base.serve(&loader, resources, targets, &tasks, &stop).await;
    stop.cancel();
    if ended.is_err() {
        // Nothing is in flight yet that deserves a wait.
        drop(tasks.finish(Some(Duration::from_secs(1))).await);
    }
    ended
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

/// Everything that is made before the APIs are served.
struct Prepared {
    internal: TcpListener,
    public: Public,
    channel: Channels,
    invoker: Arc<Invoker>,
    actors: Arc<Runtime>,
    drive_actors: Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>,
    actors_ended: CancellationToken,
    actor_store: Option<Arc<Store>>,
    listed: Arc<Listed>,
    core: Arc<Core>,
}

impl Base {
    /// Makes what the APIs need, and takes their sockets. Dropping the future stops it anywhere; `resolver` and
    /// `components` are for the caller to close.
    async fn prepare(
        &self,
        resources: &Resources,
        components: &Arc<Components>,
        resolver: &mut Option<Arc<dyn Resolver>>,
        api_stop: &CancellationToken,
    ) -> anyhow::Result<Prepared> {
        let settings = Arc::clone(&self.process.settings);
        let internal = Internal::reserve(&settings, &self.hostname).await?;
        let internal_port = internal.port;
        *resolver = self.resolver(internal_port).await;
        for resource in &resources.not_served {
            tracing::warn!(target: "dapr.runtime", "{resource} has no effect: this build does not serve its kind yet");
        }
        components.open_all(&self.wanted(resources)).await?;
        let channel = self.channel()?;

        let pool = Arc::new(Pool::new(self.security.clone()));
        let max_message = settings.max_body_size.unwrap_or(UNLIMITED_MESSAGE);
        let peers = Arc::new(PeerClient::new(Arc::clone(&pool), max_message));
        let invoker = Arc::new(self.invoker(&peers, internal_port));
        // Before it answers, calls of it fail as those of any application that is away.
        invoker.set_app(channel.app.clone());
        if let Some(resolver) = &resolver {
            invoker.set_resolver(Arc::clone(resolver));
        }
        let namespace = settings.namespace.as_deref();
        let secrets = &components.secrets;
        let found = endpoints::convert(&resources.http_endpoints, secrets, namespace).await;
        invoker.set_endpoints(found);
        invoker.set_access_control(self.access_control()?);

        let (actors, drive_actors) = self.actors(peers, internal_port)?;
        let actor_store = self.set_actor_store(&actors, components).await?;
        let listed = Arc::new(Listed::default());
        listed.set(resources);

        let actors_ended = CancellationToken::new();
        let core = Arc::new(Core {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            stores: Arc::clone(&components.stores),
            pubsubs: Arc::clone(&components.pubsubs),
            secrets: Arc::clone(&components.secrets),
            invoker: Arc::clone(&invoker),
            actors: Arc::clone(&actors) as _,
            actor_streams: Arc::new(Streams::new(
                &settings,
                Arc::clone(&actors),
                actors_ended.clone(),
            )),
            metadata: Arc::new(self.metadata(components, &listed, Arc::clone(&actors))),
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
        let internal = internal.listen().await?;
        // Last: whoever stops this finds no socket file left behind.
        let public = Public::bind(&settings.listen, &settings.app_id).await?;
        Ok(Prepared {
            internal,
            public,
            channel,
            invoker,
            actors,
            drive_actors: Box::new(drive_actors),
            actors_ended,
            actor_store,
            listed,
            core,
        })
    }

    async fn serve(
        self,
        loader: &Arc<dyn Loader>,
        resources: Resources,
        targets: Targets,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> anyhow::Result<End> {
        let settings = Arc::clone(&self.process.settings);
        check_rules(&resources.subscriptions).context("a subscription cannot be loaded")?;
        let components = Arc::new(self.components()?);
        let mut resolver = None;
        let (apis, api_stop) = (Tasks::default(), CancellationToken::new());
        let actors_stop = CancellationToken::new();
        let preparing = self.prepare(&resources, &components, &mut resolver, &api_stop);
        let prepared = self
            .process
            .shutdown
            .token()
            .run_until_cancelled(preparing)
            .await;
        let Some(prepared) = prepared.transpose()? else {
            tracing::info!(target: "dapr.runtime", "told to stop before everything was up");
            self.close(Closing {
                components,
                resolver,
                actors_stop,
                api_stop,
                apis,
                tasks,
                stop,
                files: Vec::new(),
            })
            .await?;
            return Ok(End::Stop);
        };
        let Prepared {
            internal,
            public,
            channel,
            invoker,
            actors,
            drive_actors,
            actors_ended,
            actor_store,
            listed,
            core,
        } = prepared;

        let files = public.files.clone();
        serve_public(public, &core, &apis, &api_stop);
        targets.grpc.ready();
        let internal_port = internal.local_addr().map_or(0, |address| address.port());
        self.serve_internal(internal, &core, &apis, &api_stop);
        announce(&settings.listen, internal_port);
        targets.internal.ready();
        let drive_actors = drive_actors(actors_stop.clone());
        tasks.spawn("actors", async move {
            drive_actors.await;
            actors_ended.cancel();
        });
        targets.outbound.ready();

        let health = watch::Sender::new(Health::Unknown);
        let declarative = watch::Sender::new(Arc::new(resources.subscriptions.clone()));
        let application = Application {
            settings: settings.app.clone(),
            channel: channel.app.clone(),
            invoker: Arc::clone(&invoker),
            actors: Arc::clone(&actors),
            pubsubs: Arc::clone(&components.pubsubs),
            resiliency: Arc::clone(&self.resiliency),
            declarative: declarative.subscribe(),
            health: health.clone(),
        };
        let ready = targets.runtime;
        let started = tokio::time::Instant::now();
        tasks.spawn_until("application", stop.clone(), async move {
            application.await_port().await;
            ready.ready();
            let elapsed = started.elapsed().as_millis();
            tracing::info!(target: "dapr.runtime", "dapr initialized. Status: Running. Init Elapsed {elapsed}ms");
            application.follow().await;
        });

        let pubsubs = Arc::clone(&components.pubsubs);
        let reload = Reload {
            base: &self,
            components: Arc::clone(&components),
            actors,
            invoker,
            listed,
            declarative,
            actor_store,
            configurations: resources.configurations.clone(),
            resources: Arc::new(resources),
        };
        let reload = async {
            if has_hot_reload(&self.configuration) {
                reload.run(Arc::clone(loader)).await
            } else {
                // Nothing is followed, but subscribers go on waiting for what never comes.
                let _kept = reload;
                std::future::pending().await
            }
        };
        let end = self
            .wait(&targets.security, &pubsubs, health.subscribe(), reload)
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
        end
    }
}
