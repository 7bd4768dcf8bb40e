//! Times as rows may hold them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, fmt::temporal::DateTimeParser};

/// Reads a time with or without fraction, zone offset, `T` or time of day; UTC unless it says otherwise.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    const PARSER: DateTimeParser = DateTimeParser::new();
    if let Ok(timestamp) = PARSER.parse_timestamp(text) {
        return Some(timestamp);
    }
    let without_zone: DateTime = PARSER
        .parse_datetime(text.strip_suffix('Z').unwrap_or(text))
        .ok()?;
    TimeZone::UTC.to_timestamp(without_zone).ok()
}

/// RFC 3339 in UTC with whole seconds.
pub(super) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse(text).map(rfc3339).as_deref(), expected, "{text}");
        };
        check("2099-01-02 03:04:05", Some("2099-01-02T03:04:05Z"));
        check(
            "2099-01-02 03:04:05.987654321",
            Some("2099-01-02T03:04:05Z"),
        );
        check("2099-01-02 03:04:05+02:00", Some("2099-01-02T01:04:05Z"));
        check("2099-01-02 03:04:05.5-01:30", Some("2099-01-02T04:34:05Z"));
        check("2099-01-02T03:04:05Z", Some("2099-01-02T03:04:05Z"));
        check("2099-01-02T03:04:05.25+01:00", Some("2099-01-02T02:04:05Z"));
        check("2099-01-02T03:04:05", Some("2099-01-02T03:04:05Z"));
        check("2099-01-02 03:04", Some("2099-01-02T03:04:00Z"));
        check("2099-01-02", Some("2099-01-02T00:00:00Z"));
        check("tomorrow", None);
        check("", None);
        check("2099-13-45", None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9TZ:. +-]{0,40}|.*") {
            if let Some(time) = parse(&text) {
                prop_assert!(parse(&rfc3339(time)).is_some() || time < Timestamp::UNIX_EPOCH);
            }
        }
    }
}
