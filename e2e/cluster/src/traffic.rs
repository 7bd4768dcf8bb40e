//! Two applications, one of which calls the other all the time.

use anyhow::{Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;

use crate::{App, Cluster, Namespace, SOON, Summary};

/// Calls per second.
pub const RATE: u32 = 200;
/// Where the caller's sidecar takes calls for the other.
const URL: &str = "http://127.0.0.1:3500/v1.0/invoke/orders/method/who";
/// How long a callee serves on after it was told to end: others hear of that a little later.
const LINGER: u32 = 5;
/// A load shows something once so many calls were made.
const CALLS: usize = 2000;

/// Application `cart` with one pod calls `orders` with two.
#[derive(Debug)]
pub struct Traffic<'a> {
    /// The namespace of both.
    pub namespace: Namespace<'a>,
}

impl<'a> Traffic<'a> {
    /// Deploys both in a new namespace, and begins as soon as a call is answered.
    pub async fn start(cluster: &'a Cluster, namespace: &str) -> Result<Self> {
        let namespace = Namespace::create(cluster, namespace).await?;
        let orders = App::new("orders").replicas(2).lingering(LINGER);
        namespace.run(&orders).await?;
        namespace.deploy("cart", 1).await?;
        // The operator makes the Service, and the cluster's DNS forgets after some seconds that there was none.
        await_condition("cart reaches orders", SOON, async || {
            namespace.ask("cart", "POST", URL, "{}").await?.ok()
        })
        .await?;
        namespace.start_load("cart", URL, RATE).await?;
        Ok(Self { namespace })
    }

    /// Ends when enough calls were made; each one that failed is an error. Removes the namespace.
    #[expect(clippy::print_stdout, reason = "whoever runs the stories reads it")]
    pub async fn end(self, what: &str) -> Result<Summary> {
        self.namespace.await_sent("cart", CALLS).await?;
        let summary = self.namespace.end_load("cart").await?;
        println!(
            "{what}: {} calls answered, {} failed; p50 {:.1} ms, p99 {:.1} ms, slowest {:.0} ms",
            summary.answered(),
            summary.failed(),
            summary.percentile(50),
            summary.percentile(99),
            summary.percentile(100),
        );
        ensure!(summary.failed() == 0, "{what}: {:#?}", summary.failures);
        self.namespace.remove().await?;
        Ok(summary)
    }
}
