//! When to try again.

use std::time::Duration;

/// First interval of an exponential policy.
const INITIAL: Duration = Duration::from_millis(500);
/// Growth of the interval.
const MULTIPLIER: f64 = 1.5;
/// Share by which an interval is randomised, in both directions.
const RANDOMISATION: f64 = 0.5;

/// How waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Always the same.
    Constant(Duration),
    /// From 500 ms by 1.5, randomised by half.
    Exponential {
        /// Cap of the growth, applied before the randomisation; the first interval may be above it.
        max_interval: Duration,
        /// No more retries once this much time has gone by since the first try.
        max_elapsed: Duration,
    },
}

/// A retry policy's waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How waits grow.
    pub growth: Growth,
    /// Retries after the first try; `None` is unlimited.
    pub max_retries: Option<u32>,
}

/// The waits of one run.
#[derive(Debug, Clone)]
pub struct Schedule {
    policy: Policy,
    retries: u32,
    interval: Duration,
}

impl Schedule {
    /// The schedule of a run that starts now.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            retries: 0,
            interval: INITIAL,
        }
    }

    /// Retries handed out so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// How long to wait before the next try, `None` to give up. `elapsed` is the time since the first try,
    /// `random` a number in `0..1`.
    pub fn next(&mut self, elapsed: Duration, random: f64) -> Option<Duration> {
        if self
            .policy
            .max_retries
            .is_some_and(|max| self.retries >= max)
        {
            return None;
        }
        let wait = match self.policy.growth {
            Growth::Constant(interval) => interval,
            Growth::Exponential {
                max_interval,
                max_elapsed,
            } => {
                let interval = self.interval;
                let wait = interval.mul_f64(1.0 - RANDOMISATION + random * 2.0 * RANDOMISATION);
                if elapsed + wait > max_elapsed {
                    return None;
                }
                self.interval = interval.mul_f64(MULTIPLIER).min(max_interval);
                wait
            }
        };
        self.retries += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exponential(max_retries: Option<u32>) -> Schedule {
        Schedule::new(Policy {
            growth: Growth::Exponential {
                max_interval: Duration::from_secs(1),
                max_elapsed: Duration::from_secs(900),
            },
            max_retries,
        })
    }

    #[test]
    fn constant_waits_are_counted() {
        let mut schedule = Schedule::new(Policy {
            growth: Growth::Constant(Duration::from_secs(1)),
            max_retries: Some(3),
        });
        for _ in 0..3 {
            assert_eq!(
                schedule.next(Duration::ZERO, 0.3),
                Some(Duration::from_secs(1))
            );
        }
        assert_eq!(schedule.next(Duration::ZERO, 0.3), None);
        assert_eq!(schedule.retries(), 3);
    }

    #[test]
    fn exponential_waits_grow_to_the_cap_before_randomisation() {
        let mut schedule = exponential(None);
        let millis: Vec<_> = (0..4)
            .filter_map(|_| schedule.next(Duration::ZERO, 0.5))
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(millis, [500, 750, 1000, 1000]);
        assert_eq!(
            schedule.next(Duration::ZERO, 1.0),
            Some(Duration::from_millis(1500))
        );
    }

    #[test]
    fn a_cap_below_the_first_interval_holds_from_the_second_on() {
        let mut schedule = Schedule::new(Policy {
            growth: Growth::Exponential {
                max_interval: Duration::from_millis(100),
                max_elapsed: Duration::from_secs(900),
            },
            max_retries: Some(3),
        });
        let waits = std::iter::from_fn(|| schedule.next(Duration::ZERO, 0.5));
        let millis: Vec<_> = waits.map(|wait| wait.as_millis()).collect();
        assert_eq!(millis, [500, 100, 100]);
    }

    #[test]
    fn exponential_gives_up_after_the_elapsed_time() {
        assert_eq!(exponential(None).next(Duration::from_secs(900), 0.5), None);
    }

    #[test]
    fn zero_retries_are_none() {
        assert_eq!(exponential(Some(0)).next(Duration::ZERO, 0.5), None);
    }

    proptest! {
        #[test]
        fn waits_stay_within_bounds(randoms in proptest::collection::vec(0.0f64..1.0, 1..20)) {
            let mut schedule = exponential(None);
            for random in randoms {
                let wait = schedule.next(Duration::ZERO, random).expect("unlimited");
                prop_assert!(wait >= Duration::from_millis(250) && wait <= Duration::from_millis(1500));
            }
        }
    }
}
