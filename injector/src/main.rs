//! The `injector` binary.

use std::io::Write as _;
use std::process::ExitCode;

use dapr_injector::{Args, ExplainArgs};
use dapr_kit::flags::{self, Dashes, Environment};
use dapr_kit::process;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let explains = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "explain");
    // Fails only if a provider is installed already, and then it is this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let environment = Environment::of_process();
    if explains {
        // The word stands where the program's name is expected.
        let words = std::env::args_os().skip(1);
        return match flags::try_parse_from::<ExplainArgs, _, _>(Dashes::OneOrTwo, words) {
            Ok(args) => process::run("dapr.injector", |shutdown| {
                args.run(environment, shutdown.ended_by_hangup())
            }),
            Err(exit) => {
                // With stderr closed there is nobody to tell.
                drop(std::io::stderr().write_all(exit.text.as_bytes()));
                ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
            }
        };
    }
    let args: Args = flags::parse();
    // Most reviews take less than handing them to another thread would.
    process::run_on("dapr.injector", 1, |shutdown| {
        args.run(environment, shutdown.ended_by_hangup())
    })
}
