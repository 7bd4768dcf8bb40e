//! Pub/sub: scopes, envelopes, publishing, subscriptions, routing and delivery.

mod batch;
mod component;
mod content_type;
mod delivery;
mod envelope;
pub mod error;
mod event;
mod presence;
mod publish;
pub mod request;
mod routing;
mod rule_check;
mod running;
pub mod scopes;
mod service;
pub mod subscription;

use std::collections::BTreeMap;

pub use error::{BulkPublishError, PublishError, SubscribeError};
pub use request::{BulkEntry, PublishRequest, Trace};
pub use routing::check as check_rules;
pub use service::{EventSink, PubSubs, StreamGuard, TopicNames};
pub use subscription::{BulkSubscribe, Rule, Source, Subscription, merge};

/// What metadata says of the envelope; empty counts as nothing. Other than elsewhere the letter case counts.
fn raw_payload(metadata: &BTreeMap<String, String>) -> Option<&str> {
    let text = metadata.get("rawPayload")?.as_str();
    (!text.is_empty()).then_some(text)
}

/// Whether metadata asks for messages without an envelope; `None` where it does not say so in a way that is understood.
pub fn is_raw(metadata: &BTreeMap<String, String>) -> Option<bool> {
    raw_payload(metadata).and_then(go_bool)
}

/// A boolean as Go writes one.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
