//! What the metadata API shows, gathered from everything that is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dapr_sidecar_core::actors::{Actors, Phase, RuntimeStatus};
use dapr_sidecar_core::metadata::{AppConnection, AppHealth, Component, Metadata, Snapshot};
use dapr_sidecar_core::pubsub::{PubSubs, Source, Subscription, merge};
use parking_lot::RwLock;

use crate::loader::Resources;
use crate::settings::App;

/// Name under which the version stands in `extended`.
const VERSION_KEY: &str = "daprRuntimeVersion";

/// Names of loaded resources, replaced as a whole when they change.
#[derive(Debug, Default)]
pub struct Listed {
    /// HTTP endpoints.
    pub http_endpoints: ArcSwap<Vec<String>>,
    /// Resiliency resources.
    pub resiliencies: ArcSwap<Vec<String>>,
    /// Subscriptions of resources.
    pub subscriptions: ArcSwap<Vec<Subscription>>,
}

impl Listed {
    /// Lists what `resources` name.
    pub fn set(&self, resources: &Resources) {
        let endpoints = resources.http_endpoints.iter();
        let endpoints = endpoints.map(|it| it.metadata.name.clone().unwrap_or_default());
        self.http_endpoints.store(Arc::new(endpoints.collect()));
        let resiliencies = resources.resiliencies.iter().map(|it| it.name.clone());
        self.resiliencies.store(Arc::new(resiliencies.collect()));
        self.subscriptions
            .store(Arc::new(resources.subscriptions.clone()));
    }
}

/// Everything the metadata API shows.
pub struct MetadataStore {
    /// Own app id.
    pub app_id: String,
    /// Enabled features.
    pub features: Vec<String>,
    /// Loaded components.
    pub components: Arc<ArcSwap<Vec<Component>>>,
    /// Other loaded resources.
    pub listed: Arc<Listed>,
    /// How the application is reached.
    pub app: AppConnection,
    /// Subscriptions in effect.
    pub pubsubs: Arc<PubSubs>,
    /// Actor runtime.
    pub actors: Arc<dyn Actors>,
    /// What applications set; lives as long as the process.
    pub extended: Arc<RwLock<BTreeMap<String, String>>>,
}

impl std::fmt::Debug for MetadataStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataStore")
            .field("app_id", &self.app_id)
            .finish_non_exhaustive()
    }
}

impl Metadata for MetadataStore {
    fn snapshot(&self) -> Snapshot {
        let mut extended = self.extended.read().clone();
        extended.insert(VERSION_KEY.to_owned(), dapr_kit::VERSION.to_owned());
        Snapshot {
            app_id: self.app_id.clone(),
            runtime_version: dapr_kit::VERSION.to_owned(),
            enabled_features: self.features.clone(),
            components: Vec::clone(&self.components.load()),
            extended,
            subscriptions: with_declared(
                self.pubsubs.subscriptions(),
                &self.listed.subscriptions.load(),
            ),
            http_endpoints: Vec::clone(&self.listed.http_endpoints.load()),
            resiliencies: Vec::clone(&self.listed.resiliencies.load()),
            app: self.app.clone(),
            actors: listed(self.actors.status()),
        }
    }

    fn set(&self, key: String, value: String) {
        if !key.is_empty() {
            self.extended.write().insert(key, value);
        }
    }
}

/// What runs, and what resources declare besides: that is listed before there is an application that takes it.
fn with_declared(running: Vec<Subscription>, declared: &[Subscription]) -> Vec<Subscription> {
    let is_running = |subscription: &&Subscription| {
        running.iter().any(|other| {
            other.source != Source::Streaming
                && other.pubsub_name == subscription.pubsub_name
                && other.topic == subscription.topic
        })
    };
    let waiting = declared.iter().filter(|it| !is_running(it));
    let waiting = merge(waiting.cloned().collect());
    running.into_iter().chain(waiting).collect()
}

/// Without placement nothing is hosted, whatever the application says it could host.
fn listed(mut status: RuntimeStatus) -> RuntimeStatus {
    if status.phase == Phase::Disabled {
        status.active.clear();
    }
    status
}

/// How the application is reached, as the metadata API says it.
pub fn app_connection(app: &App) -> AppConnection {
    let duration =
        |duration: std::time::Duration| dapr_kit::duration::GoDuration(duration).to_string();
    AppConnection {
        port: app.port.unwrap_or(0),
        protocol: app.protocol.name().to_owned(),
        // As it is given.
        channel_address: app
            .address
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        max_concurrency: u32::try_from(app.max_concurrency).unwrap_or(u32::MAX),
        health: app.health.as_ref().map(|health| AppHealth {
            path: app.protocol.is_http().then(|| health.path.clone()),
            interval: duration(health.interval),
            timeout: duration(health.timeout),
            threshold: health.threshold,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_subscriptions_are_listed_before_they_run() {
        let subscription = |topic: &str, source: Source| Subscription {
            pubsub_name: "bus".to_owned(),
            topic: topic.to_owned(),
            rules: Vec::new(),
            dead_letter_topic: None,
            metadata: BTreeMap::new(),
            bulk: None,
            source,
        };
        let declared = [
            subscription("a", Source::Declarative),
            subscription("b", Source::Declarative),
        ];
        assert_eq!(with_declared(Vec::new(), &declared), declared);
        let running = vec![
            subscription("a", Source::Programmatic),
            subscription("b", Source::Streaming),
        ];
        let mut expected = running.clone();
        expected.push(subscription("b", Source::Declarative));
        assert_eq!(with_declared(running, &declared), expected);
    }

    #[test]
    fn without_placement_no_hosted_types_are_listed() {
        let check = |phase: Phase, expected: usize| {
            let status = RuntimeStatus {
                phase,
                active: vec![("T".to_owned(), 0)],
                host_ready: false,
                placement_connected: false,
            };
            assert_eq!(listed(status).active.len(), expected, "{phase:?}");
        };
        check(Phase::Disabled, 0);
        check(Phase::Initializing, 1);
        check(Phase::Running, 1);
    }
}
