//! Verbs for stories in a real cluster: install the chart, apply, wait, ask.
//!
//! The cluster comes from `run`, which tells of it by environment variables; without them stories are skipped. What the
//! cluster is made of is not known here.

mod cluster;
mod namespace;

pub use cluster::{Cluster, SOON};
pub use namespace::Namespace;
