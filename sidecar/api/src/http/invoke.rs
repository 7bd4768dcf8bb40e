//! Service invocation: whatever addresses an application, under its route or any other path.

use ::http::header::{
    ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
};
use ::http::{Method, Response, Uri};
use dapr_sidecar_core::app;
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::address::{self, APP_ID_HEADER};
use dapr_sidecar_core::invoke::headers::from_app_response;
use dapr_sidecar_core::invoke::{self, Origin, Status};
use dapr_sidecar_core::rpc;
use futures::StreamExt as _;
use http_body::Body as _;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};

use super::{Refused, sniff};
use crate::error;
use crate::services::Core;

/// A request that no other route takes.
pub(super) struct Incoming<'a> {
    pub(super) method: Method,
    pub(super) uri: &'a Uri,
    /// Cleaned path.
    pub(super) path: &'a str,
    pub(super) http1: bool,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// Calls what the request addresses. Returns the target for obfuscated logs, too.
pub(super) async fn invoke(
    core: &Core,
    request: Incoming<'_>,
) -> (Result<Response<Body>, Refused>, Option<String>) {
    let Incoming {
        method,
        uri,
        path,
        http1,
        mut headers,
        body,
    } = request;
    // Cleaning would fold the slashes of `http://host` in the route of invocations.
    let path = match uri.path() {
        raw if raw.starts_with("/v1.0/invoke/") => raw,
        _ => path,
    };
    let Some(addressed) = address::target(path, &headers) else {
        return (Err(error::no_target().into()), None);
    };
    let (target, method_name) = (addressed.app_id.into_owned(), addressed.method);
    headers.remove(APP_ID_HEADER);
    // It names this sidecar; the application and servers outside have names of their own.
    headers.remove(HOST);
    let events = wants_events(&headers) && !is_self(core, &target);
    let request = invoke::Request {
        verb: Some(method),
        method: method_name,
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        type_url: String::new(),
        origin: Origin::Http,
        body,
    };
    let result = match core.invoker.invoke(&target, request).await {
        Ok(response) => {
            let mut response = answer(response);
            if events {
                event_headers(response.headers_mut(), http1);
                Ok(response)
            } else {
                sniffed(response).await.map_err(|error| {
                    let error = invoke::Error::App(app::Error::Transport(error.to_string()));
                    error::invoke(&target, &error).into()
                })
            }
        }
        Err(error) => Err(error::invoke(&target, &error).into()),
    };
    (result, Some(target))
}

/// The application's answer, without what belongs to its connection; a gRPC application's error becomes the mapped status with the status as JSON.
fn answer(response: invoke::Response) -> Response<Body> {
    let mut headers = from_app_response(response.headers);
    if !response.type_url.is_empty() {
        // An encoded message is that, whatever the application says.
        let kind = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, kind);
    }
    let (status, body) = match response.status {
        Status::Http(status) => (status, response.body),
        Status::Grpc(status) if status.code == rpc::Code::Ok => {
            (::http::StatusCode::OK, response.body)
        }
        Status::Grpc(status) => {
            let code = invoke::status::to_http(status.code);
            let mut answer = Response::new(body::full(status_json(&status)));
            *answer.status_mut() = code;
            *answer.headers_mut() = headers;
            answer.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            return answer;
        }
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    // Upstream answers these as errors of its own, which are JSON where nothing else is said.
    if !status.is_success() && !status.is_redirection() && !status.is_informational() {
        let headers = answer.headers_mut();
        headers
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
    }
    answer
}

/// Names the content type of an answer that has none, as upstream's server does from the first bytes. Fails with what
/// kept them from coming: nothing is sent by then, so that the caller can still be told.
async fn sniffed(mut response: Response<Body>) -> Result<Response<Body>, BoxError> {
    let known = response.headers().contains_key(CONTENT_TYPE) || response.body().is_end_stream();
    if known {
        return Ok(response);
    }
    let Some(frame) = response.body_mut().frame().await.transpose()? else {
        return Ok(response);
    };
    if let Some(kind) = frame.data_ref().and_then(|data| sniff::content_type(data)) {
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    if response.body().is_end_stream() {
        // The usual small answer stays one with a known length.
        let data = frame.into_data().unwrap_or_default();
        return Ok(response.map(|_| body::full(data)));
    }
    let first = futures::stream::once(async move { Ok(frame) });
    Ok(response.map(|rest| {
        let rest = BodyStream::new(rest);
        StreamBody::new(first.chain(rest)).boxed_unsync()
    }))
}

/// Server-sent events of another sidecar's application are announced as such, whatever it said.
fn event_headers(headers: &mut HeaderMap, http1: bool) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if http1 {
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn is_self(core: &Core, target: &str) -> bool {
    let rest = target.strip_prefix(core.app_id.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.') == Some(&core.namespace))
}

/// The status as `google.rpc.Status` in JSON. A detail whose type is not known here has its bytes in base64.
fn status_json(status: &rpc::Status) -> Vec<u8> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let mut object = serde_json::Map::new();
    object.insert("code".to_owned(), (status.code as i32).into());
    if !status.message.is_empty() {
        object.insert("message".to_owned(), status.message.as_str().into());
    }
    if !status.details.is_empty() {
        let details = status.details.iter().map(|detail| {
            let known = error::details::to_json(detail);
            known.unwrap_or_else(|| {
                serde_json::json!({"@type": detail.type_url, "value": STANDARD.encode(&detail.value)})
            })
        });
        object.insert("details".to_owned(), details.collect());
    }
    serde_json::to_vec(&object).unwrap_or_default()
}
