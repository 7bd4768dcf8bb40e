//! The operator: serves Dapr resources to sidecars and keeps the Services of annotated workloads.
//!
//! It reads resources; it never changes what a user wrote, and it does not inject sidecars.
#![warn(missing_docs)]

pub mod app;
pub mod args;

// Pure: who is told what.
pub mod access;
pub mod assignment;
pub mod events;
pub mod kinds;
mod names;
pub mod pods;
pub mod secrets;

// The resources, and the secrets they refer to.
pub mod hub;
pub mod resources;
pub mod vault;

// What the leader does, and the conversion webhook of every replica.
pub mod notices;
pub mod services;
pub mod watchdog;
pub mod webhook;

// At the edge.
pub mod server;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use args::Args;
