//! The form of a method name.

use crate::rpc;

/// A method with a character no URL path may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenMethod {
    /// `#`, `?` or NUL.
    #[error("method contains forbidden character: {0}")]
    Character(String),
    /// Another control character.
    #[error("method contains control character at position {position}: {quoted}")]
    Control {
        /// Byte offset.
        position: usize,
        /// The method, quoted as Go quotes.
        quoted: String,
    },
}

impl ForbiddenMethod {
    /// The status callers read.
    pub fn to_status(&self) -> rpc::Status {
        rpc::Status::new(
            rpc::Code::InvalidArgument,
            format!("invalid method: {self}"),
        )
    }
}

/// Checks `method` and cleans its dot segments. The result may be empty, and has a leading slash only if `method` has
/// one: a gRPC application knows its methods by the names its callers use.
pub fn normalize(method: &str) -> Result<String, ForbiddenMethod> {
    check(method)?;
    Ok(clean(method))
}

/// [`normalize`] without a copy where nothing has to change, as nearly always.
pub(crate) fn normalize_owned(method: String) -> Result<String, ForbiddenMethod> {
    check(&method)?;
    Ok(if is_clean(&method) {
        method
    } else {
        clean(&method)
    })
}

fn check(method: &str) -> Result<(), ForbiddenMethod> {
    let bytes = method.as_bytes();
    if bytes.iter().any(|byte| matches!(byte, b'#' | b'?' | 0)) {
        return Err(ForbiddenMethod::Character(quote(method)));
    }
    let control = bytes.iter().position(|byte| *byte < 0x20 || *byte == 0x7f);
    match control {
        Some(position) => Err(ForbiddenMethod::Control {
            position,
            quoted: quote(method),
        }),
        None => Ok(()),
    }
}

/// Resolves `.`, `..` and empty segments; `..` above the top is dropped.
fn clean(method: &str) -> String {
    let slash = if method.starts_with('/') { "/" } else { "" };
    let mut segments: Vec<&str> = Vec::new();
    for segment in method.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    slash.to_owned() + &segments.join("/")
}

fn is_clean(method: &str) -> bool {
    let rest = method.strip_prefix('/').unwrap_or(method);
    !rest
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
}

/// Quotes as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            control if (control as u32) < 0x20 || control == '\u{7f}' => {
                quoted.push_str(&format!("\\x{:02x}", control as u32));
            }
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", control as u32));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dot_segments_are_cleaned() {
        let check = |method: &str, expected: &str| {
            assert_eq!(normalize(method).as_deref(), Ok(expected), "{method}");
        };
        check("", "");
        check(".", "");
        check("/", "/");
        check("//", "/");
        check("neworder", "neworder");
        check("/a/b", "/a/b");
        check("//a//b/", "/a/b");
        check("/../a", "/a");
        check("a//b/./c/", "a/b/c");
        check("a/../b", "b");
        check("../../etc/passwd", "etc/passwd");
        check("a/../../b", "b");
        check("a b+c%2F", "a b+c%2F");
    }

    #[test]
    fn forbidden_characters_are_named() {
        let check = |method: &str, expected: &str| {
            let status = normalize(method).expect_err(method).to_status();
            assert_eq!(status.to_string(), expected);
        };
        check(
            "a#b",
            "rpc error: code = InvalidArgument desc = invalid method: method contains forbidden character: \"a#b\"",
        );
        check(
            "a\0b",
            "rpc error: code = InvalidArgument desc = invalid method: method contains forbidden character: \"a\\x00b\"",
        );
        check(
            "a\nb",
            "rpc error: code = InvalidArgument desc = invalid method: method contains control character at position 1: \"a\\nb\"",
        );
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(method in "[a-z./ ]{0,30}") {
            let once = normalize(&method).expect("no forbidden character");
            prop_assert_eq!(once.starts_with('/'), method.starts_with('/'));
            prop_assert_eq!(&normalize_owned(method).expect("still none"), &once);
            prop_assert!(!once.split('/').any(|segment| segment == ".."));
            prop_assert_eq!(normalize(&once).expect("still none"), once);
        }

        #[test]
        fn never_panics(method in ".{0,30}") {
            drop(normalize(&method));
        }
    }
}
