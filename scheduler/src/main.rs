//! The `scheduler` binary.

use std::process::ExitCode;

use dapr_kit::{flags, process};
use dapr_scheduler::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = flags::parse_with(flags::Dashes::Two);
    process::run("dapr.scheduler", |shutdown| {
        args.run(shutdown.ended_by_hangup())
    })
}
