//! The `operator` binary.

use std::process::ExitCode;

use dapr_kit::flags::{self, Dashes};
use dapr_kit::process;
use dapr_operator::Args;
use dapr_operator::app::crds::CrdsArgs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let applies = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "crds");
    // Fails only if a provider is installed already, and then it is this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    if applies {
        // The word itself is no flag and is read past.
        let args: CrdsArgs = flags::parse();
        return process::run("dapr.operator.crds", |shutdown| {
            args.run(shutdown.ended_by_hangup())
        });
    }
    let args: Args = flags::parse_with(Dashes::Alike);
    process::run("dapr.operator", |shutdown| {
        args.run(shutdown.ended_by_hangup())
    })
}
