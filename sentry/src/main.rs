//! The `sentry` binary.

use std::process::ExitCode;

use dapr_kit::flags::{self, Environment};
use dapr_sentry::args::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = flags::parse();
    // Fails only if a provider is installed already, and then it is this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let environment = Environment::of_process();
    dapr_kit::process::run("dapr.sentry", |shutdown| args.run(environment, shutdown))
}
