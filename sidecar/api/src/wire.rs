//! The protocol between sidecars, as data: the core's requests and answers to internal messages and back,
//! streamed bodies included. Both ends use it, the internal server here and the client that calls peers.
//!
//! Body bytes are never copied: a frame of a body becomes a payload and a payload a frame.

mod actor;
mod codec;
mod event;
mod headers;
mod request;
mod response;
mod stream;

pub use actor::{
    actor_call, actor_reply, internal_actor_request, internal_actor_response, internal_reminder,
    reminder_call,
};
pub use codec::{
    CalleeCodec, CallerCodec, IncomingRequest, IncomingResponse, Outgoing, RequestHead,
    ResponseHead,
};
pub use event::{cloud_event, event_outcome, topic_event};
pub use headers::{from_metadata, to_metadata};
pub use request::{
    buffered_request, internal_request, request_from_stream, request_from_unary, verb, verb_number,
};
pub use response::{
    internal_response, internal_status, response_from_stream, response_from_unary, status_from,
};
pub use stream::{RequestStream, ResponseStream, SourceError, request_stream, response_stream};

use dapr_sidecar_core::rpc;

/// The streaming call of an application, which both sides make and answer with the codec of this module.
pub const CALL_LOCAL_STREAM: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream";

/// Leading message without metadata, message or status.
pub(crate) const NO_LEADING_REQUEST: &str = "parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk";

/// Metadata of a call between sidecars that failed, or of the answer that says so, `true` if the application has got nothing of it: the caller may try
/// another address. Upstream's sidecars neither send nor read it.
pub const UNTOUCHED: &str = "dapr-request-untouched";

/// The core's status as tonic's.
pub fn to_tonic(status: rpc::Status) -> tonic::Status {
    let code = tonic::Code::from(status.code as i32);
    if status.details.is_empty() {
        return tonic::Status::new(code, status.message);
    }
    let details = crate::error::encode_details(&status);
    tonic::Status::with_details(code, status.message, details)
}

/// Tonic's status as the core's; details are kept.
pub fn from_tonic(status: &tonic::Status) -> rpc::Status {
    use prost::Message as _;
    let details = crate::error::details::Status::decode(status.details())
        .map(|decoded| decoded.details)
        .unwrap_or_default();
    let mut code = rpc::Code::from_i32(status.code() as i32);
    let mut message = status.message().to_owned();
    if code == rpc::Code::OutOfRange
        && let Some(text) = dapr_security::grpc::size_error(&message)
    {
        (code, message) = (rpc::Code::ResourceExhausted, text);
    }
    rpc::Status {
        code,
        message,
        details: details
            .into_iter()
            .map(|any| rpc::Detail {
                type_url: any.type_url,
                value: any.value.into(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
