//! Shell-like variables in a text, read as Go's `os.Expand` reads them.

/// Replaces `$NAME` and `${NAME}`. Unknown variables and malformed braces vanish; a dollar sign that no name
/// follows stays.
pub fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        expanded.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        let (name, length) = name_at(after);
        if name.is_empty() && length == 0 {
            expanded.push('$');
        } else if !name.is_empty() {
            expanded.push_str(&variable(name).unwrap_or_default());
        }
        rest = &after[length..];
    }
    expanded.push_str(rest);
    expanded
}

/// The name after a dollar sign and how many bytes it takes with its braces. No name but some bytes means
/// malformed braces, which are swallowed.
fn name_at(text: &str) -> (&str, usize) {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'{') => {
            if bytes.get(2) == Some(&b'}') && bytes.get(1).is_some_and(|byte| is_special(*byte)) {
                return (&text[1..2], 3);
            }
            match text[1..].find('}') {
                Some(0) => ("", 2),
                Some(end) => (&text[1..=end], end + 2),
                None => ("", 1),
            }
        }
        Some(first) if is_special(*first) => (&text[..1], 1),
        _ => {
            let end = bytes
                .iter()
                .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))
                .unwrap_or(bytes.len());
            (&text[..end], end)
        }
    }
}

/// The shell's one-character variables, digits included.
const fn is_special(byte: u8) -> bool {
    matches!(
        byte,
        b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::expand;

    #[test]
    fn variables_expand_as_in_go() {
        let check = |text: &str, expected: &str| {
            let value = |name: &str| match name {
                "HOST" => Some("redis".to_owned()),
                "a_1" => Some("x".to_owned()),
                "with space" => Some("y".to_owned()),
                _ => None,
            };
            assert_eq!(expand(text, value), expected, "{text}");
        };
        check("plain", "plain");
        check("$HOST:6379", "redis:6379");
        check("${HOST}s", "rediss");
        check("$HOSTS", "");
        check("$a_1-$a_1", "x-x");
        check("${with space}", "y");
        check("$", "$");
        check("a$ b", "a$ b");
        check("^x$|\"$\"", "^x$|\"$\"");
        check("$$HOST", "HOST");
        check("$1x", "x");
        check("${}z", "z");
        check("${HOST", "HOST");
        check("${?}", "");
        check("$é", "$é");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[${}a-z0-9é*]{0,20}") {
            expand(&text, |_| None);
        }

        #[test]
        fn text_without_dollars_stays(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, |_| Some("x".to_owned())), text);
        }
    }
}
