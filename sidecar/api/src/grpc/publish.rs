//! The publish methods.

use std::collections::BTreeMap;

use dapr_proto::dapr::proto::runtime::v1::{
    BulkPublishRequest, BulkPublishResponse, PublishEventRequest,
};
use dapr_sidecar_core::pubsub::{BulkEntry, PublishRequest, Trace};
use http::HeaderValue;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::error::{self, Surface};
use crate::services::Core;

/// The trace of the request, as the middleware has left it in the metadata: the binary form first.
fn trace(metadata: &MetadataMap) -> Trace {
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    let binary = metadata
        .get_bin("grpc-trace-bin")
        .and_then(|value| HeaderValue::from_bytes(value.as_encoded_bytes()).ok())
        .and_then(|value| crate::trace::from_binary(&value));
    let traceparent = binary
        .as_ref()
        .and_then(|value| value.to_str().ok())
        .or_else(|| text("traceparent"));
    crate::trace::published(
        traceparent.unwrap_or_default(),
        text("tracestate").unwrap_or_default(),
    )
}

/// Whether a message goes out without an envelope; a value that is no boolean is refused later.
fn is_raw(metadata: &BTreeMap<String, String>) -> bool {
    dapr_sidecar_core::pubsub::is_raw(metadata).unwrap_or(false)
}

/// A message without an envelope has no other place for its trace than its metadata.
fn keep_trace(metadata: &mut BTreeMap<String, String>, trace: &Trace) {
    for (name, text) in [
        ("traceid", &trace.traceparent),
        ("tracestate", &trace.tracestate),
    ] {
        if !text.is_empty() {
            metadata.insert(name.to_owned(), text.clone());
        }
    }
}

pub(super) async fn publish(
    core: &Core,
    request: Request<PublishEventRequest>,
) -> Result<(), Status> {
    let trace = trace(request.metadata());
    let request = request.into_inner();
    let mut metadata: BTreeMap<String, String> = request.metadata.into_iter().collect();
    if is_raw(&metadata) {
        keep_trace(&mut metadata, &trace);
    }
    let publish = PublishRequest {
        pubsub: request.pubsub_name,
        topic: request.topic,
        data: request.data,
        content_type: (!request.data_content_type.is_empty()).then_some(request.data_content_type),
        metadata: metadata.clone(),
        trace,
    };
    let result = core.pubsubs.publish(publish).await;
    result.map_err(|error| error::publish(error, &metadata, Surface::Grpc).into())
}

pub(super) async fn bulk(
    core: &Core,
    request: Request<BulkPublishRequest>,
) -> Result<BulkPublishResponse, Status> {
    let trace = trace(request.metadata());
    let request = request.into_inner();
    let metadata: BTreeMap<String, String> = request.metadata.into_iter().collect();
    let entries = request.entries.into_iter().map(|entry| BulkEntry {
        entry_id: entry.entry_id,
        data: entry.event,
        content_type: entry.content_type,
        // A map of the wire cannot be there and empty.
        metadata: Some(entry.metadata)
            .filter(|own| !own.is_empty())
            .map(|own| own.into_iter().collect()),
        trace: crate::trace::sibling(&trace),
    });
    let entries = entries.collect();
    core.pubsubs
        .publish_bulk(
            &request.pubsub_name,
            &request.topic,
            entries,
            metadata.clone(),
        )
        .await
        .map_err(|error| error::bulk_publish(error, &metadata, &core.app_id, Surface::Grpc))?;
    Ok(BulkPublishResponse::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(metadata: &[(&str, &str)], expected: bool) {
        let metadata = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        assert_eq!(is_raw(&metadata.collect()), expected);
    }

    #[test]
    fn raw_messages() {
        check(&[], false);
        check(&[("rawPayload", "true")], true);
        check(&[("rawPayload", "1")], true);
        check(&[("RAWPAYLOAD", "1")], false);
        check(&[("rawPayload", "false")], false);
        check(&[("rawPayload", "yes")], false);
    }

    #[test]
    fn the_trace_of_a_request() {
        const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        const OTHER: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let check = |pairs: &[(&'static str, &str)], expected: (&str, &str)| {
            let mut metadata = MetadataMap::new();
            for (name, value) in pairs {
                metadata.insert(*name, value.parse().expect("a value"));
            }
            let binary = crate::trace::to_binary(&HeaderValue::from_static(OTHER));
            if pairs.iter().any(|(name, _)| *name == "with-binary") {
                let binary = binary.expect("a trace");
                let binary = MetadataMap::from_headers(http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-trace-bin"),
                    binary,
                )]));
                let value = binary.get_bin("grpc-trace-bin").expect("there");
                metadata.insert_bin("grpc-trace-bin", value.clone());
            }
            let trace = trace(&metadata);
            assert_eq!(
                (&*trace.traceparent, &*trace.tracestate),
                expected,
                "{pairs:?}"
            );
        };
        check(&[], ("", ""));
        check(
            &[("traceparent", PARENT), ("tracestate", "a=b")],
            (PARENT, "a=b"),
        );
        check(
            &[("traceparent", PARENT), ("with-binary", "x")],
            (OTHER, ""),
        );
        check(&[("traceparent", "bad"), ("tracestate", "a=b")], ("", ""));
        check(&[("tracestate", "a=b")], ("", ""));
    }

    #[test]
    fn a_raw_message_keeps_its_trace() {
        let mut metadata = BTreeMap::from([("traceid".to_owned(), "old".to_owned())]);
        keep_trace(&mut metadata, &Trace::default());
        assert_eq!(metadata["traceid"], "old");
        let trace = Trace {
            traceparent: "00-1-2-01".to_owned(),
            tracestate: "a=b".to_owned(),
        };
        keep_trace(&mut metadata, &trace);
        assert_eq!(metadata["traceid"], "00-1-2-01");
        assert_eq!(metadata["tracestate"], "a=b");
    }
}
