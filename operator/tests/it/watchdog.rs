//! The watchdog against a real API server: which pods it deletes, when, and which never.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real::{self, ApiServer};
use dapr_e2e_apiserver::scripted::{Options, Resource, Server};
use dapr_kubernetes::{Config, Place, Reader, watch};
use dapr_operator::pods::Pod;
use dapr_operator::services::{self, Watches, Which, Workload};
use dapr_operator::watchdog::{self, Settings};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod as WholePod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Long against everything that happens here, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);

/// A second is promised; a busy machine may take longer, but anything that is only tried again takes longer still.
const PROMPT: Duration = Duration::from_secs(3);

/// A running watchdog of one namespace. Dropped, it ends.
struct Dog {
    task: JoinHandle<()>,
    deployments: Reader<Workload<services::Deployment>>,
}

impl Drop for Dog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dog {
    /// Waits until it knows that the injector differs from what it was at `version`.
    async fn sees_the_injector(&self, version: u64) -> Result<()> {
        let mut versions = self.deployments.subscribe();
        let seen = versions.wait_for(|now| *now > version);
        drop(timeout(SOON, seen).await.context("in time")?);
        Ok(())
    }
}

async fn start(server: &ApiServer, namespace: &str, settings: Settings) -> Result<Dog> {
    let place = Place::Kubeconfig(server.kubeconfig().into());
    start_at(&place, namespace, settings).await
}

async fn start_at(place: &Place, namespace: &str, settings: Settings) -> Result<Dog> {
    let client = dapr_kubernetes::client(place).await?;
    let api = Api::namespaced(client.clone(), namespace);
    let (pods, watcher) = watch::<Pod>(api, Config::default());
    let watches = Watches::new(&client, Some(namespace), Which::Injectors);
    let deployments = watches.deployments();
    let reads = deployments.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            never = watcher.run(|_| {}) => match never {},
            never = watches.run() => match never {},
            never = watchdog::run(client, pods, reads, settings) => match never {},
        }
    });
    Ok(Dog { task, deployments })
}

fn settings() -> Settings {
    Settings {
        interval: Some(Duration::from_secs(3600)),
        per_minute: None,
        can_patch: false,
    }
}

/// A namespace with an injector that is not ready.
async fn place(server: &ApiServer) -> Result<String> {
    let namespace = server.create_namespace("watchdog").await?;
    server.service_account(&namespace, "app").await?;
    let injector = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "dapr-sidecar-injector", "namespace": namespace,
            "labels": {"app": "dapr-sidecar-injector"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "dapr-sidecar-injector"}},
            "template": {
                "metadata": {"labels": {"app": "dapr-sidecar-injector"}},
                "spec": {"containers": [{"name": "i", "image": "i"}]},
            },
        },
    });
    server.apply(&injector).await?;
    Ok(namespace)
}

async fn ready(server: &ApiServer, namespace: &str, replicas: i32) -> Result<()> {
    let status = json!({"status": {"replicas": 1, "readyReplicas": replicas}});
    Api::<Deployment>::namespaced(server.client().await?, namespace)
        .patch_status(
            "dapr-sidecar-injector",
            &PatchParams::default(),
            &Patch::Merge(status),
        )
        .await?;
    Ok(())
}

async fn pod(server: &ApiServer, namespace: &str, name: &str, more: &Value) -> Result<()> {
    let container = more["container"].as_str().unwrap_or("app");
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": more["labels"],
            "annotations": {"dapr.io/enabled": more["enabled"].as_str().unwrap_or("true")},
        },
        "spec": {
            "serviceAccountName": "app", "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": container, "image": "app"}],
        },
    });
    server.apply(&object).await?;
    Ok(())
}

async fn names(server: &ApiServer, namespace: &str) -> Result<Vec<String>> {
    let pods = Api::<WholePod>::namespaced(server.client().await?, namespace);
    let pods = pods.list(&kube::api::ListParams::default()).await?;
    let present = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(present.filter_map(|pod| pod.metadata.name).collect())
}

async fn await_names(server: &ApiServer, namespace: &str, expected: &[&str]) -> Result<()> {
    await_condition("pods", SOON, || async {
        let names = names(server, namespace).await?;
        ensure!(names == expected, "{names:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_without_a_sidecar_go_as_soon_as_the_injector_is_ready() -> Result<()> {
    let Some(server) = real::shared("operator: watchdog").await? else {
        return Ok(());
    };
    let namespace = place(server).await?;
    for (name, more) in [
        ("bare", json!({})),
        ("bare-too", json!({"enabled": "On"})),
        ("foreign", json!({"enabled": "false"})),
        (
            "injected",
            json!({"labels": {"dapr.io/sidecar-injected": "true"}}),
        ),
        ("by-hand", json!({"container": "daprd"})),
        (
            "patched",
            json!({"labels": {"dapr.io/watchdog-patched": ""}}),
        ),
    ] {
        pod(server, &namespace, name, &more).await?;
    }
    let settings = Settings {
        can_patch: true,
        ..settings()
    };
    let dog = start(server, &namespace, settings).await?;
    pod(server, &namespace, "bare-later", &json!({})).await?;
    timeout(SOON, dog.deployments.synced()).await?;
    ensure!(
        names(server, &namespace).await?.len() == 7,
        "nothing before the injector is ready"
    );

    ready(server, &namespace, 1).await?;
    let start = Instant::now();
    let left = ["by-hand", "foreign", "injected", "patched"];
    await_names(server, &namespace, &left).await?;
    let took = start.elapsed();
    println!("deleted {took:?} after the injector was ready");
    ensure!(took < PROMPT, "{took:?}");
    let pods = Api::<WholePod>::namespaced(server.client().await?, &namespace);
    await_condition("the label", SOON, || async {
        let labels = pods
            .get("by-hand")
            .await?
            .metadata
            .labels
            .unwrap_or_default();
        ensure!(labels.get("dapr.io/watchdog-patched").map(String::as_str) == Some("true"));
        Ok(())
    })
    .await?;

    // One that appears later goes too, also after a while without an injector.
    pod(server, &namespace, "new", &json!({})).await?;
    await_names(server, &namespace, &left).await?;
    let version = *dog.deployments.subscribe().borrow();
    ready(server, &namespace, 0).await?;
    dog.sees_the_injector(version).await?;
    pod(server, &namespace, "newer", &json!({})).await?;
    ensure!(
        names(server, &namespace).await?.len() == left.len() + 1,
        "nothing while the injector is away"
    );
    ready(server, &namespace, 1).await?;
    let start = Instant::now();
    await_names(server, &namespace, &left).await?;
    let took = start.elapsed();
    println!("deleted {took:?} after the injector was back");
    ensure!(took < PROMPT, "{took:?}");
    Ok(())
}

#[tokio::test]
async fn one_pass_is_one_pass() -> Result<()> {
    let Some(server) = real::shared("operator: watchdog, once").await? else {
        return Ok(());
    };
    let namespace = place(server).await?;
    pod(server, &namespace, "first", &json!({})).await?;
    let settings = Settings {
        interval: None,
        ..settings()
    };
    let _dog = start(server, &namespace, settings).await?;
    ready(server, &namespace, 1).await?;
    await_names(server, &namespace, &[]).await?;
    // A watchdog that goes on shows that there was time enough for the one that does not.
    pod(server, &namespace, "second", &json!({})).await?;
    let other = place(server).await?;
    ready(server, &other, 1).await?;
    let _other = start(server, &other, self::settings()).await?;
    pod(server, &other, "third", &json!({})).await?;
    await_names(server, &other, &[]).await?;
    ensure!(names(server, &namespace).await? == ["second"]);
    Ok(())
}

#[tokio::test]
async fn the_rate_of_the_flag_holds() -> Result<()> {
    let Some(server) = real::shared("operator: watchdog, rate").await? else {
        return Ok(());
    };
    let namespace = place(server).await?;
    for name in ["a", "b", "c"] {
        pod(server, &namespace, name, &json!({})).await?;
    }
    let settings = Settings {
        per_minute: Some(30),
        ..settings()
    };
    let _dog = start(server, &namespace, settings).await?;
    ready(server, &namespace, 1).await?;
    let start = Instant::now();
    await_names(server, &namespace, &[]).await?;
    ensure!(
        start.elapsed() >= Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_server_without_named_gets_is_asked_for_a_list() -> Result<()> {
    let options = Options {
        named_gets: false,
        ..Options::complete()
    };
    let server = Server::start(options).await?;
    server.put(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "dapr-sidecar-injector", "namespace": "default",
            "labels": {"app": "dapr-sidecar-injector"},
        },
        "spec": {"replicas": 1},
        "status": {"replicas": 1, "readyReplicas": 1},
    }));
    for (name, sidecar) in [("bare", "app"), ("by-hand", "daprd")] {
        server.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default", "uid": name,
                "annotations": {"dapr.io/enabled": "true"},
            },
            "spec": {"containers": [{"name": sidecar}]},
        }));
    }
    let folder = tempfile::tempdir()?;
    let place = Place::Kubeconfig(server.kubeconfig(folder.path())?);
    let _dog = start_at(&place, "default", settings()).await?;
    await_condition("the pod without a sidecar to go", SOON, || async {
        let pods = server.objects(&Resource::of(&json!({"apiVersion": "v1", "kind": "Pod"})));
        ensure!(
            pods.len() == 1 && pods[0]["metadata"]["name"] == "by-hand",
            "{pods:?}"
        );
        Ok(())
    })
    .await
}
