//! The runtime: what the sidecar starts, feeds and asks.

use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::state::StateStore;
use dapr_sidecar_core::actors::{Call, RESERVED_PREFIX, Reply};
use dapr_sidecar_core::app::{AppChannel, Config};
use dapr_sidecar_core::peer::{ReminderCall, Target};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::app_host::AppHost;
use crate::channel_host::ChannelHost;
use crate::claims::Cut;
use crate::failure::Failure;
use crate::host::{HostedType, TypeSettings};
use crate::placement;
use crate::settings::Settings;
use crate::shared::{Farewell, Gate, IDLE_DEACTIVATION, ROUND_DEACTIVATION, Shared};
use crate::state::{self, ActorState};

/// Bound of the whole shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long turns that run may go on in it. Nobody tries them again.
const LAST_TURNS: Duration = Duration::from_millis(500);

/// The text of a store that cannot hold actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "actors: state store does not exist or incorrectly configured. Have you set the property '{{\"name\": \"actorStateStore\", \"value\": \"true\"}}' in your state store component file?"
)]
pub struct UnsuitableStore;

/// The actor runtime of a sidecar.
pub struct Runtime {
    pub(crate) shared: Shared,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime and the future that drives it: the stream to placement, idle timeouts and timers. The
    /// future ends after the token is cancelled and all actors are deactivated, at most 5 seconds later.
    pub fn new(
        settings: Settings,
    ) -> (
        Arc<Self>,
        impl FnOnce(CancellationToken) -> BoxFuture<'static, ()>,
    ) {
        let runtime = Arc::new(Self {
            shared: Shared::new(settings),
        });
        let driven = Arc::clone(&runtime);
        let run = move |stop: CancellationToken| -> BoxFuture<'static, ()> {
            Box::pin(async move { driven.run(stop).await })
        };
        (runtime, run)
    }

    /// Hosts the types of an HTTP application and completes host registration; an empty configuration says
    /// that there is nothing to host.
    pub async fn register(&self, config: &Config, app: Arc<dyn AppChannel>) {
        let settings = &self.shared.settings;
        let host = ChannelHost::new(app, &settings.app_id, &settings.namespace);
        self.register_host(config, Arc::new(host)).await;
    }

    /// Hosts the types of `config` in `host`, beside those registered before, and completes host
    /// registration. A type that another host has, or that has other settings now, is halted first.
    pub async fn register_host(&self, config: &Config, host: Arc<dyn AppHost>) {
        self.host(config, host).await;
        self.shared.open();
    }

    /// Hosts types of this process, those of the workflow engine. Host registration of the application
    /// is not touched.
    pub async fn host(&self, config: &Config, host: Arc<dyn AppHost>) {
        let unknown = config
            .entities_config
            .iter()
            .flat_map(|own| &own.entities)
            .filter(|name| !config.entities.contains(name));
        for name in unknown {
            tracing::warn!(
                actor_type = name,
                "settings of an actor type that is not hosted"
            );
        }
        let types = config
            .entities
            .iter()
            .map(|name| {
                let limit = self.shared.settings.disseminate_timeout;
                let settings = TypeSettings::of(config, name, limit);
                let host = Arc::clone(&host);
                Arc::new(HostedType::new(name.as_str().into(), settings, host))
            })
            .collect();
        let replaced = self.shared.hosts().add(types);
        let farewell = Farewell::Silent;
        self.shared
            .halt(&replaced, Cut::Disseminating, Duration::ZERO, farewell)
            .await;
    }

    /// Completes host registration without hosting anything: there is no application or it has no actors.
    pub fn register_nothing(&self) {
        self.shared.open();
    }

    /// The application is unhealthy: its types are withdrawn, calls are cut off, nothing is sent to it,
    /// and all actor APIs wait until the next registration. Types of the workflow engine stay.
    pub async fn unregister(&self) {
        self.withdraw(|hosted| !hosted.name.starts_with(RESERVED_PREFIX))
            .await;
    }

    /// Withdraws some types as [`Self::unregister`] does, for a stream that ended.
    pub async fn unregister_types(&self, types: &[String]) {
        self.withdraw(|hosted| types.iter().any(|name| *name == *hosted.name))
            .await;
    }

    async fn withdraw(&self, which: impl Fn(&HostedType) -> bool) {
        self.shared.wait_again();
        let removed = self.shared.hosts().remove(which);
        self.shared
            .halt(&removed, Cut::Halted, Duration::ZERO, Farewell::Silent)
            .await;
    }

    /// Withdraws types of this process, with a deactivation of each actor.
    pub async fn unhost(&self, types: &[String]) {
        let removed = self
            .shared
            .hosts()
            .remove(|hosted| types.iter().any(|name| *name == *hosted.name));
        let farewell = Farewell::Deactivate(ROUND_DEACTIVATION);
        self.shared
            .halt(&removed, Cut::Halted, Duration::ZERO, farewell)
            .await;
    }

    /// Sets, swaps or removes the actor state store. Without one hosting is suspended: types are withdrawn
    /// from placement and actors drained, but come back with the next store.
    pub async fn set_state_store(
        &self,
        store: Option<(String, Arc<dyn StateStore>)>,
    ) -> Result<(), UnsuitableStore> {
        let Some((name, store)) = store else {
            self.shared.store.store(None);
            self.shared.hosts().suspend(true);
            self.shared.drain_all().await;
            return Ok(());
        };
        if !state::is_usable(&*store) {
            return Err(UnsuitableStore);
        }
        tracing::debug!(store = name, "actor state store is set");
        self.shared
            .store
            .store(Some(Arc::new(ActorState { name, store })));
        self.shared.hosts().suspend(false);
        Ok(())
    }

    /// The name of the actor state store and the store itself, for the workflow engine.
    pub fn state_store(&self) -> Option<(String, Arc<dyn StateStore>)> {
        let state = self.shared.store.load_full()?;
        Some((state.name.clone(), Arc::clone(&state.store)))
    }

    /// Calls an actor of any type, the reserved ones included, without a mark of the public API.
    pub async fn call(&self, call: &Call) -> Result<Reply, Failure> {
        self.shared.ready().await.map_err(|_| Failure::Halted)?;
        self.shared.router.invoke(call).await
    }

    /// Fires a reminder that the scheduler has handed to this sidecar, wherever its actor lives.
    pub async fn fire_reminder(&self, reminder: &ReminderCall) -> Result<(), Failure> {
        self.shared.ready().await.map_err(|_| Failure::Halted)?;
        self.shared.router.fire(reminder, "").await
    }

    /// The host of an actor, for calls that need a connection of their own; `None` is this sidecar. Waits
    /// while the type is disseminated.
    pub async fn locate(
        &self,
        actor_type: &str,
        actor_id: &str,
    ) -> Result<Option<Target>, Failure> {
        self.shared.ready().await.map_err(|_| Failure::Halted)?;
        let host = self.shared.router.locate(actor_type, actor_id).await?;
        Ok((!host.local).then(|| Target {
            app_id: (*host.app_id).to_owned(),
            namespace: self.shared.settings.namespace.clone(),
            address: (*host.name).to_owned(),
        }))
    }

    /// Deactivates one actor once its turn in progress has ended; returns at once if it is not active. Not
    /// to be awaited inside a turn of the same actor.
    pub async fn deactivate(&self, actor_type: &str, actor_id: &str) {
        let Some(hosted) = self.shared.hosts().get(actor_type) else {
            return;
        };
        let _claim = hosted.claims.claim();
        if let Some(instance) = hosted.find(actor_id)
            && let Ok(_permit) = instance.turns.enter(None).await
            && instance.turns.close()
        {
            self.shared
                .deactivate(&hosted, &instance, Farewell::Deactivate(IDLE_DEACTIVATION))
                .await;
        }
    }

    /// Stops: calls that do not end within a moment are cut off, each actor is deactivated, callers get `actor runtime is
    /// closed`. Bounded by 5 seconds; called by the driving future, too.
    pub async fn shutdown(&self) {
        if self.shared.gate.send_replace(Gate::Closed) == Gate::Closed {
            return;
        }
        let shared = &self.shared;
        shared.directory().publish(|view| view.closed = true);
        let all = shared.hosts().all();
        let farewell = Farewell::Deactivate(SHUTDOWN);
        let halt = shared.halt(&all.order, Cut::Halted, LAST_TURNS, farewell);
        if tokio::time::timeout(SHUTDOWN, halt).await.is_err() {
            tracing::warn!("some actors were not deactivated in time");
        }
    }

    async fn run(&self, stop: CancellationToken) {
        if self.shared.is_disabled() {
            (self.shared.settings.on_ready)();
            stop.cancelled().await;
            return;
        }
        // The stream outlives the actors: nobody else may host them before they are deactivated.
        let placement_stop = CancellationToken::new();
        let work = async {
            tokio::select! {
                () = self.shared.run_idle() => {}
                () = self.shared.timers.run(&self.shared.router) => {}
                () = stop.cancelled() => {}
            }
            self.shutdown().await;
            placement_stop.cancel();
        };
        let placement = async {
            tokio::select! {
                () = self.shared.registered_once() => {}
                () = placement_stop.cancelled() => return,
            }
            placement::run(&self.shared, placement_stop.clone()).await;
        };
        tokio::join!(work, placement);
    }
}
