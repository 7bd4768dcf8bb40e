//! The `injector` binary.

use std::process::ExitCode;

use dapr_injector::Args;
use dapr_kit::{flags, process};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = flags::parse();
    process::run("dapr.injector", |shutdown| args.run(shutdown))
}
