//! Headers to internal metadata and back.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_proto::dapr::proto::internals::v1::ListStringValue;
use dapr_sidecar_core::invoke::Origin;
use dapr_sidecar_core::invoke::headers::{
    AUTHORITY, CALLEE_APP_ID, CALLER_APP_ID, CALLER_NAMESPACE, DESTINATION_APP_ID, canonical,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::codec::{Entry, keep_last};

/// Metadata of a caller that spoke gRPC starts so under `content-type`.
pub(super) const GRPC_CONTENT_TYPE: &str = "application/grpc";

/// Internal metadata: a map of texts.
pub(super) type Metadata = HashMap<String, ListStringValue>;

/// What the caller's sidecar adds to a request, in lower case whatever the origin.
const MARKS: [HeaderName; 4] = [
    CALLER_APP_ID,
    CALLER_NAMESPACE,
    CALLEE_APP_ID,
    DESTINATION_APP_ID,
];

/// Headers as internal metadata. Names of HTTP headers get Go's canonical spelling, gRPC metadata keeps its
/// own and has the values of `-bin` keys in padded base64. Values that are no UTF-8 are converted lossily,
/// as protobuf text cannot carry them.
pub fn to_metadata(headers: &HeaderMap, origin: Origin) -> Metadata {
    let mut metadata = Metadata::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let values = headers
            .get_all(name)
            .iter()
            .map(|value| text(name, value, origin).into_owned())
            .collect();
        let key = match origin {
            Origin::Http => canonical(name.as_str()),
            Origin::Grpc => spelled(name).to_owned(),
        };
        metadata.insert(key, ListStringValue { values });
    }
    metadata
}

/// The metadata of a request that this sidecar has marked: its marks get the spelling the callee looks for.
pub(super) fn marked_metadata(headers: &HeaderMap, origin: Origin) -> Metadata {
    let mut metadata = to_metadata(headers, origin);
    if origin == Origin::Http {
        for mark in MARKS {
            if let Some(list) = metadata.remove(&canonical(mark.as_str())) {
                metadata.insert(mark.as_str().to_owned(), list);
            }
        }
    }
    metadata
}

/// The name of a header of a gRPC caller as its metadata has it.
pub(super) fn spelled(name: &HeaderName) -> &str {
    if *name == AUTHORITY {
        ":authority"
    } else {
        name.as_str()
    }
}

/// Whether the caller's sidecar adds it.
pub(super) fn is_mark(name: &HeaderName) -> bool {
    MARKS.contains(name)
}

/// Internal metadata as headers: of HTTP with the text of every value, of gRPC with the values of `-bin` keys in base64.
/// What is no legal header is left out, for nobody could be sent it.
pub fn from_metadata(metadata: Metadata, origin: Origin) -> HeaderMap {
    let entries = metadata.into_iter();
    from_entries(
        entries.map(|(key, list)| Entry::new(key, list)).collect(),
        origin,
    )
}

/// As [`from_metadata`], of entries as they were read.
pub(super) fn from_entries(mut entries: Vec<Entry>, origin: Origin) -> HeaderMap {
    keep_last(&mut entries);
    let mut headers = HeaderMap::with_capacity(entries.len());
    // The marks of the caller's sidecar come before what its application wrote under such a name in other letters.
    for mark in &MARKS {
        let of_mark = |entry: &Entry| entry.key == mark.as_str();
        if let Some(at) = entries.iter().position(of_mark) {
            append(&mut headers, entries.swap_remove(at), origin);
        }
    }
    for entry in entries {
        append(&mut headers, entry, origin);
    }
    headers
}

fn append(headers: &mut HeaderMap, entry: Entry, origin: Origin) {
    let Some(name) = header_name(&entry.key) else {
        return;
    };
    // Only keys in lower case are base64 already; a key that merely ends like one holds its raw text, and
    // headers here have lost the case that tells them apart.
    let raw_bin =
        origin == Origin::Grpc && name.as_str().ends_with("-bin") && !entry.key.ends_with(b"-bin");
    for value in entry.value.unwrap_or_default().values {
        let value = if raw_bin {
            STANDARD.encode(value).into()
        } else {
            value
        };
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            headers.append(name.clone(), value);
        }
    }
}

/// The pseudo headers of a gRPC caller, which no application could be sent, get the prefix applications see.
fn header_name(key: &[u8]) -> Option<HeaderName> {
    match key {
        b":authority" => Some(AUTHORITY),
        b":method" => Some(HeaderName::from_static("dapr-method")),
        b":path" => Some(HeaderName::from_static("dapr-path")),
        b":scheme" => Some(HeaderName::from_static("dapr-scheme")),
        _ => HeaderName::from_bytes(key).ok(),
    }
}

pub(super) fn text<'v>(name: &HeaderName, value: &'v HeaderValue, origin: Origin) -> Cow<'v, str> {
    let mut text = String::from_utf8_lossy(value.as_bytes());
    if origin == Origin::Grpc && name.as_str().ends_with("-bin") && !text.len().is_multiple_of(4) {
        // gRPC sends base64 without padding, internal metadata has it with.
        let text = text.to_mut();
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_str(value).expect("value");
                (HeaderName::from_static(name), value)
            })
            .collect()
    }

    #[test]
    fn http_names_are_canonical_and_come_back_in_lower_case() {
        let given = headers(&[("content-type", "a"), ("x-b", "1"), ("x-b", "2")]);
        let metadata = to_metadata(&given, Origin::Http);
        assert_eq!(metadata["Content-Type"].values, ["a"]);
        assert_eq!(metadata["X-B"].values, ["1", "2"]);
        assert_eq!(from_metadata(metadata, Origin::Http), given);
    }

    #[test]
    fn marks_of_a_sidecar_keep_their_spelling_and_come_first() {
        let given = headers(&[("dapr-caller-app-id", "caller"), ("x-b", "1")]);
        let mut metadata = marked_metadata(&given, Origin::Http);
        assert!(metadata.contains_key("X-B"));
        assert_eq!(metadata["dapr-caller-app-id"].values, ["caller"]);
        for index in 0..18 {
            let list = ListStringValue {
                values: vec![format!("other {index}")],
            };
            let name = "dapr-caller-app-id";
            let (head, tail) = name.split_at(index);
            let key = [head, &tail.to_uppercase()].concat();
            metadata.insert(key, list);
        }
        let headers = from_metadata(metadata, Origin::Http);
        assert_eq!(headers["dapr-caller-app-id"], "caller");
    }

    #[test]
    fn binary_values_are_padded_for_grpc_and_raw_for_http() {
        let grpc = to_metadata(&headers(&[("k-bin", "AAA")]), Origin::Grpc);
        assert_eq!(grpc["k-bin"].values, ["AAA="]);
        assert_eq!(from_metadata(grpc, Origin::Grpc)["k-bin"], "AAA=");
        let http = to_metadata(&headers(&[("foo-bin", "AAA=")]), Origin::Http);
        assert_eq!(http["Foo-Bin"].values, ["AAA="]);
        // It is the edge to gRPC that makes base64 of it, once.
        assert_eq!(from_metadata(http.clone(), Origin::Http)["foo-bin"], "AAA=");
        let mixed = from_metadata(http, Origin::Grpc);
        assert_eq!(mixed["foo-bin"], STANDARD.encode("AAA="));
    }

    #[test]
    fn pseudo_headers_of_grpc_callers_are_renamed() {
        let list = ListStringValue {
            values: vec!["host".to_owned()],
        };
        let metadata = Metadata::from([(":authority".to_owned(), list)]);
        let headers = from_metadata(metadata, Origin::Grpc);
        assert_eq!(headers["dapr-authority"], "host");
        let metadata = to_metadata(&headers, Origin::Grpc);
        assert_eq!(metadata[":authority"].values, ["host"]);
    }

    #[test]
    fn what_is_no_header_is_left_out() {
        let mut metadata = Metadata::new();
        let list = |text: &str| ListStringValue {
            values: vec![text.to_owned()],
        };
        metadata.insert(":status".to_owned(), list("x"));
        metadata.insert("a b".to_owned(), list("x"));
        metadata.insert("ok".to_owned(), list("bad\nvalue"));
        assert!(from_metadata(metadata, Origin::Http).is_empty());
    }
}
