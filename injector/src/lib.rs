//! The admission webhook that adds the sidecar to annotated pods.
//!
//! It decides nothing about the resources a sidecar loads; that is the operator's and the sidecar's work.
#![warn(missing_docs)]

pub mod app;
pub mod args;
pub mod config;

pub use args::Args;
