//! The publish methods.

use std::collections::BTreeMap;

use dapr_proto::dapr::proto::runtime::v1::{
    BulkPublishRequest, BulkPublishResponse, PublishEventRequest,
};
use dapr_sidecar_core::pubsub::{BulkEntry, PublishRequest, Trace};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::error::{self, Surface};
use crate::services::Core;

/// The trace of the request, as the middleware has left it in the metadata.
fn trace(metadata: &MetadataMap) -> Trace {
    let text = |name: &str| {
        let text = metadata.get(name).and_then(|value| value.to_str().ok());
        text.unwrap_or_default().to_owned()
    };
    Trace {
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
    }
}

/// Whether a message goes out without an envelope; a value that is no boolean is refused later.
fn is_raw(metadata: &BTreeMap<String, String>) -> bool {
    metadata.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("rawPayload")
            && matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
    })
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
        check(&[("RAWPAYLOAD", "1")], true);
        check(&[("rawPayload", "false")], false);
        check(&[("rawPayload", "yes")], false);
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
