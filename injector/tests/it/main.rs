//! The injector from outside: the process, its patches on a real API server, and its webhook at work.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail like the tests themselves"
)]

mod apply;
mod authority;
mod golden;
mod process;
mod properties;
mod support;
mod webhook;
