//! What a content type means to pub/sub; parameters after `;` are ignored, letter case too.

/// A CloudEvent as JSON.
pub(crate) const CLOUD_EVENT: &str = "application/cloudevents+json";
/// Raw bytes.
pub(crate) const OCTET_STREAM: &str = "application/octet-stream";

fn is(content_type: &str, expected: &str) -> bool {
    let bare = content_type.split(';').next().unwrap_or_default();
    bare.trim().eq_ignore_ascii_case(expected)
}

/// `application/json`
pub(crate) fn is_json(content_type: &str) -> bool {
    is(content_type, "application/json")
}

/// `application/cloudevents+json`
pub(crate) fn is_cloud_event(content_type: &str) -> bool {
    is(content_type, CLOUD_EVENT)
}

/// `application/octet-stream`
pub(crate) fn is_octet_stream(content_type: &str) -> bool {
    is(content_type, OCTET_STREAM)
}

/// Whether data of this type goes into `data_base64`.
pub(crate) fn is_binary(content_type: &str, data: &[u8]) -> bool {
    is_octet_stream(content_type)
        || is(content_type, "application/cloudevents+protobuf")
        || (is(content_type, "application/x-protobuf") && is_cloud_event_message(data))
}

/// Whether bytes decode as an `io.cloudevents.v1.CloudEvent` message.
fn is_cloud_event_message(mut data: &[u8]) -> bool {
    while !data.is_empty() {
        match field(data) {
            Some(rest) => data = rest,
            None => return false,
        }
    }
    true
}

/// Skips one field of a CloudEvent message; `None` if it is not one.
fn field(data: &[u8]) -> Option<&[u8]> {
    let (key, data) = varint(data)?;
    let number = key >> 3;
    let is_text = matches!(number, 1..=4 | 7);
    match key & 7 {
        2 => {
            let (length, data) = varint(data)?;
            let (value, rest) = data.split_at_checked(usize::try_from(length).ok()?)?;
            (!is_text || std::str::from_utf8(value).is_ok()).then_some(rest)
        }
        _ if number == 0 => None,
        0 => varint(data).map(|(_, rest)| rest),
        1 => data.get(8..),
        5 => data.get(4..),
        _ => None,
    }
}

fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in data.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &data[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        assert!(is_json("application/json; charset=utf-8"));
        assert!(is_json("Application/JSON"));
        assert!(!is_json("application/jsonx"));
        assert!(is_cloud_event("application/cloudevents+json;x=y"));
    }

    #[test]
    fn binary_data() {
        let check = |content_type: &str, data: &[u8], expected: bool| {
            assert_eq!(is_binary(content_type, data), expected, "{content_type}");
        };
        check("application/octet-stream", b"x", true);
        check("application/cloudevents+protobuf", b"x", true);
        check("application/x-protobuf", b"\x0a\x01a\x12\x01b", true);
        check("application/x-protobuf", b"\x0a\x05a", false);
        check("application/x-protobuf", b"\x0a\x01\xff", false);
        check("text/plain", b"x", false);
    }
}
