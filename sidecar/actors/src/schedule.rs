//! When a timer fires: the texts applications give, and the next fire after each. Pure: the present is an
//! argument.

use std::time::Duration;

use dapr_sidecar_core::duration;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

/// Fires that were missed and are made up for, the latest ones; those before are skipped. A timer may be due years ago.
const MISSED: u32 = 10;

const DAY: i64 = 24 * 60 * 60;

/// Why a schedule was refused. The texts go to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The due time is no time and no duration.
    #[error("error parsing timer due time: {0}")]
    DueTime(TimeError),
    /// The time to live is no time and no duration.
    #[error("error parsing timer TTL: {0}")]
    Ttl(TimeError),
    /// The period is no duration.
    #[error("invalid timer period: parse error: unsupported duration format: {0}")]
    Period(String),
    /// `R0/…`
    #[error("invalid timer period: has zero repetitions")]
    ZeroRepetitions,
    /// The time to live ends before the timer could fire.
    #[error("timer {key} has already expired: dueTime: {due_time} TTL: {ttl}")]
    Expired {
        /// `<type>||<id>||<name>`
        key: String,
        /// When it would have fired.
        due_time: Timestamp,
        /// When its life ends.
        ttl: Timestamp,
    },
}

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// None of the notations.
    #[error("unsupported time/duration format: {0}")]
    Unsupported(String),
    /// Repetitions stand where a single time is asked for.
    #[error("repetitions are not allowed")]
    Repetitions,
}

/// A span of the calendar and the clock, with its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    years: u32,
    months: u32,
    days: u64,
    clock: SignedDuration,
    /// Fires in all; `None` is without end.
    repeats: Option<u32>,
}

impl Interval {
    /// Whether time goes on with it: one of nothing, or of less, would fire without pause.
    fn is_forward(&self) -> bool {
        self.years > 0 || self.months > 0 || self.days > 0 || self.clock.is_positive()
    }

    /// How long it is, where that does not depend on the month.
    fn length(&self) -> Option<SignedDuration> {
        if self.years > 0 || self.months > 0 {
            return None;
        }
        let days = i64::try_from(self.days).ok()?.checked_mul(DAY)?;
        self.clock.checked_add(SignedDuration::from_secs(days))
    }

    /// This long after `time`; `None` beyond the calendar.
    fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let time = if self.years == 0 && self.months == 0 && self.days == 0 {
            time
        } else {
            let span = Span::new()
                .try_years(self.years)
                .and_then(|span| span.try_months(self.months))
                .and_then(|span| span.try_days(i64::try_from(self.days).unwrap_or(i64::MAX)))
                .ok()?;
            let zoned = time.to_zoned(TimeZone::UTC).checked_add(span).ok()?;
            zoned.timestamp()
        };
        time.checked_add(self.clock).ok()
    }
}

/// The fires of one timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    due: Timestamp,
    interval: Option<Interval>,
    /// Fires left, the next one included.
    left: Option<u32>,
    expires: Option<Timestamp>,
}

impl Schedule {
    /// Parses what an application gave; empty texts are absent. A due time in the past fires at once, the
    /// time to live counts from the due time.
    pub fn parse(
        key: &str,
        due_time: &str,
        period: &str,
        ttl: &str,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let due = if due_time.is_empty() {
            now
        } else {
            time(due_time, now).map_err(Error::DueTime)?
        };
        let interval = if period.is_empty() {
            None
        } else {
            Some(interval(period).ok_or_else(|| Error::Period(period.to_owned()))?)
        };
        if interval.is_some_and(|interval| interval.repeats == Some(0)) {
            return Err(Error::ZeroRepetitions);
        }
        let expires = if ttl.is_empty() {
            None
        } else {
            Some(time(ttl, due).map_err(Error::Ttl)?)
        };
        if let Some(ttl) = expires.filter(|ttl| *ttl < now || *ttl < due) {
            return Err(Error::Expired {
                key: key.to_owned(),
                due_time: due,
                ttl,
            });
        }
        Ok(Self {
            due,
            interval: interval.filter(Interval::is_forward),
            left: interval.map_or(Some(1), |interval| interval.repeats),
            expires,
        })
    }

    /// The next fire.
    pub fn due(&self) -> Timestamp {
        self.due
    }

    /// When the timer ends, if it has a time to live.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Whether its life ends before the first fire: a time to live of zero is taken, and nothing ever fires.
    pub fn is_over(&self) -> bool {
        self.expires.is_some_and(|expires| self.due >= expires)
    }

    /// The schedule after a fire: one period after the due time, not after the present. `None` at the end.
    pub fn advance(mut self, now: Timestamp) -> Option<Self> {
        self.step()?;
        self.skip(now)?;
        (!self.is_over()).then_some(self)
    }

    fn step(&mut self) -> Option<()> {
        let interval = self.interval?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return None;
            }
        }
        self.due = interval.after(self.due)?;
        Some(())
    }

    /// Leaves out what was missed but for the latest fires of it.
    fn skip(&mut self, now: Timestamp) -> Option<()> {
        let end = self.expires.map_or(now, |expires| expires.min(now));
        let Some(length) = self.interval?.length() else {
            return self.skip_months(end);
        };
        if self.due > end {
            return Some(());
        }
        let missed = end.duration_since(self.due).as_nanos() / length.as_nanos() + 1;
        let mut skipped = (missed - i128::from(MISSED)).max(0);
        if let Some(left) = &mut self.left {
            skipped = skipped.min(i128::from(left.saturating_sub(MISSED)));
            *left -= u32::try_from(skipped).ok()?;
        }
        let way = SignedDuration::try_from_nanos_i128(skipped.checked_mul(length.as_nanos())?)?;
        self.due = self.due.checked_add(way).ok()?;
        Some(())
    }

    /// The same one by one: months differ, but there are few of them.
    fn skip_months(&mut self, end: Timestamp) -> Option<()> {
        let mut ahead = self.clone();
        for _ in 0..MISSED {
            if ahead.step().is_none() {
                return Some(());
            }
        }
        while ahead.due <= end {
            self.step()?;
            if ahead.step().is_none() {
                break;
            }
        }
        Some(())
    }
}

/// A time: RFC 3339, or a duration counted from `base`.
fn time(text: &str, base: Timestamp) -> Result<Timestamp, TimeError> {
    if let Some(time) = rfc3339(text) {
        return Ok(time);
    }
    let unsupported = || TimeError::Unsupported(text.to_owned());
    let interval = interval(text).ok_or_else(unsupported)?;
    if interval.repeats.is_some() {
        return Err(TimeError::Repetitions);
    }
    interval.after(base).ok_or_else(unsupported)
}

/// A duration: Go's notation or ISO 8601, the latter with repetitions before it.
fn interval(text: &str) -> Option<Interval> {
    if let Ok(parsed) = duration::parse(text) {
        return Some(Interval {
            clock: signed(parsed),
            ..Interval::default()
        });
    }
    iso(text)
}

fn signed(parsed: duration::Signed) -> SignedDuration {
    let magnitude = SignedDuration::try_from(parsed.magnitude).unwrap_or(SignedDuration::MAX);
    if parsed.negative {
        -magnitude
    } else {
        magnitude
    }
}

/// Go takes the strict form only; the calendar library would take more.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let is_shaped = bytes.len() >= 20
        && shape.iter().all(|(place, byte)| bytes[*place] == *byte)
        && !bytes.contains(&b'[');
    if !is_shaped {
        return None;
    }
    text.parse().ok().or_else(|| last_day(text))
}

/// The library's calendar ends hours before the last moment people write for "never".
fn last_day(text: &str) -> Option<Timestamp> {
    let rest = text.strip_prefix("9999-12-3")?;
    let is_time = format!("9998-12-3{rest}").parse::<Timestamp>().is_ok();
    is_time.then_some(Timestamp::MAX)
}

/// `R<n>/P<y>Y<m>M<w>W<d>DT<h>H<m>M<s>S`; no fractions. Upstream takes repetitions alone (one fire), any order of
/// the units and their sum, and nothing behind the `T`.
fn iso(text: &str) -> Option<Interval> {
    let mut interval = Interval::default();
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('R') {
        let (count, tail) = after.split_once('/').unwrap_or((after, ""));
        interval.repeats = Some(digits(count)?);
        if tail.is_empty() {
            return Some(interval);
        }
        rest = tail;
    }
    let rest = rest.strip_prefix('P').filter(|rest| !rest.is_empty())?;
    let (date, clock) = rest.split_once('T').unwrap_or((rest, ""));
    let [years, months, weeks, days] = units(date, ['Y', 'M', 'W', 'D'])?;
    let [hours, minutes, seconds] = units(clock, ['H', 'M', 'S'])?;
    interval.years = years;
    interval.months = months;
    interval.days = u64::from(weeks) * 7 + u64::from(days);
    let seconds = u64::from(hours) * 3600 + u64::from(minutes) * 60 + u64::from(seconds);
    interval.clock = SignedDuration::try_from(Duration::from_secs(seconds)).ok()?;
    Some(interval)
}

/// The sums of the numbers before these units.
fn units<const N: usize>(text: &str, names: [char; N]) -> Option<[u32; N]> {
    let mut values = [0u32; N];
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let place = names
            .iter()
            .position(|name| rest[end..].starts_with(*name))?;
        values[place] = values[place].checked_add(digits(&rest[..end])?)?;
        rest = &rest[end + 1..];
    }
    Some(values)
}

fn digits(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-31T10:00:00Z".parse().expect("valid")
    }

    fn parse(due: &str, period: &str, ttl: &str) -> Result<Schedule, Error> {
        Schedule::parse("t||1||n", due, period, ttl, now())
    }

    fn fires(due: &str, period: &str, ttl: &str) -> Vec<String> {
        let mut next = Some(parse(due, period, ttl).expect("valid"));
        let mut fires = Vec::new();
        while let Some(schedule) = next {
            fires.push(schedule.due().to_string());
            if fires.len() == 4 {
                break;
            }
            next = schedule.advance(now());
        }
        fires
    }

    #[test]
    fn fires_of_a_schedule() {
        let check = |due: &str, period: &str, ttl: &str, expected: &[&str]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|time| format!("2026-{time}Z"))
                .collect();
            assert_eq!(fires(due, period, ttl), expected, "{due} {period} {ttl}");
        };
        check("", "", "", &["01-31T10:00:00"]);
        check("5s", "", "", &["01-31T10:00:05"]);
        check("-5s", "", "", &["01-31T09:59:55"]);
        check(
            "PT5S",
            "R2/PT10S",
            "",
            &["01-31T10:00:05", "01-31T10:00:15"],
        );
        check("2026-02-01T00:00:00+01:00", "", "", &["01-31T23:00:00"]);
        check(
            "10s",
            "10s",
            "25s",
            &["01-31T10:00:10", "01-31T10:00:20", "01-31T10:00:30"],
        );
        check(
            "",
            "1h",
            "2026-01-31T11:30:00Z",
            &["01-31T10:00:00", "01-31T11:00:00"],
        );
        check("", "R2/P1M", "", &["01-31T10:00:00", "02-28T10:00:00"]);
        check(
            "P1W",
            "R2/P1DT1H",
            "",
            &["02-07T10:00:00", "02-08T11:00:00"],
        );
        check("", "0s", "", &["01-31T10:00:00"]);
        check("", "-1s", "", &["01-31T10:00:00"]);
        check("-1h", "-1s", "", &["01-31T09:00:00"]);
        check("0h30m0s", "", "", &["01-31T10:30:00"]);
        check("PT", "R2", "", &["01-31T10:00:00"]);
        check("P1DT", "R2/", "", &["02-01T10:00:00"]);
        check("P1D1W", "", "", &["02-08T10:00:00"]);
        check("PT1S1H1S", "", "", &["01-31T11:00:02"]);
    }

    #[test]
    fn refused_texts() {
        let check = |due: &str, period: &str, ttl: &str, expected: &str| {
            let error = parse(due, period, ttl).expect_err("refused");
            assert_eq!(error.to_string(), expected, "{due} {period} {ttl}");
        };
        check(
            "soon",
            "",
            "",
            "error parsing timer due time: unsupported time/duration format: soon",
        );
        check(
            "PT0.3S",
            "",
            "",
            "error parsing timer due time: unsupported time/duration format: PT0.3S",
        );
        check(
            "P",
            "",
            "",
            "error parsing timer due time: unsupported time/duration format: P",
        );
        check(
            "PT1h",
            "",
            "",
            "error parsing timer due time: unsupported time/duration format: PT1h",
        );
        check(
            "P1D2",
            "",
            "",
            "error parsing timer due time: unsupported time/duration format: P1D2",
        );
        check(
            "R3",
            "",
            "",
            "error parsing timer due time: repetitions are not allowed",
        );
        check(
            "R3/PT1S",
            "",
            "",
            "error parsing timer due time: repetitions are not allowed",
        );
        check(
            "",
            "",
            "x",
            "error parsing timer TTL: unsupported time/duration format: x",
        );
        check(
            "",
            "x",
            "",
            "invalid timer period: parse error: unsupported duration format: x",
        );
        check(
            "",
            "R0/PT1S",
            "",
            "invalid timer period: has zero repetitions",
        );
        check(
            "",
            "1s",
            "2026-01-31T09:00:00Z",
            "timer t||1||n has already expired: dueTime: 2026-01-31T10:00:00Z TTL: 2026-01-31T09:00:00Z",
        );
        check(
            "1s",
            "1s",
            "-1s",
            "timer t||1||n has already expired: dueTime: 2026-01-31T10:00:01Z TTL: 2026-01-31T10:00:00Z",
        );
    }

    #[test]
    fn a_life_of_nothing_is_taken_and_over() {
        for (due, ttl) in [("", "0s"), ("1s", "PT0S"), ("1h", "0")] {
            assert!(
                parse(due, "1s", ttl).expect("valid").is_over(),
                "{due} {ttl}"
            );
        }
        assert!(!parse("1s", "1s", "1s").expect("valid").is_over());
    }

    #[test]
    fn the_calendar_ends() {
        for never in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9999999Z"] {
            let timer = parse("", "1h", never).expect("valid");
            assert_eq!(timer.expires(), Some(Timestamp::MAX), "{never}");
        }
        assert!(parse("9999-12-32T00:00:00Z", "", "").is_err());
        assert!(parse("P4000000000Y", "", "").is_err());
        let far = parse("9999-12-30T00:00:00Z", "P9000Y", "").expect("valid");
        assert_eq!(far.advance(now()), None);
    }

    #[test]
    fn of_many_missed_fires_the_latest_are_made_up_for() {
        let check = |due: &str, period: &str, ttl: &str, expected: &[&str]| {
            let mut next = Some(parse(due, period, ttl).expect("valid"));
            let mut missed = Vec::new();
            while let Some(schedule) = next.filter(|schedule| schedule.due() <= now()) {
                missed.push(schedule.due().to_string());
                next = schedule.advance(now());
            }
            let (first, rest) = missed.split_first().expect("fires at once");
            let given = parse(due, period, ttl).expect("valid").due();
            assert_eq!(*first, given.to_string(), "{due} {period} {ttl}");
            assert!(rest.len() <= 10, "{due} {period} {ttl}: {}", rest.len());
            let expected = expected.iter().map(|time| format!("{time}Z"));
            let ends: Vec<_> = [rest.first(), rest.last()]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            assert_eq!(ends, expected.collect::<Vec<_>>(), "{due} {period} {ttl}");
        };
        let (first, last) = ("2026-01-31T09:59:51", "2026-01-31T10:00:00");
        check("2000-01-01T00:00:00Z", "1s", "", &[first, last]);
        check("-3s", "1s", "", &["2026-01-31T09:59:58", last]);
        // Repetitions that were skipped count.
        let last = "2000-01-01T00:16:39";
        check(
            "2000-01-01T00:00:00Z",
            "R1000/PT1S",
            "",
            &["2000-01-01T00:16:30", last],
        );
        check(
            "2000-01-01T00:00:00Z",
            "R3/PT1S",
            "",
            &["2000-01-01T00:00:01", "2000-01-01T00:00:02"],
        );
        let (first, last) = ("2026-01-22T00:00:00", "2026-01-31T00:00:00");
        check("0001-01-01T00:00:00Z", "P1D", "", &[first, last]);
        let (first, last) = ("2025-04-01T00:00:00", "2026-01-01T00:00:00");
        check("0001-01-01T00:00:00Z", "P1M", "", &[first, last]);
        check(
            "2000-01-01T00:00:00Z",
            "R20/P1M",
            "",
            &["2000-11-01T00:00:00", "2001-08-01T00:00:00"],
        );
    }

    proptest! {
        #[test]
        fn never_panics(due in "[-RPTYMWDHS0-9/.:Z+a-z]{0,24}", period in "(R[0-9]{0,11}/)?P?[-TYMWDHS0-9.]{0,24}", ttl in ".{0,24}") {
            let mut next = parse(&due, &period, "").ok();
            for _ in 0..3 {
                next = next.and_then(|next| next.advance(now()));
            }
            drop(parse("", &period, &ttl));
            drop(parse("", "1s", &ttl));
        }

        #[test]
        fn fires_go_forward(repeats in 1u32..6, seconds in 1u32..100_000) {
            let schedule = parse("", &format!("R{repeats}/PT{seconds}S"), "").expect("valid");
            let mut fires = 1;
            let mut last = schedule;
            while let Some(next) = last.clone().advance(now()) {
                prop_assert_eq!(next.due().duration_since(last.due()), SignedDuration::from_secs(i64::from(seconds)));
                last = next;
                fires += 1;
            }
            prop_assert_eq!(fires, repeats);
        }
    }
}
