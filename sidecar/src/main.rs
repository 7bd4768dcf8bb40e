//! `daprd`.

use std::process::ExitCode;

use dapr_kit::flags::{self, Environment};
use dapr_kit::process;
use dapr_sidecar::app;
use dapr_sidecar::args::Args;

// musl's allocator is slow and glibc's keeps arenas per thread; this one is neither.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = flags::parse();
    if let Some(code) = app::answer(&args) {
        return code;
    }
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        // Somebody was first; two providers in one process are a defect of the build.
        return ExitCode::FAILURE;
    }
    let environment = Environment::of_process();
    process::run_on("dapr.runtime", workers(process::cores()), |shutdown| {
        app::run(args, environment, shutdown)
    })
}

/// Worker threads on a machine with this many cores.
///
/// A sidecar leaves the machine to its application. With one worker the tasks of a request run one after the other
/// and their frames leave in one write; with more they wake each other across cores, which costs more than it gives
/// until there are thousands of requests per second.
fn workers(cores: usize) -> usize {
    (cores / 4).clamp(1, 8)
}
