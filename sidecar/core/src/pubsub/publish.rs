//! Publishing one message or several.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dapr_components_core::Error as ComponentError;
use dapr_components_core::pubsub::{Feature, PublishRequest as ComponentRequest};
use futures::StreamExt as _;
use jiff::Zoned;
use parking_lot::Mutex;

use super::component::Component;
use super::content_type;
use super::envelope::{self, Context};
use super::error::{BulkPublishError, PublishError};
use super::request::{BulkEntry, PublishRequest, Trace};
use super::service::PubSubs;
use crate::resiliency::{Class, Classify, Failed};

/// Messages of a batch published at once, for components without a call for batches.
const PARALLEL: usize = 100;

/// What a message is published with, besides its data.
struct Message<'a> {
    component: &'a Component,
    topic: &'a str,
    content_type: &'a str,
    metadata: &'a BTreeMap<String, String>,
    trace: &'a Trace,
}

impl PubSubs {
    /// Publishes one message.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), PublishError> {
        let component = self.target(&request.pubsub, &request.topic)?;
        let is_raw = is_raw(&request.metadata, &request.pubsub)?;
        let data = if is_raw {
            request.data
        } else {
            self.wrap(
                &request.data,
                &Message {
                    component: &component,
                    topic: &request.topic,
                    content_type: request.content_type.as_deref().unwrap_or_default(),
                    metadata: &request.metadata,
                    trace: &request.trace,
                },
            )?
        };
        self.check_scope(&component, &request.topic)?;
        let started = Instant::now();
        let message = ComponentRequest {
            topic: request.topic.clone(),
            data,
            content_type: None,
            metadata: request.metadata,
        };
        let result = component.send(message, &self.services.resiliency).await;
        self.services.metrics.published(
            &component.name,
            &request.topic,
            result.is_ok(),
            started.elapsed(),
        );
        result.map_err(|error| PublishError::Publish {
            pubsub: request.pubsub,
            topic: request.topic,
            reason: error.to_string(),
        })
    }

    /// Publishes several messages, each for itself.
    pub async fn publish_bulk(
        &self,
        pubsub: &str,
        topic: &str,
        entries: Vec<BulkEntry>,
        metadata: BTreeMap<String, String>,
    ) -> Result<(), BulkPublishError> {
        let component = self.target(pubsub, topic)?;
        let is_raw = is_raw(&metadata, pubsub)?;
        if !ids_are_unique(&entries) {
            return Err(BulkPublishError::EntryIds {
                pubsub: pubsub.to_owned(),
                topic: topic.to_owned(),
            });
        }
        let mut messages = Vec::with_capacity(entries.len());
        for entry in entries {
            messages.push(self.bulk_message(&component, topic, entry, &metadata, is_raw)?);
        }
        self.check_scope(&component, topic)?;
        let order: Vec<String> = messages.iter().map(|(id, _)| id.clone()).collect();
        let started = Instant::now();
        let failed = self.send_all(&component, messages).await;
        let is_success = failed.is_empty();
        self.services
            .metrics
            .published_bulk(&component.name, topic, is_success, started.elapsed());
        if is_success {
            return Ok(());
        }
        Err(entries_failed(pubsub, topic, &order, failed))
    }

    /// The component of a request, in upstream's order of checks.
    fn target(&self, pubsub: &str, topic: &str) -> Result<Arc<Component>, PublishError> {
        if pubsub.is_empty() {
            return Err(PublishError::NameEmpty);
        }
        let component = self
            .component(pubsub)
            .ok_or_else(|| PublishError::NotFound {
                pubsub: pubsub.to_owned(),
            })?;
        if topic.is_empty() {
            return Err(PublishError::TopicEmpty {
                pubsub: pubsub.to_owned(),
            });
        }
        Ok(component)
    }

    fn check_scope(&self, component: &Component, topic: &str) -> Result<(), PublishError> {
        if component.scopes.may_publish(topic) {
            return Ok(());
        }
        Err(PublishError::Forbidden {
            pubsub: component.name.clone(),
            topic: topic.to_owned(),
            app_id: self.services.app_id.clone(),
        })
    }

    /// Puts data into its envelope.
    fn wrap(&self, data: &Bytes, message: &Message<'_>) -> Result<Bytes, PublishError> {
        let now = Zoned::now();
        let context = Context {
            app_id: &self.services.app_id,
            pubsub: &message.component.name,
            topic: message.topic,
            content_type: message.content_type,
            metadata: message.metadata,
            trace: message.trace,
            now: &now,
            expires: message.component.has(Feature::MessageTtl),
        };
        // Bytes of JSON that are no UTF-8 are replacement characters, as Go reads it.
        let is_json = content_type::is_json(message.content_type)
            || content_type::is_cloud_event(message.content_type);
        let text = is_json.then(|| String::from_utf8_lossy(data));
        let data = text.as_deref().map_or(&data[..], str::as_bytes);
        envelope::build(data, &context, || uuid::Uuid::new_v4().to_string()).map_err(|error| {
            PublishError::CloudEvent {
                pubsub: message.component.name.clone(),
                app_id: self.services.app_id.clone(),
                reason: error.to_string(),
            }
        })
    }

    fn bulk_message(
        &self,
        component: &Component,
        topic: &str,
        entry: BulkEntry,
        metadata: &BTreeMap<String, String>,
        is_raw: bool,
    ) -> Result<(String, ComponentRequest), PublishError> {
        // Only an entry with metadata of its own inherits the request's.
        let own = entry.metadata.map(|mut own| {
            for (name, value) in metadata {
                own.entry(name.clone()).or_insert_with(|| value.clone());
            }
            own
        });
        let own = own.unwrap_or_default();
        let data = if is_raw {
            entry.data
        } else {
            self.wrap(
                &entry.data,
                &Message {
                    component,
                    topic,
                    content_type: &entry.content_type,
                    metadata: &own,
                    trace: &entry.trace,
                },
            )?
        };
        let request = ComponentRequest {
            topic: component.broker_topic(topic),
            data,
            content_type: Some(entry.content_type).filter(|given| !given.is_empty()),
            metadata: own,
        };
        Ok((entry.entry_id, request))
    }

    /// Publishes messages side by side; only those that failed are tried again. Gives ids with reasons.
    async fn send_all(
        &self,
        component: &Component,
        messages: Vec<(String, ComponentRequest)>,
    ) -> BTreeMap<String, String> {
        let Some(policy) = self.services.resiliency.policy(component.outbound()) else {
            return send_once(component, messages).await.1;
        };
        let progress = Mutex::new((messages, BTreeMap::new()));
        let outcome = policy
            .run(|| {
                let pending = progress.lock().0.clone();
                let progress = &progress;
                async move {
                    let state = send_once(component, pending).await;
                    let is_done = state.0.is_empty();
                    *progress.lock() = state;
                    if is_done { Ok(()) } else { Err(SomeFailed) }
                }
            })
            .await;
        let (pending, failed) = progress.into_inner();
        match outcome {
            Ok(()) => BTreeMap::new(),
            Err(Failed::Operation(SomeFailed)) => failed,
            // Whatever is left has failed for the reason the policy gives.
            Err(Failed::Timeout) => all_failed(pending, "context deadline exceeded"),
            Err(Failed::Rejected(rejected)) => all_failed(pending, &rejected.to_string()),
        }
    }
}

/// Some messages of a batch were not published.
struct SomeFailed;

impl Classify for SomeFailed {
    fn class(&self) -> Class {
        Class::Uncoded
    }
}

/// The messages that failed, and why.
async fn send_once(
    component: &Component,
    messages: Vec<(String, ComponentRequest)>,
) -> (Vec<(String, ComponentRequest)>, BTreeMap<String, String>) {
    let sends = messages.into_iter().map(|(id, request)| async move {
        let result: Result<(), ComponentError> = component.inner.publish(request.clone()).await;
        result.err().map(|error| ((id, request), error.to_string()))
    });
    let results: Vec<_> = futures::stream::iter(sends)
        .buffered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let mut pending = Vec::with_capacity(results.len());
    let mut failed = BTreeMap::new();
    for ((id, request), reason) in results {
        failed.insert(id.clone(), reason);
        pending.push((id, request));
    }
    (pending, failed)
}

fn all_failed(pending: Vec<(String, ComponentRequest)>, reason: &str) -> BTreeMap<String, String> {
    pending
        .into_iter()
        .map(|(id, _)| (id, reason.to_owned()))
        .collect()
}

fn entries_failed(
    pubsub: &str,
    topic: &str,
    order: &[String],
    mut failed: BTreeMap<String, String>,
) -> BulkPublishError {
    let failed: Vec<(String, String)> = order
        .iter()
        .filter_map(|id| failed.remove_entry(id))
        .collect();
    let reasons: BTreeSet<&str> = failed.iter().map(|(_, reason)| reason.as_str()).collect();
    BulkPublishError::Entries {
        pubsub: pubsub.to_owned(),
        topic: topic.to_owned(),
        reason: reasons.into_iter().collect::<Vec<_>>().join("\n"),
        failed,
    }
}

fn ids_are_unique(entries: &[BulkEntry]) -> bool {
    let mut seen = BTreeSet::new();
    entries
        .iter()
        .all(|entry| !entry.entry_id.is_empty() && seen.insert(&entry.entry_id))
}

/// Whether messages go out without an envelope.
fn is_raw(metadata: &BTreeMap<String, String>, pubsub: &str) -> Result<bool, PublishError> {
    let Some(text) = super::raw_payload(metadata) else {
        return Ok(false);
    };
    super::go_bool(text).ok_or_else(|| PublishError::Metadata {
        pubsub: pubsub.to_owned(),
        reason: format!("rawPayload value must be a valid boolean: actual is '{text}'"),
    })
}
