//! Content types guessed from the first bytes, by the rules Go's server follows for what applications commonly
//! send.

/// Bytes looked at.
const LOOKED_AT: usize = 512;

/// Beginnings with a type of their own.
const SIGNATURES: [(&[u8], &str); 10] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"\0asm", "application/wasm"),
];

/// Elements that begin a page when a blank or `>` follows.
const PAGE: [&str; 17] = [
    "<!DOCTYPE HTML",
    "<HTML",
    "<HEAD",
    "<SCRIPT",
    "<IFRAME",
    "<H1",
    "<DIV",
    "<FONT",
    "<TABLE",
    "<A",
    "<STYLE",
    "<TITLE",
    "<B",
    "<BODY",
    "<BR",
    "<P",
    "<!--",
];

/// The content type of data that begins so; `None` for no data.
pub(super) fn content_type(data: &[u8]) -> Option<&'static str> {
    if data.is_empty() {
        return None;
    }
    let data = data.get(..LOOKED_AT).unwrap_or(data);
    let text = data.trim_ascii_start();
    if PAGE.iter().any(|element| begins_page(text, element)) {
        return Some("text/html; charset=utf-8");
    }
    if text.starts_with(b"<?xml") {
        return Some("text/xml; charset=utf-8");
    }
    let signature = SIGNATURES.iter().find(|(start, _)| data.starts_with(start));
    if let Some((_, kind)) = signature {
        return Some(kind);
    }
    if data.iter().any(|byte| is_binary(*byte)) {
        return Some("application/octet-stream");
    }
    Some("text/plain; charset=utf-8")
}

fn begins_page(text: &[u8], element: &str) -> bool {
    let starts = text
        .get(..element.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(element.as_bytes()));
    let ends = matches!(text.get(element.len()), Some(b' ' | b'>'));
    starts && (ends || element == "<!--")
}

fn is_binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_by_beginning() {
        let check = |data: &[u8], expected: Option<&str>| {
            assert_eq!(content_type(data), expected, "{data:?}");
        };
        check(b"", None);
        check(b"hello", Some("text/plain; charset=utf-8"));
        check(b"{\"a\":1}", Some("text/plain; charset=utf-8"));
        check(b"  <html>", Some("text/html; charset=utf-8"));
        check(b"<headline>", Some("text/plain; charset=utf-8"));
        check(b"<?xml version", Some("text/xml; charset=utf-8"));
        check(b"\x89PNG\r\n\x1a\n\0", Some("image/png"));
        check(b"\x01\x02", Some("application/octet-stream"));
    }

    proptest::proptest! {
        #[test]
        fn anything_but_nothing_has_a_type(data: Vec<u8>, markup in "[<! ]{0,3}[a-zA-Z]{0,6}[> ]?") {
            for data in [&data, markup.as_bytes()] {
                assert_eq!(content_type(data).is_none(), data.is_empty(), "{data:?}");
            }
        }
    }
}
