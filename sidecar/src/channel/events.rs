//! Subscriptions and events as a gRPC application speaks of them.

use std::collections::BTreeMap;

use dapr_proto::dapr::proto::runtime::v1::topic_event_bulk_request_entry::Event as BulkEventOneof;
use dapr_proto::dapr::proto::runtime::v1::{
    TopicEventBulkRequest, TopicEventBulkRequestEntry, TopicSubscription,
};
use dapr_sidecar_api::wire;
use dapr_sidecar_core::app::{BulkEvent, BulkEventEntry};
use dapr_sidecar_core::invoke::headers::hop_by_hop;
use dapr_sidecar_core::pubsub::{Rule, Source, Subscription};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::answers::bulk_settings;

/// A subscription the application listed. Without routes there is one rule with an empty path.
pub(super) fn subscription(listed: TopicSubscription) -> Subscription {
    let routes = listed.routes.unwrap_or_default();
    let mut rules: Vec<Rule> = routes
        .rules
        .into_iter()
        .map(|rule| Rule {
            matches: rule.r#match,
            path: rule.path,
        })
        .collect();
    if !routes.default.is_empty() || rules.is_empty() {
        rules.push(Rule {
            matches: String::new(),
            path: routes.default,
        });
    }
    Subscription {
        pubsub_name: listed.pubsub_name,
        topic: listed.topic,
        rules,
        dead_letter_topic: Some(listed.dead_letter_topic).filter(|topic| !topic.is_empty()),
        metadata: listed.metadata.into_iter().collect(),
        bulk: listed
            .bulk_subscribe
            .filter(|bulk| bulk.enabled)
            .map(|bulk| {
                bulk_settings(
                    bulk.max_messages_count.into(),
                    bulk.max_await_duration_ms.into(),
                )
            }),
        source: Source::Programmatic,
    }
}

/// A batch as `OnBulkTopicEvent` takes it.
pub(super) fn bulk_event(batch: BulkEvent) -> TopicEventBulkRequest {
    TopicEventBulkRequest {
        id: batch.id,
        entries: batch.entries.into_iter().map(bulk_entry).collect(),
        metadata: batch.metadata.into_iter().collect(),
        topic: batch.topic,
        pubsub_name: batch.pubsub_name,
        r#type: "com.dapr.event.sent.bulk".to_owned(),
        path: batch.path,
    }
}

fn bulk_entry(entry: BulkEventEntry) -> TopicEventBulkRequestEntry {
    let event = if entry.is_raw {
        BulkEventOneof::Bytes(entry.body)
    } else {
        BulkEventOneof::CloudEvent(wire::cloud_event(entry.cloud_event))
    };
    TopicEventBulkRequestEntry {
        entry_id: entry.entry_id,
        content_type: entry.content_type,
        metadata: entry.metadata.unwrap_or_default().into_iter().collect(),
        event: Some(event),
    }
}

/// Adds metadata of a message to the headers of its delivery. What no header can hold is left out, and what would say
/// something about the connection or the body: it is up to whoever published the message.
pub(super) fn add_metadata(headers: &mut HeaderMap, metadata: &BTreeMap<String, String>) {
    for (name, value) in metadata {
        let name = HeaderName::try_from(name.as_str());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
            continue;
        };
        let is_about_us = [CONTENT_TYPE, CONTENT_LENGTH, HOST].contains(&name);
        if !is_about_us && !hop_by_hop(name.as_str()) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_says_nothing_about_the_connection() {
        let mut headers = HeaderMap::new();
        let metadata = [
            ("pubsubName", "p"),
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("te", "trailers"),
            ("Content-Length", "7"),
            ("host", "h"),
            ("a b", "x"),
        ];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
        add_metadata(&mut headers, &metadata.into());
        let expected = HeaderValue::from_static("p");
        let expected = [(HeaderName::from_static("pubsubname"), expected)];
        assert_eq!(headers, HeaderMap::from_iter(expected));
    }

    #[test]
    fn no_routes_are_one_rule_with_an_empty_path() {
        let listed = TopicSubscription {
            pubsub_name: "p".to_owned(),
            topic: "t".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            subscription(listed).rules,
            [Rule {
                matches: String::new(),
                path: String::new()
            }]
        );
    }
}
