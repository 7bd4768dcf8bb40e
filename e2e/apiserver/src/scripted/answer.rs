//! Answers and their bodies.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::store::Refusal;

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub(super) type Answer = Response<Body>;

pub(super) fn text(code: u16, text: impl Into<Bytes>) -> Answer {
    let body = Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync();
    head(code, body)
}

pub(super) fn value(code: u16, value: &Value) -> Answer {
    text(code, value.to_string())
}

/// A failure in the form the API has for it.
pub(super) fn status(code: u16, message: &str) -> Answer {
    value(code, &failure(code, message))
}

pub(super) fn failure(code: u16, message: &str) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {},
        "status": "Failure", "reason": reason, "code": code, "message": message,
    })
}

/// Why a write is refused.
pub(super) fn refusal(refusal: &Refusal, name: &str) -> Answer {
    match refusal {
        Refusal::NotFound => status(404, &format!("{name:?} not found")),
        Refusal::Conflict => status(409, &format!("{name:?}: the object has been modified")),
        Refusal::Exists => {
            let mut failure = failure(409, &format!("{name:?} already exists"));
            failure["reason"] = json!("AlreadyExists");
            value(409, &failure)
        }
    }
}

pub(super) fn stream<S>(stream: S) -> Answer
where
    S: futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    use futures::StreamExt as _;
    head(
        200,
        StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync(),
    )
}

fn head(code: u16, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}
