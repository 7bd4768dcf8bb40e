//! Requests: leading message and body.

use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::http_extension::Verb;
use dapr_proto::dapr::proto::common::v1::{HttpExtension, InvokeRequest};
use dapr_proto::dapr::proto::internals::v1::{ApiVersion, InternalInvokeRequest, ListStringValue};
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::{Origin, Request};
use dapr_sidecar_core::rpc::{self, Code};
use futures::Stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;

use super::codec::{Entry, IncomingRequest, RequestHead};
use super::headers::{GRPC_CONTENT_TYPE, from_entries, marked_metadata};
use super::stream::Payloads;

/// The number of a verb; verbs the protocol does not know are sent as `POST`.
pub fn verb_number(verb: Option<&Method>) -> i32 {
    let verb = match verb {
        None => Verb::None,
        Some(verb) => Verb::from_str_name(verb.as_str())
            .filter(|known| *known != Verb::None)
            .unwrap_or(Verb::Post),
    };
    verb as i32
}

/// The verb with this number; 0 and unknown numbers are none.
pub fn verb(number: i32) -> Option<Method> {
    match Verb::try_from(number).unwrap_or(Verb::None) {
        Verb::None => None,
        Verb::Get => Some(Method::GET),
        Verb::Head => Some(Method::HEAD),
        Verb::Post => Some(Method::POST),
        Verb::Put => Some(Method::PUT),
        Verb::Delete => Some(Method::DELETE),
        Verb::Connect => Some(Method::CONNECT),
        Verb::Options => Some(Method::OPTIONS),
        Verb::Trace => Some(Method::TRACE),
        Verb::Patch => Some(Method::PATCH),
    }
}

/// Splits a request into the head of a stream and its body.
pub(super) fn request_head(request: Request) -> (RequestHead, Body) {
    let message = InvokeRequest {
        method: request.method,
        data: (!request.type_url.is_empty()).then(|| prost_types::Any {
            type_url: request.type_url,
            value: Vec::new(),
        }),
        content_type: header_text(&request.headers),
        http_extension: Some(HttpExtension {
            verb: verb_number(request.verb.as_ref()),
            querystring: request.query,
        }),
    };
    let head = RequestHead {
        headers: request.headers,
        origin: request.origin,
        message,
    };
    (head, request.body)
}

/// Splits a request into its leading message, which has no data, and its body.
pub fn internal_request(request: Request) -> (InternalInvokeRequest, Body) {
    let (head, body) = request_head(request);
    let mut metadata = marked_metadata(&head.headers, head.origin);
    if head.origin == Origin::Grpc {
        let values = vec![GRPC_CONTENT_TYPE.to_owned()];
        metadata.insert(CONTENT_TYPE.as_str().to_owned(), ListStringValue { values });
    }
    let leading = InternalInvokeRequest {
        ver: ApiVersion::V1 as i32,
        metadata,
        message: Some(head.message),
        actor: None,
    };
    (leading, body)
}

/// A request for the unary call: the whole body stands in the message.
pub async fn buffered_request(request: Request) -> Result<InternalInvokeRequest, BoxError> {
    let (mut leading, body) = internal_request(request);
    let value = body.collect().await?.to_bytes();
    if let Some(message) = &mut leading.message {
        message.data.get_or_insert_default().value = value.into();
    }
    Ok(leading)
}

/// The request of a unary call.
pub fn request_from_unary(request: InternalInvokeRequest) -> Result<Request, rpc::Status> {
    let Some(message) = request.message else {
        return Err(rpc::Status::new(
            Code::InvalidArgument,
            "parsing InternalInvokeRequest error: field Message is nil",
        ));
    };
    let entries = request.metadata.into_iter();
    let entries = entries.map(|(key, list)| Entry::new(key, list)).collect();
    let (mut request, value) = split(entries, message);
    request.body = if value.is_empty() {
        body::empty()
    } else {
        body::full(value)
    };
    Ok(request)
}

/// The request of a streaming call: `first` is the leading message, the body reads on in `rest`.
pub fn request_from_stream<S>(first: IncomingRequest, rest: S) -> Result<Request, rpc::Status>
where
    S: Stream<Item = Result<IncomingRequest, tonic::Status>> + Send + Unpin + 'static,
{
    let leading = first
        .request
        .filter(|request| !request.metadata.is_empty())
        .and_then(|request| Some((request.metadata, request.message?)));
    let Some((metadata, message)) = leading else {
        return Err(rpc::Status::new(
            Code::InvalidArgument,
            super::NO_LEADING_REQUEST,
        ));
    };
    let (mut request, value) = split(metadata, message);
    let length = request
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    request.body = Payloads::new(value, first.payload, rest, length).boxed_unsync();
    Ok(request)
}

/// Everything but the body, and the data that came with the message.
fn split(metadata: Vec<Entry>, message: InvokeRequest) -> (Request, Bytes) {
    let origin = origin(&metadata);
    let mut headers = from_entries(metadata, origin);
    set_content_type(&mut headers, message.content_type);
    let extension = message.http_extension.unwrap_or_default();
    let data = message.data.unwrap_or_default();
    let request = Request {
        verb: verb(extension.verb),
        method: message.method,
        query: extension.querystring,
        headers,
        type_url: data.type_url,
        origin,
        body: body::empty(),
    };
    (request, data.value.into())
}

fn origin(metadata: &[Entry]) -> Origin {
    let grpc = metadata
        .iter()
        .filter(|entry| entry.key == "content-type" || entry.key == "Content-Type")
        .filter_map(|entry| entry.value.as_ref()?.values.first())
        .any(|value| value.starts_with(GRPC_CONTENT_TYPE.as_bytes()));
    if grpc { Origin::Grpc } else { Origin::Http }
}

/// The content type of a message wins over what the metadata holds; an empty one removes it.
pub(super) fn set_content_type(headers: &mut HeaderMap, content_type: String) {
    let value = if content_type.is_empty() {
        None
    } else {
        HeaderValue::from_maybe_shared(Bytes::from(content_type)).ok()
    };
    match value {
        Some(value) => headers.insert(CONTENT_TYPE, value),
        None => headers.remove(CONTENT_TYPE),
    };
}

pub(super) fn header_text(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}
