//! The life of the application as the sidecar sees it: it comes up, turns healthy, unhealthy, healthy again.

use std::sync::Arc;
use std::time::Duration;

use dapr_sidecar_actors::Runtime;
use dapr_sidecar_core::app::{AppChannel, Config, Error};
use dapr_sidecar_core::invoke::Invoker;
use dapr_sidecar_core::pubsub::{PubSubs, Subscription};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::app_health::{self, Health};
use crate::settings::App;

/// A dial of the application that takes longer has failed, and the pause before the next.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// Failed dials between two log lines.
const DIALS_PER_LINE: u32 = 100;
/// Retries of the subscription list when the application cannot be reached: waits, growing by half, at most 1 s.
const LIST_RETRIES: u32 = 3;
const LIST_FIRST_WAIT: Duration = Duration::from_millis(500);
const LIST_LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What happens to the application happens to these.
pub(super) struct Application {
    pub(super) settings: App,
    pub(super) channel: Option<Arc<dyn AppChannel>>,
    pub(super) invoker: Arc<Invoker>,
    pub(super) actors: Arc<Runtime>,
    pub(super) pubsubs: Arc<PubSubs>,
    /// Subscriptions of resources. Marked as changed, too, when a pub/sub component was loaded.
    pub(super) declarative: watch::Receiver<Arc<Vec<Subscription>>>,
    /// Told when the application has become healthy or unhealthy.
    pub(super) health: watch::Sender<Health>,
}

impl Application {
    /// Waits without limit until the application accepts connections. Returns at once without one.
    pub(super) async fn await_port(&self) {
        let Some(port) = self.settings.port else {
            return;
        };
        let address = format!("{}:{port}", self.settings.address);
        tracing::info!(target: "dapr.runtime", "application protocol: {}. waiting on port {port}.  This will block until the app is listening on that port.", self.settings.protocol.name());
        let mut dials = 0u32;
        while !matches!(
            tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&address)).await,
            Ok(Ok(_))
        ) {
            dials = dials.wrapping_add(1);
            if dials.is_multiple_of(DIALS_PER_LINE) {
                tracing::info!(target: "dapr.runtime", "waiting for application to listen on port {port}");
            }
            tokio::time::sleep(DIAL_PAUSE).await;
        }
        tracing::info!(target: "dapr.runtime", "application discovered on port {port}");
    }

    /// Follows the application's health for ever. Drop the future to stop.
    pub(super) async fn follow(self) {
        let Some(channel) = self.channel.clone() else {
            self.actors.register_nothing();
            return;
        };
        let Some(probes) = self.settings.health.clone() else {
            self.health.send_replace(Health::Healthy);
            let config = self.load_config(&channel).await;
            let mut declarative = self.declarative.clone();
            let mut own = self.up(&channel, config.as_ref(), &mut declarative).await;
            while declarative.changed().await.is_ok() {
                self.resubscribe(&channel, &mut own, &mut declarative).await;
            }
            return;
        };
        self.invoker.set_app_healthy(false);
        let probing = app_health::run(probes, Arc::clone(&channel), self.health.clone());
        tokio::select! {
            () = probing => {}
            () = self.react(&channel) => {}
        }
    }

    /// The configuration is asked for once, when the application is healthy for the first time.
    async fn react(&self, channel: &Arc<dyn AppChannel>) {
        let mut health = self.health.subscribe();
        let mut declarative = self.declarative.clone();
        let (mut config, mut own) = (None, None);
        loop {
            let current = *health.borrow_and_update();
            match current {
                Health::Unknown => {}
                Health::Healthy => {
                    self.invoker.set_app_healthy(true);
                    if config.is_none() {
                        config = Some(self.load_config(channel).await);
                    }
                    let config = config.as_ref().and_then(Option::as_ref);
                    own = self.up(channel, config, &mut declarative).await;
                }
                Health::Unhealthy => self.down().await,
            }
            loop {
                tokio::select! {
                    changed = health.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    Ok(()) = declarative.changed(), if current == Health::Healthy => {
                        self.resubscribe(channel, &mut own, &mut declarative).await;
                    }
                }
            }
        }
    }

    /// Returns the application's own subscriptions, if it was asked.
    async fn up(
        &self,
        channel: &Arc<dyn AppChannel>,
        config: Option<&Config>,
        declarative: &mut watch::Receiver<Arc<Vec<Subscription>>>,
    ) -> Option<Vec<Subscription>> {
        let own = self.own_subscriptions(channel).await;
        let declared = Arc::clone(&declarative.borrow_and_update());
        let subscriptions = merge(own.clone().unwrap_or_default(), &declared);
        self.pubsubs.start(subscriptions, Arc::clone(channel)).await;
        match config {
            Some(config) => self.actors.register(config, Arc::clone(channel)).await,
            None => self.actors.register_nothing(),
        }
        own
    }

    /// Applies changed resources while the application is up.
    async fn resubscribe(
        &self,
        channel: &Arc<dyn AppChannel>,
        own: &mut Option<Vec<Subscription>>,
        declarative: &mut watch::Receiver<Arc<Vec<Subscription>>>,
    ) {
        if own.is_none() {
            *own = self.own_subscriptions(channel).await;
        }
        let declared = Arc::clone(&declarative.borrow_and_update());
        let subscriptions = merge(own.clone().unwrap_or_default(), &declared);
        self.pubsubs
            .update(subscriptions, Arc::clone(channel))
            .await;
    }

    async fn down(&self) {
        tracing::warn!(target: "dapr.runtime", "the application is unhealthy: calls are refused, subscriptions and actors stopped");
        self.invoker.set_app_healthy(false);
        self.pubsubs.stop().await;
        self.actors.unregister().await;
    }

    async fn load_config(&self, channel: &Arc<dyn AppChannel>) -> Option<Config> {
        if !self.settings.load_config {
            return None;
        }
        match channel.config().await {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::warn!(target: "dapr.runtime", "failed to load app config: {error}");
                None
            }
        }
    }

    /// The application's own list; `None` without a pub/sub component, for then nobody asks.
    async fn own_subscriptions(&self, channel: &Arc<dyn AppChannel>) -> Option<Vec<Subscription>> {
        if self.pubsubs.is_empty() {
            return None;
        }
        Some(if self.settings.load_subscriptions {
            list(channel).await
        } else {
            Vec::new()
        })
    }
}

/// Programmatic subscriptions first; of the declarative ones those with another topic, the first of equals.
fn merge(own: Vec<Subscription>, declarative: &[Subscription]) -> Vec<Subscription> {
    let mut merged = own;
    for subscription in declarative {
        let is_known = merged.iter().any(|known| {
            known.pubsub_name == subscription.pubsub_name && known.topic == subscription.topic
        });
        if !is_known {
            merged.push(subscription.clone());
        }
    }
    merged
}

async fn list(channel: &Arc<dyn AppChannel>) -> Vec<Subscription> {
    let mut wait = LIST_FIRST_WAIT;
    for attempt in 0..=LIST_RETRIES {
        match channel.subscriptions().await {
            Ok(subscriptions) => return subscriptions,
            Err(Error::Unreachable(reason) | Error::Transport(reason))
                if attempt < LIST_RETRIES =>
            {
                tracing::debug!(target: "dapr.runtime", "the application's subscriptions could not be read, trying again: {reason}");
                tokio::time::sleep(wait).await;
                wait = (wait * 3 / 2).min(LIST_LONGEST_WAIT);
            }
            Err(error) => {
                tracing::error!(target: "dapr.runtime", "{error}");
                break;
            }
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use dapr_sidecar_core::pubsub::{Rule, Source};

    use super::*;

    fn subscription(topic: &str, path: &str, source: Source) -> Subscription {
        Subscription {
            pubsub_name: "p".to_owned(),
            topic: topic.to_owned(),
            rules: vec![Rule {
                matches: String::new(),
                path: path.to_owned(),
            }],
            dead_letter_topic: None,
            metadata: std::collections::BTreeMap::new(),
            bulk: None,
            source,
        }
    }

    #[test]
    fn the_applications_own_subscription_wins_and_the_first_of_equals() {
        let own = vec![subscription("a", "/own", Source::Programmatic)];
        let declarative = [
            subscription("a", "/resource", Source::Declarative),
            subscription("b", "/first", Source::Declarative),
            subscription("b", "/second", Source::Declarative),
        ];
        let merged = merge(own, &declarative);
        let paths: Vec<&str> = merged.iter().map(|s| s.rules[0].path.as_str()).collect();
        assert_eq!(paths, ["/own", "/first"]);
    }
}
