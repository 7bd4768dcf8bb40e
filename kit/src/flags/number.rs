//! Numbers and booleans in the grammar of Go's `strconv`, with its error texts.

use std::num::IntErrorKind;

/// Why a text is not a number; `Display` is what Go prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strconv.{function}: parsing {text:?}: {reason}")]
pub struct IntError {
    function: &'static str,
    text: String,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("invalid syntax")]
    Syntax,
    #[error("value out of range")]
    Range,
}

impl IntError {
    fn new(function: &'static str, text: &str, reason: Reason) -> Self {
        Self {
            function,
            text: text.to_owned(),
            reason,
        }
    }
}

/// Why a text is not a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number.
    #[error(transparent)]
    Number(#[from] IntError),
    /// A number that is no port.
    #[error("port {0} is not between 0 and 65535")]
    Range(i64),
}

/// Reads a decimal number, as Go's `strconv.Atoi`.
pub fn atoi(text: &str) -> Result<i64, IntError> {
    decimal(text).map_err(|reason| IntError::new("Atoi", text, reason))
}

/// Reads a port that is given as a string flag.
pub fn port(text: &str) -> Result<u16, PortError> {
    let number = atoi(text)?;
    u16::try_from(number).map_err(|_| PortError::Range(number))
}

/// Reads an integer flag: decimal, or with the prefixes `0x`, `0o`, `0`, `0b` and `_` between digits.
pub fn int<T: TryFrom<i64>>(text: &str) -> Result<T, IntError> {
    let (sign, rest) = split_sign(text);
    let magnitude = match prefixed(rest) {
        Err(reason) => Err(reason),
        Ok(digits) => {
            i128::from_str_radix(&digits.0, digits.1).map_err(|error| reason(error.kind()))
        }
    };
    magnitude
        .and_then(|magnitude| i64::try_from(sign * magnitude).map_err(|_| Reason::Range))
        .and_then(|number| T::try_from(number).map_err(|_| Reason::Range))
        .map_err(|reason| IntError::new("ParseInt", text, reason))
}

/// Reads an unsigned integer flag in the grammar of [`int`], without a sign.
pub fn uint<T: TryFrom<u64>>(text: &str) -> Result<T, IntError> {
    prefixed(text)
        .and_then(|digits| {
            u64::from_str_radix(&digits.0, digits.1).map_err(|error| reason(error.kind()))
        })
        .and_then(|number| T::try_from(number).map_err(|_| Reason::Range))
        .map_err(|reason| IntError::new("ParseUint", text, reason))
}

/// Reads a boolean flag's value: `1 t T true True TRUE` and `0 f F false False FALSE`.
pub fn boolean(text: &str) -> Result<bool, IntError> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(IntError::new("ParseBool", text, Reason::Syntax)),
    }
}

fn decimal(text: &str) -> Result<i64, Reason> {
    text.parse::<i64>().map_err(|error| reason(error.kind()))
}

fn reason(kind: &IntErrorKind) -> Reason {
    match kind {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => Reason::Range,
        _ => Reason::Syntax,
    }
}

fn split_sign(text: &str) -> (i128, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    }
}

/// The digits without prefix and underscores, and their radix.
fn prefixed(text: &str) -> Result<(String, u32), Reason> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = if let Some(digits) = lower.strip_prefix("0x") {
        (digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (digits, 2)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (digits, 8)
    } else if let Some(digits) = lower.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        (digits, 8)
    } else {
        (lower.as_str(), 10)
    };
    // An underscore stands between two digits, or between the prefix and a digit.
    let between = radix != 10;
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !between);
    if misplaced || digits.is_empty() || digits.starts_with(['+', '-']) {
        return Err(Reason::Syntax);
    }
    Ok((digits.replace('_', ""), radix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_int(text: &str, expected: Result<i32, &str>) {
        assert_eq!(
            int::<i32>(text).map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{text:?}"
        );
    }

    #[test]
    fn integers() {
        check_int("0", Ok(0));
        check_int("-1", Ok(-1));
        check_int("+7", Ok(7));
        check_int("0x1F", Ok(31));
        check_int("-0b101", Ok(-5));
        check_int("010", Ok(8));
        check_int("0o10", Ok(8));
        check_int("1_000", Ok(1000));
        check_int("0x_1", Ok(1));
        check_int("2147483647", Ok(i32::MAX));
        check_int(
            "2147483648",
            Err(r#"strconv.ParseInt: parsing "2147483648": value out of range"#),
        );
        check_int(
            "99999999999999999999",
            Err(r#"strconv.ParseInt: parsing "99999999999999999999": value out of range"#),
        );
        for text in [
            "", "-", "x", "1x", "1.5", "08", "--1", "+-1", "_1", "1_", "1__0", "0x", " 1",
        ] {
            check_int(
                text,
                Err(&format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                )),
            );
        }
    }

    #[test]
    fn unsigned_integers() {
        assert_eq!(uint::<u32>("3"), Ok(3));
        assert_eq!(uint::<u32>("0x10"), Ok(16));
        assert_eq!(
            uint::<u32>("-1").expect_err("sign").to_string(),
            r#"strconv.ParseUint: parsing "-1": invalid syntax"#
        );
        assert_eq!(
            uint::<u8>("256").expect_err("large").to_string(),
            r#"strconv.ParseUint: parsing "256": value out of range"#
        );
    }

    #[test]
    fn ports() {
        assert_eq!(port("3500"), Ok(3500));
        assert_eq!(port("0"), Ok(0));
        assert_eq!(
            port("abc").expect_err("no number").to_string(),
            r#"strconv.Atoi: parsing "abc": invalid syntax"#
        );
        assert_eq!(
            port("").expect_err("empty").to_string(),
            r#"strconv.Atoi: parsing "": invalid syntax"#
        );
        assert_eq!(
            port("65536").expect_err("large").to_string(),
            "port 65536 is not between 0 and 65535"
        );
        assert_eq!(port("-1"), Err(PortError::Range(-1)));
    }

    #[test]
    fn booleans() {
        for yes in ["1", "t", "T", "true", "True", "TRUE"] {
            assert_eq!(boolean(yes), Ok(true));
        }
        for no in ["0", "f", "F", "false", "False", "FALSE"] {
            assert_eq!(boolean(no), Ok(false));
        }
        for text in ["", "yes", "tRue", "2"] {
            let error = boolean(text).expect_err("not a boolean").to_string();
            assert_eq!(
                error,
                format!("strconv.ParseBool: parsing {text:?}: invalid syntax")
            );
        }
    }

    proptest! {
        #[test]
        fn decimal_numbers_are_themselves(number: i64) {
            let text = number.to_string();
            prop_assert_eq!(int::<i64>(&text), Ok(number));
            prop_assert_eq!(atoi(&text), Ok(number));
        }

        #[test]
        fn no_text_panics(text in "\\PC*", near in "[-+]?0?[xXbBoO]?[0-9a-f_]{0,40}") {
            for text in [text, near] {
                drop((int::<i32>(&text), uint::<u16>(&text), atoi(&text), port(&text), boolean(&text)));
            }
        }
    }
}
