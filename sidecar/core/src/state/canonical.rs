//! JSON text as upstream re-serialises it: compact, keys sorted, `<`, `>` and `&` escaped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting accepted, the limit of the JSON parser itself.
const MAX_DEPTH: usize = 127;

/// What becomes of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Kept,
    /// As Go writes 64-bit floats; those that would lose digits are kept.
    Floats,
}

/// Re-serialises the JSON text `raw` as Go does: no white space, object keys sorted (the last of equal ones
/// wins), HTML characters escaped, the text of numbers kept.
pub fn canonical_json(raw: &str) -> Result<Bytes, serde_json::Error> {
    canonical(raw, Numbers::Kept)
}

/// The same with numbers spelled as Go spells 64-bit floats, which it decodes them to: `1.50` becomes `1.5`, `1e3`
/// becomes `1000`. Where a float does not hold all digits, the text is kept.
///
/// # Errors
/// It is no JSON, or has a number that is too large for a float.
pub fn canonical_value(raw: &str) -> Result<Bytes, serde_json::Error> {
    canonical(raw, Numbers::Floats)
}

fn canonical(raw: &str, numbers: Numbers) -> Result<Bytes, serde_json::Error> {
    let value: &RawValue = serde_json::from_str(raw)?;
    let mut out = Vec::with_capacity(value.get().len());
    write_value(value.get(), numbers, MAX_DEPTH, &mut out)?;
    Ok(out.into())
}

/// Appends `text` as a JSON string, escaped as Go escapes.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        let Some((escape, length)) = escape(bytes, index) else {
            index += 1;
            continue;
        };
        out.extend_from_slice(&bytes[plain..index]);
        out.extend_from_slice(escape.as_bytes());
        index += length;
        plain = index;
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// What the character at `index` becomes and how many bytes it has, when it cannot stay.
fn escape(bytes: &[u8], index: usize) -> Option<(Cow<'static, str>, usize)> {
    let escape = match bytes[index] {
        b'"' => "\\\"".into(),
        b'\\' => "\\\\".into(),
        b'\n' => "\\n".into(),
        b'\r' => "\\r".into(),
        b'\t' => "\\t".into(),
        0x08 => "\\b".into(),
        0x0c => "\\f".into(),
        byte @ (0x00..=0x1f | b'<' | b'>' | b'&') => format!("\\u{byte:04x}").into(),
        // U+2028 and U+2029 end lines in JavaScript.
        0xe2 if bytes.get(index + 1) == Some(&0x80) => match bytes.get(index + 2) {
            Some(0xa8) => return Some(("\\u2028".into(), 3)),
            Some(0xa9) => return Some(("\\u2029".into(), 3)),
            _ => return None,
        },
        _ => return None,
    };
    Some((escape, 1))
}

/// Appends a JSON value in the form of [`canonical_json`].
pub(crate) fn write_raw(raw: &RawValue, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    write_value(raw.get(), Numbers::Kept, MAX_DEPTH, out)
}

fn write_value(
    raw: &str,
    numbers: Numbers,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    match raw.as_bytes().first() {
        Some(b'{') => write_object(raw, numbers, below(depth)?, out)?,
        Some(b'[') => write_array(raw, numbers, below(depth)?, out)?,
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(raw)?.0;
            write_string(&text, out);
        }
        Some(b'-' | b'0'..=b'9') if numbers == Numbers::Floats => {
            let float = as_float(raw)?;
            out.extend_from_slice(float.as_deref().unwrap_or(raw).as_bytes());
        }
        _ => out.extend_from_slice(raw.as_bytes()),
    }
    Ok(())
}

fn below(depth: usize) -> Result<usize, serde_json::Error> {
    depth
        .checked_sub(1)
        .ok_or_else(|| serde_json::Error::custom("exceeded max depth"))
}

fn write_object(
    raw: &str,
    numbers: Numbers,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let members: BTreeMap<Text<'_>, &RawValue> = serde_json::from_str(raw)?;
    out.push(b'{');
    for (index, (key, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(&key.0, out);
        out.push(b':');
        write_value(value.get(), numbers, depth, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_array(
    raw: &str,
    numbers: Numbers,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_str(raw)?;
    out.push(b'[');
    for (index, value) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(value.get(), numbers, depth, out)?;
    }
    out.push(b']');
    Ok(())
}

/// A JSON number as Go writes the 64-bit float it stands for; `None` where it stays as it is.
fn as_float(raw: &str) -> Result<Option<String>, serde_json::Error> {
    /// Whole numbers of so many digits are floats, and spelled the same.
    const EXACT: usize = 15;
    if raw.len() <= EXACT && !raw.contains(['.', 'e', 'E']) {
        return Ok(None);
    }
    let Ok(float) = raw.parse::<f64>() else {
        return Ok(None);
    };
    if float.is_infinite() {
        let text = format!("cannot unmarshal number {raw} into Go value of type float64");
        return Err(serde_json::Error::custom(text));
    }
    let size = float.abs();
    let written = if float != 0.0 && !(1e-6..1e21).contains(&size) {
        let written = format!("{float:e}");
        if size < 1.0 {
            written
        } else {
            written.replace('e', "e+")
        }
    } else {
        float.to_string()
    };
    let digits = decimal(raw);
    let is_same = digits.is_some() && digits == decimal(&written);
    Ok(is_same.then_some(written))
}

/// Digits without zeros at either end, and the power of ten of the last of them. The sign is not part of it.
fn decimal(number: &str) -> Option<(String, i64)> {
    let number = number.trim_start_matches('-');
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
        None => (number, 0i64),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let trimmed = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - trimmed.len()).ok()?;
    let fraction = i64::try_from(fraction.len()).ok()?;
    let digits = trimmed.trim_start_matches('0').to_owned();
    if digits.is_empty() {
        return Some((digits, 0));
    }
    let exponent = exponent.checked_sub(fraction)?.checked_add(zeros)?;
    Some((digits, exponent))
}

/// A JSON string that borrows where nothing is escaped.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Characters;

        impl<'de> Visitor<'de> for Characters {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Text<'de>, E> {
                let text = std::str::from_utf8(bytes).map(Cow::Borrowed);
                Ok(Text(text.unwrap_or_else(|_| Cow::Owned(repaired(bytes)))))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(repaired(bytes))))
            }
        }

        // The parser refuses lone surrogates in texts, but hands them out as bytes.
        deserializer.deserialize_bytes(Characters)
    }
}

/// A string of valid JSON, with each lone surrogate as the replacement character, as Go reads it.
fn repaired(bytes: &[u8]) -> String {
    /// Bytes of a surrogate that is encoded like a character.
    const SURROGATE: usize = 3;
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Err(error) = std::str::from_utf8(rest) {
        let (valid, after) = rest.split_at(error.valid_up_to());
        text.push_str(&String::from_utf8_lossy(valid));
        text.push(char::REPLACEMENT_CHARACTER);
        rest = after.get(SURROGATE..).unwrap_or_default();
    }
    text.push_str(&String::from_utf8_lossy(rest));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_go_writes_it() {
        let check = |raw: &str, expected: &str| {
            let bytes = canonical_json(raw).expect(raw);
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{raw}");
        };
        check(
            r#" {"b" : 1, "a": [1.0, 1e6, null ] } "#,
            r#"{"a":[1.0,1e6,null],"b":1}"#,
        );
        check(r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
        check(r#""<&>""#, r#""\u003c\u0026\u003e""#);
        check(r#""ä\/""#, r#""ä/""#);
        check("\"\\u2028\\n\"", "\"\\u2028\\n\"");
        check("12345678901234567890123", "12345678901234567890123");
        check("true", "true");
        check("{}", "{}");
        check("[ ]", "[]");
    }

    #[test]
    fn numbers_as_go_writes_floats() {
        let check = |raw: &str, expected: &str| {
            let bytes = canonical_value(raw).expect(raw);
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{raw}");
        };
        check("1.0", "1");
        check("1.50", "1.5");
        check("1e3", "1000");
        check("1E-7", "1e-7");
        check("0.0000010", "0.000001");
        check("0.00000015", "1.5e-7");
        check("1e-10", "1e-10");
        check("1e20", "100000000000000000000");
        check("1e21", "1e+21");
        check("123e25", "1.23e+27");
        check("-0.0", "-0");
        check("-0", "-0");
        check("0e9", "0");
        check("-12.500", "-12.5");
        check("0.1", "0.1");
        check("9007199254740992", "9007199254740992");
        check("1e23", "1e+23");
        check("5e-324", "5e-324");
        check(
            r#"{"b":[1.0,{"c":2.50}],"a":1E2}"#,
            r#"{"a":100,"b":[1,{"c":2.5}]}"#,
        );
        // A float would not hold these.
        for raw in [
            "9007199254740993",
            "12345678901234567890",
            "0.1000000000000000055511151231257827",
            "1e-400",
            "1.00000000000000000000000001",
        ] {
            check(raw, raw);
        }
        // Go has no float for these at all.
        for raw in ["1e400", "-1e400", "[1e99999999999999999999]"] {
            let error = canonical_value(raw).expect_err(raw).to_string();
            assert!(error.contains("into Go value of type float64"), "{error}");
        }
    }

    /// JavaScript writes half of a cut emoji as an escape of its own.
    #[test]
    fn lone_surrogates_become_replacement_characters() {
        let check = |raw: &str, expected: &str| {
            let bytes = canonical_json(raw).expect(raw);
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{raw}");
        };
        check(r#""a\ud83d""#, "\"a\u{fffd}\"");
        check(r#""\udc00\ud800b<""#, "\"\u{fffd}\u{fffd}b\\u003c\"");
        check(
            r#"{"\ud800":["\ud83d\ude00"]}"#,
            "{\"\u{fffd}\":[\"\u{1f600}\"]}",
        );
    }

    #[test]
    fn not_json() {
        for raw in ["", "{", "nul", "{\"a\":}", "1 2", "\"\u{1}\"", "[\"\n\"]"] {
            assert!(canonical_json(raw).is_err(), "{raw}");
        }
        assert!(canonical_json(&"[".repeat(100_000)).is_err());
        let deep = "[".repeat(500) + &"]".repeat(500);
        assert!(canonical_json(&deep).is_err());
    }

    proptest! {
        #[test]
        fn strings_survive(text in ".{0,60}") {
            let raw = serde_json::to_string(&text).expect("a string");
            let bytes = canonical_json(&raw).expect("valid");
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).expect("valid"), text);
        }

        #[test]
        fn never_panics(raw in ".{0,60}") {
            drop(canonical_json(&raw));
        }

        #[test]
        fn numbers_keep_their_value(raw in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,9})?([eE][-+]?[0-9]{1,3})?") {
            let is_float = raw.parse().is_ok_and(f64::is_finite);
            prop_assert_eq!(canonical_value(&raw).is_ok(), is_float);
            prop_assume!(is_float);
            let bytes = canonical_value(&raw).expect("a float");
            let written = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(decimal(&raw), decimal(&written));
            prop_assert_eq!(raw.starts_with('-'), written.starts_with('-'));
            prop_assert_eq!(canonical_value(&written).expect("valid"), bytes.clone());
        }

        #[test]
        fn idempotent(keys in proptest::collection::btree_map("[a-c<\"]{0,4}", 0u32..9, 0..5)) {
            let raw = serde_json::to_string(&keys).expect("a map");
            let once = canonical_json(&raw).expect("valid");
            let twice = canonical_json(std::str::from_utf8(&once).expect("text")).expect("valid");
            prop_assert_eq!(once, twice);
        }
    }
}
