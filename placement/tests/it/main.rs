//! The placement binary as sidecars, probes and operators see it.

mod cluster;
mod page;
mod process;
mod rounds;
mod sidecar;
mod start;
