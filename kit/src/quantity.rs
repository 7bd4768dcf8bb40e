//! Kubernetes quantities, read as a count of bytes: `4Mi`, `10M`, `4Ki`, `1e3`, `0`.

/// Why a text is not a quantity; `Display` is the text Kubernetes prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form number suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is fine, the suffix is no unit.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// What the suffix multiplies with: `10^decimal * 2^binary`.
#[derive(Clone, Copy)]
struct Scale {
    decimal: i64,
    binary: u32,
}

/// Reads a quantity. Fractions of a byte round away from zero and what exceeds 63 bits is cut to them, both as
/// Kubernetes does.
pub fn parse(text: &str) -> Result<i64, ParseError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number_end = unsigned
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(ParseError::Format);
    }
    let magnitude = magnitude(whole, fraction, parse_suffix(suffix)?);
    Ok(if negative { -magnitude } else { magnitude })
}

fn parse_suffix(suffix: &str) -> Result<Scale, ParseError> {
    let decimal = |decimal| Ok(Scale { decimal, binary: 0 });
    let binary = |binary| Ok(Scale { decimal: 0, binary });
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => decimal(parse_exponent(suffix)?),
    }
}

/// The value of `e3`, `E-3`, `e+3`.
fn parse_exponent(suffix: &str) -> Result<i64, ParseError> {
    const LETTERS: &str = "eEinumkKMGTP";
    if let Some(exponent) = suffix.strip_prefix(['e', 'E'])
        && let Ok(exponent) = exponent.parse::<i32>()
    {
        return Ok(i64::from(exponent));
    }
    let rest = suffix.trim_start_matches(|c| LETTERS.contains(c));
    let digits = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    let well_formed = digits.bytes().all(|byte| byte.is_ascii_digit());
    Err(if well_formed {
        ParseError::Suffix
    } else {
        ParseError::Format
    })
}

/// `whole.fraction * scale`, rounded up and cut to 63 bits.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i64 {
    let digits: Vec<u128> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|digit| u128::from(digit - b'0'))
        .collect();
    let Some(first) = digits.iter().position(|digit| *digit != 0) else {
        return 0;
    };
    let digits = &digits[first..];
    // How many of the digits stand before the point once the decimal scale has moved it.
    let point = whole.len() as i64 - first as i64 + scale.decimal;
    if point > 20 {
        return i64::MAX;
    }
    let digit_at = |index: i64| {
        usize::try_from(index)
            .ok()
            .and_then(|index| digits.get(index))
            .copied()
            .unwrap_or(0)
    };
    let integer = (0..point).fold(0u128, |value, index| value * 10 + digit_at(index));
    let Some(bytes) = integer
        .checked_mul(1 << scale.binary)
        .filter(|bytes| *bytes <= i64::MAX as u128)
    else {
        return i64::MAX;
    };
    // 18 decimals times 2^60 stay below 2^120; digits after them can only decide whether to round up.
    const DECIMALS: i64 = 18;
    let part = (point..point + DECIMALS).fold(0u128, |value, index| value * 10 + digit_at(index))
        << scale.binary;
    let unit = 10u128.pow(DECIMALS as u32);
    let beyond = digits.len() as i64 > point + DECIMALS;
    let tail = usize::try_from(point + DECIMALS)
        .unwrap_or(0)
        .min(digits.len());
    let sticky = beyond && digits[tail..].iter().any(|digit| *digit != 0);
    let rounded = if !part.is_multiple_of(unit) || sticky {
        part / unit + 1
    } else {
        part / unit
    };
    i64::try_from(bytes + rounded).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ParseError, parse};

    #[track_caller]
    fn check(text: &str, expected: i64) {
        assert_eq!(parse(text), Ok(expected), "{text:?}");
    }

    #[test]
    fn parses_quantities() {
        check("0", 0);
        check("-0", 0);
        check("0.0", 0);
        check("4Mi", 4 << 20);
        check("4Ki", 4096);
        check("10M", 10_000_000);
        check("1e3", 1000);
        check("1E3", 1000);
        check("1E", 1_000_000_000_000_000_000);
        check("9.2E", 9_200_000_000_000_000_000);
        check("1e-1", 1);
        check("1.5Ki", 1536);
        check("0.5", 1);
        check(".5k", 500);
        check("5.", 5);
        check("100m", 1);
        check("1500m", 2);
        check("1n", 1);
        check("-1.5", -2);
        check("+2G", 2_000_000_000);
        check("007", 7);
        check("0.0000000000000000000000000001", 1);
        check("0.1Ei", 115_292_150_460_684_698);
        check("9223372036854775807", i64::MAX);
        check("9223372036854775808", i64::MAX);
        check("16Ei", i64::MAX);
        check("1e2147483647", i64::MAX);
        check("-1e100", -i64::MAX);
        check("1e-2147483648", 1);
        check("0e2147483647", 0);
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "", "-", ".", "Mi", "1.2.3", "1 Mi", "4\u{b5}", "--1", "1_000",
        ] {
            assert_eq!(parse(text), Err(ParseError::Format), "{text:?}");
        }
        for text in ["1K", "4mi", "1KiB", "4MiMi", "1e", "1e9999999999", "4Mi3"] {
            let error = parse(text).expect_err(text);
            let expected = if text == "1KiB" {
                ParseError::Format
            } else {
                ParseError::Suffix
            };
            // A lone `e` is the exponent sign without an exponent.
            assert_eq!(error, expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_themselves(value in 0..=i64::MAX) {
            prop_assert_eq!(parse(&value.to_string()), Ok(value));
            prop_assert_eq!(parse(&format!("-{value}")), Ok(-value));
        }

        #[test]
        fn binary_suffixes_multiply(value in 0..(1i64 << 23)) {
            prop_assert_eq!(parse(&format!("{value}Ti")), Ok(value << 40));
        }

        #[test]
        fn no_text_panics(text in "\\PC*", near in "[-+]?[0-9]{0,40}\\.?[0-9]{0,40}([kKMGTPEnum]i?|[eE][-+]?[0-9]{0,11})?") {
            for text in [text, near] {
                prop_assert!(!matches!(parse(&text), Ok(i64::MIN)));
            }
        }
    }
}
