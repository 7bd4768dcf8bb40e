//! `InvokeService`: service invocation by gRPC callers.

use dapr_proto::dapr::proto::common::v1::InvokeResponse;
use dapr_proto::dapr::proto::runtime::v1::InvokeServiceRequest;
use dapr_sidecar_core::invoke::headers::{remove_of_one_call, to_grpc_caller};
use dapr_sidecar_core::invoke::{self, Origin, Status};
use dapr_sidecar_core::{body, rpc};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response};

use crate::error::details::Detail;
use crate::services::Core;
use crate::wire;

const HTTP_STATUS: HeaderName = HeaderName::from_static("dapr-http-status");
/// How the call itself ended stands in these trailers.
const STATUS: [&str; 3] = ["grpc-message", "grpc-status", "grpc-status-details-bin"];
/// Bytes of an application's error that callers see.
const MAX_ERROR_MESSAGE: usize = 63;

pub(super) async fn invoke(
    core: &Core,
    request: Request<InvokeServiceRequest>,
) -> Result<Response<InvokeResponse>, tonic::Status> {
    let (metadata, _, InvokeServiceRequest { id, message }) = request.into_parts();
    let Some(message) = message else {
        return Err(tonic::Status::invalid_argument(
            "invalid request: field message is missing, it names the method to invoke",
        ));
    };
    let mut headers = metadata.into_headers();
    remove_of_one_call(&mut headers);
    match HeaderValue::try_from(message.content_type) {
        Ok(value) if !value.is_empty() => headers.insert(CONTENT_TYPE, value),
        Ok(_) | Err(_) => headers.remove(CONTENT_TYPE),
    };
    let extension = message.http_extension.unwrap_or_default();
    let data = message.data.unwrap_or_default();
    let verb = wire::verb(extension.verb);
    let is_head = verb == Some(Method::HEAD);
    let request = invoke::Request {
        verb,
        method: message.method,
        query: extension.querystring,
        headers,
        type_url: data.type_url,
        origin: Origin::Grpc,
        body: body::full(data.value),
    };
    match core.invoker.invoke(&id, request).await {
        Ok(response) => answer(response, is_head).await,
        Err(error) => Err(wire::to_tonic(error.to_status(&id))),
    }
}

async fn answer(
    response: invoke::Response,
    is_head: bool,
) -> Result<Response<InvokeResponse>, tonic::Status> {
    let content_type = response
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = response
        .body
        .collect()
        .await
        .map_err(|error| tonic::Status::internal(error.to_string()))?
        .to_bytes();
    let mut trailers = MetadataMap::new();
    let metadata = match response.status {
        Status::Http(status) => {
            let metadata = http_metadata(response.headers, status);
            if !status.is_success() {
                return Ok(failed(http_error(status, &body, is_head), metadata));
            }
            metadata
        }
        Status::Grpc(status) => {
            let mut metadata = response.headers;
            // What came as application metadata goes back; how it was framed was between others.
            metadata.remove(CONTENT_TYPE);
            trailers = MetadataMap::from_headers(response.trailers);
            if status.code != rpc::Code::Ok {
                let mut status = wire::to_tonic(status);
                *status.metadata_mut() = trailers;
                return Ok(failed(status, metadata));
            }
            metadata
        }
    };
    let message = InvokeResponse {
        data: Some(prost_types::Any {
            type_url: response.type_url,
            value: body.into(),
        }),
        content_type,
    };
    let mut answer = Response::new(message);
    *answer.metadata_mut() = MetadataMap::from_headers(metadata);
    if !trailers.is_empty() {
        answer.extensions_mut().insert(End::Trailers(trailers));
    }
    Ok(answer)
}

/// How an answer ends where tonic's unary calls cannot say it: a status after headers of its own, trailers. It travels in
/// the extensions of the answer, see [`end`].
#[derive(Clone)]
enum End {
    Trailers(MetadataMap),
    Failed(tonic::Status),
}

fn failed(status: tonic::Status, metadata: HeaderMap) -> Response<InvokeResponse> {
    let mut answer = Response::new(InvokeResponse::default());
    *answer.metadata_mut() = MetadataMap::from_headers(metadata);
    answer.extensions_mut().insert(End::Failed(status));
    answer
}

/// Ends the answer to an invocation as it says.
pub(super) fn end(
    mut response: http::Response<tonic::body::Body>,
) -> http::Response<tonic::body::Body> {
    match response.extensions_mut().remove::<End>() {
        None => response,
        Some(End::Trailers(trailers)) => {
            let mut trailers = trailers.into_headers();
            for name in STATUS {
                trailers.remove(name);
            }
            response.map(|body| {
                let body = body.map_frame(move |frame| match frame.into_trailers() {
                    Ok(mut own) => {
                        own.extend(trailers.clone());
                        Frame::trailers(own)
                    }
                    Err(frame) => frame,
                });
                tonic::body::Body::new(body)
            })
        }
        Some(End::Failed(status)) => {
            let mut trailers = HeaderMap::new();
            if let Err(error) = status.add_header(&mut trailers) {
                return error.into_http();
            }
            let frame = Ok::<_, tonic::Status>(Frame::trailers(trailers));
            let body = StreamBody::new(futures::stream::iter([frame]));
            response.map(|_| tonic::body::Body::new(body))
        }
    }
}

/// An HTTP application's headers as metadata, with its status.
fn http_metadata(headers: HeaderMap, status: StatusCode) -> HeaderMap {
    let mut metadata = to_grpc_caller(headers);
    metadata.insert(HTTP_STATUS, HeaderValue::from(status.as_u16()));
    metadata
}

fn http_error(status: StatusCode, body: &[u8], is_head: bool) -> tonic::Status {
    let text = invoke::status::text(status);
    let shown = if is_head {
        &[]
    } else {
        body.get(..MAX_ERROR_MESSAGE).unwrap_or(body)
    };
    let facts = [
        ("http.code", status.as_u16().to_string()),
        (
            "http.error_message",
            String::from_utf8_lossy(shown).into_owned(),
        ),
    ];
    let detail = Detail::Info {
        reason: text.to_owned(),
        metadata: Some(facts.map(|(key, value)| (key.to_owned(), value)).into()),
    };
    wire::to_tonic(rpc::Status {
        code: invoke::status::to_grpc(status),
        message: text.to_owned(),
        details: vec![detail.to_rpc()],
    })
}
