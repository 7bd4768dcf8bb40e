//! Many objects at once: what they cost in time and memory.

use dapr_e2e_apiserver::scripted::{Options, Verb};
use dapr_kubernetes::Config;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Watched, connect, start, until};

/// A large namespace, or a cluster of a few hundred nodes.
const PODS: usize = 5_000;

/// A pod with the one field its reader needs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct SlimPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimSpec {
    service_account_name: String,
}

impl kube::Resource for SlimPod {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(&(): &()) -> std::borrow::Cow<'_, str> {
        "Pod".into()
    }

    fn group(&(): &()) -> std::borrow::Cow<'_, str> {
        "".into()
    }

    fn version(&(): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural(&(): &()) -> std::borrow::Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// About as large as a small real one: 1.5 KiB.
fn pod(number: usize, account: &str) -> Value {
    let variables: Vec<Value> = (0..12)
        .map(|index| json!({"name": format!("VARIABLE_{index}"), "value": "x".repeat(40)}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": format!("namespace-{}", number % 50), "name": format!("pod-{number}"),
            "labels": {"app": "shop"},
            "managedFields": [{"manager": "kubelet", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {"serviceAccountName": account, "containers": [{"name": "shop", "image": "shop", "env": variables}]},
    })
}

/// Resident memory of this process in KiB; the server's objects are part of it, and counted before.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_pods_come_and_change() {
    let server = start(Options::complete()).await;
    for number in 0..PODS {
        server.put(pod(number, "first"));
    }
    let api = kube::Api::<SlimPod>::all(connect(&server).await);
    let (before, begun) = (memory(), Instant::now());
    let watched = Watched::run(api, Config::default()).synced().await;
    let listed = begun.elapsed();
    let after = memory();
    assert_eq!(watched.reader.len(), PODS);
    assert_eq!(server.count(Verb::List, "pods"), PODS.div_ceil(500));

    let begun = Instant::now();
    for number in 0..PODS {
        server.put(pod(number, "second"));
    }
    until("every change", || watched.told.lock().applied == 2 * PODS).await;
    let changed = begun.elapsed();
    let begun = Instant::now();
    let snapshot = watched.reader.snapshot();
    let copied = begun.elapsed();
    assert!(
        snapshot
            .iter()
            .all(|pod| pod.spec.service_account_name == "second")
    );
    assert!(
        snapshot
            .iter()
            .all(|pod| pod.metadata.managed_fields.is_none())
    );
    watched.assert_sound();
    assert_eq!(
        server.count(Verb::List, "pods"),
        PODS.div_ceil(500),
        "no second list"
    );
    println!(
        "{PODS} pods listed in {listed:?}, changed in {changed:?} (the server's work included), snapshot {copied:?}"
    );
    println!("resident memory in KiB before {before:?} and after {after:?} the list");
}
