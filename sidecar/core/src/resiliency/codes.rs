//! Lists of status codes in retry policies.

use std::ops::RangeInclusive;

/// Which kind of codes a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 100 to 599
    Http,
    /// 0 to 16
    Grpc,
}

impl Kind {
    fn bounds(self) -> RangeInclusive<i32> {
        match self {
            Self::Http => 100..=599,
            Self::Grpc => 0..=16,
        }
    }
}

/// A list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than one dash.
    #[error("invalid pattern {0}, more than one '-' exists")]
    Dashes(String),
    /// Not a number.
    #[error("invalid pattern {pattern}, {code:?} is not a number")]
    Number {
        /// The item.
        pattern: String,
        /// The part that is wrong.
        code: String,
    },
    /// A single code outside of the bounds.
    #[error("invalid pattern {pattern}, code {code} is not valid")]
    Code {
        /// The item.
        pattern: String,
        /// The code.
        code: i32,
    },
    /// The start of a range outside of the bounds.
    #[error("invalid pattern {pattern}, start code {code} is not valid")]
    Start {
        /// The item.
        pattern: String,
        /// The code.
        code: i32,
    },
    /// The end of a range outside of the bounds.
    #[error("invalid pattern {pattern}, end code {code} is not valid")]
    End {
        /// The item.
        pattern: String,
        /// The code.
        code: i32,
    },
    /// A range that runs backwards.
    #[error(
        "invalid pattern {pattern}, start code {start} should be less than or equal to end code {end}"
    )]
    Order {
        /// The item.
        pattern: String,
        /// Its start.
        start: i32,
        /// Its end.
        end: i32,
    },
}

/// A list of codes; an empty one has every code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Codes(Vec<RangeInclusive<i32>>);

impl Codes {
    /// Parses comma-separated codes and ranges `a-b`; empty items are skipped.
    pub fn parse(text: &str, kind: Kind) -> Result<Self, Error> {
        let ranges = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| range(item, kind));
        ranges.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `code` is listed.
    pub fn contains(&self, code: i32) -> bool {
        self.0.is_empty() || self.0.iter().any(|range| range.contains(&code))
    }
}

fn range(pattern: &str, kind: Kind) -> Result<RangeInclusive<i32>, Error> {
    let mut parts = pattern.split('-');
    let first = number(pattern, parts.next().unwrap_or_default())?;
    let pattern_text = || pattern.to_owned();
    let Some(last) = parts.next() else {
        if !kind.bounds().contains(&first) {
            return Err(Error::Code {
                pattern: pattern_text(),
                code: first,
            });
        }
        return Ok(first..=first);
    };
    if parts.next().is_some() {
        return Err(Error::Dashes(pattern_text()));
    }
    let last = number(pattern, last)?;
    if !kind.bounds().contains(&first) {
        return Err(Error::Start {
            pattern: pattern_text(),
            code: first,
        });
    }
    if !kind.bounds().contains(&last) {
        return Err(Error::End {
            pattern: pattern_text(),
            code: last,
        });
    }
    if first > last {
        return Err(Error::Order {
            pattern: pattern_text(),
            start: first,
            end: last,
        });
    }
    Ok(first..=last)
}

fn number(pattern: &str, code: &str) -> Result<i32, Error> {
    code.parse().map_err(|_| Error::Number {
        pattern: pattern.to_owned(),
        code: code.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists() {
        let codes = Codes::parse("429, 500-599,,", Kind::Http).expect("valid");
        assert!(codes.contains(429) && codes.contains(500) && codes.contains(599));
        assert!(!codes.contains(404));
        assert!(Codes::parse("", Kind::Grpc).expect("valid").contains(7));
        let codes = Codes::parse("1-4,8", Kind::Grpc).expect("valid");
        assert!(codes.contains(8) && !codes.contains(5));
    }

    #[test]
    fn wrong_lists_are_explained() {
        let check = |text: &str, kind: Kind, expected: &str| {
            assert_eq!(
                Codes::parse(text, kind).expect_err(text).to_string(),
                expected
            );
        };
        check(
            "1-2",
            Kind::Http,
            "invalid pattern 1-2, start code 1 is not valid",
        );
        check(
            "100-600",
            Kind::Http,
            "invalid pattern 100-600, end code 600 is not valid",
        );
        check("17", Kind::Grpc, "invalid pattern 17, code 17 is not valid");
        check(
            "1-2-3",
            Kind::Grpc,
            "invalid pattern 1-2-3, more than one '-' exists",
        );
        check(
            "4-2",
            Kind::Grpc,
            "invalid pattern 4-2, start code 4 should be less than or equal to end code 2",
        );
        check(
            "5 00",
            Kind::Http,
            "invalid pattern 5 00, \"5 00\" is not a number",
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9, -]{0,20}") {
            drop(Codes::parse(&text, Kind::Http));
        }

        #[test]
        fn ranges_hold_what_lies_between(start in 100i32..600, length in 0i32..100, code in 100i32..600) {
            let end = (start + length).min(599);
            let codes = Codes::parse(&format!("{start}-{end}"), Kind::Http).expect("valid");
            prop_assert_eq!(codes.contains(code), (start..=end).contains(&code));
        }
    }
}
