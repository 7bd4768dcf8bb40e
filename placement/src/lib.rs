//! Placement: knows which sidecar hosts which actor types and tells all sidecars of a namespace at once.
//!
//! It hands out tables and runs the rounds that exchange them. It never computes an owner: only sidecars
//! hash, so the ring is not here.
//!
//! Replicas elect one leader and agree on the tables (`raft`). A new leader therefore has them at once: sidecars
//! that come to it with what the table says get it as it is, and nobody else notices.
#![warn(missing_docs)]

pub mod app;
pub mod args;

mod dissemination;
mod ledger;
mod table;

mod admission;
mod namespace;
mod proposals;
mod server;
mod state;
mod stream;
mod term;

mod codec;
mod metrics;
mod raft;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;
