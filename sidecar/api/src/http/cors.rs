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

const METHODS: [&str; 7] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The answer to a preflight request; `None` when the request is none.
pub(super) fn preflight(
    cors: &Cors,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes();
    if method != Method::OPTIONS || asked.is_empty() {
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
    // Browsers ask for `patch` in the letters the page wrote.
    let known = METHODS
        .into_iter()
        .find(|method| asked.eq_ignore_ascii_case(method.as_bytes()));
    let (Some(origin), Some(known)) = (allowed_origin(cors, headers), known) else {
        return Some(response);
    };
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(known),
    );
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
            .any(|known| is_like(origin.as_bytes(), known.as_bytes()))
            .then(|| origin.clone()),
    }
}

/// Whether an origin is the allowed one; a `*` in that stands for any characters, `https://*.example` for instance.
fn is_like(origin: &[u8], allowed: &[u8]) -> bool {
    let Some(star) = allowed.iter().position(|byte| *byte == b'*') else {
        return origin.eq_ignore_ascii_case(allowed);
    };
    let (start, end) = (&allowed[..star], &allowed[star + 1..]);
    origin.len() >= start.len() + end.len()
        && origin[..start.len()].eq_ignore_ascii_case(start)
        && origin[origin.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// The names asked for, in canonical spelling; `None` without any.
fn requested_headers(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let in_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let names: Vec<_> = asked
        .split([',', ' '])
        .map(|name| name.replace(|c| !in_a_name(c), ""))
        .filter(|name| !name.is_empty())
        .map(|name| canonical(&name))
        .collect();
    if names.is_empty() {
        return None;
    }
    HeaderValue::from_str(&names.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_with_a_star() {
        let check = |origin: &str, allowed: &str, expected| {
            let is = is_like(origin.as_bytes(), allowed.as_bytes());
            assert_eq!(is, expected, "{origin} {allowed}");
        };
        check("https://a.example", "https://*.example", true);
        check("HTTPS://a.b.Example", "https://*.example", true);
        check("http://a.example", "https://*.example", false);
        check("https://a.example.evil", "https://*.example", false);
        check("https://.example", "https://*.example", true);
        check("https://example", "https://*.example", false);
        check("https://a:1", "https://a:*", true);
        check("https://ab", "https://abc", false);
        // The two halves do not overlap.
        check("aba", "ab*ba", false);
    }

    #[test]
    fn a_preflight_in_any_letters() {
        let ask = |verb: &'static str, names: &'static str| {
            let headers = HeaderMap::from_iter([
                (ORIGIN, HeaderValue::from_static("https://a.example")),
                (
                    ACCESS_CONTROL_REQUEST_METHOD,
                    HeaderValue::from_static(verb),
                ),
                (
                    ACCESS_CONTROL_REQUEST_HEADERS,
                    HeaderValue::from_static(names),
                ),
            ]);
            let answer = preflight(&Cors::Any, &Method::OPTIONS, &headers)?;
            let header = |name| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
            Some((
                header(ACCESS_CONTROL_ALLOW_METHODS),
                header(ACCESS_CONTROL_ALLOW_HEADERS),
            ))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            ask("patch", "x-a,, content-TYPE"),
            Some((some("PATCH"), some("X-A, Content-Type")))
        );
        assert_eq!(ask("OPTIONS", "*"), Some((some("OPTIONS"), None)));
        assert_eq!(ask("PURGE", "x-a"), Some((None, None)));
        // Without a method it is a request like any other.
        assert_eq!(ask("", "x-a"), None);
    }
}
