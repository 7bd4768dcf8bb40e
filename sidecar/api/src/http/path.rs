//! Paths and queries: cleaning, parameters, request metadata.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// A parameter or query part with a malformed escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadEscape;

/// Collapses empty and dot segments of an escaped path; a trailing slash stays.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    let dirty = !path.starts_with('/')
        || path
            .split('/')
            .skip(1)
            .any(|segment| matches!(segment, "." | ".."))
        || path.contains("//");
    if !dirty {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut cleaned = String::with_capacity(path.len() + 1);
    for segment in &segments {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    let directory = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    if segments.is_empty() || directory {
        cleaned.push('/');
    }
    Cow::Owned(cleaned)
}

/// Decodes as Go decodes query text: `+` is a blank, `%2B` a plus, a malformed escape is an error.
pub(crate) fn decode(text: &str) -> Result<Cow<'_, str>, BadEscape> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let (high, low) = (hex(rest.next())?, hex(rest.next())?);
                decoded.push(high << 4 | low);
            }
            byte => decoded.push(*byte),
        }
    }
    let text = String::from_utf8(decoded)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Ok(Cow::Owned(text))
}

/// Whether every escape of a path is well formed.
pub(crate) fn is_well_formed(path: &str) -> bool {
    let escapes = path.split('%').skip(1);
    escapes
        .map(|after| after.as_bytes())
        .all(|after| matches!(after, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

fn hex(byte: Option<&u8>) -> Result<u8, BadEscape> {
    let digit = byte.and_then(|byte| char::from(*byte).to_digit(16));
    digit
        .and_then(|digit| u8::try_from(digit).ok())
        .ok_or(BadEscape)
}

/// A query string. Parts with malformed escapes are ignored, as Go ignores them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a>(pub(crate) &'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.0
            .split('&')
            .filter(|part| !part.is_empty() && !part.contains(';'))
            .filter_map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                Some((decode(key).ok()?, decode(value).ok()?))
            })
    }

    /// The first value under `name`; empty when there is none.
    pub(crate) fn get(self, name: &str) -> Cow<'a, str> {
        self.find(name).unwrap_or_default()
    }

    /// The first value under `name`.
    pub(crate) fn find(self, name: &str) -> Option<Cow<'a, str>> {
        let mut pairs = self.pairs();
        let found = pairs.find(|(key, _)| key == name)?;
        Some(found.1)
    }

    /// Request metadata: what stands under `metadata.<key>`, the first value of each.
    pub(crate) fn metadata(self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        if self.0.is_empty() {
            return metadata;
        }
        for (key, value) in self.pairs() {
            if let Some(key) = key.strip_prefix("metadata.") {
                metadata
                    .entry(key.to_owned())
                    .or_insert_with(|| value.into_owned());
            }
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let check = |path: &str, expected: &str| assert_eq!(clean(path), expected, "{path}");
        check("/v1.0/state/s/k", "/v1.0/state/s/k");
        check("//v1.0///state//s", "/v1.0/state/s");
        check("/v1.0/./state/../x/", "/v1.0/x/");
        check("/../..", "/");
        check("/a/.", "/a/");
        check("/a%2F..%2Fb", "/a%2F..%2Fb");
        check("*", "/*");
        check("", "/");
    }

    #[test]
    fn parameters_are_decoded_once() {
        let check = |text: &str, expected: Result<&str, BadEscape>| {
            assert_eq!(
                decode(text).as_deref().map_err(|error| *error),
                expected,
                "{text}"
            );
        };
        check("plain", Ok("plain"));
        check("a+b%2Bc", Ok("a b+c"));
        check("a%2Fb", Ok("a/b"));
        check("a%252Bb", Ok("a%2Bb"));
        check("%zz", Err(BadEscape));
        check("%4", Err(BadEscape));
        check("%", Err(BadEscape));
    }

    #[test]
    fn escapes_of_a_path() {
        let check = |path: &str, expected| assert_eq!(is_well_formed(path), expected, "{path}");
        check("/a%2Fb", true);
        check("/a%2fb%25", true);
        check("/%", false);
        check("/a%2", false);
        check("/%zz", false);
        check("/%+1", false);
        check("/a%%20", false);
    }

    #[test]
    fn metadata_takes_the_first_value() {
        let query = Query("metadata.a=1&metadata.a=2&x=3&metadata.b%20c=%2B+&metadata.bad=%zz");
        let expected = BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b c".to_owned(), "+ ".to_owned()),
        ]);
        assert_eq!(query.metadata(), expected);
        assert_eq!(query.get("x"), "3");
        assert_eq!(query.get("y"), "");
        assert_eq!(query.find("y"), None);
        assert_eq!(Query("y=").find("y").as_deref(), Some(""));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let cleaned = clean(&text).into_owned();
            prop_assert!(cleaned.starts_with('/'));
            prop_assert_eq!(clean(&cleaned).into_owned(), cleaned);
            drop(decode(&text));
            let _ = Query(&text).metadata();
        }
    }
}
