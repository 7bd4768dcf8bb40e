//! The real binary on free ports.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail like the tests themselves"
)]

mod identity;
mod jwt;
mod kubernetes;
mod process;
mod reload;
mod requests;
mod rotation;
mod start;
