//! helm for tests: what the chart renders, and what helm does to a cluster.
//!
//! What an object of the chart has to look like is in the tests. Clusters come from elsewhere: this crate is handed a
//! kubeconfig.

mod document;
mod helm;

pub use document::{Difference, documents, identity};
pub use helm::{CHART, Failed, Helm, RELEASE, UPSTREAM_VALUES};
