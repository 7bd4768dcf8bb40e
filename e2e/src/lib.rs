//! Verbs and stories of the end-to-end tests: start processes on free ports, wait for conditions, and tell
//! a user's path through them.
//!
//! No product code lives here, and nothing here sleeps for a fixed time: a wait names its condition and its limit.

pub mod condition;
pub mod ports;
pub mod process;

pub mod standalone;

pub use condition::await_condition;
pub use process::{Process, Spec};
