//! Real TLS over loopback: who gets in, who is believed, what a rotation leaves alone.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail like the tests themselves"
)]

mod authority;
mod flood;
mod handshake;
mod service;
mod slow;
mod start;
