//! The placement service.

use std::process::ExitCode;

use dapr_kit::flags::{self, Environment};
use dapr_placement::app;
use dapr_placement::args::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        // Only a second call fails, and this is the first line.
        return ExitCode::FAILURE;
    }
    let args = flags::parse::<Args>();
    let environment = Environment::of_process();
    dapr_kit::process::run("dapr.placement", move |shutdown| {
        app::run(args, environment, shutdown.ended_by_hangup())
    })
}
