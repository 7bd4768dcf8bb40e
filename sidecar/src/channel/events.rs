//! Subscriptions and events as a gRPC application speaks of them.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use dapr_proto::dapr::proto::runtime::v1::topic_event_bulk_request_entry::Event as BulkEventOneof;
use dapr_proto::dapr::proto::runtime::v1::topic_event_response::TopicEventResponseStatus;
use dapr_proto::dapr::proto::runtime::v1::{
    TopicEventBulkRequest, TopicEventBulkRequestEntry, TopicEventCeRequest, TopicEventRequest,
    TopicSubscription,
};
use dapr_sidecar_core::app::{BulkEvent, BulkEventEntry, Event, EventOutcome};
use dapr_sidecar_core::invoke::headers::hop_by_hop;
use dapr_sidecar_core::pubsub::{Rule, Source, Subscription};
use dapr_sidecar_core::state::canonical_value;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue};
use prost_types::value::Kind;
use serde_json::{Map, Value};

use super::answers::bulk_settings;

/// Attributes that have a field of their own in the request.
const OWN_FIELDS: [&str; 7] = [
    "id",
    "source",
    "type",
    "specversion",
    "datacontenttype",
    "data",
    "data_base64",
];

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

/// The event as `OnTopicEvent` takes it.
pub(super) fn topic_event(event: Event) -> TopicEventRequest {
    let attributes = event.cloud_event;
    let content_type = text(&attributes, "datacontenttype");
    TopicEventRequest {
        id: text(&attributes, "id"),
        source: text(&attributes, "source"),
        r#type: text(&attributes, "type"),
        spec_version: text(&attributes, "specversion"),
        data: data(&attributes, &content_type),
        data_content_type: content_type,
        topic: event.topic,
        pubsub_name: event.pubsub_name,
        path: event.path,
        extensions: Some(structure(extensions(attributes))),
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
        let attributes = entry.cloud_event;
        let content_type = text(&attributes, "datacontenttype");
        BulkEventOneof::CloudEvent(TopicEventCeRequest {
            id: text(&attributes, "id"),
            source: text(&attributes, "source"),
            r#type: text(&attributes, "type"),
            spec_version: text(&attributes, "specversion"),
            data: data(&attributes, &content_type),
            data_content_type: content_type,
            extensions: Some(structure(extensions(attributes))),
        })
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

/// What the application's status means.
pub(super) fn outcome(status: TopicEventResponseStatus) -> EventOutcome {
    match status {
        TopicEventResponseStatus::Success => EventOutcome::Success,
        TopicEventResponseStatus::Retry => EventOutcome::Retry {
            reason: "RETRY status returned from app".to_owned(),
            code: None,
        },
        TopicEventResponseStatus::Drop => EventOutcome::Drop,
    }
}

fn extensions(attributes: Map<String, Value>) -> impl Iterator<Item = (String, Value)> {
    attributes
        .into_iter()
        .filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()))
}

fn text(attributes: &Map<String, Value>, name: &str) -> String {
    attributes
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// Text for text types, JSON for JSON and CloudEvent types, decoded bytes for binary data; upstream delivers
/// nothing for any other type, and so do we.
fn data(attributes: &Map<String, Value>, content_type: &str) -> Bytes {
    if let Some(Value::String(encoded)) = attributes.get("data_base64") {
        return base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .unwrap_or_default()
            .into();
    }
    let Some(data) = attributes.get("data") else {
        return Bytes::new();
    };
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase();
    let is_text = media_type.starts_with("text/") || media_type == "application/xml";
    let is_json = ["application/json", "application/cloudevents+json"].contains(&&*media_type);
    match data {
        Value::String(text) if is_text => Bytes::from(text.clone()),
        _ if is_json => as_go_writes(data),
        _ => Bytes::new(),
    }
}

/// JSON with numbers and letters spelled as Go does.
fn as_go_writes(data: &Value) -> Bytes {
    let text = data.to_string();
    canonical_value(&text).unwrap_or_else(|_| text.into())
}

fn structure(fields: impl IntoIterator<Item = (String, Value)>) -> prost_types::Struct {
    let fields: BTreeMap<String, prost_types::Value> = fields
        .into_iter()
        .map(|(name, value)| (name, proto_value(value)))
        .collect();
    prost_types::Struct {
        fields: fields.into_iter().collect(),
    }
}

fn proto_value(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(proto_value).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(attributes: Value) -> Event {
        let Value::Object(cloud_event) = attributes else {
            panic!("an object")
        };
        Event {
            path: "/x".to_owned(),
            pubsub_name: "p".to_owned(),
            topic: "t".to_owned(),
            cloud_event,
            body: Bytes::new(),
            content_type: String::new(),
            metadata: BTreeMap::new(),
        }
    }

    #[test]
    fn data_depends_on_its_type() {
        let check = |attributes: Value, expected: &[u8]| {
            assert_eq!(
                topic_event(event(attributes.clone())).data,
                expected,
                "{attributes}"
            );
        };
        check(
            json!({"datacontenttype": "text/plain", "data": "a b"}),
            b"a b",
        );
        check(
            json!({"datacontenttype": "application/json; charset=utf-8", "data": {"a": 1}}),
            br#"{"a":1}"#,
        );
        check(
            json!({"datacontenttype": "application/json", "data": "s"}),
            br#""s""#,
        );
        check(
            json!({"datacontenttype": "application/json", "data": {"b": 100.0, "a": "<1>"}}),
            br#"{"a":"\u003c1\u003e","b":100}"#,
        );
        check(
            json!({"datacontenttype": "application/octet-stream", "data_base64": "AAE="}),
            &[0, 1],
        );
        check(
            json!({"datacontenttype": "Application/CloudEvents+JSON", "data": {"a": 1}}),
            br#"{"a":1}"#,
        );
        for other in [
            "image/png",
            "application/vnd.api+json",
            "application/cloudevents",
            "",
        ] {
            check(json!({"datacontenttype": other, "data": "x"}), b"");
        }
    }

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
    fn other_attributes_are_extensions() {
        let request = topic_event(event(
            json!({"id": "1", "topic": "t", "custom": 2, "traceparent": ""}),
        ));
        let extensions = request.extensions.expect("always there").fields;
        let mut names: Vec<&String> = extensions.keys().collect();
        names.sort();
        assert_eq!(names, ["custom", "topic", "traceparent"]);
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
