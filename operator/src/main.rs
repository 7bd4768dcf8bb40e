//! The `operator` binary.

use std::process::ExitCode;

use dapr_kit::{flags, process};
use dapr_operator::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Fails only if a provider is installed already, and then it is this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args: Args = flags::parse();
    process::run("dapr.operator", |shutdown| args.run(shutdown))
}
