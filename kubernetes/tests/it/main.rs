//! The client and the watcher against an API server that fails on demand.

mod burst;
mod client;
mod faults;
mod lease;
mod minimal;
mod property;
mod real;
mod support;
