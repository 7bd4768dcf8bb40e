//! Answers: leading message and body.

use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::InvokeResponse;
use dapr_proto::dapr::proto::internals::v1::{InternalInvokeResponse, Status as InternalStatus};
use dapr_sidecar_core::body::{self, Body};
use dapr_sidecar_core::invoke::{self, Origin, Response, Status};
use dapr_sidecar_core::rpc::{self, Code};
use futures::Stream;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;

use super::codec::{Entry, IncomingResponse, LeadingResponse, ResponseHead};
use super::headers::{Metadata, from_entries, to_metadata};
use super::request::{header_text, set_content_type};
use super::stream::Payloads;

const NO_LEADING_RESPONSE: &str =
    "response does not contain the required fields in the leading chunk";

/// A status in one number space: 100 and above is HTTP, below is gRPC.
pub fn internal_status(status: Status) -> InternalStatus {
    match status {
        Status::Http(status) => InternalStatus {
            code: i32::from(status.as_u16()),
            message: invoke::status::text(status).to_owned(),
            details: Vec::new(),
        },
        Status::Grpc(status) => InternalStatus {
            code: status.code as i32,
            message: status.message,
            details: status
                .details
                .into_iter()
                .map(|detail| prost_types::Any {
                    type_url: detail.type_url,
                    value: detail.value.into(),
                })
                .collect(),
        },
    }
}

/// The status behind the number; an impossible HTTP status is 500.
pub fn status_from(status: InternalStatus) -> Status {
    if status.code >= 100 {
        let code = u16::try_from(status.code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok());
        return Status::Http(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    }
    Status::Grpc(rpc::Status {
        code: Code::from_i32(status.code),
        message: status.message,
        details: status
            .details
            .into_iter()
            .map(|any| rpc::Detail {
                type_url: any.type_url,
                value: any.value.into(),
            })
            .collect(),
    })
}

/// What the application speaks.
fn origin(status: &Status) -> Origin {
    match status {
        Status::Http(_) => Origin::Http,
        Status::Grpc(_) => Origin::Grpc,
    }
}

/// Splits an answer into the head of a stream and its body.
pub(super) fn response_head(response: Response) -> (ResponseHead, Body) {
    let message = InvokeResponse {
        data: (!response.type_url.is_empty()).then(|| prost_types::Any {
            type_url: response.type_url,
            value: Vec::new(),
        }),
        content_type: header_text(&response.headers),
    };
    let head = ResponseHead {
        origin: origin(&response.status),
        status: internal_status(response.status),
        headers: response.headers,
        trailers: response.trailers,
        message,
    };
    (head, response.body)
}

/// Splits an answer into its leading message, which has no data, and its body.
pub fn internal_response(response: Response) -> (InternalInvokeResponse, Body) {
    let (head, body) = response_head(response);
    let leading = InternalInvokeResponse {
        headers: to_metadata(&head.headers, head.origin),
        trailers: to_metadata(&head.trailers, head.origin),
        status: Some(head.status),
        message: Some(head.message),
    };
    (leading, body)
}

/// The answer of a unary call; one without a message has no body.
pub fn response_from_unary(response: InternalInvokeResponse) -> Result<Response, rpc::Status> {
    let entries = |metadata: Metadata| {
        let entries = metadata.into_iter();
        entries.map(|(key, list)| Entry::new(key, list)).collect()
    };
    let (mut response, value) = split(LeadingResponse {
        status: response.status,
        headers: entries(response.headers),
        trailers: entries(response.trailers),
        message: response.message,
    })?;
    response.body = if value.is_empty() {
        body::empty()
    } else {
        body::full(value)
    };
    Ok(response)
}

/// The answer of a streaming call: `first` is the leading message, the body reads on in `rest`.
pub fn response_from_stream<S>(first: IncomingResponse, rest: S) -> Result<Response, rpc::Status>
where
    S: Stream<Item = Result<IncomingResponse, tonic::Status>> + Send + Unpin + 'static,
{
    let Some(leading) = first.response else {
        return Err(rpc::Status::new(Code::Internal, NO_LEADING_RESPONSE));
    };
    let (mut response, value) = split(leading)?;
    // The answer to a HEAD names a length it does not have, so the header proves nothing when all is read.
    let length = response
        .headers
        .get(CONTENT_LENGTH)
        .filter(|_| first.payload.is_some() || !value.is_empty())
        .and_then(|value| value.to_str().ok()?.parse().ok());
    response.body = Payloads::new(value, first.payload, rest, length).boxed_unsync();
    Ok(response)
}

/// Everything but the body, and the data that came with the message.
fn split(response: LeadingResponse) -> Result<(Response, Bytes), rpc::Status> {
    let Some(status) = response.status else {
        return Err(rpc::Status::new(Code::Internal, NO_LEADING_RESPONSE));
    };
    let status = status_from(status);
    let origin = origin(&status);
    let message = response.message.unwrap_or_default();
    let mut headers = from_entries(response.headers, origin);
    set_content_type(&mut headers, message.content_type);
    let data = message.data.unwrap_or_default();
    let response = Response {
        status,
        headers,
        trailers: from_entries(response.trailers, origin),
        type_url: data.type_url,
        body: body::empty(),
        is_untouched: false,
    };
    Ok((response, data.value.into()))
}
