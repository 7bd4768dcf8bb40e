//! The in-memory components from the outside: conformance, and what they promise beyond it.

mod pubsub;
mod state;
