//! Kubernetes quantities such as `4Mi`, `200m` or `1e3`, with the meaning and the limits the API machinery
//! gives them.

use std::fmt;
use std::str::FromStr;

/// Digits after the point that are kept; what is finer rounds away from zero.
const SCALE: u32 = 9;
const NANO: i128 = 10_i128.pow(SCALE);
/// Largest size in billionths: quantities saturate at the largest 64-bit integer.
const MAX: i128 = i64::MAX as i128 * NANO;

/// An amount with the way it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    billionths: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The number is missing or malformed.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The unit is not one of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// The amount as an integer (bytes, for sizes), rounded away from zero.
    pub fn value(&self) -> i64 {
        let (whole, rest) = (self.billionths / NANO, self.billionths % NANO);
        let rounded = whole + rest.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (is_negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(Error::Format);
        }
        let (format, factor) = parse_suffix(suffix)?;
        let size = scaled(whole, fraction, factor);
        Ok(Self {
            billionths: if is_negative { -size } else { size },
            format,
        })
    }
}

/// What a unit multiplies with.
#[derive(Debug, Clone, Copy)]
enum Factor {
    PowerOf2(u32),
    PowerOf10(i32),
}

fn parse_suffix(suffix: &str) -> Result<(Format, Factor), Error> {
    let (format, factor) = match suffix {
        "" => (Format::Decimal, Factor::PowerOf10(0)),
        "n" => (Format::Decimal, Factor::PowerOf10(-9)),
        "u" => (Format::Decimal, Factor::PowerOf10(-6)),
        "m" => (Format::Decimal, Factor::PowerOf10(-3)),
        "k" => (Format::Decimal, Factor::PowerOf10(3)),
        "M" => (Format::Decimal, Factor::PowerOf10(6)),
        "G" => (Format::Decimal, Factor::PowerOf10(9)),
        "T" => (Format::Decimal, Factor::PowerOf10(12)),
        "P" => (Format::Decimal, Factor::PowerOf10(15)),
        "E" => (Format::Decimal, Factor::PowerOf10(18)),
        "Ki" => (Format::Binary, Factor::PowerOf2(10)),
        "Mi" => (Format::Binary, Factor::PowerOf2(20)),
        "Gi" => (Format::Binary, Factor::PowerOf2(30)),
        "Ti" => (Format::Binary, Factor::PowerOf2(40)),
        "Pi" => (Format::Binary, Factor::PowerOf2(50)),
        "Ei" => (Format::Binary, Factor::PowerOf2(60)),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
            let exponent: i32 = exponent.parse().map_err(|_| Error::Suffix)?;
            (Format::Exponent, Factor::PowerOf10(exponent))
        }
    };
    Ok((format, factor))
}

/// `whole.fraction × factor` in billionths, saturating, rounded up.
fn scaled(whole: &str, fraction: &str, factor: Factor) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let digits: String = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let point = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    match factor {
        Factor::PowerOf10(power) => shifted(digits, i64::from(power) + i64::from(SCALE) - point),
        Factor::PowerOf2(power) => {
            // Enough digits for every amount below the limit; more could only matter below a billionth.
            let kept = fraction.get(..18).unwrap_or(fraction);
            let (Ok(whole), Ok(part)) = (
                or_zero(whole).parse::<i128>(),
                or_zero(kept).parse::<i128>(),
            ) else {
                return MAX;
            };
            let unit = 10_i128.pow(u32::try_from(kept.len()).unwrap_or(0));
            // `part << power` fits: it is below 10^18 × 2^60. The remainder is made whole before it is scaled.
            let shifted = part << power;
            let (integer, rest) = (shifted / unit, shifted % unit);
            let below = (rest * NANO).div_euclid(unit)
                + i128::from((rest * NANO) % unit != 0 || kept.len() < fraction.len());
            let sum = whole
                .checked_mul(1 << power)
                .and_then(|whole| whole.checked_add(integer));
            sum.and_then(|sum| sum.checked_mul(NANO))
                .and_then(|sum| sum.checked_add(below))
                .map_or(MAX, |sum| sum.min(MAX))
        }
    }
}

fn or_zero(digits: &str) -> &str {
    if digits.is_empty() { "0" } else { digits }
}

/// A number of decimal digits times a power of ten, saturating, rounded up.
fn shifted(digits: &str, power: i64) -> i128 {
    let length = i64::try_from(digits.len())
        .unwrap_or(i64::MAX)
        .saturating_add(power);
    if length > 28 {
        return MAX; // i64::MAX in billionths has 28 digits.
    }
    if length <= 0 {
        return 1; // Smaller than a billionth, but not nothing.
    }
    let Ok(length) = usize::try_from(length) else {
        return MAX;
    };
    let kept = digits.get(..length).unwrap_or(digits);
    let rounds = digits.len() > length;
    let zeros = u32::try_from(length.saturating_sub(digits.len())).unwrap_or(0);
    let size = kept
        .parse::<i128>()
        .ok()
        .and_then(|number| number.checked_mul(10_i128.pow(zeros)));
    size.map_or(MAX, |size| (size + i128::from(rounds)).min(MAX))
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.billionths == 0 {
            return f.write_str("0");
        }
        let is_small = self.billionths.abs() < 1024 * NANO;
        let is_whole = self.billionths % NANO == 0;
        match self.format {
            Format::Binary if !is_small && is_whole => self.write_binary(f),
            Format::Binary | Format::Decimal => self.write_decimal(f, |power| match power {
                -9 => "n".to_owned(),
                -6 => "u".to_owned(),
                -3 => "m".to_owned(),
                3 => "k".to_owned(),
                6 => "M".to_owned(),
                9 => "G".to_owned(),
                12 => "T".to_owned(),
                15 => "P".to_owned(),
                18 => "E".to_owned(),
                _ => String::new(),
            }),
            Format::Exponent => self.write_decimal(f, |power| {
                if power == 0 {
                    String::new()
                } else {
                    format!("e{power}")
                }
            }),
        }
    }
}

impl Quantity {
    fn write_binary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mantissa = i128::from(self.value());
        let mut unit = 0;
        while mantissa % 1024 == 0 && unit < 6 {
            mantissa /= 1024;
            unit += 1;
        }
        write!(
            f,
            "{mantissa}{}",
            ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][unit]
        )
    }

    fn write_decimal(
        &self,
        f: &mut fmt::Formatter<'_>,
        suffix: impl Fn(i32) -> String,
    ) -> fmt::Result {
        let (mut mantissa, mut power) = (self.billionths, -9);
        while mantissa % 1000 == 0 && power < 18 {
            mantissa /= 1000;
            power += 3;
        }
        write!(f, "{mantissa}{}", suffix(power))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Error, Quantity};

    #[test]
    fn values_round_up_and_saturate() {
        let check = |text: &str, expected: i64| {
            assert_eq!(
                text.parse::<Quantity>().unwrap().value(),
                expected,
                "{text}"
            )
        };
        check("0", 0);
        check("4Mi", 4 << 20);
        check("4Ki", 4096);
        check("512Mi", 512 << 20);
        check("4M", 4_000_000);
        check("100", 100);
        check("+5", 5);
        check("-5", -5);
        check("200m", 1);
        check("-200m", -1);
        check("1500m", 2);
        check("0.5Gi", 1 << 29);
        check("1.5", 2);
        check(".5", 1);
        check("5.", 5);
        check("1e3", 1000);
        check("1E3", 1000);
        check("1E", 1_000_000_000_000_000_000);
        check("1e-3", 1);
        check("0.0000000001", 1);
        check("9Ei", i64::MAX);
        check("7Ei", 7 << 60);
        check("99999999999999999999999999999999999999999999", i64::MAX);
        check("-99999999999999999999", -i64::MAX);
        check("1e400", i64::MAX);
        check("1e-400", 1);
        check("0e99", 0);
        check("000001Ki", 1024);
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        let check = |text: &str, expected: Error| {
            assert_eq!(text.parse::<Quantity>(), Err(expected), "{text}")
        };
        check("", Error::Format);
        check("-", Error::Format);
        check("Mi", Error::Format);
        check("1.2.3", Error::Format);
        check(" 1", Error::Format);
        check("1 Mi", Error::Suffix);
        check("1MB", Error::Suffix);
        check("1mi", Error::Suffix);
        check("1K", Error::Suffix);
        check("1e", Error::Suffix);
        check("1e99999999999", Error::Suffix);
        check("4Mi ", Error::Suffix);
        check("1é", Error::Suffix);
    }

    #[test]
    fn the_canonical_form_uses_the_largest_unit() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                text.parse::<Quantity>().unwrap().to_string(),
                expected,
                "{text}"
            )
        };
        check("0", "0");
        check("0Mi", "0");
        check("200m", "200m");
        check("0.2", "200m");
        check("1000m", "1");
        check("1024Mi", "1Gi");
        check("512Mi", "512Mi");
        check("1536Mi", "1536Mi");
        check("0.5Gi", "512Mi");
        check("1Ki", "1Ki");
        check("0.5Ki", "512");
        check("1.1Gi", "1181116006400m");
        check("1000000", "1M");
        check("1500", "1500");
        check("1e3", "1e3");
        check("12e5", "1200e3");
        check("-2048Ki", "-2Mi");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let shown = quantity.to_string();
                prop_assert_eq!(shown.parse::<Quantity>().map(|again| again.value()), Ok(quantity.value()));
            }
        }

        #[test]
        fn nothing_shaped_like_a_quantity_panics(text in "[+-]?[0-9]{0,40}[.]?[0-9]{0,40}(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,4})?") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let shown = quantity.to_string();
                prop_assert_eq!(shown.parse::<Quantity>().map(|again| again.value()), Ok(quantity.value()), "{}", shown);
            }
        }

        #[test]
        fn plain_numbers_are_themselves(number in any::<i64>().prop_filter("saturates", |it| *it != i64::MIN)) {
            prop_assert_eq!(number.to_string().parse::<Quantity>().unwrap().value(), number);
        }
    }
}
