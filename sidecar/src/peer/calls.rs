//! The calls one sidecar makes on another.

use std::sync::Arc;

use async_trait::async_trait;
use dapr_proto::dapr::proto::internals::v1::service_invocation_client::ServiceInvocationClient;
use dapr_sidecar_api::wire;
use dapr_sidecar_core::peer::{Failure, Peers, ReminderCall, Target};
use dapr_sidecar_core::rpc::{Code, Status};
use dapr_sidecar_core::{actors, invoke};
use http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::pool::{Connection, Pool, REACH, is_untouched};

/// Headers of trace context, which also travel as gRPC metadata.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// [`Peers`] over pooled connections.
#[derive(Debug)]
pub struct PeerClient {
    pool: Arc<Pool>,
    /// Largest message in either direction, in bytes.
    max_message: usize,
}

impl PeerClient {
    /// Calls on connections of `pool`.
    pub fn new(pool: Arc<Pool>, max_message: usize) -> Self {
        Self { pool, max_message }
    }

    async fn client(&self, target: &Target) -> Result<ServiceInvocationClient<Connection>, Status> {
        let connection = self.pool.connection(target).await?;
        let origin = connection.origin().clone();
        Ok(ServiceInvocationClient::with_origin(connection, origin)
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message))
    }

    /// The core's status of a failed call. A connection that cannot be used is not handed out again.
    fn failed(&self, target: &Target, status: &tonic::Status) -> Status {
        let status = wire::from_tonic(status);
        if matches!(status.code, Code::Unavailable | Code::Unauthenticated) {
            self.pool.discard(target);
        }
        status
    }
}

#[async_trait]
impl Peers for PeerClient {
    async fn reach(&self, target: &Target) -> Result<(), Status> {
        let reached = tokio::time::timeout(REACH, self.pool.connection(target)).await;
        reached
            .unwrap_or_else(|_| Err(Status::new(Code::Unavailable, "i/o timeout")))
            .map(drop)
    }

    async fn call_local(
        &self,
        target: &Target,
        request: invoke::Request,
    ) -> Result<invoke::Response, Failure> {
        let client = self.client(target).await;
        let mut client = client.map_err(|status| Failure {
            status,
            is_untouched: true,
        })?;
        let metadata = trace_metadata(&request.headers);
        let (leading, body) = wire::internal_request(request);
        let (stream, body_error) = wire::request_stream(leading, body);
        let mut call = tonic::Request::new(stream);
        *call.metadata_mut() = metadata;

        let answer = async {
            let failed = |status: tonic::Status| self.streaming_failed(target, &status);
            let answer = client.call_local_stream(call).await.map_err(failed)?;
            let is_untouched = answer.metadata().contains_key(wire::UNTOUCHED);
            let mut messages = answer.into_inner();
            let first = messages.message().await.map_err(failed)?;
            let first = first.ok_or_else(|| Status::new(Code::Unknown, "EOF"))?;
            Ok(invoke::Response {
                is_untouched,
                ..wire::response_from_stream(first, messages)?
            })
        };
        tokio::select! {
            // A finished answer counts, also when the rest of the request's body fails afterwards.
            biased;
            answer = answer => answer,
            Ok(error) = body_error => Err(Status::new(Code::Internal, error.to_string()).into()),
        }
    }

    async fn call_actor(
        &self,
        target: &Target,
        call: actors::Call,
    ) -> Result<actors::Reply, Status> {
        let mut client = self.client(target).await?;
        let metadata = trace_metadata(&call.headers);
        let mut request = tonic::Request::new(wire::internal_actor_request(call));
        *request.metadata_mut() = metadata;
        let response = client
            .call_actor(request)
            .await
            .map_err(|status| self.failed(target, &status))?;
        wire::actor_reply(response.into_inner())
    }

    async fn call_actor_reminder(&self, target: &Target, call: ReminderCall) -> Result<(), Status> {
        let mut client = self.client(target).await?;
        let request = wire::internal_reminder(call);
        client
            .call_actor_reminder(request)
            .await
            .map_err(|status| self.failed(target, &status))?;
        Ok(())
    }
}

impl PeerClient {
    fn streaming_failed(&self, target: &Target, status: &tonic::Status) -> Failure {
        let is_untouched = is_untouched(status) || status.metadata().contains_key(wire::UNTOUCHED);
        let mut status = self.failed(target, status);
        if status.code == Code::Unimplemented {
            let text = format!(
                "target app '{}' is running a version of Dapr that does not support streaming-based service invocation",
                target.app_id
            );
            status = Status::new(Code::Unknown, text);
        }
        Failure {
            status,
            is_untouched,
        }
    }
}

fn trace_metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for name in TRACE_HEADERS {
        let value = headers
            .get(name)
            .and_then(|value| MetadataValue::try_from(value.as_bytes()).ok());
        if let Some(value) = value {
            metadata.insert(name, value);
        }
    }
    metadata
}
