//! Pauses that grow. Randomness is an argument: a share between 0 and 1.

use std::time::Duration;

/// The longest pause a server may ask for; it is not believed beyond.
pub(super) const RETRY_AFTER_CEILING: Duration = Duration::from_secs(60);

/// A pause that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The first pause.
    pub floor: Duration,
    /// The longest pause.
    pub ceiling: Duration,
}

impl Pace {
    /// A pause that grows from `floor` to `ceiling`.
    pub const fn new(floor: Duration, ceiling: Duration) -> Self {
        Self { floor, ceiling }
    }

    /// The pause after `steps` steps, each `factor` times the last.
    pub fn after(&self, steps: u32, factor: f64) -> Duration {
        // Beyond 64 steps every factor above one is at the ceiling.
        let steps = i32::try_from(steps.min(64)).unwrap_or(64);
        let seconds = self.floor.as_secs_f64() * factor.powi(steps);
        Duration::from_secs_f64(seconds.min(self.ceiling.as_secs_f64()))
    }
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How many there were.
    pub fn failures(self) -> u32 {
        self.failures
    }

    /// Forgets them.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure; the pause before the next attempt is half fixed and half random. A server that asks for more
    /// gets at least what it asks for, and some more, so that not all come back at once.
    pub fn fail(&mut self, pace: Pace, asked: Option<Duration>, share: f64) -> Duration {
        let own = pace.after(self.failures, 2.0).mul_f64(0.5 + share / 2.0);
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default().min(RETRY_AFTER_CEILING);
        own.max(asked.mul_f64(1.0 + share / 10.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace::new(Duration::from_millis(500), Duration::from_secs(30));

    #[test]
    fn pauses_double_up_to_the_ceiling() {
        let mut backoff = Backoff::default();
        let pauses: Vec<f64> = (0..8)
            .map(|_| backoff.fail(PACE, None, 1.0).as_secs_f64())
            .collect();
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(
            backoff.fail(PACE, None, 0.0),
            Duration::from_secs(15),
            "half of it is random"
        );
        backoff.succeed();
        assert_eq!(backoff.fail(PACE, None, 1.0), Duration::from_millis(500));
    }

    #[test]
    fn a_server_may_ask_for_more_but_not_for_ever() {
        let pause =
            |asked, share| Backoff::default().fail(PACE, Some(Duration::from_secs(asked)), share);
        assert_eq!(pause(7, 0.0), Duration::from_secs(7));
        assert_eq!(pause(10, 1.0), Duration::from_secs(11));
        assert_eq!(pause(0, 1.0), Duration::from_millis(500));
        assert_eq!(pause(86_400, 0.0), RETRY_AFTER_CEILING);
    }

    #[test]
    fn long_rows_of_failures_do_not_overflow() {
        assert_eq!(PACE.after(u32::MAX, 2.0), PACE.ceiling);
        let still = Pace::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(still.after(u32::MAX, 2.0), Duration::ZERO);
    }
}
