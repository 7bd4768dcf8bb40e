use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn now() -> Zoned {
    "2026-01-02T03:04:05Z"
        .parse::<jiff::Timestamp>()
        .expect("a time")
        .to_zoned(TimeZone::UTC)
}

fn envelope(
    data: &str,
    content_type: &str,
    metadata: &[(&str, &str)],
) -> Result<Value, serde_json::Error> {
    let metadata = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let trace = Trace {
        traceparent: TRACEPARENT.to_owned(),
        tracestate: "a=b".to_owned(),
    };
    let context = Context {
        app_id: "app",
        pubsub: "bus",
        topic: "orders",
        content_type,
        metadata: &metadata,
        trace: &trace,
        now: &now(),
        expires: false,
    };
    let bytes = build(data.as_bytes(), &context, || "new-id".to_owned())?;
    serde_json::from_slice(&bytes)
}

#[test]
fn data_gets_an_envelope() {
    let event = envelope("hello", "", &[]).expect("valid");
    let expected = json!({
        "id": "new-id", "specversion": "1.0", "datacontenttype": "text/plain", "source": "app",
        "type": "com.dapr.event.sent", "topic": "orders", "pubsubname": "bus",
        "traceid": TRACEPARENT, "traceparent": TRACEPARENT, "tracestate": "a=b",
        "time": "2026-01-02T03:04:05Z", "data": "hello"
    });
    assert_eq!(event, expected);
}

#[test]
fn data_by_content_type() {
    let check = |data: &str, content_type: &str, member: &str, expected: Value| {
        let event = envelope(data, content_type, &[]).expect("valid");
        assert_eq!(event[member], expected, "{content_type} {data}");
        assert_eq!(event["datacontenttype"], content_type);
    };
    check(r#"{"a":1}"#, "application/json", "data", json!({"a": 1}));
    check(
        r#""text""#,
        "application/json; charset=utf-8",
        "data",
        json!("text"),
    );
    check("{broken", "application/json", "data", json!("{broken"));
    check("", "application/json", "data", json!(""));
    check("<a/>", "application/xml", "data", json!("<a/>"));
    check(
        "hi",
        "application/octet-stream",
        "data_base64",
        json!("aGk="),
    );
}

#[test]
fn numbers_keep_their_texts() {
    let metadata = BTreeMap::new();
    let trace = Trace::default();
    let context = Context {
        app_id: "app",
        pubsub: "bus",
        topic: "t",
        content_type: "application/json",
        metadata: &metadata,
        trace: &trace,
        now: &now(),
        expires: false,
    };
    let bytes = build(
        b"{\"b\": 1.0, \"a\": 12345678901234567890123}",
        &context,
        String::new,
    )
    .expect("valid");
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    assert!(
        text.starts_with(r#"{"data":{"a":12345678901234567890123,"b":1.0},"#),
        "{text}"
    );
}

#[test]
fn metadata_overrides_attributes() {
    let metadata = [
        ("cloudevent.id", "1"),
        ("CloudEvent.Source", "me"),
        ("cloudevent.type", "order"),
        ("cloudevent.subject", "s"),
        ("cloudevent.traceid", "t"),
        ("cloudevent.tracestate", "ts"),
        ("cloudevent.topic", "ignored"),
    ];
    let event = envelope("x", "", &metadata).expect("valid");
    for (member, expected) in [
        ("id", "1"),
        ("source", "me"),
        ("type", "order"),
        ("subject", "s"),
        ("traceid", "t"),
        ("traceparent", "t"),
        ("tracestate", "ts"),
        ("topic", "orders"),
    ] {
        assert_eq!(event[member], expected, "{member}");
    }
    let both = [("cloudevent.traceid", "t"), ("cloudevent.traceparent", "p")];
    let event = envelope("x", "", &both).expect("valid");
    assert_eq!(
        (&event["traceid"], &event["traceparent"]),
        (&json!("p"), &json!("p"))
    );
}

#[test]
fn a_cloud_event_is_completed() {
    let data = r#"{"data":5,"source":"mine","topic":"other","custom":[1.0]}"#;
    let content_type = "application/cloudevents+json; charset=utf-8";
    let event = envelope(data, content_type, &[("cloudevent.id", "ignored")]).expect("valid");
    let expected = json!({
        "data": 5, "source": "mine", "custom": [1.0], "topic": "orders", "pubsubname": "bus",
        "type": "com.dapr.event.sent", "specversion": "1.0", "time": "2026-01-02T03:04:05Z",
        "traceid": TRACEPARENT, "traceparent": TRACEPARENT, "tracestate": "a=b"
    });
    assert_eq!(event, expected);
    let event = envelope(r#"{"traceid":"x"}"#, content_type, &[]).expect("valid");
    assert_eq!(event["traceid"], "x");
    assert_eq!(event.get("traceparent"), None);
    for data in ["", "[]", "5", "{"] {
        assert!(envelope(data, content_type, &[]).is_err(), "{data}");
    }
}

#[test]
fn attributes_that_are_null_are_missing() {
    let data = r#"{"source":null,"type":null,"specversion":null,"time":null,"id":null}"#;
    let event = envelope(data, "application/cloudevents+json", &[]).expect("valid");
    for (member, expected) in [
        ("source", json!("Dapr")),
        ("type", json!("com.dapr.event.sent")),
        ("specversion", json!("1.0")),
        ("time", Value::Null),
        ("id", Value::Null),
    ] {
        assert_eq!(event[member], expected, "{member}");
    }
}

#[test]
fn some_attributes_can_be_made_empty() {
    let check = |name: &str, member: &str, expected: &str| {
        let event = envelope("x", "", &[(name, "")]).expect("valid");
        assert_eq!(event[member], expected, "{name}");
    };
    check("cloudevent.source", "source", "Dapr");
    check("CloudEvent.TraceId", "traceid", "");
    check("cloudevent.traceid", "traceparent", "");
    check("cloudevent.tracestate", "tracestate", "");
    check("cloudevent.traceparent", "traceparent", TRACEPARENT);
    check("cloudevent.id", "id", "new-id");
    check("cloudevent.type", "type", "com.dapr.event.sent");
}

#[test]
fn a_time_to_live_becomes_an_expiration() {
    let check = |name: &str, ttl: &str, expected: Option<&str>| {
        let event = envelope("x", "", &[(name, ttl)]).expect("valid");
        assert_eq!(
            event.get("expiration").and_then(Value::as_str),
            expected,
            "{name} {ttl}"
        );
    };
    check("ttlInSeconds", "10", Some("2026-01-02T03:04:15Z"));
    check("TTLInSeconds", "10", Some("2026-01-02T03:04:15Z"));
    check("ttl", "1m", Some("2026-01-02T03:05:05Z"));
    check("ttlInSeconds", "0", Some("2026-01-02T03:04:05Z"));
    check("ttl", "0s", Some("2026-01-02T03:04:05Z"));
    check("ttl", "-1m", Some("2026-01-02T03:03:05Z"));
    check("ttlInSeconds", "+5", Some("2026-01-02T03:04:10Z"));
    check("ttlInSeconds", "-1", None);
    check("ttlInSeconds", "00", None);
    check("ttlInSeconds", "soon", None);
}

#[test]
fn times_name_their_zone() {
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    assert_eq!(
        timestamp(&now().with_time_zone(zone)),
        "2026-01-02T05:04:05+02:00"
    );
}

proptest! {
    #[test]
    fn any_data_gives_a_valid_envelope(data in ".{0,40}", content_type in "[a-z/+;]{0,20}") {
        if !content_type::is_cloud_event(&content_type) {
            prop_assert!(envelope(&data, &content_type, &[]).is_ok());
        }
    }

    #[test]
    fn no_cloud_event_panics(data in "[{}\\[\\]\":,a0-9 ]{0,30}") {
        drop(envelope(&data, "application/cloudevents+json", &[]));
    }
}
