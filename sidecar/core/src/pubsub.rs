//! Pub/sub: scopes, envelopes, publishing, subscriptions, routing and delivery.

mod batch;
mod component;
mod content_type;
mod delivery;
mod envelope;
pub mod error;
mod event;
mod publish;
pub mod request;
mod routing;
mod rule_check;
mod running;
pub mod scopes;
mod service;
pub mod subscription;

pub use error::{BulkPublishError, PublishError, SubscribeError};
pub use request::{BulkEntry, PublishRequest, Trace};
pub use routing::check as check_rules;
pub use service::{EventSink, PubSubs, StreamGuard, TopicNames};
pub use subscription::{BulkSubscribe, Rule, Source, Subscription};

/// A boolean as Go writes one.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
