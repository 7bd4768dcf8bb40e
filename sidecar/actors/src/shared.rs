//! What the parts of the runtime share, and what happens to hosted actors: rounds, idle timeouts, halts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dapr_sidecar_core::actors::Error;
use futures::StreamExt as _;
use futures::future::join_all;
use tokio::sync::watch;

use crate::claims::Cut;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::host::{DEFAULT_DRAIN, HostedType, Hosts, Instance};
use crate::idle::IdleQueue;
use crate::router::Router;
use crate::settings::Settings;
use crate::state::ActorState;
use crate::table::Table;
use crate::timers::Timers;

/// How many actors are deactivated side by side.
const DEACTIVATIONS: usize = 32;

/// How long the application may take to deactivate an actor while a round waits for it; a round has 8 s.
pub(crate) const ROUND_DEACTIVATION: Duration = Duration::from_secs(5);

/// The same without a round.
pub(crate) const IDLE_DEACTIVATION: Duration = Duration::from_secs(60);

/// Whether callers may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Host registration has not completed, or was taken back.
    Waiting,
    Open,
    Closed,
}

/// Whether the application hears of actors that are halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It is asked to deactivate each, within this time.
    Deactivate(Duration),
    /// It is gone or ill.
    Silent,
}

/// What the parts of the runtime share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) router: Arc<Router>,
    pub(crate) timers: Timers,
    pub(crate) store: ArcSwapOption<ActorState>,
    pub(crate) gate: watch::Sender<Gate>,
    pub(crate) has_registered: AtomicBool,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        let router = Router {
            namespace: settings.namespace.clone(),
            directory: Directory::default(),
            hosts: Hosts::default(),
            idle: IdleQueue::default(),
            clock: Clock::start(),
            peers: Arc::clone(&settings.peers),
            resiliency: Arc::clone(&settings.resiliency),
            metrics: Arc::clone(&settings.metrics),
        };
        Self {
            settings,
            router: Arc::new(router),
            timers: Timers::default(),
            store: ArcSwapOption::empty(),
            gate: watch::Sender::new(Gate::Waiting),
            has_registered: AtomicBool::new(false),
        }
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.router.directory
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.router.hosts
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.settings.placement_addresses.is_empty()
    }

    pub(crate) fn open(&self) {
        self.has_registered.store(true, Ordering::Release);
        self.gate.send_if_modified(|gate| match gate {
            Gate::Waiting => {
                *gate = Gate::Open;
                true
            }
            Gate::Open | Gate::Closed => false,
        });
        if self.hosts().is_suspended() {
            // Nothing can be hosted, so there is nothing to wait for.
            (self.settings.on_ready)();
        }
    }

    pub(crate) fn wait_again(&self) {
        self.gate.send_if_modified(|gate| match gate {
            Gate::Open => {
                *gate = Gate::Waiting;
                true
            }
            Gate::Waiting | Gate::Closed => false,
        });
    }

    /// Waits for host registration.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        if self.is_disabled() {
            return Err(Error::NoPlacement);
        }
        let gate = *self.gate.borrow();
        match gate {
            Gate::Open => return Ok(()),
            Gate::Closed => return Err(Error::Closed),
            Gate::Waiting => {}
        }
        let mut gate = self.gate.subscribe();
        let gate = gate.wait_for(|gate| *gate != Gate::Waiting).await;
        match gate.as_deref() {
            Ok(Gate::Open) => Ok(()),
            Ok(Gate::Waiting | Gate::Closed) | Err(_) => Err(Error::Closed),
        }
    }

    pub(crate) async fn registered_once(&self) {
        let mut gate = self.gate.subscribe();
        // The sender lives as long as this.
        drop(
            gate.wait_for(|_| self.has_registered.load(Ordering::Acquire))
                .await,
        );
    }

    /// A table arrived: its changed types wait, their calls end, actors that moved away are deactivated.
    pub(crate) async fn install(&self, table: Arc<Table>, changed: &BTreeSet<Arc<str>>) {
        self.directory().publish(|view| {
            view.table = Arc::clone(&table);
            view.blocked.extend(changed.iter().map(Arc::clone));
        });
        let all = self.hosts().all();
        let hosted = all
            .order
            .iter()
            .filter(|hosted| changed.contains(&hosted.name));
        join_all(hosted.map(|hosted| self.rebalance(hosted, &table))).await;
    }

    pub(crate) async fn rebalance(&self, hosted: &Arc<HostedType>, table: &Table) {
        hosted
            .claims
            .drain(hosted.settings.drain, Cut::Disseminating)
            .await;
        let ring = table.ring(&hosted.name);
        let is_here = |instance: &Instance| {
            let owner = ring.and_then(|ring| ring.owner(&instance.id));
            owner.is_some_and(|host| host.local)
        };
        let mut gone = hosted.instances();
        gone.retain(|instance| !is_here(instance));
        for _ in &gone {
            self.settings.metrics.rebalanced(&hosted.name);
        }
        let farewell = Farewell::Deactivate(ROUND_DEACTIVATION);
        self.deactivate_all(hosted, gone, farewell).await;
    }

    /// The round is over: calls go on and this host is ready.
    pub(crate) fn unblock(&self) {
        self.directory().publish(|view| {
            view.blocked.clear();
            view.ready = true;
        });
        self.settings
            .reminders
            .hosted(&self.hosts().reported().borrow());
        (self.settings.on_ready)();
    }

    /// The stream is over: callers wait for the next, and no actor stays, for others may host them now.
    pub(crate) async fn lost_placement(&self) {
        self.directory().publish(|view| {
            view.connected = false;
            view.ready = false;
            view.blocked.clear();
        });
        self.drain_all().await;
    }

    pub(crate) async fn drain_all(&self) {
        let all = self.hosts().all();
        let farewell = Farewell::Deactivate(ROUND_DEACTIVATION);
        self.halt(&all.order, Cut::Disseminating, DEFAULT_DRAIN, farewell)
            .await;
    }

    /// Ends all calls of these types, with at most this patience, and deactivates their actors.
    pub(crate) async fn halt(
        &self,
        types: &[Arc<HostedType>],
        cut: Cut,
        patience: Duration,
        farewell: Farewell,
    ) {
        join_all(types.iter().map(|hosted| async {
            let patience = patience.min(hosted.settings.drain);
            hosted.claims.drain(patience, cut).await;
            self.deactivate_all(hosted, hosted.instances(), farewell)
                .await;
        }))
        .await;
    }

    pub(crate) async fn deactivate_all(
        &self,
        hosted: &HostedType,
        mut instances: Vec<Arc<Instance>>,
        farewell: Farewell,
    ) {
        // All are closed before the first is awaited: none takes a call any more. Who finds one closed
        // leaves it to whom closed it.
        instances.retain(|instance| instance.turns.close());
        futures::stream::iter(instances)
            .for_each_concurrent(DEACTIVATIONS, async |instance| {
                self.deactivate(hosted, &instance, farewell).await;
            })
            .await;
    }

    /// Takes a closed actor away.
    pub(crate) async fn deactivate(
        &self,
        hosted: &HostedType,
        instance: &Instance,
        farewell: Farewell,
    ) {
        let _departure = hosted.departure(instance);
        let limit = match farewell {
            Farewell::Deactivate(limit) => limit,
            Farewell::Silent => return,
        };
        let told = hosted.app.deactivate(&hosted.name, &instance.id);
        let success = match tokio::time::timeout(limit, told).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(actor_type = &*hosted.name, actor_id = &*instance.id, %error, "deactivation failed");
                false
            }
            Err(_) => {
                tracing::warn!(
                    actor_type = &*hosted.name,
                    actor_id = &*instance.id,
                    "deactivation took too long"
                );
                false
            }
        };
        self.settings.metrics.deactivated(&hosted.name, success);
    }

    pub(crate) async fn run_idle(&self) {
        let idle = &self.router.idle;
        let clock = self.router.clock;
        loop {
            let expired = idle.expired(clock.millis());
            futures::stream::iter(expired)
                .for_each_concurrent(DEACTIVATIONS, async |(hosted, instance)| {
                    self.retire(&hosted, &instance).await;
                })
                .await;
            let next = async {
                match idle.next() {
                    Some(due) => tokio::time::sleep_until(clock.at(due)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = idle.changed() => {}
            }
        }
    }

    /// Deactivates an idle actor. A claim keeps a round from starting in between; one that is under way or
    /// a turn in progress puts the actor back to wait.
    pub(crate) async fn retire(&self, hosted: &Arc<HostedType>, instance: &Arc<Instance>) {
        let _claim = hosted.claims.claim();
        if instance.turns.is_closed() {
            return;
        }
        if self.directory().is_open(&hosted.name) && instance.turns.close_if_idle() {
            let farewell = Farewell::Deactivate(IDLE_DEACTIVATION);
            self.deactivate(hosted, instance, farewell).await;
        } else {
            instance.touch(self.router.clock.millis());
            self.router.idle.watch(hosted, instance);
        }
    }
}
