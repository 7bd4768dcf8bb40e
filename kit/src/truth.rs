//! The one list of words that mean yes.

/// Whether `text` is one of the truthy words `y`, `yes`, `true`, `t`, `on`, `1` (trimmed, any letter case).
/// Everything else, the empty string included, is false.
pub fn truthy(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "yes", "true", "t", "on", "1"];
    let text = text.trim();
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::truthy;

    #[test]
    fn truthy_words() {
        for yes in ["y", "Y", "yes", "true", "TRUE", "t", "on", "1", " On "] {
            assert!(truthy(yes), "{yes:?}");
        }
        for no in [
            "", " ", "0", "2", "false", "no", "off", "enabled", "tru", "11",
        ] {
            assert!(!truthy(no), "{no:?}");
        }
    }
}
