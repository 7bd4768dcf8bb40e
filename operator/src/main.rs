//! The `operator` binary.

use std::process::ExitCode;

use dapr_kit::{flags, process};
use dapr_operator::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = flags::parse();
    process::run("dapr.operator", |shutdown| args.run(shutdown))
}
