//! Running a call under its policies: retry outside, then circuit breaker, then timeout.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::breaker::{Breaker, Rejected, State};
use super::codes::Codes;
use super::schedule::{self, Schedule};
use crate::metrics::{PolicyKind, PolicyLabels, ResiliencyMetrics};

/// The moment all breakers count their time from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time since [`EPOCH`].
pub(super) fn epoch() -> Duration {
    EPOCH.elapsed()
}

/// What a failed attempt means for the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Retried; no list of codes applies.
    Uncoded,
    /// A gRPC code (0–16) or HTTP status (100–599), retried if the lists say so.
    Code(i32),
    /// Never retried.
    Permanent,
}

/// Tells policies what an error means.
pub trait Classify {
    /// What this error means.
    fn class(&self) -> Class;
}

impl Classify for dapr_components_core::Error {
    fn class(&self) -> Class {
        use dapr_components_core::ErrorKind;
        match self.kind() {
            // An etag that does not match now will not match on another try.
            ErrorKind::EtagMismatch | ErrorKind::EtagInvalid => Class::Permanent,
            ErrorKind::Configuration
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Unavailable
            | ErrorKind::Internal => Class::Uncoded,
        }
    }
}

/// How a call under policies failed.
#[derive(Debug)]
pub enum Failed<E> {
    /// The operation itself.
    Operation(E),
    /// The last attempt took longer than the timeout.
    Timeout,
    /// The circuit breaker did not admit it.
    Rejected(Rejected),
}

impl<E: fmt::Display> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(error) => error.fmt(f),
            Self::Timeout => f.write_str("context deadline exceeded"),
            Self::Rejected(rejected) => rejected.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Failed<E> {}

/// How a call under policies failed that may be given up.
#[derive(Debug)]
pub struct Ended<E> {
    /// Its last attempt.
    pub last: Failed<E>,
    /// Whether there would have been another one.
    pub is_early: bool,
}

impl<E: Classify> Failed<E> {
    fn class(&self) -> Class {
        match self {
            Self::Operation(error) => error.class(),
            Self::Timeout => Class::Uncoded,
            Self::Rejected(_) => Class::Permanent,
        }
    }
}

/// A retry policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Its waits.
    pub schedule: schedule::Policy,
    /// HTTP statuses retried.
    pub http: Codes,
    /// gRPC codes retried.
    pub grpc: Codes,
}

impl Retry {
    /// Whether a failure of this class is tried again.
    pub fn covers(&self, class: Class) -> bool {
        match class {
            Class::Uncoded => true,
            Class::Permanent => false,
            Class::Code(code @ 0..=16) => self.grpc.contains(code),
            Class::Code(code @ 100..=599) => self.http.contains(code),
            Class::Code(_) => true,
        }
    }
}

/// What names a policy in logs and metrics.
#[derive(Clone)]
pub(super) struct Labels {
    /// Operation in logs, for instance `component[redis] output`.
    pub(super) operation: String,
    pub(super) resource: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) direction: &'static str,
    /// Target in metrics; empty for built-in policies, which are not measured.
    pub(super) target: String,
    pub(super) metrics: Arc<dyn ResiliencyMetrics>,
}

impl Labels {
    fn of(&self, policy: PolicyKind, status: &'static str) -> PolicyLabels<'_> {
        PolicyLabels {
            name: &self.resource,
            namespace: &self.namespace,
            policy,
            flow_direction: self.direction,
            target: &self.target,
            status,
        }
    }

    fn wrapped(&self, policy: PolicyKind, status: &'static str) {
        if !self.target.is_empty() {
            self.metrics.wrapped(self.of(policy, status));
        }
    }

    fn activated(&self, policy: PolicyKind, status: &'static str) {
        if !self.target.is_empty() {
            self.metrics.activated(self.of(policy, status));
        }
    }

    fn breaker_state(&self, state: State) {
        if !self.target.is_empty() {
            let labels = self.of(PolicyKind::CircuitBreaker, state.name());
            self.metrics.breaker_state(labels);
        }
    }
}

/// The policies of one target.
#[derive(Clone)]
pub struct Policy {
    pub(super) labels: Labels,
    pub(super) retry: Option<Arc<Retry>>,
    pub(super) breaker: Option<Arc<Mutex<Breaker>>>,
    pub(super) timeout: Option<Duration>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("operation", &self.labels.operation)
            .field("retry", &self.retry)
            .field("breaker", &self.breaker.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Policy {
    /// How long one attempt may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether a failed attempt may be followed by another.
    pub fn retries(&self) -> bool {
        self.retry
            .as_ref()
            .is_some_and(|retry| retry.schedule.max_retries != Some(0))
    }

    /// Runs an operation that cannot be repeated, under breaker and timeout alone.
    pub fn run_once<T, E, F>(&self, operation: F) -> impl Future<Output = Result<T, Failed<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        // Boxed before it would become a part of the future that is returned.
        let operation = Box::pin(operation);
        async move {
            self.count();
            self.attempt(operation).await
        }
    }

    /// Runs `operation`, once for each attempt.
    ///
    /// An attempt that runs into its timeout is dropped; a dropped future leaves no half-done work.
    pub async fn run<T, E, F>(&self, operation: impl FnMut() -> F) -> Result<T, Failed<E>>
    where
        E: Classify,
        F: Future<Output = Result<T, E>>,
    {
        let result = self.repeat(operation, None).await;
        result.map_err(|ended| ended.last)
    }

    /// As [`run`](Self::run) while `end` is not cancelled: after that no attempt begins, one that is made already is
    /// waited for.
    pub async fn run_until<T, E, F>(
        &self,
        end: &CancellationToken,
        operation: impl FnMut() -> F,
    ) -> Result<T, Ended<E>>
    where
        E: Classify,
        F: Future<Output = Result<T, E>>,
    {
        self.repeat(operation, Some(end)).await
    }

    async fn repeat<T, E, F>(
        &self,
        mut operation: impl FnMut() -> F,
        end: Option<&CancellationToken>,
    ) -> Result<T, Ended<E>>
    where
        E: Classify,
        F: Future<Output = Result<T, E>>,
    {
        let exhausted = |last| Ended {
            last,
            is_early: false,
        };
        self.count();
        let Some(retry) = &self.retry else {
            return self.attempt(Box::pin(operation())).await.map_err(exhausted);
        };
        let mut schedule = Schedule::new(retry.schedule);
        let started = Instant::now();
        loop {
            let failed = match self.attempt(Box::pin(operation())).await {
                Ok(value) => {
                    self.recovered(schedule.retries());
                    return Ok(value);
                }
                Err(failed) => failed,
            };
            if !retry.covers(failed.class()) {
                return Err(exhausted(failed));
            }
            let Some(wait) = schedule.next(started.elapsed(), rand::random()) else {
                return Err(exhausted(failed));
            };
            self.retrying(schedule.retries(), wait);
            if !pause(wait, end).await {
                return Err(Ended {
                    last: failed,
                    is_early: true,
                });
            }
        }
    }

    /// One attempt: admitted by the breaker, ended by the timeout. It comes boxed: it is often thousands of bytes, which
    /// each of the steps here would move and hold once more.
    async fn attempt<T, E, F>(&self, operation: Pin<Box<F>>) -> Result<T, Failed<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let Some(breaker) = &self.breaker else {
            return self.timed(operation).await;
        };
        let (before, admission) = {
            let mut breaker = breaker.lock();
            let now = epoch();
            let state = breaker.state(now);
            (state, breaker.admit(now))
        };
        let admission = match admission {
            Ok(admission) => admission,
            Err(rejected) => {
                self.labels.breaker_state(before);
                return Err(Failed::Rejected(rejected));
            }
        };
        let mut pending = Pending {
            breaker,
            admission: Some(admission),
        };
        let result = self.timed(operation).await;
        let after = pending.done(result.is_ok());
        if after != before {
            self.labels
                .activated(PolicyKind::CircuitBreaker, after.name());
        }
        self.labels.breaker_state(after);
        result
    }

    async fn timed<T, E, F>(&self, operation: Pin<Box<F>>) -> Result<T, Failed<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let Some(timeout) = self.timeout else {
            return operation.await.map_err(Failed::Operation);
        };
        match tokio::time::timeout(timeout, operation).await {
            Ok(result) => result.map_err(Failed::Operation),
            Err(_) => {
                self.labels.activated(PolicyKind::Timeout, "");
                Err(Failed::Timeout)
            }
        }
    }

    fn count(&self) {
        if self.timeout.is_some() {
            self.labels.wrapped(PolicyKind::Timeout, "");
        }
        if let Some(breaker) = &self.breaker {
            let state = breaker.lock().state(epoch());
            self.labels
                .wrapped(PolicyKind::CircuitBreaker, state.name());
        }
        if self.retry.is_some() {
            self.labels.wrapped(PolicyKind::Retry, "");
        }
    }

    fn retrying(&self, retries: u32, wait: Duration) {
        self.labels.activated(PolicyKind::Retry, "");
        if retries == 1 {
            warn!(
                "Error processing operation {}. Retrying in {wait:?}…",
                self.labels.operation
            );
        }
    }

    fn recovered(&self, retries: u32) {
        if retries > 0 {
            info!(
                "Recovered processing operation {} after {retries} attempts",
                self.labels.operation
            );
        }
    }
}

/// Waits between two attempts; whether the next one is still wanted.
async fn pause(wait: Duration, end: Option<&CancellationToken>) -> bool {
    let wait = tokio::time::sleep(wait);
    match end {
        None => {
            wait.await;
            true
        }
        Some(end) => end.run_until_cancelled(wait).await.is_some() && !end.is_cancelled(),
    }
}

/// A call a breaker has admitted; one that is dropped before its end counts as failed, for a half-open
/// breaker would wait for its result forever.
struct Pending<'a> {
    breaker: &'a Mutex<Breaker>,
    admission: Option<super::breaker::Admission>,
}

impl Pending<'_> {
    fn done(&mut self, success: bool) -> State {
        let mut breaker = self.breaker.lock();
        let now = epoch();
        if let Some(admission) = self.admission.take() {
            breaker.done(admission, success, now);
        }
        breaker.state(now)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.admission.is_some() {
            self.done(false);
        }
    }
}
