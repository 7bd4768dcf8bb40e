//! Subscriptions at work: started, kept up, stopped.

use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::pubsub::{self as component, Handler, SubscribeRequest};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::error;

use super::batch::batcher;
use super::component::{Component, Services};
use super::delivery::{Consumer, Sink};
use super::error::SubscribeError;
use super::routing::Routes;
use super::service::PubSubs;
use super::subscription::Subscription;
use crate::resiliency::schedule::{Growth, Policy, Schedule};

/// Longest wait for messages in flight when a subscription stops.
const DRAIN: Duration = Duration::from_secs(30);
/// Longest wait for the first attempts before start-up goes on without them.
const FIRST_ATTEMPTS: Duration = Duration::from_secs(5);
/// Longest time between attempts to start a subscription.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// The subscriptions of the application, each for itself.
#[derive(Default)]
pub(super) struct Running(Vec<One>);

/// A subscription of the application with the tasks that keep it up.
pub(super) struct One {
    subscription: Subscription,
    stopping: CancellationToken,
    giving_up: CancellationToken,
    tasks: TaskTracker,
    first_attempt: Option<oneshot::Receiver<()>>,
}

impl Running {
    /// What runs.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter().map(|one| &one.subscription)
    }

    /// Starts one task for each subscription that does not run yet; those with broken rules are logged and left out.
    pub(super) fn start(
        &mut self,
        pubsubs: &Arc<PubSubs>,
        subscriptions: Vec<Subscription>,
        sink: &Sink,
    ) {
        for subscription in subscriptions {
            if self.subscriptions().any(|known| *known == subscription) {
                continue;
            }
            if let Err(error) = Routes::compile(&subscription) {
                error!(
                    "Failed to start subscription for pubsub {}, topic {}: {error}",
                    subscription.pubsub_name, subscription.topic
                );
                continue;
            }
            self.0.push(One::start(pubsubs, subscription, sink));
        }
    }

    /// Takes out what `wanted` does not have, in exactly this form; it receives no more, and is to be waited for.
    pub(super) fn take_others(&mut self, wanted: &[Subscription]) -> Self {
        let (stay, go) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|one| wanted.contains(&one.subscription));
        self.0 = stay;
        let others = Self(go);
        others.cancel();
        others
    }

    /// Waits until every subscription was tried once, for a while.
    pub(super) fn first_attempts(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let attempts = self.0.iter_mut().filter_map(|one| one.first_attempt.take());
        let attempts = futures::future::join_all(attempts);
        async {
            // Whoever has not been tried by then goes on in the background.
            drop(tokio::time::timeout(FIRST_ATTEMPTS, attempts).await);
        }
    }

    fn cancel(&self) {
        for one in &self.0 {
            one.stopping.cancel();
            one.tasks.close();
        }
    }

    /// Receives no more, and repeats no delivery that fails: there is nobody to deliver to.
    pub(super) fn give_up(&self) {
        self.cancel();
        for one in &self.0 {
            one.giving_up.cancel();
        }
    }

    pub(super) async fn stop(self) {
        self.cancel();
        for one in self.0 {
            one.tasks.wait().await;
        }
    }
}

impl One {
    fn start(pubsubs: &Arc<PubSubs>, subscription: Subscription, sink: &Sink) -> Self {
        let (tried, first_attempt) = oneshot::channel();
        let (stopping, giving_up) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let subscriber = Subscriber {
            services: Arc::clone(&pubsubs.services),
            sink: sink.clone(),
            stopping: stopping.clone(),
            giving_up: giving_up.clone(),
            tasks: tasks.clone(),
        };
        let keep_up = KeepUp {
            pubsubs: Arc::clone(pubsubs),
            added: pubsubs.additions(),
            subscriber,
            subscription: subscription.clone(),
        };
        tasks.spawn(keep_up.run(tried));
        Self {
            subscription,
            stopping,
            giving_up,
            tasks,
            first_attempt: Some(first_attempt),
        }
    }
}

/// Starts subscriptions for one receiver of events.
#[derive(Clone)]
pub(super) struct Subscriber {
    pub(super) services: Arc<Services>,
    pub(super) sink: Sink,
    /// Cancelled when messages are no longer taken.
    pub(super) stopping: CancellationToken,
    /// Cancelled when deliveries that fail are no longer repeated.
    pub(super) giving_up: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// A subscription that receives. Dropping it ends what is in flight.
pub(super) struct Active {
    subscription: Box<dyn component::Subscription>,
    _collector: Option<AbortOnDropHandle<()>>,
    _give_up: DropGuard,
}

impl Active {
    /// Stops receiving and waits for messages in flight; those that are not done in time are given up.
    pub(super) async fn close(self) {
        let closing = self.subscription.close();
        if tokio::time::timeout(DRAIN, closing).await.is_err() {
            error!("messages in flight were not done within 30 seconds; leaving them");
        }
    }
}

impl Subscriber {
    pub(super) async fn subscribe(
        &self,
        component: Arc<Component>,
        subscription: &Subscription,
        routes: Routes,
    ) -> Result<Active, SubscribeError> {
        if !component.scopes.may_subscribe(&subscription.topic) {
            return Err(SubscribeError::NotAllowed {
                pubsub: subscription.pubsub_name.clone(),
                topic: subscription.topic.clone(),
            });
        }
        let request = SubscribeRequest {
            topic: component.broker_topic(&subscription.topic),
            metadata: subscription.metadata.clone(),
        };
        let giving_up = self.giving_up.child_token();
        let consumer = Arc::new(Consumer {
            services: Arc::clone(&self.services),
            component: Arc::clone(&component),
            subscription: subscription.clone(),
            routes,
            sink: self.sink.clone(),
            stopping: self.stopping.clone(),
            giving_up: giving_up.clone(),
        });
        let give_up = giving_up.drop_guard();
        let is_stream = matches!(self.sink, Sink::Stream(_));
        let mut collector = None;
        let handler: Arc<dyn Handler> = match subscription.bulk.filter(|_| !is_stream) {
            None => consumer,
            Some(settings) => {
                let (batcher, collect) = batcher(consumer, settings);
                collector = Some(AbortOnDropHandle::new(self.tasks.spawn(collect)));
                Arc::new(batcher)
            }
        };
        let subscribed = component.inner.subscribe(request, handler).await;
        let subscription =
            subscribed.map_err(|error| SubscribeError::Component(error.to_string()))?;
        Ok(Active {
            subscription,
            _collector: collector,
            _give_up: give_up,
        })
    }
}

/// Keeps one subscription up across failures and reloads of its component.
struct KeepUp {
    pubsubs: Arc<PubSubs>,
    added: watch::Receiver<()>,
    subscriber: Subscriber,
    subscription: Subscription,
}

impl KeepUp {
    async fn run(mut self, tried: oneshot::Sender<()>) {
        let stopping = self.subscriber.stopping.clone();
        let mut tried = Some(tried);
        while !stopping.is_cancelled() {
            let Some(component) = self.pubsubs.component(&self.subscription.pubsub_name) else {
                drop(tried.take());
                tokio::select! {
                    () = stopping.cancelled() => return,
                    changed = self.added.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
            };
            let started = self.start(&component, &mut tried);
            let active = tokio::select! {
                () = stopping.cancelled() => return,
                () = component.removed.cancelled() => continue,
                active = started => active,
            };
            drop(tried.take());
            tokio::select! {
                () = stopping.cancelled() => {}
                () = component.removed.cancelled() => {}
            }
            active.close().await;
        }
    }

    /// Tries until the subscription receives.
    async fn start(
        &self,
        component: &Arc<Component>,
        tried: &mut Option<oneshot::Sender<()>>,
    ) -> Active {
        let mut schedule = Schedule::new(Policy {
            growth: Growth::Exponential {
                max_interval: MAX_BACKOFF,
                max_elapsed: Duration::MAX,
            },
            max_retries: None,
        });
        let started = Instant::now();
        let Subscription {
            pubsub_name, topic, ..
        } = &self.subscription;
        loop {
            let failed = match self.attempt(component).await {
                Ok(active) => return active,
                Err(failed) => failed,
            };
            if schedule.retries() == 0 {
                error!(
                    "Failed to start subscription for pubsub {pubsub_name}, topic {topic}: {failed}"
                );
            } else {
                error!(
                    "Retry failed for subscription pubsub {pubsub_name}, topic {topic}: {failed}. Will retry."
                );
            }
            drop(tried.take());
            let wait = schedule.next(started.elapsed(), rand::random());
            tokio::time::sleep(wait.unwrap_or(MAX_BACKOFF)).await;
        }
    }

    async fn attempt(&self, component: &Arc<Component>) -> Result<Active, SubscribeError> {
        let routes = Routes::compile(&self.subscription)?;
        self.subscriber
            .subscribe(Arc::clone(component), &self.subscription, routes)
            .await
    }
}
