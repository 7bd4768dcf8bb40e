//! Cross-origin requests.

use dapr_sidecar_core::body::{self, Body};
use dapr_sidecar_core::invoke::headers::canonical;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};
use http::{Method, Response};

use crate::settings::Cors;

const METHODS: [&str; 6] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"];

/// The answer to a preflight request; `None` when the request is none.
pub(super) fn preflight(
    cors: &Cors,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if method != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(body::empty());
    let answer = response.headers_mut();
    answer.insert(
        VARY,
        HeaderValue::from_static(
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        ),
    );
    let known = METHODS.iter().any(|method| asked == *method);
    let Some(origin) = allowed_origin(cors, headers).filter(|_| known) else {
        return Some(response);
    };
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
    if let Some(names) = requested_headers(headers) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    Some(response)
}

/// The headers every other answer to a cross-origin request carries.
pub(super) fn decorate(cors: &Cors, request: Option<HeaderValue>, answer: &mut HeaderMap) {
    answer.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = request.and_then(|origin| match_origin(cors, &origin)) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}

fn allowed_origin(cors: &Cors, headers: &HeaderMap) -> Option<HeaderValue> {
    match_origin(cors, headers.get(ORIGIN)?)
}

fn match_origin(cors: &Cors, origin: &HeaderValue) -> Option<HeaderValue> {
    match cors {
        Cors::Any => Some(HeaderValue::from_static("*")),
        Cors::Origins(origins) => origins
            .iter()
            .find(|known| known.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
            .map(|_| origin.clone()),
    }
}

/// The names asked for, in canonical spelling.
fn requested_headers(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let names: Vec<_> = asked
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect();
    HeaderValue::from_str(&names.join(", ")).ok()
}
