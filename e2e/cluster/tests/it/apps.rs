//! Applications and their sidecars.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_cluster::{App, Cluster, Namespace, SOON};
use serde_json::Value;

#[tokio::test]
async fn an_annotated_app_gets_its_sidecar_and_calls_another() -> Result<()> {
    let Some(cluster) = Cluster::take("sidecars").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-apps").await?;
    namespace.deploy("cart", 1).await?;
    namespace.deploy("orders", 2).await?;
    for pod in namespace.pods("orders").await? {
        ensure!(sidecar(&pod).is_some(), "no sidecar: {pod}");
        ensure!(
            pod["metadata"]["labels"]["dapr.io/sidecar-injected"] == "true",
            "{}",
            pod["metadata"]
        );
    }
    // The operator makes the Service, and the cluster's DNS forgets after some seconds that there was none.
    await_condition("cart reaches orders", SOON, || called(&namespace, "1")).await?;
    let summary = called(&namespace, "200").await?;
    let answers = summary["answers"].as_object().context("no answers")?;
    ensure!(answers.len() == 2, "one replica got all calls: {summary}");
    // The Service follows the annotations.
    let moved = App::new("cart").annotated("metrics-port", "9191");
    namespace.run(&moved).await?;
    let service = ["service/cart-dapr", "--namespace", namespace.name()];
    cluster
        .eventually("the Service has the new port", &service, |service| {
            let ports = service["spec"]["ports"].as_array().context("no ports")?;
            ensure!(ports.iter().any(|it| it["targetPort"] == 9191), "{ports:?}");
            Ok(())
        })
        .await?;
    namespace.remove().await
}

#[tokio::test]
async fn no_pod_starts_without_its_sidecar_while_the_injector_is_away() -> Result<()> {
    let Some(cluster) = Cluster::take("the injector away").await? else {
        return Ok(());
    };
    cluster.install(&["dapr_sidecar_injector.sidecarRequired=true"])?;
    cluster.scale("dapr-sidecar-injector", 0).await?;
    let namespace = Namespace::create(&cluster, "story-required").await?;
    namespace.start("bare", 3).await?;
    let refused = ["events", "--namespace", "story-required"];
    cluster
        .eventually("the pods are refused", &refused, |events| {
            let events = events["items"].as_array().context("no list")?;
            let mut messages = events.iter().filter_map(|it| it["message"].as_str());
            ensure!(
                messages.any(|it| it.contains("no container daprd")),
                "{} events",
                events.len()
            );
            Ok(())
        })
        .await?;
    let pods = namespace.pods("bare").await?;
    ensure!(pods.is_empty(), "{} pods without a sidecar", pods.len());
    cluster.scale("dapr-sidecar-injector", 1).await?;
    namespace.await_ready("bare", 3).await?;
    for pod in namespace.pods("bare").await? {
        ensure!(sidecar(&pod).is_some(), "no sidecar: {pod}");
    }
    namespace.remove().await?;
    cluster.install(&[])?;
    Ok(())
}

/// Pods that start in a row while the injector is rolled.
const PODS: usize = 20;

#[tokio::test]
async fn pods_that_start_while_the_injector_is_rolled_have_their_sidecar() -> Result<()> {
    let Some(cluster) = Cluster::take("the injector rolled").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-rolled").await?;
    // The story before may have left it only just ready, which the node learns up to a second later.
    let tried = AtomicU32::new(0);
    await_condition("the injector is reached", SOON, async || {
        let name = format!("first-{}", tried.fetch_add(1, Ordering::Relaxed));
        namespace.pod(&name).await?;
        let pods = namespace.pods(&name).await?;
        ensure!(
            pods.iter().all(|it| sidecar(it).is_some()),
            "{name} is bare"
        );
        Ok(())
    })
    .await?;
    let system = Namespace::existing(&cluster, cluster.system());
    let start = async {
        for number in 0..PODS {
            namespace.pod(&format!("pod-{number}")).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(start, system.roll("dapr-sidecar-injector"))?;
    for number in 0..PODS {
        let pods = namespace.pods(&format!("pod-{number}")).await?;
        let bare: Vec<&Value> = pods.iter().filter(|it| sidecar(it).is_none()).collect();
        ensure!(pods.len() == 1 && bare.is_empty(), "{number}: {bare:?}");
    }
    namespace.remove().await
}

#[tokio::test]
async fn the_watchdog_gives_a_sidecar_to_pods_that_missed_it() -> Result<()> {
    let Some(cluster) = Cluster::take("the watchdog").await? else {
        return Ok(());
    };
    cluster.install(&["dapr_operator.watchInterval=2s"])?;
    cluster.scale("dapr-sidecar-injector", 0).await?;
    let namespace = Namespace::create(&cluster, "story-watchdog").await?;
    // The webhook may be passed by while nobody is behind it.
    namespace.deploy("early", 1).await?;
    let bare = namespace.pods("early").await?;
    ensure!(bare.iter().all(|it| sidecar(it).is_none()), "{bare:?}");
    cluster.scale("dapr-sidecar-injector", 1).await?;
    await_condition("the pod has a sidecar", SOON, async || {
        let pods = namespace.pods("early").await?;
        let [pod] = pods.as_slice() else {
            bail!("{} pods", pods.len());
        };
        ensure!(sidecar(pod).is_some(), "still bare");
        Ok(())
    })
    .await?;
    namespace.await_ready("early", 1).await?;
    namespace.remove().await?;
    cluster.install(&[])?;
    Ok(())
}

/// Calls `orders` from `cart` so many times. Tells who answered; one failure is an error.
async fn called(namespace: &Namespace<'_>, count: &str) -> Result<Value> {
    let printed = namespace.run_in("cart", &["call", "orders", count]).await?;
    let summary: Value = serde_json::from_str(&printed).with_context(|| printed.clone())?;
    ensure!(summary["failures"] == serde_json::json!({}), "{summary}");
    Ok(summary)
}

/// The sidecar of a pod, an init container that goes on running or an ordinary one.
fn sidecar(pod: &Value) -> Option<&Value> {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let containers = lists
        .into_iter()
        .filter_map(|it| pod.pointer(it)?.as_array());
    containers.flatten().find(|it| it["name"] == "daprd")
}
