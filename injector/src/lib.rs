//! The admission webhook that adds the sidecar to annotated pods.
//!
//! It decides nothing about the resources a sidecar loads; that is the operator's and the sidecar's work.
#![warn(missing_docs)]

// Read the program in this order.
pub mod app;
pub mod args;
pub mod config;

// Pure: which pod gets what.
pub mod admission;
pub mod annotations;
pub mod explain;
pub mod patch;
pub mod requester;
pub mod settings;
pub mod warnings;

mod glob;

// At the edge.
pub mod metrics;
pub mod server;

pub use args::{Args, ExplainArgs};
