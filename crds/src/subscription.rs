//! Subscription: topics an app receives, in two versions and the conversion between them.
//!
//! The storage version is [`v2alpha1`]; `v1alpha1` has one route instead of rules.

mod convert;
mod review;
pub mod v1alpha1;
pub mod v2alpha1;

use serde::{Deserialize, Serialize};

use crate::meta::{is_zero, or_default};
use crate::schema::{Schema, boolean, int32, map, object, text};
use crate::value::scopes_schema;

pub use review::{ConversionError, convert, review};

/// Delivery of messages in batches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BulkSubscribe {
    /// Whether batches are delivered.
    #[serde(deserialize_with = "or_default")]
    pub enabled: bool,
    /// Largest batch.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub max_messages_count: i32,
    /// Longest wait for a full batch in milliseconds.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub max_await_duration_ms: i32,
}

/// The schema of a version, from what only its `spec` has.
fn schema_with(spec: Schema) -> Schema {
    let spec = spec
        .optional(
            "deadLetterTopic",
            "Topic for messages that could not be delivered; without it they are left to the \
             component.",
            text(),
        )
        .optional(
            "metadata",
            "Settings of this subscription, by the names that the component knows.",
            map(text()),
        )
        .optional(
            "bulkSubscribe",
            "Delivery in batches.",
            bulk_subscribe_schema(),
        );
    object()
        .optional(
            "scopes",
            "App ids that subscribe; all of the namespace when empty.",
            scopes_schema(),
        )
        .optional(
            "spec",
            "Which topic is received, and where its messages go.",
            spec,
        )
}

fn bulk_subscribe_schema() -> Schema {
    object()
        .required(
            "enabled",
            "Whether messages are delivered in batches.",
            boolean(),
        )
        .optional(
            "maxMessagesCount",
            "Messages of a full batch; 100 by default, unless the component has its own \
             number.",
            int32(),
        )
        .optional(
            "maxAwaitDurationMs",
            "Longest wait for a full batch in milliseconds; 1000 by default, unless the \
             component has its own.",
            int32(),
        )
}
