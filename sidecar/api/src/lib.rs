//! The surfaces of the sidecar: the HTTP API, the gRPC API, the API between sidecars.
//!
//! A handler parses, asks the core and shapes the answer; nothing is decided here. Every status code of the
//! product stands in this crate's table of errors.

pub mod services;
pub mod settings;

pub mod error;
pub mod metrics;
pub mod wire;

pub mod grpc;
pub mod http;
pub mod internal;

mod log;
mod metadata;
pub mod trace;

pub use services::Core;
