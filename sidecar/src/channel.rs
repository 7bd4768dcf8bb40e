//! The application beside this sidecar: one channel per protocol family.

pub mod answers;
mod batch;
mod connections;
mod events;
pub mod external;
mod failure;
pub mod grpc;
pub mod http;
mod length;
mod outcome;
mod path;
mod permits;
mod tls;
mod transport;

pub(crate) use tls::unverified;
