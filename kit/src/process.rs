//! The frame of every `main`: runtime, signals, the fatal line, the exit status.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::future::Future;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::log;
use crate::shutdown::Shutdown;

/// From the start to the first time that pages are given back: most programs are ready by then, and done with the code
/// of the start.
const SETTLED: Duration = Duration::from_secs(2);
/// From one time to the next. A burst of work maps its code again; each time costs a busy process about a millisecond.
const REST: Duration = Duration::from_secs(30);

/// Where Kubernetes takes the reason from that `kubectl describe` shows for a container that ended.
const LAST_WORDS: &str = "/dev/termination-log";
/// Bytes it shows of them.
const LAST_WORDS_LIMIT: usize = 4096;

/// Runs a binary: builds the runtime, listens for signals, runs what `start` returns to its end.
///
/// `Ok` is status 0. An error is logged as one fatal line, its causes joined with `: `, and is status 1; in Kubernetes it is
/// also the reason that the container's status shows. Status 2
/// belongs to the flags, see [`crate::flags::parse`]. Tasks that still run at the end are abandoned: draining
/// is the future's work. `name` is the log scope until [`log::init`] sets its own. Needs nothing from the
/// environment.
pub fn run<F, T, E>(name: &'static str, start: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> T,
    T: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    // One core must not starve the health server while it computes, hence at least two.
    run_on(name, cores().max(2), start)
}

/// The cores this process may use, at least 1.
pub fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// As [`run`], with this many worker threads. One is the calling thread itself: with a thread of its own for the tasks,
/// each of them would be handed over by locks that nobody else takes.
pub fn run_on<F, T, E>(name: &'static str, workers: usize, start: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> T,
    T: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    log::set_default_scope(name);
    let runtime = builder(workers).thread_name(name).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("failed to start the runtime: {error}")),
    };
    let result = runtime.block_on(async {
        let shutdown = Shutdown::install()
            .map_err(|error| format!("failed to listen for signals: {error}"))?;
        let rest = tokio::spawn(give_pages_back());
        // This clone keeps the signal listener alive whatever `start` does with the other.
        let outcome = start(shutdown.clone()).await;
        rest.abort();
        drop(shutdown);
        outcome.map_err(Into::into)
    });
    // A blocking task, a stuck name lookup for instance, must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&chain(error.as_ref())),
    }
}

fn builder(workers: usize) -> Builder {
    if workers <= 1 {
        return Builder::new_current_thread();
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers);
    builder
}

/// Keeps the code that only a start or a burst needs out of the memory of an idle process, see [`dapr_pages`].
async fn give_pages_back() {
    let mut times = interval_at(Instant::now() + SETTLED, REST);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        // Away from the thread that may be the only one, which serves requests meanwhile.
        let error = match spawn_blocking(dapr_pages::release).await {
            Ok(Ok(bytes)) => {
                tracing::debug!(bytes, "Gave back code that is not used any more");
                continue;
            }
            Ok(Err(error)) => error,
            Err(error) => error.into(),
        };
        tracing::debug!(%error, "Pages of code that is not used any more stay in memory");
        return;
    }
}

fn fail(text: &str) -> ExitCode {
    log::fatal(text);
    // There is none but in a container, and the log has it in any case.
    drop(leave_word(Path::new(LAST_WORDS), text));
    ExitCode::FAILURE
}

/// Writes `text` into a file that is there.
fn leave_word(file: &Path, text: &str) -> io::Result<()> {
    let end = text.floor_char_boundary(LAST_WORDS_LIMIT);
    let mut file = OpenOptions::new().write(true).truncate(true).open(file)?;
    file.write_all(&text.as_bytes()[..end])
}

/// Why a process that may not run as root does not start.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It is root.
    #[error(
        "current user UID(0) is root. Run as another user, or set DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true"
    )]
    Root,
    /// Nobody knows.
    #[error("failed to find out the user of the process")]
    Unknown(#[source] std::io::Error),
}

/// Fails if the process runs as root, which in Kubernetes it does not without being told so.
///
/// # Errors
/// See [`RootError`].
pub fn refuse_root() -> Result<(), RootError> {
    use std::os::unix::fs::MetadataExt as _;
    let process = std::fs::metadata("/proc/self").map_err(RootError::Unknown)?;
    if process.uid() == 0 {
        return Err(RootError::Root);
    }
    Ok(())
}

/// The error and its causes, joined with `: `.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a string cannot fail");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use std::convert::Infallible;
    use std::process::ExitCode;

    use super::{LAST_WORDS_LIMIT, chain, leave_word, run, run_on};

    #[derive(Debug, thiserror::Error)]
    #[error("failed to start")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read the file")]
    struct Inner(#[source] io::Error);

    #[track_caller]
    fn check_code(actual: ExitCode, expected: ExitCode) {
        // `ExitCode` can be compared only by what it prints.
        assert_eq!(format!("{actual:?}"), format!("{expected:?}"));
    }

    #[test]
    fn the_outcome_is_the_exit_status() {
        let code = run("dapr.test", |shutdown| async move {
            assert!(tokio::runtime::Handle::current().metrics().num_workers() >= 2);
            shutdown.trigger();
            shutdown.token().cancelled().await;
            Ok::<(), Infallible>(())
        });
        check_code(code, ExitCode::SUCCESS);
        check_code(
            run("dapr.test", |_| async {
                Err(Outer(Inner(io::Error::other("test"))))
            }),
            ExitCode::FAILURE,
        );
    }

    #[test]
    fn the_last_words_go_into_a_file_that_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("termination-log");
        assert!(leave_word(&file, "nobody listens").is_err());
        assert!(!file.exists());
        std::fs::write(&file, "those of the last time, which were longer").expect("written");
        leave_word(&file, "no such component").expect("written");
        let read = || std::fs::read_to_string(&file).expect("there");
        assert_eq!(read(), "no such component");
        leave_word(&file, &"ä".repeat(LAST_WORDS_LIMIT)).expect("written");
        assert_eq!(read(), "ä".repeat(LAST_WORDS_LIMIT / 2));
    }

    #[test]
    fn one_worker_runs_everything_on_the_calling_thread() {
        let caller = std::thread::current().id();
        let code = run_on("dapr.test", 1, |_| async move {
            let task = tokio::spawn(async { std::thread::current().id() });
            assert_eq!(task.await.expect("no panic"), caller);
            Ok::<(), Infallible>(())
        });
        check_code(code, ExitCode::SUCCESS);
    }

    #[test]
    fn a_stuck_blocking_task_does_not_hold_up_the_end() {
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let code = run("dapr.test", |_| async move {
            drop(tokio::task::spawn_blocking(move || stuck.recv()));
            Ok::<(), Infallible>(())
        });
        check_code(code, ExitCode::SUCCESS);
        drop(release);
    }

    #[test]
    fn the_chain_names_every_cause_once() {
        let error = Outer(Inner(io::Error::other("disk on fire")));
        assert_eq!(
            chain(&error),
            "failed to start: failed to read the file: disk on fire"
        );
        assert_eq!(chain(&io::Error::other("alone")), "alone");
    }
}
