//! From a message of a broker to the event an application gets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_components_core::pubsub::Message;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::content_type;
use super::envelope::property;

/// Content type of messages that have none.
const DEFAULT_CONTENT_TYPE: &str = "application/json";
/// Prefix of metadata that is an attribute of a binary event.
const ATTRIBUTE_PREFIX: &str = "ce_";
/// The trace of an event that has none.
const NO_TRACE: &str = "00-00000000000000000000000000000000-0000000000000000-00";

/// An event, ready to be routed and delivered.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// The CloudEvent.
    pub(crate) event: Map<String, Value>,
    /// What an HTTP application gets.
    pub(crate) body: Bytes,
    /// What a bulk call carries of a raw message.
    pub(crate) raw: Option<Bytes>,
    /// Trace context to deliver with, if there is any to tell.
    pub(crate) traceparent: Option<String>,
}

impl Incoming {
    /// Reads a message; `is_raw` wraps it whatever it holds. The error is the decoder's text.
    pub(crate) fn read(
        message: &Message,
        pubsub: &str,
        topic: &str,
        is_raw: bool,
    ) -> Result<Self, serde_json::Error> {
        if is_raw {
            return wrap(message, pubsub, topic);
        }
        let given = message.content_type.as_deref();
        let content_type = given
            .filter(|given| !given.is_empty())
            .or_else(|| property(&message.metadata, "content-type"))
            .unwrap_or(DEFAULT_CONTENT_TYPE);
        let (event, body) = if content_type::is_octet_stream(content_type) {
            (binary(message), message.data.clone())
        } else {
            (serde_json::from_slice(&message.data)?, message.data.clone())
        };
        let traceparent = trace(&event, &message.metadata).unwrap_or_else(|| NO_TRACE.to_owned());
        Ok(Self {
            event,
            body,
            raw: None,
            traceparent: Some(traceparent),
        })
    }

    /// The `id` attribute, for logs.
    pub(crate) fn id(&self) -> &str {
        id(&self.event)
    }

    /// When the event expired, if it has.
    pub(crate) fn expired(&self, now: Timestamp) -> Option<&str> {
        let expiration = text(&self.event, "expiration")?;
        let at: Timestamp = expiration.parse().ok()?;
        (at < now).then_some(expiration)
    }

    /// Headers with the trace context.
    pub(crate) fn trace_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(traceparent) = &self.traceparent
            && let Ok(value) = HeaderValue::from_str(traceparent)
        {
            headers.insert("traceparent", value);
        }
        headers
    }
}

/// The `id` attribute of an event, for logs.
pub(crate) fn id(event: &Map<String, Value>) -> &str {
    text(event, "id").unwrap_or_default()
}

/// Puts a raw message into a CloudEvent.
fn wrap(message: &Message, pubsub: &str, topic: &str) -> Result<Incoming, serde_json::Error> {
    let mut event = Map::new();
    let traceparent = property(&message.metadata, "traceparent");
    let traceid = traceparent.or_else(|| property(&message.metadata, "traceid"));
    let tracestate = property(&message.metadata, "tracestate");
    let members = [
        ("id", Some(uuid::Uuid::new_v4().to_string())),
        ("specversion", Some("1.0".to_owned())),
        (
            "datacontenttype",
            Some(content_type::OCTET_STREAM.to_owned()),
        ),
        ("source", Some("Dapr".to_owned())),
        ("type", Some("com.dapr.event.sent".to_owned())),
        ("topic", Some(topic.to_owned())),
        ("pubsubname", Some(pubsub.to_owned())),
        ("data_base64", Some(STANDARD.encode(&message.data))),
        ("traceid", traceid.map(str::to_owned)),
        ("traceparent", traceparent.map(str::to_owned)),
        ("tracestate", tracestate.map(str::to_owned)),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            event.insert(name.to_owned(), Value::String(value));
        }
    }
    let body = serde_json::to_vec(&event)?.into();
    Ok(Incoming {
        traceparent: traceid.map(str::to_owned),
        event,
        body,
        raw: Some(message.data.clone()),
    })
}

/// A binary event: attributes in the metadata, data in the body.
fn binary(message: &Message) -> Map<String, Value> {
    let mut event = Map::new();
    for (name, value) in &message.metadata {
        let is_attribute = name
            .get(..ATTRIBUTE_PREFIX.len())
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case(ATTRIBUTE_PREFIX));
        if is_attribute {
            let attribute = name[ATTRIBUTE_PREFIX.len()..].to_lowercase();
            event.insert(attribute, Value::String(value.clone()));
        }
    }
    // JSON has no bytes; every reader of the map knows this member.
    let data = STANDARD.encode(&message.data);
    event.insert("data_base64".to_owned(), Value::String(data));
    event
}

/// The trace of an event, else of its message.
fn trace(event: &Map<String, Value>, metadata: &BTreeMap<String, String>) -> Option<String> {
    let names = ["traceparent", "traceid"];
    let own = names.iter().find_map(|name| text(event, name));
    let found = own.or_else(|| names.iter().find_map(|name| property(metadata, name)));
    found
        .filter(|traceparent| !traceparent.is_empty())
        .map(str::to_owned)
}

fn text<'a>(event: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    event
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(data: &str, content_type: Option<&str>, metadata: &[(&str, &str)]) -> Message {
        Message {
            topic: "t".to_owned(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            content_type: content_type.map(str::to_owned),
            metadata: metadata
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn read(message: &Message, is_raw: bool) -> Result<Incoming, serde_json::Error> {
        Incoming::read(message, "bus", "t", is_raw)
    }

    #[test]
    fn json_is_handed_on_as_it_came() {
        let text = r#"{ "id": "1", "n": 1.0, "traceparent": "tp" }"#;
        let event = read(&message(text, None, &[]), false).expect("valid");
        assert_eq!(event.body, text);
        assert_eq!(event.id(), "1");
        assert_eq!(event.traceparent.as_deref(), Some("tp"));
        assert!(read(&message("no json", None, &[]), false).is_err());
        assert!(read(&message("[]", None, &[]), false).is_err());
    }

    #[test]
    fn trace_context_is_found() {
        let check = |data: &str, metadata: &[(&str, &str)], expected: &str| {
            let event = read(&message(data, None, metadata), false).expect("valid");
            assert_eq!(event.traceparent.as_deref(), Some(expected), "{data}");
        };
        check(r#"{"traceid":"a"}"#, &[], "a");
        check("{}", &[("traceparent", "m")], "m");
        check(r#"{"traceparent":""}"#, &[], NO_TRACE);
        let raw = read(&message("x", None, &[]), true).expect("wrapped");
        assert_eq!(raw.traceparent, None);
        assert!(raw.trace_headers().is_empty());
    }

    #[test]
    fn raw_messages_are_wrapped() {
        let raw = read(&message("hi", None, &[("traceid", "t")]), true).expect("wrapped");
        let event: Map<String, Value> = serde_json::from_slice(&raw.body).expect("json");
        assert_eq!(event["data_base64"], "aGk=");
        assert_eq!(event["topic"], "t");
        assert_eq!(event["traceid"], "t");
        assert_eq!(event.get("traceparent"), None);
        assert_eq!(raw.traceparent.as_deref(), Some("t"));
        assert_eq!(event.get("time"), None);
        let raw = read(
            &message("hi", None, &[("traceid", "t"), ("traceparent", "p")]),
            true,
        );
        let event = raw.expect("wrapped").event;
        assert_eq!(
            (&event["traceid"], &event["traceparent"]),
            (&"p".into(), &"p".into())
        );
    }

    #[test]
    fn binary_messages_keep_their_bytes() {
        let metadata = [("ce_id", "7"), ("CE_Type", "order"), ("other", "x")];
        let message = message("hi", Some("application/octet-stream"), &metadata);
        let event = read(&message, false).expect("valid");
        assert_eq!(event.body, "hi");
        assert_eq!(event.event["type"], "order");
        assert_eq!(event.id(), "7");
        assert_eq!(event.event.get("other"), None);
    }

    #[test]
    fn expiration() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let check = |expiration: &str, expected: bool| {
            let data = format!(r#"{{"expiration":"{expiration}"}}"#);
            let event = read(&message(&data, None, &[]), false).expect("valid");
            assert_eq!(event.expired(now).is_some(), expected, "{expiration}");
        };
        check("2026-01-02T03:04:04Z", true);
        check("2026-01-02T04:04:04+01:00", true);
        check("2026-01-02T03:04:06Z", false);
        check("soon", false);
        check("", false);
    }

    proptest! {
        #[test]
        fn never_panics(data in ".{0,40}", is_raw: bool) {
            drop(read(&message(&data, None, &[("ce_", ""), ("é_x", "")]), is_raw));
        }
    }
}
