//! `daprd`, the sidecar: wires the APIs, the logic and the effects together.
//!
//! Here is what touches the outside: flags, files, the application, other sidecars. What is decided lives in
//! `dapr-sidecar-core` and `dapr-sidecar-actors`, how it is served in `dapr-sidecar-api`.

// Read in this order: what was asked for, and what is made of it.
pub mod args;
pub mod settings;

pub mod app;

// The outside.
pub mod app_health;
pub mod channel;
pub mod host;
pub mod loader;
pub mod peer;

// What is loaded, and how the crates of the sidecar meet.
pub mod actor_metrics;
pub mod actor_store;
pub mod actor_streams;
pub mod adapters;
pub mod components;
pub mod metadata;
pub mod metrics;
pub mod registries;
