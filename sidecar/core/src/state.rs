//! State: key prefixes, writes and reads with options, bulk calls, transactions; each under the outbound
//! policies of its store.
//!
//! What actors store goes through [`Stores::store`], with keys of their own.

mod calls;
pub mod canonical;
pub mod error;
pub mod item;
pub mod prefix;
mod service;

pub use canonical::{canonical_json, canonical_value};
pub use error::{Error, EtagProblem};
pub use item::{BulkItem, DeleteItem, Operation, SaveItem};
pub use prefix::KeyPrefix;
pub use service::{Store, Stores};

// What callers hand in and get back is the component's own vocabulary.
pub use dapr_components_core::state::{Item, Value};
