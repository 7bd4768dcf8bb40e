//! Placement: knows which sidecar hosts which actor types and tells all sidecars of a namespace at once.
//!
//! It hands out tables and runs the rounds that exchange them. It never computes an owner: only sidecars
//! hash, so the ring is not here.
//!
//! Replicas elect one leader (`raft`) and replicate nothing else. Tables and versions live in the memory of
//! the leader and are rebuilt by the sidecars, which reconnect and report again after every change of leader.
#![warn(missing_docs)]

pub mod app;
pub mod args;

mod dissemination;
mod table;

mod admission;
mod namespace;
mod server;
mod state;
mod stream;
mod term;

mod codec;
mod metrics;
mod raft;

#[cfg(test)]
mod testing;
