//! Events as gRPC applications and streams get them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_proto::dapr::proto::runtime::v1::TopicEventRequest;
use dapr_sidecar_core::app::Event;
use serde_json::{Map, Value};

/// The CloudEvent of a delivery as `TopicEventRequest`: known attributes as fields, everything else as
/// extensions. Data of a content type that is neither text nor JSON is empty, as upstream leaves it.
pub fn topic_event(event: Event) -> TopicEventRequest {
    let mut attributes = event.cloud_event;
    let data_content_type = take(&mut attributes, "datacontenttype");
    let data = data(&mut attributes, &data_content_type);
    TopicEventRequest {
        id: take(&mut attributes, "id"),
        source: take(&mut attributes, "source"),
        r#type: take(&mut attributes, "type"),
        spec_version: take(&mut attributes, "specversion"),
        data_content_type,
        data,
        topic: event.topic,
        pubsub_name: event.pubsub_name,
        path: event.path,
        extensions: Some(to_struct(attributes)),
    }
}

fn take(attributes: &mut Map<String, Value>, name: &str) -> String {
    match attributes.remove(name) {
        Some(Value::String(text)) => text,
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn data(attributes: &mut Map<String, Value>, content_type: &str) -> Bytes {
    let encoded = attributes.remove("data_base64");
    let data = attributes.remove("data");
    if let Some(Value::String(encoded)) = encoded {
        return STANDARD.decode(encoded).unwrap_or_default().into();
    }
    let Some(data) = data else {
        return Bytes::new();
    };
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let is_json = matches!(
        kind.as_str(),
        "application/json" | "application/cloudevents+json"
    ) || kind.ends_with("+json");
    if is_json {
        return serde_json::to_vec(&data).unwrap_or_default().into();
    }
    let is_text = kind.starts_with("text/") || kind == "application/xml";
    match data {
        Value::String(text) if is_text => text.into(),
        _ => Bytes::new(),
    }
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
        check(
            serde_json::json!({"datacontenttype": "application/json", "data": {"a": 1}}),
            "{\"a\":1}",
        );
        check(
            serde_json::json!({"datacontenttype": "text/plain", "data": "hi"}),
            "hi",
        );
        check(
            serde_json::json!({"datacontenttype": "image/png", "data": "hi"}),
            "",
        );
        check(
            serde_json::json!({"datacontenttype": "image/png", "data_base64": "aGk="}),
            "hi",
        );
        check(serde_json::json!({}), "");
    }

    #[test]
    fn the_rest_are_extensions() {
        let message = topic_event(event(serde_json::json!({
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
