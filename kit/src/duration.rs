//! Durations as Go writes and reads them: `1h30m`, `500ms`, `1.5h`, `-2s`, `0`.
//!
//! Flags, resource files and API bodies carry this grammar. Limits are Go's as well: a duration is a signed
//! 64-bit count of nanoseconds, about 292 years either way.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

/// Why a text is not a Go duration; `Display` is the text Go prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form number unit, or out of range.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number stands without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// The text after a number is no unit.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// What stood where a unit was expected.
        unit: String,
        /// The whole text.
        text: String,
    },
}

const NANOSECOND: u64 = 1;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The magnitude of the smallest duration, one more than that of the largest.
const LIMIT: u64 = 1 << 63;

/// Reads a Go duration.
pub fn parse(text: &str) -> Result<SignedDuration, ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (term, after) = parse_term(rest, text)?;
        total = total
            .checked_add(term)
            .filter(|sum| *sum <= LIMIT)
            .ok_or_else(invalid)?;
        rest = after;
    }
    let nanos = if negative {
        0i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    };
    nanos.map(SignedDuration::from_nanos).ok_or_else(invalid)
}

/// Reads one `number unit` from the start of `rest`: its nanoseconds and what follows it.
fn parse_term<'a>(rest: &'a str, text: &str) -> Result<(u64, &'a str), ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let (whole_digits, after_whole) = split_digits(rest);
    let (fraction_digits, after_number) = match after_whole.strip_prefix('.') {
        Some(after_point) => split_digits(after_point),
        None => ("", after_whole),
    };
    if whole_digits.is_empty() && fraction_digits.is_empty() {
        return Err(invalid());
    }
    let whole = parse_whole(whole_digits).ok_or_else(invalid)?;
    let unit_end = after_number
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(after_number.len());
    let (unit_name, after) = after_number.split_at(unit_end);
    if unit_name.is_empty() {
        return Err(ParseError::MissingUnit(text.to_owned()));
    }
    let unit = unit_nanos(unit_name).ok_or_else(|| ParseError::UnknownUnit {
        unit: unit_name.to_owned(),
        text: text.to_owned(),
    })?;
    let nanos = whole
        .checked_mul(unit)
        .filter(|nanos| *nanos <= LIMIT)
        .and_then(|nanos| nanos.checked_add(fraction_nanos(fraction_digits, unit)))
        .filter(|nanos| *nanos <= LIMIT)
        .ok_or_else(invalid)?;
    Ok((nanos, after))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// The value of the digits before the point; `None` above the limit.
fn parse_whole(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .try_fold(0u64, |value, digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .filter(|value| *value <= LIMIT)
}

/// The part of `unit` the digits after the point make. Digits beyond 63 bits are dropped, not refused, and the
/// product is taken in floating point: both as Go does, so the last nanosecond agrees.
fn fraction_nanos(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes() {
        let Some(next) = value
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(digit - b'0')))
            .filter(|next| *next <= LIMIT)
        else {
            break;
        };
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

fn unit_nanos(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => NANOSECOND,
        // The micro sign and the Greek letter mu are two characters that look alike.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// Prints a duration as Go does: `1h30m0s`, `1.5s`, `500ms`, `0s`. What lies beyond Go's range is cut to it.
pub fn format(duration: SignedDuration) -> String {
    let nanos = duration
        .as_nanos()
        .clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = u64::try_from(nanos.unsigned_abs()).unwrap_or(LIMIT);
    let text = match nanos {
        0 => return "0s".to_owned(),
        1..MICROSECOND => format!("{nanos}ns"),
        MICROSECOND..MILLISECOND => decimal(nanos, MICROSECOND) + "\u{b5}s",
        MILLISECOND..SECOND => decimal(nanos, MILLISECOND) + "ms",
        SECOND.. => format_clock(nanos),
    };
    format!("{sign}{text}")
}

fn format_clock(nanos: u64) -> String {
    let seconds = decimal(nanos % MINUTE, SECOND);
    match (nanos / HOUR, nanos / MINUTE % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `nanos / unit` with as many decimals as needed.
fn decimal(nanos: u64, unit: u64) -> String {
    let whole = nanos / unit;
    let fraction = nanos % unit;
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Go's quoting of a text in a duration error: control and non-ASCII bytes as `\xNN`.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                quoted.push('\\');
                quoted.push(char::from(byte));
            }
            b' '..=b'~' | 0x7f => quoted.push(char::from(byte)),
            _ => {
                use fmt::Write as _;
                write!(quoted, "\\x{byte:02x}").expect("writing to a string cannot fail");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// A duration that is read and printed the Go way and is never negative; the type of duration flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// Why a text is not a [`GoDuration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoDurationError {
    /// Not a Go duration at all.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A time span below zero where only a length makes sense.
    #[error("duration {0} must not be negative")]
    Negative(String),
}

impl FromStr for GoDuration {
    type Err = GoDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration = parse(text)?;
        Duration::try_from(duration)
            .map(Self)
            .map_err(|_| GoDurationError::Negative(text.to_owned()))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(
            SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX),
        ))
    }
}

/// A duration flag that takes values below zero, too: what they mean is for its reader to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedGoDuration(SignedDuration);

impl SignedGoDuration {
    /// The length; `None` when it is zero or below.
    pub fn positive(self) -> Option<Duration> {
        let length = Duration::try_from(self.0).ok();
        length.filter(|length| !length.is_zero())
    }
}

impl FromStr for SignedGoDuration {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text).map(Self)
    }
}

impl fmt::Display for SignedGoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(self.0))
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Self {
        duration.0
    }
}

#[cfg(test)]
mod tests;
