//! YAML 1.1, the dialect upstream reads: `yes` is true, `010` is eight, `<<` merges.

use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::Piece;

/// Reads one document as JSON. The error names line and column of the file.
pub(super) fn parse(piece: &Piece<'_>) -> Result<Value, String> {
    parse_with(piece, DuplicateKeyPolicy::Error)
}

/// Reads one document as JSON. Of fields that stand twice the last one counts, as upstream has it for everything but a
/// Configuration; what is wrong with that comes as a text.
pub(super) fn parse_last_wins(piece: &Piece<'_>) -> Result<(Value, Option<String>), String> {
    let strict = match parse(piece) {
        Ok(value) => return Ok((value, None)),
        Err(message) => message,
    };
    match parse_with(piece, DuplicateKeyPolicy::LastWins) {
        Ok(value) => Ok((value, Some(strict))),
        Err(_) => Err(strict),
    }
}

fn parse_with(piece: &Piece<'_>, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, String> {
    if piece.text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    // Empty lines in place of the documents before this one make the parser count lines of the file.
    let padded = format!("{}{}", "\n".repeat(piece.line - 1), piece.text);
    serde_saphyr::from_str_with_options(&padded, options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{parse, parse_last_wins};
    use crate::manifest::Piece;

    fn read(text: &str) -> Result<Value, String> {
        parse(&Piece {
            index: 1,
            line: 1,
            text,
        })
    }

    #[test]
    fn the_dialect_is_that_of_upstream() {
        let check = |text: &str, expected: Value| {
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text:?}")
        };
        check("a: yes", json!({"a": true}));
        check("a: off", json!({"a": false}));
        check("a: n", json!({"a": false}));
        check("a: 010", json!({"a": 8}));
        check("a: 1_000", json!({"a": 1000}));
        check("a: 0x10", json!({"a": 16}));
        check("a: \"true\"", json!({"a": "true"}));
        check("a: 'yes'", json!({"a": "yes"}));
        check("a: 5s", json!({"a": "5s"}));
        check("a: 12:30", json!({"a": "12:30"}));
        check("a: 1.5", json!({"a": 1.5}));
        check("a: ~\nb:", json!({"a": null, "b": null}));
        check("a: |\n  x\n  y\n", json!({"a": "x\ny\n"}));
        check(
            "x: &x {a: 1}\ny: {<<: *x, b: 2}",
            json!({"x": {"a": 1}, "y": {"a": 1, "b": 2}}),
        );
        check(r#"{"a": [1, "b"]}"#, json!({"a": [1, "b"]}));
        check("# only a comment\n", Value::Null);
        check("", Value::Null);
        check("---\na: 1", json!({"a": 1}));
        check("a: 2026-01-01", json!({"a": "2026-01-01"}));
        check("8080: a", json!({"8080": "a"}));
    }

    #[test]
    fn errors_name_the_line_of_the_file() {
        let error = parse(&Piece {
            index: 2,
            line: 10,
            text: "a: 1\nb: [1\nc: 2",
        })
        .unwrap_err();
        assert!(error.contains("line 1"), "{error}");
        let twice = read("a: 1\na: 2").unwrap_err();
        assert!(
            twice.contains("line 2") && twice.to_lowercase().contains("duplicate"),
            "{twice}"
        );
        assert!(!twice.contains('\n'), "one line for the log: {twice}");
    }

    #[test]
    fn the_last_of_two_fields_counts() {
        let read = |text| {
            parse_last_wins(&Piece {
                index: 1,
                line: 1,
                text,
            })
        };
        let (value, oddity) = read("a: {b: 1, c: 2}\na: {b: 3, b: 4}").expect("read");
        assert_eq!(value, json!({"a": {"b": 4}}));
        let oddity = oddity.expect("told").to_lowercase();
        assert!(oddity.contains("duplicate"), "{oddity}");
        assert_eq!(read("a: 1"), Ok((json!({"a": 1}), None)));
        assert!(read("a: 1\na: [").is_err());
    }
}
