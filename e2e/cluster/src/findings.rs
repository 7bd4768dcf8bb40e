//! What the application of the stories prints, and the stories read.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// An answer to one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body of a good answer.
    pub fn ok(self) -> Result<String> {
        ensure!((200..300).contains(&self.status), "{self:?}");
        Ok(self.body)
    }
}

/// What became of a stranger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Knock {
    /// Of one without TLS: `answered`, `refused: ..`, or `silence`.
    pub plain: String,
    /// Of one with a certificate of a foreign authority, in the name of an application of ours.
    pub foreign: String,
    /// Of one with a certificate of a foreign authority in its own trust domain.
    pub abroad: String,
}

/// What became of many calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Good answers, by who gave them.
    pub answers: BTreeMap<String, usize>,
    /// Failures, by their message.
    pub failures: BTreeMap<String, usize>,
    /// How long good answers took, in microseconds.
    pub took: Vec<u32>,
}

impl Summary {
    /// Counts a call.
    pub fn count(&mut self, answer: Result<String>) {
        match answer {
            Ok(by) => *self.answers.entry(by).or_default() += 1,
            Err(error) => *self.failures.entry(format!("{error:#}")).or_default() += 1,
        }
    }

    /// Notes how long a good answer took.
    pub fn took(&mut self, time: Duration) {
        self.took
            .push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// How many calls were answered.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// So many of a hundred answers took at most this many milliseconds. NaN without answers.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        let rank = (took.len() * percent).div_ceil(100).saturating_sub(1);
        took.get(rank).map_or(f64::NAN, |it| f64::from(*it) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Summary;

    #[test]
    fn calls_are_counted_by_who_answered_and_why_they_failed() {
        let mut summary = Summary::default();
        for _ in 0..2 {
            summary.count(Ok("a".to_owned()));
        }
        summary.count(Err(anyhow::anyhow!("inner").context("outer")));
        assert_eq!((summary.answered(), summary.failed()), (2, 1));
        assert_eq!(summary.failures["outer: inner"], 1);
    }

    #[test]
    fn percentiles() {
        let mut summary = Summary::default();
        assert!(summary.percentile(50).is_nan());
        for milliseconds in (1..=100).rev() {
            summary.took(Duration::from_millis(milliseconds));
        }
        let check = |percent, expected: f64| {
            let found = summary.percentile(percent);
            assert!((found - expected).abs() < 1e-9, "{percent}: {found}");
        };
        check(50, 50.0);
        check(99, 99.0);
        check(100, 100.0);
        check(0, 1.0);
    }
}
