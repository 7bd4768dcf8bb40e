//! Why publishing or subscribing failed; `Display` is the text callers read.

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No name.
    #[error("pubsub name is empty")]
    NameEmpty,
    /// No component of that name.
    #[error("pubsub {pubsub} is not found")]
    NotFound {
        /// Name asked for.
        pubsub: String,
    },
    /// No topic.
    #[error("topic is empty in pubsub {pubsub}")]
    TopicEmpty {
        /// Component.
        pubsub: String,
    },
    /// `rawPayload` is not a Go bool.
    #[error("failed deserializing metadata. Error: {reason}")]
    Metadata {
        /// Component.
        pubsub: String,
        /// Why.
        reason: String,
    },
    /// The data is not the CloudEvent it claims to be.
    #[error("cannot create cloudevent")]
    CloudEvent {
        /// Component.
        pubsub: String,
        /// Own app id.
        app_id: String,
        /// Why.
        reason: String,
    },
    /// The scopes do not allow it.
    #[error("topic {topic} is not allowed for app id {app_id}")]
    Forbidden {
        /// Component.
        pubsub: String,
        /// Topic.
        topic: String,
        /// Own app id.
        app_id: String,
    },
    /// The component went away meanwhile.
    #[error("pubsub '{pubsub}' not found")]
    Vanished {
        /// Component.
        pubsub: String,
        /// Topic.
        topic: String,
    },
    /// The broker, or a policy around it, failed.
    #[error("error when publishing to topic {topic} in pubsub {pubsub}: {reason}")]
    Publish {
        /// Component.
        pubsub: String,
        /// Topic.
        topic: String,
        /// Why.
        reason: String,
    },
}

/// Why a batch was not published, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BulkPublishError {
    /// Nothing was published.
    #[error(transparent)]
    Refused(#[from] PublishError),
    /// An entry id is missing or there twice; nothing was published.
    #[error(
        "error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: entryId is duplicated or not present for entry"
    )]
    EntryIds {
        /// Component.
        pubsub: String,
        /// Topic.
        topic: String,
    },
    /// Some or all entries were not published.
    #[error("error when publishing to topic {topic} in pubsub {pubsub}: {reason}")]
    Entries {
        /// Component.
        pubsub: String,
        /// Topic.
        topic: String,
        /// Text for the whole batch.
        reason: String,
        /// Entry ids with their reasons, in the order of the request.
        failed: Vec<(String, String)>,
    },
}

/// Why a subscription does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// No component of that name.
    #[error("pubsub {0} is not found")]
    NotFound(String),
    /// The scopes do not allow it.
    #[error("subscription to topic '{topic}' on pubsub '{pubsub}' is not allowed")]
    NotAllowed {
        /// Component.
        pubsub: String,
        /// Topic.
        topic: String,
    },
    /// A rule is not a CEL expression.
    #[error("invalid rule {matches:?} of topic {topic}: {reason}")]
    InvalidRule {
        /// Topic.
        topic: String,
        /// The expression.
        matches: String,
        /// Why.
        reason: String,
    },
    /// The component refused.
    #[error("{0}")]
    Component(String),
    /// The sidecar is stopping.
    #[error("subscriptions are stopped")]
    Stopped,
}
