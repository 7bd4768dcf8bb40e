//! Names of objects that others have written: what is no name is not asked for, for it would be part of a path.

/// The longest name of an object.
const LIMIT: usize = 253;

/// Whether an object may have this name.
pub(crate) fn may_be_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = name.bytes();
    let (first, last) = (bytes.next(), name.bytes().next_back());
    name.len() <= LIMIT
        && first.is_some_and(is_plain)
        && last.is_some_and(is_plain)
        && bytes.all(|byte| is_plain(byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        let longest = "a".repeat(LIMIT);
        for name in ["s", "0", "my-secret.v1", "a--b..c", &longest] {
            assert!(may_be_name(name), "{name:?}");
        }
        let too_long = "a".repeat(LIMIT + 1);
        for name in [
            "",
            ".",
            "..",
            "-s",
            "s-",
            "S",
            "s ",
            "a/b",
            "../s",
            "../../other/secrets/s",
            "s?watch=1",
            "s#",
            "%73",
            "a_b",
            "\u{e9}",
            &too_long,
        ] {
            assert!(!may_be_name(name), "{name:?}");
        }
    }
}
