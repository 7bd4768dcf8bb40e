//! The body of a bulk delivery to an HTTP application.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use dapr_sidecar_core::app::{BulkEvent, BulkEventEntry, Error};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

#[derive(Serialize)]
struct Batch<'a> {
    entries: Vec<Entry<'a>>,
    id: &'a str,
    metadata: &'a BTreeMap<String, String>,
    pubsubname: &'a str,
    topic: &'a str,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    entry_id: &'a str,
    event: Box<RawValue>,
    metadata: Option<&'a BTreeMap<String, String>>,
    content_type: &'a str,
}

/// The batch as JSON: events as they were delivered, raw payloads as base64 text.
pub(super) fn body(batch: &BulkEvent) -> Result<Bytes, Error> {
    let entries: Result<Vec<Entry<'_>>, serde_json::Error> =
        batch.entries.iter().map(entry).collect();
    let bad = |error: serde_json::Error| {
        Error::BadAnswer(format!("a batch cannot be written as JSON: {error}"))
    };
    let envelope = Batch {
        entries: entries.map_err(bad)?,
        id: &batch.id,
        metadata: &batch.metadata,
        pubsubname: &batch.pubsub_name,
        topic: &batch.topic,
        r#type: "com.dapr.event.sent.bulk",
    };
    serde_json::to_vec(&envelope).map(Bytes::from).map_err(bad)
}

fn entry(entry: &BulkEventEntry) -> Result<Entry<'_>, serde_json::Error> {
    let event = if entry.is_raw {
        to_raw_value(&base64::engine::general_purpose::STANDARD.encode(&entry.body))?
    } else {
        serde_json::from_slice(&entry.body)?
    };
    Ok(Entry {
        entry_id: &entry.entry_id,
        event,
        metadata: entry.metadata.as_ref(),
        content_type: match (&*entry.content_type, entry.is_raw) {
            ("", true) => "application/octet-stream",
            ("", false) => "application/cloudevents+json",
            (given, _) => given,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stay_as_they_are_and_raw_payloads_become_text() {
        let entry = |id: &str, is_raw, body: &'static [u8]| BulkEventEntry {
            entry_id: id.to_owned(),
            cloud_event: serde_json::Map::new(),
            body: Bytes::from_static(body),
            is_raw,
            content_type: String::new(),
            metadata: None,
        };
        let batch = BulkEvent {
            id: "b".to_owned(),
            path: "/x".to_owned(),
            pubsub_name: "p".to_owned(),
            topic: "t".to_owned(),
            metadata: BTreeMap::from([("pubsubName".to_owned(), "p".to_owned())]),
            entries: vec![
                entry("1", false, br#"{"id":1.0}"#),
                entry("2", true, &[0, 1]),
            ],
        };
        let text = String::from_utf8(body(&batch).expect("valid").to_vec()).expect("JSON");
        assert!(
            text.contains(
                r#"{"entryId":"1","event":{"id":1.0},"metadata":null,"contentType":"application/cloudevents+json"}"#
            ),
            "{text}"
        );
        assert!(text.contains(r#""event":"AAE=""#), "{text}");
        assert!(
            text.contains(r#""contentType":"application/octet-stream""#),
            "{text}"
        );
    }
}
