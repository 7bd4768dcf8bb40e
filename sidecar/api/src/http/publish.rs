//! The publish API.

use std::collections::{BTreeMap, BTreeSet};

use ::http::{HeaderName, HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_sidecar_core::fields::Fields;
use dapr_sidecar_core::pubsub::{BulkEntry, BulkPublishError, PublishError, PublishRequest, Trace};
use dapr_sidecar_core::state::canonical_json;
use serde::Serialize;
use serde_json::value::RawValue;

use super::path::decode;
use super::{Call, Handled, json, no_content};
use crate::error::{self, BulkBody, Surface};
use crate::trace::TRACESTATE;

fn surface<'a>(call: &Call<'a>) -> Surface<'a> {
    Surface::Http {
        app_id: &call.core.app_id,
    }
}

fn trace(call: &Call<'_>) -> Trace {
    let tracestate = call
        .headers
        .get(TRACESTATE)
        .and_then(|value| value.to_str().ok());
    crate::trace::published(call.trace.traceparent(), tracestate.unwrap_or_default())
}

pub(super) async fn publish(mut call: Call<'_>, pubsub: &str, topic: &str) -> Handled {
    let (pubsub, topic) = (decode(pubsub)?, decode(topic)?);
    let metadata = call.query.metadata();
    let surface = surface(&call);
    if !call.core.pubsubs.contains(&pubsub) {
        let error = PublishError::NotFound {
            pubsub: pubsub.into_owned(),
        };
        return Err(error::publish(error, &metadata, surface).into());
    }
    let data = call
        .read()
        .await
        .map_err(|error| error::publish_failed(&pubsub, &topic, &error.to_string()))?;
    let request = PublishRequest {
        pubsub: pubsub.into_owned(),
        topic: topic.into_owned(),
        data,
        content_type: call.content_type().map(str::to_owned),
        metadata: metadata.clone(),
        trace: trace(&call),
    };
    call.core
        .pubsubs
        .publish(request)
        .await
        .map_err(|error| error::publish(error, &metadata, surface))?;
    Ok(no_content())
}

#[derive(Debug)]
struct Entry<'a> {
    entry_id: String,
    event: Option<&'a RawValue>,
    content_type: String,
    metadata: Option<BTreeMap<String, String>>,
}

/// The entries of a bulk publish.
fn entries(body: &[u8]) -> Result<Vec<Entry<'_>>, serde_json::Error> {
    let entries: Option<Vec<Fields<'_>>> = serde_json::from_slice(body)?;
    let entries = entries.iter().flatten().map(|fields| {
        Ok(Entry {
            entry_id: fields.get("entryId")?,
            event: fields.raw("event"),
            content_type: fields.get("contentType")?,
            metadata: fields
                .raw("metadata")
                .map(|_| fields.metadata("metadata"))
                .transpose()?,
        })
    });
    entries.collect()
}

pub(super) async fn bulk(mut call: Call<'_>, pubsub: &str, topic: &str) -> Handled {
    let (pubsub, topic) = (decode(pubsub)?, decode(topic)?);
    let metadata = call.query.metadata();
    let surface = surface(&call);
    let app_id = call.core.app_id.as_str();
    let refused = |error| error::bulk_publish(error, &metadata, app_id, surface);
    if !call.core.pubsubs.contains(&pubsub) {
        let error = PublishError::NotFound {
            pubsub: pubsub.into_owned(),
        };
        return Err(refused(error.into()).into());
    }
    let body = call.read_json().await;
    let wrong = |error: BulkBody<'_>| error::bulk_body(error, &pubsub, &topic, app_id);
    let body = body.map_err(|error| wrong(BulkBody::Unmarshal(&error.to_string())))?;
    let entries = entries(&body).map_err(|error| wrong(BulkBody::Unmarshal(&error.to_string())))?;
    let mut ids = BTreeSet::new();
    let unique = entries
        .iter()
        .all(|entry| !entry.entry_id.is_empty() && ids.insert(entry.entry_id.as_str()));
    if !unique {
        let (pubsub, topic) = (pubsub.into_owned(), topic.into_owned());
        return Err(refused(BulkPublishError::EntryIds { pubsub, topic }).into());
    }
    let trace = trace(&call);
    let entries = entries
        .into_iter()
        .map(|entry| {
            let data = event_bytes(&entry.content_type, entry.event)?;
            Ok(BulkEntry {
                entry_id: entry.entry_id,
                data,
                content_type: entry.content_type,
                metadata: entry.metadata,
                trace: crate::trace::sibling(&trace),
            })
        })
        .collect::<Result<Vec<_>, String>>()
        .map_err(|reason| wrong(BulkBody::Envelope(&reason)))?;
    let result = call
        .core
        .pubsubs
        .publish_bulk(&pubsub, &topic, entries, metadata.clone())
        .await;
    match result {
        Ok(()) => Ok(no_content()),
        Err(BulkPublishError::Entries { reason, failed, .. }) => {
            if let Some(metrics) = &call.core.metrics {
                metrics.error("ERR_PUBSUB_PUBLISH_MESSAGE");
            }
            Ok(partial(&failed, &pubsub, &topic, &reason))
        }
        Err(error) => Err(refused(error).into()),
    }
}

/// The bytes of an event, which JSON shows by its content type.
fn event_bytes(content_type: &str, event: Option<&RawValue>) -> Result<Bytes, String> {
    const MISMATCH: &str = "mismatch between contentType and event";
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let raw = event.map_or("null", RawValue::get);
    let text = || serde_json::from_str::<String>(raw).map_err(|_| MISMATCH.to_owned());
    let is_json = matches!(
        kind.as_str(),
        "application/json" | "application/cloudevents+json"
    );
    let is_text = kind.starts_with("text/") || kind == "application/xml";
    if is_json {
        return canonical_json(raw).map_err(|_| MISMATCH.to_owned());
    }
    if is_text {
        return text().map(Bytes::from);
    }
    if kind == "application/octet-stream" {
        // Encoders of mails break lines, which count for nothing.
        let mut text = text()?;
        text.retain(|letter| !matches!(letter, '\r' | '\n'));
        let decoded = STANDARD.decode(text).map_err(|error| {
            // The misspelling is upstream's, and clients may look for the text.
            format!("unable to decode base64 application/octect-stream data: {error}")
        })?;
        return Ok(decoded.into());
    }
    Err(MISMATCH.to_owned())
}

#[derive(Serialize)]
struct Partial<'a> {
    #[serde(rename = "failedEntries")]
    failed: Vec<Failed<'a>>,
    #[serde(rename = "errorCode")]
    error_code: &'static str,
}

#[derive(Serialize)]
struct Failed<'a> {
    #[serde(rename = "entryId")]
    entry_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

fn partial(
    failed: &[(String, String)],
    pubsub: &str,
    topic: &str,
    reason: &str,
) -> ::http::Response<dapr_sidecar_core::body::Body> {
    let failed = failed
        .iter()
        .map(|(entry_id, error)| Failed { entry_id, error });
    let body = Partial {
        failed: failed.collect(),
        error_code: "ERR_PUBSUB_PUBLISH_MESSAGE",
    };
    let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
    let mut response = json(body.clone());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let text = format!("error when publishing to topic {topic} in pubsub {pubsub}: {reason}");
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_maybe_shared(body) {
        headers.insert(HeaderName::from_static("metadata.responsedata"), value);
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(HeaderName::from_static("metadata.error"), value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_bytes_by_content_type() {
        let check = |content_type: &str, event: &str, expected: Result<&str, &str>| {
            let raw: &RawValue = serde_json::from_str(event).expect("JSON");
            let bytes = event_bytes(content_type, Some(raw));
            let bytes = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            assert_eq!(
                bytes.as_deref().map_err(String::as_str),
                expected,
                "{content_type} {event}"
            );
        };
        check(
            "application/json",
            r#"{"b": 1, "a": "<"}"#,
            Ok(r#"{"a":"\u003c","b":1}"#),
        );
        check(
            "application/cloudevents+json; charset=utf-8",
            "{}",
            Ok("{}"),
        );
        check("text/plain", r#""hello""#, Ok("hello"));
        check("application/xml", r#""<a/>""#, Ok("<a/>"));
        check(
            "text/plain",
            "1",
            Err("mismatch between contentType and event"),
        );
        check("application/octet-stream", r#""aGk=""#, Ok("hi"));
        check("application/octet-stream", r#""aG\r\nk=\n""#, Ok("hi"));
        check(
            "image/png",
            r#""aGk=""#,
            Err("mismatch between contentType and event"),
        );
        let raw: &RawValue = serde_json::from_str(r#""!""#).expect("JSON");
        let error = event_bytes("application/octet-stream", Some(raw)).expect_err("no base64");
        assert!(error.starts_with("unable to decode base64 application/octect-stream data: "));
    }
}
