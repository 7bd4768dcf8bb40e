//! What an operator asks of its API server: one watch per kind, whoever needs the kind.

use std::collections::BTreeMap;
use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Options, Resource, Server, Verb};
use dapr_operator::app::Duties;
use dapr_operator::args::WatchInterval;
use serde_json::json;

use crate::support::{IDLE, Operator, eventually};

const DAPR: [&str; 7] = [
    "v1alpha1/components",
    "v1alpha1/configurations",
    "v1alpha1/httpendpoints",
    "v1alpha1/mcpservers",
    "v1alpha1/resiliencies",
    "v1alpha1/workflowaccesspolicies",
    "v2alpha1/subscriptions",
];

/// What is asked for metadata alone, in lists and in watches: there may be thousands of pods, and no value of a Secret is
/// kept.
const METADATA: [&str; 2] = ["/api/v1/pods", "/api/v1/secrets"];

/// The watches an operator with these duties opened, by their paths.
async fn opened(duties: Duties, paths: &[&str]) -> BTreeMap<String, usize> {
    let server = Server::start(Options::complete()).await.expect("a server");
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = server.kubeconfig(folder.path()).expect("written");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {"metadata": {"annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "shop"}}},
        },
    });
    server.put(deployment);
    let keeps_services = duties.services;
    let operator = Operator::start_with(kubeconfig, None, duties).await;
    operator.health.await_ready().await;
    eventually("every watch is open", async || {
        paths.iter().all(|path| server.open_watches(path) == 1)
    })
    .await;
    if keeps_services {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "default"}});
        eventually("the Service", async || {
            server.objects(&Resource::of(&service)).len() == 1
        })
        .await;
    }
    let mut opened = BTreeMap::new();
    for request in server.requests() {
        if let Verb::List | Verb::Watch = request.verb {
            let is_slim = request.accept.contains("as=PartialObjectMetadata");
            let of_metadata = METADATA.contains(&request.path.as_str());
            assert_eq!(is_slim, of_metadata, "{request:?}");
        }
        if request.verb == Verb::Watch {
            *opened.entry(request.path).or_default() += 1;
        }
    }
    opened
}

fn expected(paths: &[&str]) -> BTreeMap<String, usize> {
    paths.iter().map(|path| ((*path).to_owned(), 1)).collect()
}

fn with(own: &[&str]) -> Vec<String> {
    let dapr = DAPR.iter().map(|path| format!("/apis/dapr.io/{path}"));
    dapr.chain(own.iter().map(|path| (*path).to_owned()))
        .collect()
}

#[tokio::test]
async fn each_kind_is_watched_once_by_a_leader_that_does_everything() {
    let duties = Duties {
        services: true,
        other_workloads: true,
        watch_interval: WatchInterval::Every(Duration::from_secs(3600)),
        ..IDLE
    };
    let paths = with(&[
        "/api/v1/pods",
        "/api/v1/secrets",
        "/api/v1/services",
        "/apis/apps/v1/deployments",
        "/apis/apps/v1/statefulsets",
    ]);
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert_eq!(opened(duties, &paths).await, expected(&paths));
}

#[tokio::test]
async fn nothing_is_watched_that_nobody_reads() {
    let paths = with(&["/api/v1/pods", "/api/v1/secrets", "/api/v1/services"]);
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert_eq!(opened(IDLE, &paths).await, expected(&paths));
}
