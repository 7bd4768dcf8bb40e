//! Verbs for stories in a real cluster: install the chart, apply, wait, ask.
//!
//! The cluster comes from `run`, which tells of it by environment variables; without them stories are skipped. What the
//! cluster is made of is not known here.

mod app;
mod cluster;
pub mod figures;
mod findings;
mod namespace;
mod node;
mod traffic;

pub use app::{App, RELAY};
pub use cluster::{Cluster, SOON, told_all};
pub use findings::{Knock, Reply, Summary};
pub use namespace::Namespace;
pub use node::Node;
pub use traffic::{RATE, Traffic};
