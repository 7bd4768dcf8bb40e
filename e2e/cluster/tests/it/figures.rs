//! How fast, and how large: the rows of `docs/performance.md` about Kubernetes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real;
use dapr_e2e_cluster::figures::{middle_and_greatest, note};
use dapr_e2e_cluster::{App, Cluster, Namespace, Node, RATE, SOON, Summary};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::sleep;

use crate::resources::{component, memory};

/// Pods in one go.
const PODS: usize = 20;
/// Between two looks at them.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// Calls that a latency is made of.
const CALLS: usize = 2000;
/// Until the memory of a process is that at rest.
const REST: Duration = Duration::from_secs(45);
/// Between two looks at it.
const GLANCE: Duration = Duration::from_secs(1);
/// Components one after the other.
const COMPONENTS: usize = 20;
/// Limits that hold on a busy machine as well, far above the targets: a figure beyond them is a failure.
const LARGE: u64 = 60 * 1024;
const SLOW: f64 = 5.0;

#[tokio::test]
async fn memory_at_rest() -> Result<()> {
    let story = "memory of pods";
    let (Some(cluster), Some(node)) = (Cluster::take(story).await?, Node::find(story)?) else {
        return Ok(());
    };
    cluster.uninstall().await?;
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-memory").await?;
    namespace.deploy("orders", 1).await?;
    let system = Namespace::existing(&cluster, cluster.system());
    let mut sum = 0;
    for app in [
        "dapr-sentry",
        "dapr-operator",
        "dapr-sidecar-injector",
        "dapr-placement-server",
    ] {
        let size = at_rest(&node, &system, app, app, 10).await?;
        note(&format!("RSS of {app}"), &megabytes(size))?;
        sum += size;
    }
    note("RSS of the control plane", &megabytes(sum))?;
    let size = at_rest(&node, &namespace, "orders", "daprd", 12).await?;
    note("RSS of daprd", &megabytes(size))?;
    ensure!(size < LARGE, "daprd has {size} KB");
    namespace.remove().await
}

/// Once a process has given back what it only started with, which takes it half a minute at most: the target in megabytes
/// is what is waited for, and what is there after [`REST`] is told.
async fn at_rest(
    node: &Node,
    namespace: &Namespace<'_>,
    app: &str,
    container: &str,
    target: u64,
) -> Result<u64> {
    let end = Instant::now() + REST;
    loop {
        let size = resident(node, namespace, app, container).await?;
        if size <= target * 1024 || Instant::now() >= end {
            return Ok(size);
        }
        sleep(GLANCE).await;
    }
}

/// Of the one pod of an application.
async fn resident(
    node: &Node,
    namespace: &Namespace<'_>,
    app: &str,
    container: &str,
) -> Result<u64> {
    let pods = namespace.pods(app).await?;
    let [pod] = pods.as_slice() else {
        bail!("{app} has {} pods", pods.len());
    };
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    node.memory(namespace.name(), name, container).await
}

fn megabytes(kilobytes: u64) -> String {
    format!("{}.{} MB", kilobytes / 1024, kilobytes % 1024 * 10 / 1024)
}

#[tokio::test]
async fn twenty_pods_in_one_go() -> Result<()> {
    let Some(cluster) = Cluster::take("twenty pods").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let client = real::client(cluster.kubeconfig()).await?;
    let namespace = Namespace::create(&cluster, "story-twenty").await?;
    // The first pods of all wait for nothing that later ones do not wait for.
    namespace.deploy("orders", 1).await?;
    let pods: Api<Pod> = Api::namespaced(client, namespace.name());
    let began = Instant::now();
    namespace.start("many", PODS).await?;
    let selector = ListParams::default().labels("app=many");
    let (mut injected, mut ready) = (Vec::new(), Vec::new());
    while ready.len() < PODS {
        ensure!(
            began.elapsed() < SOON,
            "{} of {PODS} are ready",
            ready.len()
        );
        let now = pods.list(&selector).await?.items;
        let took = began.elapsed().as_secs_f64();
        injected.resize(now.iter().filter(|it| has_sidecar(it)).count(), took);
        ready.resize(now.iter().filter(|it| is_ready(it)).count(), took);
        sleep(LOOK).await;
    }
    let (middle, _) = middle_and_greatest(&injected);
    note("20 pods, sidecar injected p50", &format!("{middle:.2} s"))?;
    let (middle, greatest) = middle_and_greatest(&ready);
    let text = format!("{middle:.1} / {greatest:.1} s");
    note("20 pods, ready p50 / max", &text)?;
    namespace.remove().await
}

fn has_sidecar(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let lists = spec.map(|it| (&it.containers, it.init_containers.as_deref()));
    lists.is_some_and(|(containers, others)| {
        let mut all = containers.iter().chain(others.unwrap_or_default());
        all.any(|it| it.name == "daprd")
    })
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|it| it.type_ == "Ready" && it.status == "True")
}

#[tokio::test]
async fn a_call_between_two_pods() -> Result<()> {
    let Some(cluster) = Cluster::take("added latency").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-latency").await?;
    namespace.run(&App::new("orders")).await?;
    namespace.run(&App::new("cart")).await?;
    let through = "http://127.0.0.1:3500/v1.0/invoke/orders/method/who";
    await_condition("cart reaches orders", SOON, async || {
        namespace.ask("cart", "POST", through, "{}").await?.ok()
    })
    .await?;
    let pods = namespace.pods("orders").await?;
    let address = pods.first().and_then(|pod| pod["status"]["podIP"].as_str());
    let direct = format!("http://{}:8000/who", address.context("no address")?);
    let (mut added50, mut added99) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let direct = loaded(&namespace, &direct).await?;
        let through = loaded(&namespace, through).await?;
        added50.push(through.percentile(50) - direct.percentile(50));
        added99.push(through.percentile(99) - direct.percentile(99));
    }
    let list = |them: &[f64]| {
        let texts: Vec<String> = them.iter().map(|it| format!("{it:.2}")).collect();
        texts.join(", ")
    };
    let row = format!("invocation at {RATE} rps, added p50; p99, two runs");
    let text = format!("{}; {} ms", list(&added50), list(&added99));
    note(&row, &text)?;
    namespace.remove().await
}

async fn loaded(namespace: &Namespace<'_>, url: &str) -> Result<Summary> {
    namespace.start_load("cart", url, RATE).await?;
    await_condition("enough calls", SOON, async || {
        let sent = namespace.sent("cart").await?;
        ensure!(sent >= CALLS, "{sent} of {CALLS}");
        Ok(())
    })
    .await?;
    let summary = namespace.end_load("cart").await?;
    ensure!(summary.failed() == 0, "{url}: {:?}", summary.failures);
    Ok(summary)
}

#[tokio::test]
async fn a_component_is_seen() -> Result<()> {
    let Some(cluster) = Cluster::take("how soon a component is seen").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let client = real::client(cluster.kubeconfig()).await?;
    let namespace = Namespace::create(&cluster, "story-seen").await?;
    namespace.deploy("orders", 1).await?;
    let mut took = Vec::new();
    for number in 0..COMPONENTS {
        let name = format!("store-{number}");
        namespace
            .start_watch("orders", &name, "state.in-memory")
            .await?;
        let began = create(&client, namespace.name(), &name).await?;
        let seen = namespace.seen("orders").await?;
        let began = began.duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
        let after = u128::from(seen).saturating_sub(began);
        took.push(Duration::from_micros(u64::try_from(after)?).as_secs_f64());
    }
    let (middle, greatest) = middle_and_greatest(&took);
    let text = format!("{middle:.3} / {greatest:.3} s");
    note("Component created: seen by the sidecar, p50 / max", &text)?;
    ensure!(middle < SLOW, "{took:?}");
    namespace.remove().await
}

/// Creates a component. Tells when it was asked for.
async fn create(client: &Client, namespace: &str, name: &str) -> Result<SystemTime> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("dapr.io", "v1alpha1", "Component"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let object = serde_json::from_value(json!(component(name, &memory(), &[])))?;
    let began = SystemTime::now();
    api.create(&PostParams::default(), &object).await?;
    Ok(began)
}
