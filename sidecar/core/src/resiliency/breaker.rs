//! A circuit breaker as a state machine; time is an argument.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cel::{Context, Env, Program, Value};

/// Failures in a row that trip a breaker without an expression are more than this.
const DEFAULT_CONSECUTIVE_FAILURES: u32 = 5;
/// Time open when the resource says 0 or nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The functions of the expression language, built once.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// When a closed breaker opens.
#[derive(Debug)]
enum Trip {
    Default,
    Expression(Program),
}

/// What breakers of one policy share.
#[derive(Debug)]
pub struct Settings {
    max_requests: u32,
    interval: Duration,
    timeout: Duration,
    trip: Trip,
}

/// A trip expression that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid trip expression {expression:?}: {reason}")]
pub struct InvalidTrip {
    /// The expression.
    pub expression: String,
    /// Why.
    pub reason: String,
}

impl Settings {
    /// Settings of a policy: 0 `max_requests` is 1, 0 `interval` never clears, 0 `timeout` is 60 s, an empty
    /// `trip` is more than five failures in a row.
    pub fn new(
        max_requests: u32,
        interval: Duration,
        timeout: Duration,
        trip: &str,
    ) -> Result<Self, InvalidTrip> {
        let trip = if trip.trim().is_empty() {
            Trip::Default
        } else {
            let program = Program::compile(trip).map_err(|error| InvalidTrip {
                expression: trip.to_owned(),
                reason: error.to_string(),
            })?;
            Trip::Expression(program)
        };
        Ok(Self {
            max_requests: max_requests.max(1),
            interval,
            timeout: if timeout.is_zero() {
                DEFAULT_TIMEOUT
            } else {
                timeout
            },
            trip,
        })
    }

    /// Whether `counts` trip the breaker; an expression that fails, or gives no boolean, does not.
    fn trips(&self, counts: &Counts) -> bool {
        match &self.trip {
            Trip::Default => counts.consecutive_failures > DEFAULT_CONSECUTIVE_FAILURES,
            Trip::Expression(program) => {
                let mut context = Context::with_env(Arc::clone(&ENV));
                for (name, count) in counts.named() {
                    context.add_variable_from_value(name, i64::from(count));
                }
                matches!(program.execute(&context), Ok(Value::Bool(true)))
            }
        }
    }
}

/// What a breaker counts within a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    requests: u32,
    total_successes: u32,
    total_failures: u32,
    consecutive_successes: u32,
    consecutive_failures: u32,
}

impl Counts {
    fn named(&self) -> [(&'static str, u32); 5] {
        [
            ("requests", self.requests),
            ("totalSuccesses", self.total_successes),
            ("totalFailures", self.total_failures),
            ("consecutiveSuccesses", self.consecutive_successes),
            ("consecutiveFailures", self.consecutive_failures),
        ]
    }

    fn success(&mut self) {
        self.total_successes = self.total_successes.saturating_add(1);
        self.consecutive_successes = self.consecutive_successes.saturating_add(1);
        self.consecutive_failures = 0;
    }

    fn failure(&mut self) {
        self.total_failures = self.total_failures.saturating_add(1);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.consecutive_successes = 0;
    }
}

/// State of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls fail at once.
    Open,
    /// A few calls pass, to see whether the target is back.
    HalfOpen,
}

impl State {
    /// The text in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Why a call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The breaker is open.
    #[error("circuit breaker is open")]
    Open,
    /// The breaker is half-open and has admitted all it may.
    #[error("too many requests")]
    TooManyRequests,
}

/// Permission for one call, handed back with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    generation: u64,
}

/// A breaker. `now` is the time since any fixed moment, the same for all calls.
#[derive(Debug)]
pub struct Breaker {
    settings: Arc<Settings>,
    state: State,
    generation: u64,
    counts: Counts,
    /// When a closed breaker clears its counts, or an open one becomes half-open.
    expiry: Option<Duration>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: Arc<Settings>, now: Duration) -> Self {
        let mut breaker = Self {
            settings,
            state: State::Closed,
            generation: 0,
            counts: Counts::default(),
            expiry: None,
        };
        breaker.enter(State::Closed, now);
        breaker
    }

    /// The state at `now`.
    pub fn state(&mut self, now: Duration) -> State {
        if self.expiry.is_some_and(|expiry| expiry < now) {
            match self.state {
                State::Closed => self.enter(State::Closed, now),
                State::Open => self.enter(State::HalfOpen, now),
                State::HalfOpen => {}
            }
        }
        self.state
    }

    /// Asks to make a call.
    pub fn admit(&mut self, now: Duration) -> Result<Admission, Rejected> {
        match self.state(now) {
            State::Open => return Err(Rejected::Open),
            State::HalfOpen if self.counts.requests >= self.settings.max_requests => {
                return Err(Rejected::TooManyRequests);
            }
            State::HalfOpen | State::Closed => {}
        }
        self.counts.requests = self.counts.requests.saturating_add(1);
        Ok(Admission {
            generation: self.generation,
        })
    }

    /// Reports how an admitted call ended; results from before the last change of state do not count.
    pub fn done(&mut self, admission: Admission, success: bool, now: Duration) {
        let state = self.state(now);
        if admission.generation != self.generation {
            return;
        }
        if success {
            self.counts.success();
            let enough = self.counts.consecutive_successes >= self.settings.max_requests;
            if state == State::HalfOpen && enough {
                self.enter(State::Closed, now);
            }
        } else {
            self.counts.failure();
            if state == State::HalfOpen || self.settings.trips(&self.counts) {
                self.enter(State::Open, now);
            }
        }
    }

    fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.generation = self.generation.wrapping_add(1);
        self.counts = Counts::default();
        self.expiry = match state {
            State::Closed if self.settings.interval.is_zero() => None,
            State::Closed => Some(now.saturating_add(self.settings.interval)),
            State::Open => Some(now.saturating_add(self.settings.timeout)),
            State::HalfOpen => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn breaker(max_requests: u32, interval: u64, timeout: u64, trip: &str) -> Breaker {
        let settings = Settings::new(max_requests, seconds(interval), seconds(timeout), trip);
        Breaker::new(Arc::new(settings.expect("valid")), seconds(0))
    }

    fn call(breaker: &mut Breaker, success: bool, at: u64) -> Result<(), Rejected> {
        let admission = breaker.admit(seconds(at))?;
        breaker.done(admission, success, seconds(at));
        Ok(())
    }

    #[test]
    fn opens_after_failures_in_a_row() {
        let mut breaker = breaker(1, 0, 10, "");
        for _ in 0..5 {
            assert_eq!(call(&mut breaker, false, 1), Ok(()));
        }
        assert_eq!(call(&mut breaker, true, 1), Ok(()));
        for _ in 0..6 {
            assert_eq!(call(&mut breaker, false, 1), Ok(()));
        }
        assert_eq!(call(&mut breaker, true, 2), Err(Rejected::Open));
        assert_eq!(breaker.state(seconds(11)), State::Open);
        assert_eq!(breaker.state(seconds(12)), State::HalfOpen);
    }

    #[test]
    fn half_open_admits_a_few_and_closes_after_their_success() {
        let mut breaker = breaker(2, 0, 10, "consecutiveFailures >= 1");
        assert_eq!(call(&mut breaker, false, 0), Ok(()));
        let first = breaker.admit(seconds(11)).expect("half-open");
        let second = breaker.admit(seconds(11)).expect("half-open");
        assert_eq!(breaker.admit(seconds(11)), Err(Rejected::TooManyRequests));
        breaker.done(first, true, seconds(11));
        assert_eq!(breaker.state(seconds(11)), State::HalfOpen);
        breaker.done(second, true, seconds(11));
        assert_eq!(breaker.state(seconds(11)), State::Closed);
    }

    #[test]
    fn a_failure_while_half_open_opens_again() {
        let mut breaker = breaker(3, 0, 10, "consecutiveFailures >= 1");
        assert_eq!(call(&mut breaker, false, 0), Ok(()));
        assert_eq!(call(&mut breaker, true, 11), Ok(()));
        assert_eq!(call(&mut breaker, false, 11), Ok(()));
        assert_eq!(breaker.state(seconds(12)), State::Open);
    }

    #[test]
    fn results_of_an_older_generation_do_not_count() {
        let mut breaker = breaker(1, 0, 10, "consecutiveFailures >= 1");
        let slow = breaker.admit(seconds(0)).expect("closed");
        assert_eq!(call(&mut breaker, false, 0), Ok(()));
        assert_eq!(breaker.state(seconds(11)), State::HalfOpen);
        breaker.done(slow, false, seconds(11));
        assert_eq!(breaker.state(seconds(11)), State::HalfOpen);
    }

    #[test]
    fn counts_are_cleared_every_interval() {
        let mut breaker = breaker(1, 5, 10, "totalFailures >= 2");
        assert_eq!(call(&mut breaker, false, 1), Ok(()));
        assert_eq!(call(&mut breaker, false, 6), Ok(()));
        assert_eq!(breaker.state(seconds(6)), State::Closed);
        assert_eq!(call(&mut breaker, false, 7), Ok(()));
        assert_eq!(breaker.state(seconds(7)), State::Open);
    }

    #[test]
    fn trip_expressions() {
        let check = |trip: &str, failures: u32, expected: State| {
            let mut breaker = breaker(1, 0, 10, trip);
            for _ in 0..failures {
                assert_eq!(call(&mut breaker, false, 0), Ok(()), "{trip}");
            }
            assert_eq!(breaker.state(seconds(0)), expected, "{trip} {failures}");
        };
        check("consecutiveFailures > 2", 2, State::Closed);
        check("consecutiveFailures > 2", 3, State::Open);
        check(
            "requests >= 3 && totalFailures * 2 > requests",
            3,
            State::Open,
        );
        check(
            "totalSuccesses + consecutiveSuccesses == 0 && requests == 1",
            1,
            State::Open,
        );
        // Neither an error nor another type trips.
        check("unknown > 1", 9, State::Closed);
        check("requests", 9, State::Closed);
        assert!(Settings::new(1, seconds(0), seconds(0), "requests >").is_err());
    }

    proptest! {
        /// Whatever happens: an open breaker admits nothing, a half-open one no more than it may.
        #[test]
        fn invariants(events in proptest::collection::vec((0u8..4, 0u64..5), 1..80), max in 1u32..4) {
            let mut breaker = breaker(max, 7, 5, "consecutiveFailures >= 2");
            let mut now = 0;
            let mut pending: Vec<Admission> = Vec::new();
            let mut half_open_admitted = 0;
            for (event, wait) in events {
                now += wait;
                let state = breaker.state(seconds(now));
                if state != State::HalfOpen {
                    half_open_admitted = 0;
                }
                match event {
                    0 | 1 => match breaker.admit(seconds(now)) {
                        Ok(admission) => {
                            prop_assert_ne!(state, State::Open);
                            half_open_admitted += u32::from(state == State::HalfOpen);
                            prop_assert!(half_open_admitted <= max);
                            pending.push(admission);
                        }
                        Err(Rejected::Open) => prop_assert_eq!(state, State::Open),
                        Err(Rejected::TooManyRequests) => prop_assert_eq!(state, State::HalfOpen),
                    },
                    result => {
                        if let Some(admission) = pending.pop() {
                            breaker.done(admission, result == 2, seconds(now));
                        }
                    }
                }
            }
        }
    }
}
