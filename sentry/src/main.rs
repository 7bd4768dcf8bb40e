//! The `sentry` binary.

use std::process::ExitCode;

use dapr_kit::flags::{self, Environment};
use dapr_sentry::args::{Args, RotateArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let rotates = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "rotate");
    // Fails only if a provider is installed already, and then it is this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let environment = Environment::of_process();
    if rotates {
        // The word itself is no flag and is read past.
        let args: RotateArgs = flags::parse();
        return dapr_kit::process::run("dapr.sentry", |shutdown| {
            args.run(environment, shutdown.ended_by_hangup())
        });
    }
    let args: Args = flags::parse();
    // A certificate takes a tenth of a millisecond: with one core, a second worker would only hand tasks back and forth.
    dapr_kit::process::run_on("dapr.sentry", dapr_kit::process::cores(), |shutdown| {
        args.run(environment, shutdown.ended_by_hangup())
    })
}
