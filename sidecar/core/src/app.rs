//! The application beside this sidecar, as the core calls it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;

use crate::invoke;
use crate::rpc;

/// What the application speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    Http,
    /// HTTP/1.1 over TLS, certificate not verified
    Https,
    /// HTTP/2 without TLS, prior knowledge
    H2c,
    /// gRPC without TLS
    Grpc,
    /// gRPC over TLS, certificate not verified
    Grpcs,
}

impl Protocol {
    /// The flag's text, as the metadata API shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    /// Whether the application is called by HTTP semantics (routes, verbs, statuses).
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::H2c)
    }
}

/// Why the application did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// App health checks say it is down.
    #[error("app is not in a healthy state")]
    Unhealthy,
    /// There is no connection to it, so nothing of the request was sent; the text is what callers of upstream see.
    #[error("{0}")]
    Unreachable(String),
    /// The transport failed; the text is what callers of upstream see.
    #[error("{0}")]
    Transport(String),
    /// A gRPC application answered with an error status.
    #[error("{0}")]
    Status(#[from] rpc::Status),
    /// The answer does not have the form the protocol asks for.
    #[error("{0}")]
    BadAnswer(String),
}

/// `GET /dapr/config`: what the application hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Hosted actor types.
    pub entities: Vec<String>,
    /// Idle time before an actor is deactivated; `None` is the default of 60 minutes.
    pub actor_idle_timeout: Option<Duration>,
    /// Time calls in flight get when actors move; `None` is the default of 2 seconds.
    pub drain_ongoing_call_timeout: Option<Duration>,
    /// `Some(false)` cancels calls in flight at once.
    pub drain_rebalanced_actors: Option<bool>,
    /// Reentrancy for all types.
    pub reentrancy: Reentrancy,
    /// Overrides per type.
    pub entities_config: Vec<EntityConfig>,
}

/// Overrides for some actor types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntityConfig {
    /// The types.
    pub entities: Vec<String>,
    /// See [`Config::actor_idle_timeout`].
    pub actor_idle_timeout: Option<Duration>,
    /// See [`Config::drain_ongoing_call_timeout`].
    pub drain_ongoing_call_timeout: Option<Duration>,
    /// Replaces the global reentrancy of these types when given.
    pub reentrancy: Option<Reentrancy>,
}

/// Whether an actor may be entered again by the call chain that holds its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reentrancy {
    /// On or off; off by default.
    pub enabled: bool,
    /// Deepest nesting, 32 by default.
    pub max_stack_depth: u32,
}

impl Default for Reentrancy {
    fn default() -> Self {
        Self {
            enabled: false,
            max_stack_depth: 32,
        }
    }
}

/// One event on its way to the application.
#[derive(Debug, Clone)]
pub struct Event {
    /// Path of the matching route; empty for gRPC applications without routes.
    pub path: String,
    /// Pub/sub component.
    pub pubsub_name: String,
    /// Subscribed topic.
    pub topic: String,
    /// The CloudEvent as parsed JSON, for gRPC applications and routing.
    pub cloud_event: serde_json::Map<String, serde_json::Value>,
    /// The body an HTTP application gets, as the broker delivered it.
    pub body: Bytes,
    /// Content type of `body`.
    pub content_type: String,
    /// Metadata of the message, sent as headers or gRPC metadata.
    pub metadata: BTreeMap<String, String>,
}

/// What the application said about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventOutcome {
    /// Processed.
    Success,
    /// To be delivered again; the text says why, the code (HTTP or gRPC) feeds retry matching.
    Retry {
        /// Text for the log and the component.
        reason: String,
        /// HTTP status or gRPC code, if one was answered.
        code: Option<i32>,
    },
    /// Not to be delivered again; goes to the dead letter topic if there is one.
    Drop,
    /// The same without the application's asking for it (HTTP 404); the text is what it answered.
    Rejected(String),
    /// Acknowledged and dropped without dead letter (gRPC `UNIMPLEMENTED`); the text is what was answered.
    Ignored(String),
}

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct BulkEventEntry {
    /// Id within the batch.
    pub entry_id: String,
    /// The CloudEvent as parsed JSON; empty for raw payloads.
    pub cloud_event: serde_json::Map<String, serde_json::Value>,
    /// The CloudEvent's JSON text as the broker delivered it, or the raw payload.
    pub body: Bytes,
    /// Whether `body` is a raw payload: base64 text for HTTP applications, bytes for gRPC ones.
    pub is_raw: bool,
    /// Content type of the message; empty without one, where HTTP applications are told the default.
    pub content_type: String,
    /// Metadata of the message; `None` is written as `null`.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Several events on their way to one path of the application.
#[derive(Debug, Clone)]
pub struct BulkEvent {
    /// Id of the batch.
    pub id: String,
    /// Path of the matching route.
    pub path: String,
    /// Pub/sub component.
    pub pubsub_name: String,
    /// Subscribed topic.
    pub topic: String,
    /// Metadata of the batch, also sent as headers.
    pub metadata: BTreeMap<String, String>,
    /// The events.
    pub entries: Vec<BulkEventEntry>,
}

/// What the application said about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BulkOutcome {
    /// Entry ids with their outcomes; entries that are missing are to be delivered again.
    Entries(Vec<(String, EventOutcome)>),
    /// The same for all entries.
    All(EventOutcome),
}

/// The application. `None` of an app channel means: no `--app-port`.
#[async_trait]
pub trait AppChannel: Send + Sync + 'static {
    /// What it speaks.
    fn protocol(&self) -> Protocol;

    /// Calls a method: an HTTP request to `/<method>?<query>`, or `AppCallback.OnInvoke`.
    /// For actors the method is `actors/<type>/<id>/method/<method>` and the like.
    async fn invoke(&self, request: invoke::Request) -> Result<invoke::Response, Error>;

    /// `GET /dapr/config`; a gRPC application has none.
    async fn config(&self) -> Result<Config, Error>;

    /// `GET /dapr/subscribe` or `ListTopicSubscriptions`.
    async fn subscriptions(&self) -> Result<Vec<crate::pubsub::Subscription>, Error>;

    /// Delivers one event.
    async fn deliver(&self, event: Event, trace: &HeaderMap) -> Result<EventOutcome, Error>;

    /// Delivers several events in one call. The default delivers them one by one, for channels without a
    /// call of their own.
    async fn deliver_bulk(
        &self,
        events: BulkEvent,
        trace: &HeaderMap,
    ) -> Result<BulkOutcome, Error> {
        let mut outcomes = Vec::with_capacity(events.entries.len());
        for entry in events.entries {
            let event = Event {
                path: events.path.clone(),
                pubsub_name: events.pubsub_name.clone(),
                topic: events.topic.clone(),
                cloud_event: entry.cloud_event,
                body: entry.body,
                content_type: entry.content_type,
                metadata: entry.metadata.unwrap_or_default(),
            };
            outcomes.push((entry.entry_id, self.deliver(event, trace).await?));
        }
        Ok(BulkOutcome::Entries(outcomes))
    }

    /// One health probe.
    async fn probe(&self) -> bool;
}
