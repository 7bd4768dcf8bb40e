//! Stories told by programs that use the official SDKs, unchanged and pinned.
//!
//! A program is started beside a sidecar and prints `ok <step>` for each step that held; what the steps are is
//! in its source below `sdk/`. A language that cannot be had on this machine is skipped, and says so.

mod preparation;
mod program;

#[test]
fn the_python_sdk_works() {
    program::tell("python", "venv/bin/python", Some("program.py"), &[]);
}

#[test]
fn the_javascript_sdk_works() {
    program::tell("js", "node", Some("program.js"), &["grpc"]);
}

#[test]
fn the_go_sdk_works() {
    program::tell("go", "program", None, &[]);
}
