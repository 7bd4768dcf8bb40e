//! API servers for tests: a real kube-apiserver with its etcd, and a scripted one that fails on demand.
//!
//! Nothing here knows Dapr; the tests of the control plane bring the objects. No controller, scheduler or kubelet
//! runs: what those would create or change, a test creates or changes itself.

pub mod condition;
pub mod preparation;
pub mod real;
pub mod scripted;
