//! The loaded components and the running subscriptions; publishing is in `publish`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use dapr_components_core::Metadata;
use dapr_components_core::pubsub::PubSub;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::component::{Component, Services};
use super::delivery::Sink;
use super::error::SubscribeError;
use super::routing::Routes;
use super::running::{Running, Subscriber};
use super::subscription::{Subscription, merge};
use crate::app::{self, AppChannel, Event, EventOutcome};
use crate::lease::{Lease, lease};
use crate::metrics::ComponentMetrics;
use crate::resiliency::Resiliency;

/// Where a streaming subscription's events go.
#[async_trait]
pub trait EventSink: Send + Sync + 'static {
    /// Hands one event on and waits for the answer.
    async fn deliver(&self, event: Event) -> Result<EventOutcome, app::Error>;
}

/// How topics are named at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopicNames {
    /// As applications name them.
    #[default]
    AsGiven,
    /// Behind the namespace: the component's metadata, before templates were resolved, had `{namespace}`.
    NamespacePrefixed,
}

type Components = BTreeMap<String, Arc<Component>>;

/// All loaded pub/sub components and the subscriptions on them.
pub struct PubSubs {
    pub(super) services: Arc<Services>,
    components: ArcSwap<Components>,
    /// Tells subscriptions without a component that one was added.
    added: watch::Sender<()>,
    running: Mutex<Option<Running>>,
    /// What was given up and still has messages in flight.
    leaving: TaskTracker,
    streams: Streams,
}

/// Streaming subscriptions; they live as long as their guards.
struct Streams {
    /// Cancelled when nothing is subscribed any more, neither by a stream nor for the application.
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// In effect, by a number of their own.
    subscriptions: Arc<Mutex<BTreeMap<u64, Subscription>>>,
    next: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for PubSubs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(self.components.load().keys())
            .finish()
    }
}

/// Keeps a streaming subscription running; dropping it stops the subscription.
#[derive(Debug)]
#[must_use = "dropping the guard stops the subscription"]
pub struct StreamGuard {
    ended: CancellationToken,
    _stop: DropGuard,
}

impl StreamGuard {
    /// Waits until the subscription has ended: the component was taken out, or everything is stopped.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl PubSubs {
    /// No components yet, for application `app_id` in `namespace` (empty counts as none).
    pub fn new(
        app_id: &str,
        namespace: Option<&str>,
        resiliency: Arc<Resiliency>,
        metrics: Arc<dyn ComponentMetrics>,
    ) -> Self {
        Self {
            services: Arc::new(Services {
                app_id: app_id.to_owned(),
                namespace: namespace.unwrap_or_default().to_owned(),
                resiliency,
                metrics,
            }),
            components: ArcSwap::default(),
            added: watch::Sender::new(()),
            running: Mutex::new(None),
            leaving: TaskTracker::new(),
            streams: Streams {
                stopping: CancellationToken::new(),
                tasks: TaskTracker::new(),
                subscriptions: Arc::default(),
                next: std::sync::atomic::AtomicU64::new(0),
            },
        }
    }

    /// Adds a component, or replaces the one of that name; its topics are named as applications name them.
    pub fn add(&self, metadata: &Metadata, component: Arc<dyn PubSub>) -> Lease {
        self.add_with(metadata, component, TopicNames::AsGiven)
    }

    /// Adds a component, or replaces the one of that name; subscriptions on it start. The lease ends with the last
    /// call and the last subscription once the component is taken out.
    pub fn add_with(
        &self,
        metadata: &Metadata,
        component: Arc<dyn PubSub>,
        names: TopicNames,
    ) -> Lease {
        let (in_use, lease) = lease();
        let component = Component::new(metadata, component, names, &self.services, in_use);
        let component = Arc::new(component);
        let before = self.components.rcu(|components| {
            let mut components = Components::clone(components);
            components.insert(component.name.clone(), Arc::clone(&component));
            components
        });
        if let Some(replaced) = before.get(&component.name) {
            replaced.removed.cancel();
        }
        self.added.send_replace(());
        lease
    }

    /// Takes a component out; the caller closes it. Its subscriptions end.
    pub fn remove(&self, name: &str) -> Option<Arc<dyn PubSub>> {
        let before = self.components.rcu(|components| {
            let mut components = Components::clone(components);
            components.remove(name);
            components
        });
        let component = before.get(name)?;
        component.removed.cancel();
        Some(Arc::clone(&component.inner))
    }

    /// Whether a component of that name is loaded.
    pub fn contains(&self, name: &str) -> bool {
        self.components.load().contains_key(name)
    }

    /// Whether no component is loaded.
    pub fn is_empty(&self) -> bool {
        self.components.load().is_empty()
    }

    pub(super) fn component(&self, name: &str) -> Option<Arc<Component>> {
        self.components.load().get(name).map(Arc::clone)
    }

    /// Learns of components that are added from now on.
    pub(super) fn additions(&self) -> watch::Receiver<()> {
        self.added.subscribe()
    }

    /// Subscriptions in effect: the application's, then streams.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let mut subscriptions: Vec<Subscription> = match &*self.running.lock() {
            Some(running) => running.subscriptions().cloned().collect(),
            None => Vec::new(),
        };
        subscriptions.extend(self.streams.subscriptions.lock().values().cloned());
        subscriptions
    }

    /// Starts what `subscriptions` ask for, the programmatic ones over the declarative ones, and retries
    /// what fails in owned tasks; replaces what ran before. Returns when each has been tried once, or does
    /// not answer. Does nothing after a [`shutdown`](Self::shutdown).
    pub async fn start(
        self: &Arc<Self>,
        subscriptions: Vec<Subscription>,
        app: Arc<dyn AppChannel>,
    ) {
        self.stop_running().await;
        let sink = Sink::App(app);
        let (other, first_attempts) = {
            let mut running = self.running.lock();
            // Asked under the lock: a shutdown from now on finds what is started here.
            if self.streams.stopping.is_cancelled() {
                return;
            }
            let mut started = Running::default();
            started.start(self, merge(subscriptions), &sink);
            let first_attempts = started.first_attempts();
            (running.replace(started), first_attempts)
        };
        if let Some(other) = other {
            drop(self.leaving.spawn(other.stop()).await);
        }
        first_attempts.await;
    }

    /// Turns what runs into what `subscriptions` ask for: those that stay as they are go on undisturbed. Nothing
    /// happens while the subscriptions of the application are stopped.
    pub async fn update(
        self: &Arc<Self>,
        subscriptions: Vec<Subscription>,
        app: Arc<dyn AppChannel>,
    ) {
        let wanted = merge(subscriptions);
        let others = match &mut *self.running.lock() {
            Some(running) => running.take_others(&wanted),
            None => return,
        };
        // A topic is not received twice: the old subscription ends before the new one begins.
        drop(self.leaving.spawn(others.stop()).await);
        if let Some(running) = &mut *self.running.lock() {
            running.start(self, wanted, &Sink::App(app));
        }
    }

    /// Stops all subscriptions of the application and waits until messages in flight are done, 30 seconds
    /// at most. Streams go on.
    pub async fn stop(&self) {
        self.stop_running().await;
        self.leaving.close();
        self.leaving.wait().await;
    }

    async fn stop_running(&self) {
        let running = self.running.lock().take();
        if let Some(running) = running {
            // Whoever waits here may be dropped; `stop` waits all the same.
            drop(self.leaving.spawn(running.stop()).await);
        }
    }

    /// Stops all subscriptions of the application, which takes nothing any more: nothing is delivered to it from now
    /// on but what it has already, which is waited for in the background.
    pub fn give_up(&self) {
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.give_up();
            self.leaving.spawn(running.stop());
        }
    }

    /// Stops everything, streams too, and waits until messages in flight are done, 30 seconds at most; nothing is
    /// subscribed afterwards.
    pub async fn shutdown(&self) {
        self.streams.stopping.cancel();
        self.streams.tasks.close();
        self.stop().await;
        self.streams.tasks.wait().await;
    }

    /// Starts a gRPC streaming subscription; `sink` is fed until the guard is dropped.
    pub async fn subscribe_stream(
        self: &Arc<Self>,
        subscription: Subscription,
        sink: Arc<dyn EventSink>,
    ) -> Result<StreamGuard, SubscribeError> {
        if self.streams.stopping.is_cancelled() {
            return Err(SubscribeError::Stopped);
        }
        let component = self
            .component(&subscription.pubsub_name)
            .ok_or_else(|| SubscribeError::NotFound(subscription.pubsub_name.clone()))?;
        let stopping = self.streams.stopping.child_token();
        let subscriber = Subscriber {
            services: Arc::clone(&self.services),
            sink: Sink::Stream(sink),
            stopping: stopping.clone(),
            // Who is gone takes nothing.
            giving_up: stopping.clone(),
            tasks: self.streams.tasks.clone(),
        };
        let routes = Routes::always("/");
        let active = subscriber
            .subscribe(Arc::clone(&component), &subscription, routes)
            .await?;
        let ended = CancellationToken::new();
        let number = self
            .streams
            .next
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let list = Arc::clone(&self.streams.subscriptions);
        list.lock().insert(number, subscription);
        let ending = ended.clone();
        let token = stopping.clone();
        self.streams.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = component.removed.cancelled() => token.cancel(),
            }
            ending.cancel();
            active.close().await;
            list.lock().remove(&number);
        });
        Ok(StreamGuard {
            ended,
            _stop: stopping.drop_guard(),
        })
    }
}
