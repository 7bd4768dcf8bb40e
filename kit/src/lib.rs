//! The process: flags, logs, metrics server, health targets, signals, drain.
//!
//! One implementation for all binaries. No product decision lives here: nothing in this crate knows what a
//! sidecar, an actor or a certificate is.
#![warn(missing_docs)]

// The frame of a process.
pub mod flags;
pub mod log;
pub mod process;
pub mod shutdown;

// What it shows of itself.
pub mod bind;
pub mod connection;
pub mod diagnostics;
pub mod health;
pub mod metrics;

// The value grammars of its settings.
pub mod duration;
pub mod quantity;

#[cfg(feature = "testing")]
pub mod testing;

mod http;
mod truth;
mod version;

pub use truth::truthy;
pub use version::{COMMIT, VERSION};
