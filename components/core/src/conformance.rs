//! Conformance suites: what every component of a building block has to pass.
//!
//! One suite per building block, each a function that takes an open component, picks its cases by
//! `features()` and panics with the broken rule. This is test code for the component crates; only the cargo
//! feature `conformance` builds it. What a single technology promises beyond the contract of all is tested
//! in its own crate.

pub mod name_resolution;
pub mod pubsub;
pub mod secret_store;
pub mod state;

use std::time::Duration;

/// How long a suite waits for something that happens by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; panics with `what` when it does not in time.
async fn eventually<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let wait = async {
        while !condition().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, wait).await.is_ok(),
        "not in time: {what}"
    );
}
