//! The placement binary as sidecars, probes and operators see it.

mod cluster;
mod failover;
mod page;
mod process;
mod rounds;
mod sidecar;
mod start;
mod store;
