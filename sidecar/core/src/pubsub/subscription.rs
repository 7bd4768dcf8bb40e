//! What an application subscribes to.

use std::collections::BTreeMap;

/// Where a subscription came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A resource.
    Declarative,
    /// The application's own list.
    Programmatic,
    /// A gRPC stream.
    Streaming,
}

/// One route of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// CEL expression over `event`; empty always matches.
    pub matches: String,
    /// Path at the application.
    pub path: String,
}

/// Bulk delivery settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkSubscribe {
    /// Most messages in one call.
    pub max_messages_count: u32,
    /// Longest wait for the first call to fill, in milliseconds.
    pub max_await_duration_ms: u32,
}

/// A subscription of this application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Pub/sub component.
    pub pubsub_name: String,
    /// Topic.
    pub topic: String,
    /// Routes in order; a default route is the last, with an empty expression.
    pub rules: Vec<Rule>,
    /// Where undeliverable messages go.
    pub dead_letter_topic: Option<String>,
    /// Metadata for the component, `rawPayload` among it.
    pub metadata: BTreeMap<String, String>,
    /// Bulk delivery, if enabled.
    pub bulk: Option<BulkSubscribe>,
    /// Where it came from.
    pub source: Source,
}

/// The subscriptions in effect, one for each topic of a component: a programmatic one over a declarative
/// one and over earlier ones of its kind, the first over later declarative ones.
pub fn merge(subscriptions: Vec<Subscription>) -> Vec<Subscription> {
    let mut merged: Vec<Subscription> = Vec::with_capacity(subscriptions.len());
    for subscription in subscriptions {
        let same = merged.iter_mut().find(|other| {
            other.pubsub_name == subscription.pubsub_name && other.topic == subscription.topic
        });
        match same {
            None => merged.push(subscription),
            Some(other) if subscription.source == Source::Programmatic => *other = subscription,
            Some(_) => {}
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(topic: &str, path: &str, source: Source) -> Subscription {
        Subscription {
            pubsub_name: "bus".to_owned(),
            topic: topic.to_owned(),
            rules: vec![Rule {
                matches: String::new(),
                path: path.to_owned(),
            }],
            dead_letter_topic: None,
            metadata: BTreeMap::new(),
            bulk: None,
            source,
        }
    }

    #[test]
    fn programmatic_wins_then_the_first_declared_and_the_last_listed() {
        let merged = merge(vec![
            subscription("a", "/declared", Source::Declarative),
            subscription("a", "/declared-again", Source::Declarative),
            subscription("b", "/b", Source::Declarative),
            subscription("a", "/programmed", Source::Programmatic),
            subscription("a", "/programmed-again", Source::Programmatic),
        ]);
        let paths: Vec<_> = merged
            .iter()
            .map(|subscription| subscription.rules[0].path.as_str())
            .collect();
        assert_eq!(paths, ["/programmed-again", "/b"]);
    }
}
