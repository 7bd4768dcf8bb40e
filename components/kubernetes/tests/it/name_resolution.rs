//! Calls spread over the pods of a Service and follow them.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dapr_components_core::name_resolution::{ResolveRequest, Resolver};
use dapr_components_kubernetes::name_resolution::{Kubernetes, Names};
use parking_lot::Mutex;
use serde_json::json;

/// Names that a test changes.
#[derive(Clone, Default)]
struct Script {
    answer: Arc<Mutex<Option<Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
}

impl Script {
    fn set(&self, pods: &[u8]) {
        *self.answer.lock() = Some(pods.to_vec());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Names for Script {
    async fn look_up(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(host, "orders-dapr.prod.svc.cluster.local.:50002");
        self.asked.fetch_add(1, Ordering::SeqCst);
        // Others get their turn meanwhile, as on a network.
        tokio::task::yield_now().await;
        match &*self.answer.lock() {
            Some(pods) => Ok(pods.iter().map(|pod| address(*pod)).collect()),
            None => Err(io::Error::other(
                "failed to lookup address information: Name or service not known",
            )),
        }
    }
}

fn address(pod: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, pod], 50002))
}

fn request() -> ResolveRequest {
    ResolveRequest {
        app_id: "orders".to_owned(),
        namespace: "prod".to_owned(),
        port: 50002,
    }
}

fn open(script: &Script) -> Kubernetes {
    Kubernetes::open_with(&json!({}), script.clone()).expect("opens")
}

async fn seen(resolver: &Kubernetes, calls: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..calls {
        seen.insert(resolver.resolve(&request()).await.expect("an address"));
    }
    seen
}

fn set(pods: &[u8]) -> BTreeSet<String> {
    pods.iter().map(|pod| address(*pod).to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_spread_over_all_pods_with_one_lookup() {
    let script = Script::default();
    script.set(&[1, 2, 3]);
    let resolver = Arc::new(open(&script));
    let calls = (0..20).map(|_| {
        let resolver = Arc::clone(&resolver);
        tokio::spawn(async move { resolver.resolve(&request()).await.expect("an address") })
    });
    let calls: Vec<_> = calls.collect();
    let mut found = BTreeSet::new();
    for call in calls {
        found.insert(call.await.expect("no panic"));
    }
    assert_eq!(found, set(&[1, 2, 3]));
    assert_eq!(script.asked(), 1);
    resolver.close().await;
}

#[tokio::test(start_paused = true)]
async fn new_pods_are_called_and_gone_ones_are_not() {
    let script = Script::default();
    script.set(&[1, 2]);
    let resolver = open(&script);
    assert_eq!(seen(&resolver, 4).await, set(&[1, 2]));
    script.set(&[2, 3]);
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(seen(&resolver, 4).await, set(&[2, 3]));
    resolver.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_looks_again_and_calls_somebody_else() {
    let script = Script::default();
    script.set(&[1, 2]);
    let resolver = open(&script);
    assert_eq!(seen(&resolver, 4).await, set(&[1, 2]));
    resolver.failed(&request(), &address(1).to_string());
    assert_eq!(seen(&resolver, 4).await, set(&[2]));
    script.set(&[2, 3]);
    resolver.failed(&request(), &address(1).to_string());
    // The lookup that the second failure asks for is paced.
    tokio::time::sleep(Duration::from_millis(600)).await;
    resolver.failed(&request(), &address(1).to_string());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(seen(&resolver, 4).await, set(&[2, 3]));
    resolver.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_app_is_an_error_and_is_asked_for_again() {
    let script = Script::default();
    let resolver = open(&script);
    let error = resolver.resolve(&request()).await.expect_err("nobody");
    assert!(error.to_string().contains("not known"), "{error}");
    script.set(&[1]);
    assert_eq!(seen(&resolver, 1).await, set(&[1]));
    resolver.close().await;
}
