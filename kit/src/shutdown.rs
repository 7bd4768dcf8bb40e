//! How a process ends: the first signal asks for a drain, the second one ends it at once.
//!
//! A drain that began otherwise does not count as a signal: who sends one then still means the drain.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Why the process is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT or SIGTERM, or a SIGHUP where it [ends](Shutdown::ended_by_hangup) the process.
    Signal,
    /// [`Shutdown::trigger`], for instance a call of the shutdown API.
    Request,
}

/// The signals of the process turned into a cancellation. Clones share one state.
#[derive(Clone, Debug)]
pub struct Shutdown {
    state: Arc<State>,
    /// Ends the listening task with the last clone; absent where no signal shall reach.
    _listener: Option<Arc<AbortOnDropHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    token: CancellationToken,
    cause: OnceLock<Cause>,
    /// The SIGINT or SIGTERM that came first.
    signal: OnceLock<&'static str>,
    hangup: Notify,
    /// Whether a SIGHUP ends the process instead of waking who waits for one.
    hangup_ends: AtomicBool,
    /// Whether who started the process had SIGHUP ignored.
    hangup_ignored: bool,
}

impl Shutdown {
    /// Starts listening for SIGINT, SIGTERM and SIGHUP; [`crate::process::run`] does this for every binary. Must
    /// be called inside a tokio runtime.
    ///
    /// The first SIGINT or SIGTERM cancels [`token`](Self::token), a second one exits with status 1 at once.
    /// SIGHUP no longer ends the process; see [`hangup`](Self::hangup) and [`ended_by_hangup`](Self::ended_by_hangup).
    pub fn install() -> io::Result<Self> {
        // Looked at first: listening changes it.
        let hangup_ignored = std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| ignores(&status, SignalKind::hangup()));
        let signals = Signals::install()?;
        let state = Arc::new(State {
            hangup_ignored,
            ..State::default()
        });
        let listener = AbortOnDropHandle::new(tokio::spawn(signals.listen(state.clone())));
        Ok(Self {
            state,
            _listener: Some(Arc::new(listener)),
        })
    }

    /// A shutdown no signal reaches: for tests, and for parts that only their owner stops.
    pub fn without_signals() -> Self {
        Self {
            state: Arc::default(),
            _listener: None,
        }
    }

    /// Makes a SIGHUP begin the shutdown, for programs that have nothing to load again. Without effect where SIGHUP was
    /// ignored from the start, as `nohup` has it.
    #[must_use]
    pub fn ended_by_hangup(self) -> Self {
        let ends = !self.state.hangup_ignored;
        self.state.hangup_ends.store(ends, Ordering::Relaxed);
        self
    }

    /// Cancelled once the process shall stop. Hand children of it to the subsystems.
    pub fn token(&self) -> &CancellationToken {
        &self.state.token
    }

    /// Starts the shutdown without a signal.
    pub fn trigger(&self) {
        self.state.begin(Cause::Request);
    }

    /// Why the shutdown began; `None` before it does.
    pub fn cause(&self) -> Option<Cause> {
        self.state.cause.get().copied()
    }

    /// The signal that came first, `SIGINT` or `SIGTERM`; `None` without one.
    pub fn signal(&self) -> Option<&'static str> {
        self.state.signal.get().copied()
    }

    /// Waits for the next SIGHUP. One that arrived since the last wait is not lost; several count as one.
    pub async fn hangup(&self) {
        self.state.hangup.notified().await;
    }
}

impl State {
    /// Begins the shutdown, or joins the one that has begun, whose cause stays.
    fn begin(&self, cause: Cause) {
        self.cause.get_or_init(|| cause);
        self.token.cancel();
    }

    /// Takes a SIGINT or SIGTERM; false when it is not the first.
    fn signal(&self, name: &'static str) -> bool {
        let is_first = self.signal.set(name).is_ok();
        self.begin(Cause::Signal);
        is_first
    }

    /// Takes a SIGHUP. It never ends the process at once: a terminal that closes sends more than one.
    fn hangup(&self) {
        if !self.hangup_ends.load(Ordering::Relaxed) {
            self.hangup.notify_one();
        } else if !self.token.is_cancelled() {
            tracing::info!("received SIGHUP, shutting down");
            self.begin(Cause::Signal);
        }
    }
}

/// Whether a process with this `/proc/<pid>/status` ignores a signal.
fn ignores(status: &str, signal: SignalKind) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        // They mean nothing to a Go program, and must not end one that stands in for it: once listened for, a signal
        // keeps its handler.
        for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(signal(kind)?);
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn listen(mut self, state: Arc<State>) {
        loop {
            let name = tokio::select! {
                Some(()) = self.hangup.recv() => {
                    state.hangup();
                    continue;
                }
                Some(()) = self.interrupt.recv() => "SIGINT",
                Some(()) = self.terminate.recv() => "SIGTERM",
                else => return,
            };
            if state.signal(name) {
                tracing::info!("received {name}, shutting down");
            } else {
                crate::log::fatal(&format!(
                    "received {name} while shutting down, exiting at once"
                ));
                std::process::exit(1);
            }
        }
    }
}

/// A task that belongs to the whole life of the process ended before the shutdown.
#[derive(Debug, thiserror::Error)]
pub enum TaskEnded {
    /// It returned.
    #[error("a background task ended before the shutdown")]
    Returned,
    /// It panicked.
    #[error("a background task failed")]
    Failed(#[source] JoinError),
}

/// Waits for the shutdown and watches the tasks meanwhile: one that ends before is an error, for nobody does its work
/// any more. Drain the set afterwards with [`drain_set`].
pub async fn watch(tasks: &mut JoinSet<()>, token: &CancellationToken) -> Result<(), TaskEnded> {
    let ended = tokio::select! {
        biased;
        () = token.cancelled() => return Ok(()),
        Some(ended) = tasks.join_next() => ended,
    };
    match ended {
        Err(error) => Err(TaskEnded::Failed(error)),
        // The token may have been cancelled between the two polls.
        Ok(()) if token.is_cancelled() => Ok(()),
        Ok(()) => Err(TaskEnded::Returned),
    }
}

/// Work was still running when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} tasks still running after {}", crate::duration::GoDuration(*.deadline))]
pub struct DrainError {
    /// How many tasks were left.
    pub left: usize,
    /// How long they had.
    pub deadline: Duration,
}

/// Closes the tracker and waits for its tasks until the deadline. Tasks of a tracker cannot be aborted: on an
/// error they are still running.
pub async fn drain(tracker: &TaskTracker, deadline: Duration) -> Result<(), DrainError> {
    tracker.close();
    tokio::time::timeout(deadline, tracker.wait())
        .await
        .map_err(|_| DrainError {
            left: tracker.len(),
            deadline,
        })
}

/// Waits for the tasks of the set until the deadline, then aborts what is left. A task that panicked counts as
/// ended and is logged.
pub async fn drain_set<T: Send + 'static>(
    tasks: &mut JoinSet<T>,
    deadline: Duration,
) -> Result<(), DrainError> {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task panicked");
            }
        }
    };
    if tokio::time::timeout(deadline, all).await.is_ok() {
        return Ok(());
    }
    let left = tasks.len();
    tasks.shutdown().await;
    Err(DrainError { left, deadline })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_request_cancels_and_keeps_its_cause() {
        let shutdown = Shutdown::without_signals();
        assert_eq!(shutdown.cause(), None);
        let child = shutdown.token().child_token();
        shutdown.clone().trigger();
        child.cancelled().await;
        assert_eq!(shutdown.cause(), Some(Cause::Request));
        assert!(
            shutdown.state.signal("SIGINT"),
            "the first signal does not end the process"
        );
        assert_eq!(shutdown.cause(), Some(Cause::Request), "the first stays");
        assert!(!shutdown.state.signal("SIGTERM"), "the second one does");
        assert_eq!(shutdown.signal(), Some("SIGINT"));
    }

    #[tokio::test]
    async fn a_hangup_before_the_wait_is_kept() {
        let shutdown = Shutdown::without_signals();
        shutdown.state.hangup.notify_one();
        shutdown.state.hangup.notify_one();
        shutdown.hangup().await;
        assert!(
            tokio::time::timeout(Duration::from_millis(1), shutdown.hangup())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_hangup_ends_what_has_nothing_to_load_again() {
        let shutdown = Shutdown::without_signals();
        shutdown.state.hangup();
        assert_eq!(shutdown.cause(), None, "somebody may wait for it");
        let shutdown = shutdown.ended_by_hangup();
        shutdown.state.hangup();
        shutdown.token().cancelled().await;
        assert_eq!(shutdown.cause(), Some(Cause::Signal));
        shutdown.state.hangup();
        assert!(
            shutdown.state.signal("SIGTERM"),
            "the terminal's second one was not the person's first"
        );
    }

    #[tokio::test]
    async fn a_hangup_that_was_ignored_from_the_start_stays_so() {
        let shutdown = Shutdown {
            state: Arc::new(State {
                hangup_ignored: true,
                ..State::default()
            }),
            _listener: None,
        };
        let shutdown = shutdown.ended_by_hangup();
        shutdown.state.hangup();
        assert_eq!(shutdown.cause(), None);
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let check = |mask: &str, hangup: bool, interrupt: bool| {
            let status = format!("Name:\tsentry\nSigBlk:\tffffffff\nSigIgn:\t{mask}\nSigCgt:\t0\n");
            assert_eq!(ignores(&status, SignalKind::hangup()), hangup, "{mask}");
            let found = ignores(&status, SignalKind::interrupt());
            assert_eq!(found, interrupt, "{mask}");
        };
        check("0000000000000000", false, false);
        check("0000000000000001", true, false);
        check("0000000000001002", false, true);
        check("0000000000001003", true, true);
        check("nonsense", false, false);
        assert!(!ignores("", SignalKind::hangup()));
    }

    #[tokio::test]
    async fn a_task_that_ends_early_is_an_error() {
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        let error = watch(&mut tasks, &token).await.expect_err("it returned");
        assert_eq!(
            error.to_string(),
            "a background task ended before the shutdown"
        );
        tasks.spawn(async { panic!("boom") });
        assert!(matches!(
            watch(&mut tasks, &token).await,
            Err(TaskEnded::Failed(_))
        ));
        // An empty set has nothing to watch and waits for the token alone.
        let (result, ()) = tokio::join!(watch(&mut tasks, &token), async { token.cancel() });
        result.expect("cancelled");
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_no_longer_than_the_deadline() {
        let tracker = TaskTracker::new();
        tracker.spawn(tokio::time::sleep(Duration::from_secs(1)));
        assert_eq!(drain(&tracker, Duration::from_secs(2)).await, Ok(()));

        let stuck = TaskTracker::new();
        let task = stuck.spawn(pending::<()>());
        let error = drain(&stuck, Duration::from_secs(2))
            .await
            .expect_err("stuck");
        assert_eq!(error.to_string(), "1 tasks still running after 2s");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn drain_set_aborts_what_is_left() {
        let mut tasks = JoinSet::new();
        tasks.spawn(tokio::time::sleep(Duration::from_secs(1)));
        assert_eq!(drain_set(&mut tasks, Duration::from_secs(2)).await, Ok(()));

        tasks.spawn(pending());
        tasks.spawn(async {});
        let error = drain_set(&mut tasks, Duration::from_secs(2))
            .await
            .expect_err("stuck");
        assert_eq!(
            error,
            DrainError {
                left: 1,
                deadline: Duration::from_secs(2)
            }
        );
        assert!(tasks.is_empty());
    }
}
