//! What concerns one application, however it was loaded.

use std::collections::BTreeMap;

use dapr_crds::configuration::ConfigurationSpec;
use dapr_crds::manifest::Manifest;
use dapr_crds::{Component, HttpEndpoint, in_scope};
use dapr_sidecar_core::pubsub::{BulkSubscribe, Rule, Source, Subscription};
use dapr_sidecar_core::resiliency;

use crate::channel::answers::bulk_settings;

/// Everything that concerns this application, in the order of folders, files and documents.
#[derive(Default)]
pub struct Resources {
    /// Components, secret stores not yet first.
    pub components: Vec<Component>,
    /// Subscriptions; of several with one name the last one.
    pub subscriptions: Vec<Subscription>,
    /// HTTP endpoints.
    pub http_endpoints: Vec<HttpEndpoint>,
    /// Resiliency resources.
    pub resiliencies: Vec<resiliency::Resource>,
    /// Configurations by name. None of them is read for its content here: one that changes restarts the runtime.
    pub configurations: BTreeMap<String, ConfigurationSpec>,
    /// What this build does not serve yet, as `<Kind> <name>`.
    pub not_served: Vec<String>,
    /// Names of the subscriptions, in their order.
    subscription_names: Vec<String>,
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_struct("Resources")
            .field("components", &self.components.len())
            .field("subscriptions", &self.subscriptions.len())
            .finish_non_exhaustive()
    }
}

impl Resources {
    /// Takes a manifest that is in scope; whether it was.
    pub(super) fn add(&mut self, manifest: Manifest, app_id: &str) -> bool {
        match manifest {
            Manifest::Component(component) if in_scope(&component.scopes, app_id) => {
                self.components.push(*component)
            }
            Manifest::HttpEndpoint(endpoint) if in_scope(&endpoint.scopes, app_id) => {
                self.http_endpoints.push(*endpoint);
            }
            Manifest::Resiliency(resource) if in_scope(&resource.scopes, app_id) => {
                let spec = serde_json::to_value(&resource.spec).and_then(serde_json::from_value);
                let name = resource.metadata.name.clone().unwrap_or_default();
                match spec {
                    Ok(spec) => self.resiliencies.push(resiliency::Resource {
                        name,
                        namespace: resource.metadata.namespace.clone().unwrap_or_default(),
                        scopes: resource.scopes,
                        spec,
                    }),
                    Err(error) => {
                        tracing::error!(target: "dapr.runtime", "Could not read resiliency policy {name}: {error}");
                    }
                }
            }
            Manifest::Configuration(configuration) => {
                let name = configuration.metadata.name.clone().unwrap_or_default();
                self.configurations.insert(name, configuration.spec);
            }
            Manifest::SubscriptionV1Alpha1(subscription)
                if in_scope(&subscription.scopes, app_id) =>
            {
                let name = subscription.metadata.name.unwrap_or_default();
                let spec = subscription.spec;
                // Nothing is delivered without a route.
                let rules = Some(spec.route)
                    .filter(|path| !path.is_empty())
                    .map(|path| Rule {
                        matches: String::new(),
                        path,
                    });
                let rules = rules.into_iter().collect();
                let parts = (
                    spec.pubsubname,
                    spec.topic,
                    spec.dead_letter_topic,
                    spec.metadata,
                );
                self.subscribe(name, rules, parts, bulk(&spec.bulk_subscribe));
            }
            Manifest::SubscriptionV2Alpha1(subscription)
                if in_scope(&subscription.scopes, app_id) =>
            {
                let name = subscription.metadata.name.unwrap_or_default();
                let spec = subscription.spec;
                let mut rules: Vec<Rule> = spec
                    .routes
                    .rules
                    .into_iter()
                    .map(|rule| Rule {
                        matches: rule.r#match,
                        path: rule.path,
                    })
                    .collect();
                if !spec.routes.default.is_empty() {
                    rules.push(Rule {
                        matches: String::new(),
                        path: spec.routes.default,
                    });
                }
                let parts = (
                    spec.pubsubname,
                    spec.topic,
                    spec.dead_letter_topic,
                    spec.metadata,
                );
                self.subscribe(name, rules, parts, bulk(&spec.bulk_subscribe));
            }
            Manifest::McpServer(server) if in_scope(&server.scopes, app_id) => {
                self.not_served.push(format!(
                    "MCPServer {}",
                    server.metadata.name.clone().unwrap_or_default()
                ));
            }
            Manifest::WorkflowAccessPolicy(policy) if in_scope(&policy.scopes, app_id) => {
                self.not_served.push(format!(
                    "WorkflowAccessPolicy {}",
                    policy.metadata.name.clone().unwrap_or_default()
                ));
            }
            _ => return false,
        }
        true
    }

    fn subscribe(
        &mut self,
        name: String,
        rules: Vec<Rule>,
        (pubsub_name, topic, dead_letter_topic, metadata): (
            String,
            String,
            String,
            BTreeMap<String, String>,
        ),
        bulk: Option<BulkSubscribe>,
    ) {
        let subscription = Subscription {
            pubsub_name,
            topic,
            rules,
            dead_letter_topic: (!dead_letter_topic.is_empty()).then_some(dead_letter_topic),
            metadata,
            bulk,
            source: Source::Declarative,
        };
        let mut names = self.subscription_names.iter();
        match names.position(|known| *known == name) {
            Some(place) => self.subscriptions[place] = subscription,
            None => {
                self.subscriptions.push(subscription);
                self.subscription_names.push(name);
            }
        }
    }
}

fn bulk(settings: &dapr_crds::subscription::BulkSubscribe) -> Option<BulkSubscribe> {
    settings.enabled.then(|| {
        bulk_settings(
            settings.max_messages_count.into(),
            settings.max_await_duration_ms.into(),
        )
    })
}
