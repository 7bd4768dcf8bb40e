//! Sentry: the certificate authority. Validates who asks, signs workload certificates, keeps its CA.
//!
//! It authenticates workloads and nothing else; what an identity may do is decided where it is shown.

// Read the program in this order.
pub mod app;
pub mod args;

// Pure: what is issued to whom.
mod ca;
mod certificate;
mod config;
mod der;
mod jwt;
mod material;
mod rotation;
mod signature;
mod validator;

// At the edge.
mod metrics;
mod oidc;
mod server;
mod storage;

// For those who measure and those who attack.
#[doc(hidden)]
pub mod bench;
#[cfg(fuzzing)]
pub mod fuzzing;
