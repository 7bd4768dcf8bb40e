//! Go's duration notation, as resources and metadata write durations.

use std::time::Duration;

/// Why a text is not a duration; reads as Go says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the notation at all.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit Go does not know.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// A duration with its sign: Go's durations may be negative, ours may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// Whether the text started with `-` and is not zero.
    pub negative: bool,
    /// Absolute value.
    pub magnitude: Duration,
}

/// Most nanoseconds a Go duration holds.
const LIMIT: u128 = i64::MAX as u128;

/// Parses Go's notation: `1h30m`, `1.5s`, `-2ms`, `0`.
pub fn parse(text: &str) -> Result<Signed, Error> {
    let invalid = || Error::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Signed {
            negative: false,
            magnitude: Duration::ZERO,
        });
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanos, tail) = component(rest, text)?;
        total += nanos;
        if total > LIMIT {
            return Err(invalid());
        }
        rest = tail;
    }
    let nanos = u64::try_from(total).map_err(|_| invalid())?;
    Ok(Signed {
        negative: negative && nanos > 0,
        magnitude: Duration::from_nanos(nanos),
    })
}

/// Parses what resources take: an integer is milliseconds, everything else Go's notation; negative is zero.
pub fn millis_or_go(text: &str) -> Result<Duration, Error> {
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
    }
    let parsed = parse(text)?;
    Ok(if parsed.negative {
        Duration::ZERO
    } else {
        parsed.magnitude
    })
}

/// The nanoseconds of the first `<number><unit>` of `rest`, and what follows it.
fn component<'a>(rest: &'a str, text: &str) -> Result<(u128, &'a str), Error> {
    let invalid = || Error::Invalid(text.to_owned());
    let whole_end = end_of_digits(rest);
    let (whole, mut tail) = rest.split_at(whole_end);
    let mut fraction = "";
    if let Some(after) = tail.strip_prefix('.') {
        let end = end_of_digits(after);
        (fraction, tail) = after.split_at(end);
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_end = tail
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(unit_end);
    if unit.is_empty() {
        return Err(Error::MissingUnit(text.to_owned()));
    }
    let scale = scale(unit).ok_or_else(|| Error::UnknownUnit {
        unit: unit.to_owned(),
        text: text.to_owned(),
    })?;
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| invalid())?
    };
    let nanos = whole
        .checked_mul(scale)
        .filter(|nanos| *nanos <= LIMIT)
        .ok_or_else(invalid)?;
    Ok((nanos + fraction_nanos(fraction, scale), tail))
}

fn end_of_digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len())
}

/// `0.<digits> * scale`, rounded down.
fn fraction_nanos(digits: &str, scale: u128) -> u128 {
    // Eighteen digits are below a nanosecond for every unit; more cannot change the result.
    let digits = &digits[..digits.len().min(18)];
    let mut value: u128 = 0;
    let mut power: u128 = 1;
    for digit in digits.bytes() {
        value = value * 10 + u128::from(digit - b'0');
        power *= 10;
    }
    value * scale / power
}

fn scale(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_durations() {
        let check = |text: &str, nanos: i128| {
            let signed = parse(text).expect(text);
            let magnitude = i128::try_from(signed.magnitude.as_nanos()).expect("fits");
            assert_eq!(
                if signed.negative {
                    -magnitude
                } else {
                    magnitude
                },
                nanos,
                "{text}"
            );
        };
        check("0", 0);
        check("-0", 0);
        check("5s", 5_000_000_000);
        check("1h30m", 5_400_000_000_000);
        check("1.5s", 1_500_000_000);
        check(".5s", 500_000_000);
        check("1.s", 1_000_000_000);
        check("-2ms", -2_000_000);
        check("+3us", 3_000);
        check("3µs", 3_000);
        check("0.3333333333333333333h", 1_199_999_999_999);
    }

    #[test]
    fn wrong_texts_read_as_in_go() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        };
        check("", "time: invalid duration \"\"");
        check("soon", "time: invalid duration \"soon\"");
        check("5", "time: missing unit in duration \"5\"");
        check("5x", "time: unknown unit \"x\" in duration \"5x\"");
        check("9999999h", "time: invalid duration \"9999999h\"");
        check(".s", "time: invalid duration \".s\"");
    }

    #[test]
    fn bare_numbers_are_milliseconds() {
        assert_eq!(millis_or_go("250"), Ok(Duration::from_millis(250)));
        assert_eq!(millis_or_go("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(millis_or_go("-5"), Ok(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            drop(parse(&text));
        }

        #[test]
        fn whole_units_add_up(hours in 0u64..1000, minutes in 0u64..1000, millis in 0u64..1_000_000) {
            let text = format!("{hours}h{minutes}m{millis}ms");
            let expected = Duration::from_millis(hours * 3_600_000 + minutes * 60_000 + millis);
            prop_assert_eq!(parse(&text).map(|signed| signed.magnitude), Ok(expected));
        }
    }
}
