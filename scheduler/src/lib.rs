//! The scheduler: durable jobs and reminders.
//!
//! It keeps and fires jobs; it never calls an application, which is the sidecar's work.
#![warn(missing_docs)]

pub mod app;
pub mod args;
pub mod etcd;

pub use args::Args;
