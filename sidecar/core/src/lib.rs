//! What the sidecar decides: addressing, key prefixes, scopes, envelopes, routing of events, access,
//! resiliency; and the traits the outside fulfils: application, peers, actors.
//!
//! It knows neither axum, tonic nor kube, opens no socket and reads no file.

pub mod body;
pub mod duration;
pub mod fields;
pub mod lease;
pub mod rpc;

// What the outside fulfils.
pub mod actors;
pub mod app;
pub mod metrics;
pub mod peer;

// What is decided here.
pub mod access;
pub mod invoke;
pub mod metadata;
pub mod pubsub;
pub mod resiliency;
pub mod secrets;
pub mod state;
