//! Puts a sidecar together, runs it, and takes it apart again.

// A run: what it is made of, its parts in the order in which they come up, and its end.
mod run;

mod base;
mod identity;
mod loading;

mod channels;
mod hosting;
mod invoking;
mod resolving;

mod api_settings;
mod listeners;
mod surfaces;

mod application;
mod closing;
mod reloading;

mod command;

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_kit::flags::Environment;
use dapr_kit::log::{self, LogIdentity};
use dapr_kit::shutdown::Shutdown;
use parking_lot::RwLock;

pub use command::answer;

use crate::args::Args;
use crate::settings::Settings;

/// What outlives a restart inside the process (SIGHUP).
#[derive(Debug, Clone)]
struct Process {
    settings: Arc<Settings>,
    environment: Arc<Environment>,
    metrics: dapr_kit::metrics::MetricsArgs,
    shutdown: Shutdown,
    /// What applications set through the metadata API.
    extended: Arc<RwLock<BTreeMap<String, String>>>,
}

/// How a run of the sidecar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The process is to end.
    Stop,
    /// Everything is read and started again.
    Restart,
}

/// Runs daprd until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting or from going on; the text is for the person who started it.
pub async fn run(args: Args, environment: Environment, shutdown: Shutdown) -> anyhow::Result<()> {
    let _log = log::init(
        &args.log,
        LogIdentity::new("dapr.runtime").with_app_id(args.app_id.as_str()),
    )?;
    let settings = Settings::check(&args, &environment)?;
    tracing::info!(
        target: "dapr.runtime",
        "Starting Dapr Runtime -- version {} -- commit {}",
        dapr_kit::VERSION,
        dapr_kit::COMMIT
    );
    if args.enable_profiling {
        tracing::warn!(target: "dapr.runtime", "--enable-profiling has no effect: this build has no profiling server; use perf or a debugger");
    }
    if settings.graceful_shutdown.is_none() {
        tracing::warn!(target: "dapr.runtime", "--dapr-graceful-shutdown-seconds is 0: a shutdown waits for requests in flight without limit");
    }
    let process = Process {
        settings: Arc::new(settings),
        environment: Arc::new(environment),
        metrics: args.metrics.clone(),
        shutdown,
        extended: Arc::default(),
    };
    loop {
        match run::run(process.clone()).await.map_err(named)? {
            End::Stop => {
                tracing::info!(target: "dapr.runtime", "Daprd shutdown gracefully");
                return Ok(());
            }
            End::Restart => {}
        }
    }
}

/// The line the process ends with; a shutdown that took too long has one of its own.
fn named(error: anyhow::Error) -> anyhow::Error {
    if error.is::<closing::TooLate>() {
        return error;
    }
    error.context("Fatal error from runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_upstreams() {
        let check = |error: anyhow::Error, expected: &str| {
            assert_eq!(format!("{:#}", named(error)), expected);
        };
        check(
            closing::TooLate.into(),
            "Graceful shutdown timeout exceeded, forcing shutdown",
        );
        check(anyhow::anyhow!("x"), "Fatal error from runtime: x");
    }
}
