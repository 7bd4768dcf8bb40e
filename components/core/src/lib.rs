//! What a component is: the traits of the building blocks, their errors and features, the registry that
//! maps a component type to the function that opens it, and the conformance suites every component passes.
//!
//! No technology lives here, and no retry, metric or trace: those are layers around a call. A component
//! makes one attempt per call and says in its error whether another one can help.

pub mod error;
pub mod metadata;
pub mod registry;

pub mod name_resolution;
pub mod pubsub;
pub mod secret_store;
pub mod state;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use error::{Error, ErrorKind};
pub use metadata::Metadata;
pub use registry::{Registries, Registry};
