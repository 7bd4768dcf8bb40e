//! What callers publish.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Trace context as texts; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// W3C `traceparent`.
    pub traceparent: String,
    /// W3C `tracestate`.
    pub tracestate: String,
}

/// One message to publish.
#[derive(Debug, Clone, Default)]
pub struct PublishRequest {
    /// Pub/sub component.
    pub pubsub: String,
    /// Topic.
    pub topic: String,
    /// Data as the caller gave it.
    pub data: Bytes,
    /// Content type of the data, if given.
    pub content_type: Option<String>,
    /// Metadata of the request; `rawPayload`, `ttlInSeconds` and `cloudevent.*` mean something here.
    pub metadata: BTreeMap<String, String>,
    /// Trace context of the request.
    pub trace: Trace,
}

/// One message of a batch.
#[derive(Debug, Clone, Default)]
pub struct BulkEntry {
    /// The caller's id, unique in the batch.
    pub entry_id: String,
    /// Data as bytes: an HTTP caller's JSON has been converted by its content type.
    pub data: Bytes,
    /// Content type of the data.
    pub content_type: String,
    /// Metadata of the entry; it inherits the request's when it has any of its own, be it empty.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Trace context of the entry's own span.
    pub trace: Trace,
}
