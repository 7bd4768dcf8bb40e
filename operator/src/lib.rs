//! The operator: serves Dapr resources to sidecars and keeps the Services of annotated workloads.
//!
//! It reads resources; it never changes what a user wrote, and it does not inject sidecars.
#![warn(missing_docs)]

pub mod app;
pub mod args;

pub use args::Args;
