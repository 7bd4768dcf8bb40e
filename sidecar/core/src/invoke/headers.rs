//! Which headers pass, and under which names; all pure functions over header maps.
//!
//! Header maps hold names in lower case already; the surfaces and channels write them as they stand.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, Entry, HOST, HeaderName, HeaderValue, USER_AGENT,
};

use super::Origin;

/// Target app id, for the sidecar of the target; never reaches an application.
pub const DESTINATION_APP_ID: HeaderName = HeaderName::from_static("destination-app-id");
/// Namespace of the caller.
pub const CALLER_NAMESPACE: HeaderName = HeaderName::from_static("dapr-caller-namespace");
/// App id of the caller.
pub const CALLER_APP_ID: HeaderName = HeaderName::from_static("dapr-caller-app-id");
/// App id of the target.
pub const CALLEE_APP_ID: HeaderName = HeaderName::from_static("dapr-callee-app-id");
/// Whom a gRPC caller addressed, as HTTP applications see it.
pub const AUTHORITY: HeaderName = HeaderName::from_static("dapr-authority");
/// Addresses a request came through.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Host names a request came through.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Both, as RFC 7239 writes them.
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// What the sidecar puts before a name that would mean something else on the next hop.
const PREFIX: &str = "dapr-";

/// Names that belong to one connection only.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "te",
    "trailer",
    "proxy-authorization",
    "proxy-authenticate",
];

/// HTTP headers that must not become gRPC metadata under their own name.
const PERMANENT: [&str; 28] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "cache-control",
    "content-type",
    "content-length",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "via",
    "warning",
];

/// What gRPC itself says with metadata about one call; it is never the next call's. Which compression a caller takes is
/// kept, for HTTP applications are shown it.
const OF_ONE_CALL: [&str; 6] = [
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-status-details-bin",
    "grpc-timeout",
];
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Removes what belongs to one connection only, but for what `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    drop_where(headers, hop_by_hop);
}

/// Removes what gRPC says with the metadata of a call about this call alone, its timeout for instance.
pub fn remove_of_one_call(headers: &mut HeaderMap) {
    drop_where(headers, |name| OF_ONE_CALL.contains(&name));
}

/// Whether a header belongs to one connection only; `name` in lower case.
pub fn hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

/// Whether an HTTP header gets the prefix `dapr-` as gRPC metadata; `name` in lower case.
pub fn is_permanent(name: &str) -> bool {
    PERMANENT.contains(&name)
}

/// Makes the headers of a request fit for an HTTP application. `content-length` is dropped (the body knows
/// its length), so are binary metadata, the target, the host and what belongs to the caller's connection; reserved
/// gRPC names get the prefix `dapr-`. `has_type_url` marks an encoded message, which is protobuf whatever
/// the caller said.
pub fn to_http_app(mut headers: HeaderMap, has_type_url: bool) -> HeaderMap {
    remove_connection_headers(&mut headers);
    headers.remove(DESTINATION_APP_ID);
    headers.remove(HOST);
    pass_http(&mut headers);
    first_only(&mut headers, HeaderName::from_static("baggage"));
    if has_type_url {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
    }
    headers
}

/// Makes the headers of an application's answer fit for an HTTP caller.
pub fn from_app_response(mut headers: HeaderMap) -> HeaderMap {
    remove_connection_headers(&mut headers);
    headers.remove(DESTINATION_APP_ID);
    pass_http(&mut headers);
    headers
}

/// Makes the headers of a request fit to be metadata of a call to a gRPC application: permanent HTTP headers get the
/// prefix `dapr-`, metadata of a gRPC caller keeps its names. Values of names that end in `-bin` stay base64 text, as
/// metadata is on the wire.
pub fn to_grpc_app(mut headers: HeaderMap, origin: Origin) -> HeaderMap {
    headers.remove(DESTINATION_APP_ID);
    headers.remove(AUTHORITY);
    headers.remove(USER_AGENT);
    headers.remove(GRPC_ACCEPT_ENCODING);
    remove_of_one_call(&mut headers);
    match origin {
        Origin::Http => rename(&mut headers, is_permanent),
        Origin::Grpc => {
            remove_hop_by_hop(&mut headers);
            for name in [CONTENT_LENGTH, CONTENT_TYPE, HOST] {
                headers.remove(name);
            }
        }
    }
    headers
}

/// Makes the headers of an HTTP application's answer fit to be metadata for a gRPC caller: permanent HTTP headers get
/// the prefix `dapr-`, what belongs to the application's connection is dropped.
pub fn to_grpc_caller(mut headers: HeaderMap) -> HeaderMap {
    remove_connection_headers(&mut headers);
    remove_hop_by_hop(&mut headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(DESTINATION_APP_ID);
    // gRPC would take what is called binary for base64.
    encode_binaries(&mut headers);
    rename(&mut headers, is_permanent);
    headers
}

/// Makes base64 text of the values of names that end in `-bin`, as metadata is on the wire. To HTTP they are values like
/// any other, and so they are kept for a caller or an application that speaks it; gRPC gets their bytes.
pub fn encode_binaries(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if name.as_str().ends_with("-bin")
            && let Ok(encoded) = HeaderValue::try_from(encode_binary(value.as_bytes()))
        {
            *value = encoded;
        }
    }
}

/// The canonical Go spelling of a header name: `x-request-id` becomes `X-Request-Id`.
pub fn canonical(name: &str) -> String {
    canonical_chars(name).collect()
}

/// As [`canonical`], a character after the other; each is as long as it was.
pub fn canonical_chars(name: &str) -> impl Iterator<Item = char> {
    let mut upper = true;
    name.chars().map(move |character| {
        let written = if upper {
            character.to_ascii_uppercase()
        } else {
            character.to_ascii_lowercase()
        };
        upper = character == '-';
        written
    })
}

/// The bytes of a `-bin` value, with or without padding.
pub fn decode_binary(value: &HeaderValue) -> Option<Vec<u8>> {
    let text = value.as_bytes();
    let text = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    STANDARD_NO_PAD.decode(text).ok()
}

/// A `-bin` value of these bytes.
pub fn encode_binary(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Who forwards a call, in the forms its headers need; made once.
#[derive(Debug, Clone)]
pub struct Forwarder {
    app_id: HeaderValue,
    namespace: HeaderValue,
    address: Option<HeaderValue>,
    hostname: Option<HeaderValue>,
    forwarded: Option<HeaderValue>,
}

impl Forwarder {
    /// The forwarder `app_id` in `namespace` on a host. Texts no header can hold are left out.
    pub fn new(app_id: &str, namespace: &str, address: &str, hostname: &str) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let host = if address.contains(':') {
            format!("\"[{address}]\"")
        } else {
            address.to_owned()
        };
        Self {
            app_id: value(app_id).unwrap_or_else(|| HeaderValue::from_static("")),
            namespace: value(namespace).unwrap_or_else(|| HeaderValue::from_static("")),
            address: value(address),
            hostname: value(hostname),
            forwarded: value(&format!("for={host};by={host};host={hostname}")),
        }
    }

    /// Marks a request to `target` as coming from here.
    pub fn mark(&self, headers: &mut HeaderMap, target: &str) {
        if let Ok(target) = HeaderValue::from_str(target) {
            headers.insert(DESTINATION_APP_ID, target.clone());
            headers.insert(CALLEE_APP_ID, target);
        }
        headers.insert(CALLER_NAMESPACE, self.namespace.clone());
        headers.insert(CALLER_APP_ID, self.app_id.clone());
        let forwarded = [
            (FORWARDED_FOR, &self.address),
            (FORWARDED_HOST, &self.hostname),
            (FORWARDED, &self.forwarded),
        ];
        for (name, value) in forwarded {
            if let Some(value) = value {
                headers.append(name, value.clone());
            }
        }
    }
}

fn prefixed(name: &str) -> Option<HeaderName> {
    HeaderName::try_from([PREFIX, name.trim_start_matches(':')].concat()).ok()
}

/// Whether gRPC keeps a name for itself; the trace context is metadata like any other. `name` in lower case.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(':') || (name.starts_with("grpc-") && name != "grpc-trace-bin")
}

/// What both directions of HTTP drop and rename.
fn pass_http(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
    drop_where(headers, |name| name.ends_with("-bin"));
    rename(headers, is_reserved);
    first_only(headers, CONTENT_TYPE);
    if headers.get(CONTENT_TYPE).is_some_and(HeaderValue::is_empty) {
        headers.remove(CONTENT_TYPE);
    }
}

/// Removes every header that `Connection` names.
fn remove_connection_headers(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn first_only(headers: &mut HeaderMap, name: HeaderName) {
    if let Entry::Occupied(mut entry) = headers.entry(name)
        && entry.iter().nth(1).is_some()
    {
        let first = entry.get().clone();
        entry.insert(first);
    }
}

fn drop_where(headers: &mut HeaderMap, matches: impl Fn(&str) -> bool) {
    // Collected only when there is something to drop: most requests have none.
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| matches(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

fn rename(headers: &mut HeaderMap, matches: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| matches(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        let Some(new) = prefixed(name.as_str()) else {
            continue;
        };
        let Entry::Occupied(entry) = headers.entry(&name) else {
            continue;
        };
        let values: Vec<HeaderValue> = entry.remove_entry_mult().1.collect();
        for value in values {
            headers.append(new.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::from_str(value).expect("a value"),
            );
        }
        headers
    }

    fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            })
            .collect();
        pairs.sort();
        pairs
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn requests_to_http_apps() {
        let headers = map(&[
            ("Destination-App-Id", "b"),
            ("dapr-caller-app-id", "a"),
            ("Connection", "close, X-Drop"),
            ("x-drop", "1"),
            ("x-keep", "1"),
            ("x-keep", "2"),
            ("Content-Length", "3"),
            ("Content-Type", "text/plain"),
            ("Transfer-Encoding", "chunked"),
            ("te", "trailers"),
            ("grpc-trace-bin", "AA"),
            ("grpc-accept-encoding", "gzip"),
            ("baggage", "a=1"),
            ("baggage", "b=2"),
            ("user-agent", "me"),
        ]);
        let expected = owned(&[
            ("baggage", "a=1"),
            ("content-type", "text/plain"),
            ("dapr-caller-app-id", "a"),
            ("dapr-grpc-accept-encoding", "gzip"),
            ("user-agent", "me"),
            ("x-keep", "1"),
            ("x-keep", "2"),
        ]);
        assert_eq!(pairs(&to_http_app(headers, false)), expected);
    }

    #[test]
    fn content_types() {
        let protobuf = to_http_app(map(&[("content-type", "application/grpc")]), true);
        assert_eq!(protobuf[CONTENT_TYPE], "application/x-protobuf");
        let empty = to_http_app(map(&[("content-type", "")]), false);
        assert_eq!(empty.get(CONTENT_TYPE), None);
    }

    #[test]
    fn answers_of_apps() {
        let headers = map(&[
            ("connection", "x-named"),
            ("x-named", "1"),
            ("content-length", "1"),
            ("content-type", "text/html"),
            ("content-type", "text/plain"),
            ("destination-app-id", "a"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("x-bin", "AA"),
        ]);
        let expected = owned(&[
            ("content-type", "text/html"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]);
        assert_eq!(pairs(&from_app_response(headers)), expected);
    }

    #[test]
    fn requests_to_grpc_apps() {
        let headers = map(&[
            ("Accept", "*/*"),
            ("Content-Type", "text/plain"),
            ("Host", "h"),
            ("user-agent", "me"),
            ("destination-app-id", "b"),
            ("x-bin", "AAA="),
            ("x-other", "1"),
        ]);
        let mut from_http = headers.clone();
        encode_binaries(&mut from_http);
        let expected = owned(&[
            ("dapr-accept", "*/*"),
            ("dapr-content-type", "text/plain"),
            ("dapr-host", "h"),
            ("x-bin", "QUFBPQ=="),
            ("x-other", "1"),
        ]);
        assert_eq!(pairs(&to_grpc_app(from_http, Origin::Http)), expected);
        assert_eq!(to_grpc_app(headers, Origin::Grpc)["x-bin"], "AAA=");
    }

    #[test]
    fn metadata_of_a_grpc_caller_keeps_its_names() {
        let headers = map(&[
            ("accept", "*/*"),
            ("cookie", "c"),
            ("date", "d"),
            ("grpc-mine", "1"),
            // These would break the call, or change it.
            ("connection", "close"),
            ("keep-alive", "1"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("host", "h"),
            ("content-length", "9"),
            ("content-type", "text/plain"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-encoding", "gzip"),
            ("grpc-timeout", "1S"),
        ]);
        let expected = owned(&[
            ("accept", "*/*"),
            ("cookie", "c"),
            ("date", "d"),
            ("grpc-mine", "1"),
        ]);
        assert_eq!(pairs(&to_grpc_app(headers, Origin::Grpc)), expected);
    }

    #[test]
    fn what_grpc_says_of_one_call_is_not_renamed_into_metadata() {
        let headers = map(&[("grpc-timeout", "1S"), ("grpc-status", "3"), ("x", "1")]);
        assert_eq!(
            pairs(&to_grpc_app(headers, Origin::Http)),
            owned(&[("x", "1")])
        );
    }

    #[test]
    fn spelling() {
        let check = |name: &str, expected: &str| assert_eq!(canonical(name), expected);
        check("x-request-id", "X-Request-Id");
        check("CONTENT-type", "Content-Type");
        check("etag", "Etag");
    }

    #[test]
    fn answers_of_http_apps_to_grpc_callers() {
        let headers = map(&[
            ("content-type", "text/plain"),
            ("date", "d"),
            ("x-custom", "x"),
            ("x-bin", "AAA="),
            // These are the application's connection's.
            ("connection", "keep-alive, x-named"),
            ("x-named", "1"),
            ("content-length", "4"),
            ("keep-alive", "timeout=5"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("proxy-authenticate", "Basic"),
        ]);
        let expected = owned(&[
            ("dapr-content-type", "text/plain"),
            ("dapr-date", "d"),
            ("x-bin", "QUFBPQ=="),
            ("x-custom", "x"),
        ]);
        assert_eq!(pairs(&to_grpc_caller(headers)), expected);
    }

    #[test]
    fn forwarding() {
        let forwarder = Forwarder::new("me", "ns", "10.0.0.1", "host");
        let mut headers = map(&[("x-forwarded-for", "1.1.1.1")]);
        forwarder.mark(&mut headers, "other");
        let expected = owned(&[
            ("dapr-callee-app-id", "other"),
            ("dapr-caller-app-id", "me"),
            ("dapr-caller-namespace", "ns"),
            ("destination-app-id", "other"),
            ("forwarded", "for=10.0.0.1;by=10.0.0.1;host=host"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "host"),
        ]);
        assert_eq!(pairs(&headers), expected);
        let mut headers = HeaderMap::new();
        Forwarder::new("me", "ns", "fd00::1", "host").mark(&mut headers, "other");
        assert_eq!(
            headers[FORWARDED],
            "for=\"[fd00::1]\";by=\"[fd00::1]\";host=host"
        );
    }

    proptest! {
        #[test]
        fn binary_values_survive(bytes: Vec<u8>) {
            let value = HeaderValue::try_from(encode_binary(&bytes)).expect("base64");
            prop_assert_eq!(decode_binary(&value), Some(bytes));
        }
    }
}
