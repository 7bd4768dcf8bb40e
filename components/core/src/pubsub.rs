//! Pub/sub: topics that messages are published to and delivered from.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Error;

/// What a pub/sub component can do beyond publish and subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Expires messages by itself (metadata `ttlInSeconds`).
    MessageTtl,
    /// Takes wildcards in subscribed topics.
    SubscribeWildcards,
    /// Publishes several messages in one call.
    BulkPublish,
    /// Bulk subscriptions hand out what is queued at once.
    BulkSubscribeImmediate,
}

impl Feature {
    /// Upstream's name, as the metadata API lists capabilities.
    pub fn name(self) -> &'static str {
        match self {
            Self::MessageTtl => "MESSAGE_TTL",
            Self::SubscribeWildcards => "SUBSCRIBE_WILDCARDS",
            Self::BulkPublish => "BULK_PUBSUB",
            Self::BulkSubscribeImmediate => "BULK_SUBSCRIBE_IMMEDIATE",
        }
    }
}

/// One message to publish; `data` goes out as it is.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// Topic, with the namespace prefix already applied.
    pub topic: String,
    /// Body.
    pub data: Bytes,
    /// Content type for brokers that carry one.
    pub content_type: Option<String>,
    /// Metadata of the request, unchanged.
    pub metadata: BTreeMap<String, String>,
}

/// A message as a broker delivered it.
#[derive(Debug, Clone)]
pub struct Message {
    /// Topic the message came from.
    pub topic: String,
    /// Body.
    pub data: Bytes,
    /// Content type, if the broker carries one.
    pub content_type: Option<String>,
    /// Metadata the broker delivered.
    pub metadata: BTreeMap<String, String>,
}

/// What to subscribe to.
#[derive(Debug, Clone)]
pub struct SubscribeRequest {
    /// Topic, with the namespace prefix already applied.
    pub topic: String,
    /// Metadata of the subscription.
    pub metadata: BTreeMap<String, String>,
}

/// Why a message was not processed; the component decides whether to deliver it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotProcessed(pub String);

/// Receives the messages of one subscription.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Processes one message; `Ok` acknowledges it.
    async fn handle(&self, message: Message) -> Result<(), NotProcessed>;
}

/// A running subscription.
#[async_trait]
pub trait Subscription: Send + Sync {
    /// Stops receiving and waits until handlers in flight have returned. Dropping, the future too, stops receiving and
    /// ends them.
    async fn close(self: Box<Self>);
}

/// A pub/sub component.
#[async_trait]
pub trait PubSub: Send + Sync + 'static {
    /// What it can do.
    fn features(&self) -> &[Feature];

    /// Publishes one message.
    async fn publish(&self, request: PublishRequest) -> Result<(), Error>;

    /// Starts a subscription whose messages go to `handler`.
    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Subscription>, Error>;

    /// Closes connections; subscriptions were closed before.
    async fn close(&self) {}
}
