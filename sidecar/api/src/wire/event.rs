//! Events as gRPC applications and streams get them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_proto::dapr::proto::runtime::v1::topic_event_response::TopicEventResponseStatus;
use dapr_proto::dapr::proto::runtime::v1::{TopicEventCeRequest, TopicEventRequest};
use dapr_sidecar_core::app::{Event, EventOutcome};
use dapr_sidecar_core::state::canonical_value;
use serde_json::{Map, Value};

/// The CloudEvent of a delivery as `TopicEventRequest`: known attributes as fields, everything else as
/// extensions. Data of a content type that is neither text nor JSON is empty, as upstream leaves it.
pub fn topic_event(event: Event) -> TopicEventRequest {
    let event_only = cloud_event(event.cloud_event);
    TopicEventRequest {
        id: event_only.id,
        source: event_only.source,
        r#type: event_only.r#type,
        spec_version: event_only.spec_version,
        data_content_type: event_only.data_content_type,
        data: event_only.data,
        topic: event.topic,
        pubsub_name: event.pubsub_name,
        path: event.path,
        extensions: event_only.extensions,
    }
}

/// The same of an event in a batch.
pub fn cloud_event(mut attributes: Map<String, Value>) -> TopicEventCeRequest {
    let data_content_type = take(&mut attributes, "datacontenttype");
    TopicEventCeRequest {
        id: take(&mut attributes, "id"),
        source: take(&mut attributes, "source"),
        r#type: take(&mut attributes, "type"),
        spec_version: take(&mut attributes, "specversion"),
        data: data(&mut attributes, &data_content_type),
        data_content_type,
        extensions: Some(to_struct(attributes)),
    }
}

/// What the status of an answer means; a number that nobody knows does not acknowledge anything.
pub fn event_outcome(status: i32) -> EventOutcome {
    let retry = |reason: String| EventOutcome::Retry { reason, code: None };
    match TopicEventResponseStatus::try_from(status) {
        Ok(TopicEventResponseStatus::Success) => EventOutcome::Success,
        Ok(TopicEventResponseStatus::Drop) => EventOutcome::Drop,
        Ok(TopicEventResponseStatus::Retry) => retry("RETRY status returned from app".to_owned()),
        Err(_) => retry(format!("unknown status returned from app: {status}")),
    }
}

/// An attribute that is text; any other is as good as absent.
fn take(attributes: &mut Map<String, Value>, name: &str) -> String {
    match attributes.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn data(attributes: &mut Map<String, Value>, content_type: &str) -> Bytes {
    let encoded = attributes.remove("data_base64");
    let data = attributes.remove("data");
    if let Some(Value::String(encoded)) = encoded {
        return decoded(encoded);
    }
    let Some(data) = data.filter(|data| !data.is_null()) else {
        return Bytes::new();
    };
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_lowercase();
    let is_text = kind.starts_with("text/") || kind == "application/xml";
    let is_json = ["application/json", "application/cloudevents+json"].contains(&&*kind);
    match data {
        Value::String(text) if is_text => text.into(),
        // Upstream cannot deliver an event whose data is no text although it says so.
        data if is_json || is_text => as_go_writes(&data),
        _ => Bytes::new(),
    }
}

/// Bytes of base64 text, whose lines may be broken. Of other text it is what there is.
fn decoded(mut text: String) -> Bytes {
    text.retain(|letter| !matches!(letter, '\r' | '\n'));
    match STANDARD.decode(&text) {
        Ok(bytes) => bytes.into(),
        Err(_) => text.into(),
    }
}

/// JSON with numbers and letters spelled as Go does.
fn as_go_writes(data: &Value) -> Bytes {
    let text = data.to_string();
    canonical_value(&text).unwrap_or_else(|_| text.into())
}

/// JSON as `google.protobuf.Struct`.
fn to_struct(map: Map<String, Value>) -> prost_types::Struct {
    let fields = map.into_iter().map(|(key, value)| (key, to_value(value)));
    prost_types::Struct {
        fields: fields.collect(),
    }
}

fn to_value(value: Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(to_value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(json: Value) -> Event {
        let Value::Object(cloud_event) = json else {
            panic!("an object");
        };
        Event {
            path: "/p".to_owned(),
            pubsub_name: "pubsub".to_owned(),
            topic: "topic".to_owned(),
            cloud_event,
            body: Bytes::new(),
            content_type: String::new(),
            metadata: Default::default(),
        }
    }

    #[test]
    fn data_follows_its_content_type() {
        let check = |json: Value, expected: &str| {
            let shown = json.to_string();
            assert_eq!(topic_event(event(json)).data, expected, "{shown}");
        };
        let typed = |kind: &str, data: Value| json!({"datacontenttype": kind, "data": data});
        check(typed("application/json", json!({"a": 1})), r#"{"a":1}"#);
        check(
            typed("application/json; charset=utf-8", json!({"a": 1})),
            r#"{"a":1}"#,
        );
        check(
            typed("Application/CloudEvents+JSON", json!({"a": 1})),
            r#"{"a":1}"#,
        );
        check(typed("application/json", json!("s")), r#""s""#);
        check(
            typed("application/json", json!({"b": 100.0, "a": "<1>"})),
            r#"{"a":"\u003c1\u003e","b":100}"#,
        );
        check(typed("application/json", Value::Null), "");
        check(typed("text/plain", json!("a b")), "a b");
        check(typed("application/xml", json!({"a": 1})), r#"{"a":1}"#);
        for other in [
            "image/png",
            "application/vnd.api+json",
            "application/cloudevents",
            "",
        ] {
            check(typed(other, json!("x")), "");
        }
        let encoded = |text: &str| json!({"datacontenttype": "image/png", "data_base64": text});
        check(encoded("aGk="), "hi");
        check(encoded("aG\r\nk=\n"), "hi");
        check(encoded("no base64"), "no base64");
        check(json!({}), "");
    }

    #[test]
    fn attributes_are_texts() {
        let message = topic_event(event(json!({"id": 5, "type": null, "source": "s"})));
        assert_eq!(
            (&*message.id, &*message.r#type, &*message.source),
            ("", "", "s")
        );
    }

    #[test]
    fn only_a_known_status_acknowledges() {
        let is_retry = |status| matches!(event_outcome(status), EventOutcome::Retry { .. });
        assert_eq!(event_outcome(0), EventOutcome::Success);
        assert_eq!(event_outcome(2), EventOutcome::Drop);
        assert!(is_retry(1) && is_retry(7) && is_retry(-1));
    }

    #[test]
    fn the_rest_are_extensions() {
        let message = topic_event(event(json!({
            "id": "1", "source": "s", "type": "t", "specversion": "1.0", "topic": "x", "n": 1,
        })));
        assert_eq!(
            (message.id.as_str(), message.topic.as_str()),
            ("1", "topic")
        );
        let extensions = message.extensions.expect("given").fields;
        assert_eq!(extensions.keys().collect::<Vec<_>>(), ["n", "topic"]);
    }
}
