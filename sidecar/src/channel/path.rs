//! The path of a call to an HTTP application.

use std::fmt::Write as _;

/// A `%` that does not start an escape: the application's URL cannot be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse {url:?}: invalid URL escape {escape:?}")]
pub(super) struct BadEscape {
    url: String,
    escape: String,
}

/// `/<method>?<query>` with what may not stand in a path escaped. Escapes that are there stay: the caller's
/// `%252F` has become `%2F` by now and must reach the application as that.
pub(super) fn path_and_query(method: &str, query: &str) -> Result<String, BadEscape> {
    let mut path = String::with_capacity(method.len() + query.len() + 2);
    if !method.starts_with('/') {
        path.push('/');
    }
    let bytes = method.as_bytes();
    // Go escapes brackets only when it has to escape something else.
    let is_fit = |byte: &u8| is_allowed(*byte) || b"%[]".contains(byte);
    let brackets: &[u8] = if bytes.iter().all(is_fit) { b"[]" } else { b"" };
    for (index, byte) in bytes.iter().copied().enumerate() {
        match byte {
            b'%' => {
                let escape = &bytes[index..bytes.len().min(index + 3)];
                if escape.len() < 3 || !escape[1..].iter().all(u8::is_ascii_hexdigit) {
                    return Err(BadEscape {
                        url: method.to_owned(),
                        escape: String::from_utf8_lossy(escape).into_owned(),
                    });
                }
                path.push('%');
            }
            _ if is_allowed(byte) || brackets.contains(&byte) => path.push(char::from(byte)),
            _ => write!(path, "%{byte:02X}").unwrap_or_default(),
        }
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    Ok(path)
}

/// What Go leaves as it is in a path.
fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~$&+,/:;=@!'()*".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_once() {
        let check = |method: &str, query: &str, expected: &str| {
            assert_eq!(path_and_query(method, query).expect(method), expected);
        };
        check("orders", "", "/orders");
        check("a b/c", "x=1&y=%20", "/a%20b/c?x=1&y=%20");
        check("a%2Fb+c", "", "/a%2Fb+c");
        check("Zürich", "", "/Z%C3%BCrich");
        check("", "", "/");
        check("a\"<>|^", "", "/a%22%3C%3E%7C%5E");
        check("items[0]", "", "/items[0]");
        check("new items[0]", "", "/new%20items%5B0%5D");
    }

    #[test]
    fn a_stray_percent_sign_is_an_error() {
        let error = path_and_query("a%b", "").expect_err("bad escape");
        assert_eq!(
            error.to_string(),
            "parse \"a%b\": invalid URL escape \"%b\""
        );
    }

    proptest::proptest! {
        #[test]
        fn any_method_gives_a_valid_uri_or_an_error(method in ".*") {
            if let Ok(path) = path_and_query(&method, "") {
                proptest::prop_assert!(path.parse::<::http::uri::PathAndQuery>().is_ok());
            }
        }
    }
}
