//! Applications call each other while something below them goes and comes back. Not one call fails.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_cluster::{Cluster, Namespace, Node, SOON, Traffic};
use serde_json::Value;
use tokio::time::sleep;

use crate::resources::{component, memory};

/// The workloads of the control plane.
const CONTROL_PLANE: [&str; 4] = [
    "dapr-operator",
    "dapr-sentry",
    "dapr-sidecar-injector",
    "dapr-placement-server",
];
/// How long etcd stands still.
const PAUSE: Duration = Duration::from_secs(20);
/// A certificate in the story of the rotations, so that both its waits are short.
const LIFETIME: &str = "40s";
/// One rotation: each of its two waits ends when all have renewed, or when their certificates have run out.
const ROTATION: Duration = Duration::from_secs(180);

#[tokio::test]
async fn each_pod_of_the_control_plane_goes_then_all() -> Result<()> {
    let Some(cluster) = Cluster::take("the control plane away").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let traffic = Traffic::start(&cluster, "story-outages").await?;
    for app in CONTROL_PLANE {
        let selector = format!("app={app}");
        delete_pods(&cluster, &["--selector", &selector]).await?;
        await_condition(app, SOON, || one_is_ready(&cluster, app)).await?;
    }
    delete_pods(&cluster, &["--all"]).await?;
    for app in CONTROL_PLANE {
        await_condition(app, SOON, || one_is_ready(&cluster, app)).await?;
    }
    // It works again: what is new gets its sidecar and its components.
    traffic.namespace.deploy("late", 1).await?;
    is_told_of_a_component(&traffic.namespace).await?;
    traffic
        .end("each pod of the control plane, then all")
        .await?;
    Ok(())
}

async fn delete_pods(cluster: &Cluster, which: &[&str]) -> Result<()> {
    let fixed = ["delete", "pods", "--namespace", cluster.system()];
    cluster.kubectl(&[&fixed, which].concat(), "").await?;
    Ok(())
}

async fn one_is_ready(cluster: &Cluster, app: &str) -> Result<()> {
    let ready = cluster.ready(app).await?;
    ensure!(ready == 1, "{ready} of 1");
    Ok(())
}

/// A component that is new reaches the caller's sidecar.
async fn is_told_of_a_component(namespace: &Namespace<'_>) -> Result<()> {
    let new = component("new", &memory(), &["cart"]);
    await_condition("the component is taken", SOON, || namespace.apply(&new)).await?;
    await_condition("the component is there", SOON, async || {
        let components = namespace.components("cart").await?;
        ensure!(components == ["new state.in-memory"], "{components:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_callee_is_rolled() -> Result<()> {
    let Some(cluster) = Cluster::take("the callee rolled").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let traffic = Traffic::start(&cluster, "story-roll").await?;
    traffic.namespace.roll("orders").await?;
    let summary = traffic.end("the callee rolled").await?;
    let pods = summary.answers.len();
    ensure!(
        pods == 4,
        "answers of {pods} pods, not of the old and the new"
    );
    Ok(())
}

#[tokio::test]
async fn helm_upgrades_every_pod_of_the_control_plane() -> Result<()> {
    let Some(cluster) = Cluster::take("an upgrade").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let before = started(&cluster).await?;
    let traffic = Traffic::start(&cluster, "story-upgrade").await?;
    cluster.install(&["global.logAsJson=true"])?;
    let after = started(&cluster).await?;
    let same: Vec<&String> = after.iter().filter(|it| before.contains(it)).collect();
    ensure!(same.is_empty(), "not rolled: {same:?}");
    is_told_of_a_component(&traffic.namespace).await?;
    traffic.end("helm upgrade").await?;
    cluster.install(&[])?;
    Ok(())
}

/// The pods of the control plane, by their UIDs.
async fn started(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster
        .get(&["pods", "--namespace", cluster.system()])
        .await?;
    let pods = pods["items"].as_array().context("no list")?;
    let going = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let uids = pods.iter().filter(going);
    Ok(uids.map(|pod| pod["metadata"]["uid"].to_string()).collect())
}

#[tokio::test]
async fn the_root_is_replaced_twice() -> Result<()> {
    let Some(cluster) = Cluster::take("two rotations").await? else {
        return Ok(());
    };
    cluster.uninstall().await?;
    let lifetime = format!("global.mtls.workloadCertTTL={LIFETIME}");
    cluster.install(&[&lifetime, "global.mtls.allowedClockSkew=0s"])?;
    let traffic = Traffic::start(&cluster, "story-rotation").await?;
    for round in ["1", "2"] {
        let before = roots(&cluster).await?;
        ensure!(before.len() == 1, "{} roots", before.len());
        let request = format!("dapr.io/rotate-root={round}");
        let bundle = [
            "annotate",
            "--overwrite",
            "--namespace",
            cluster.system(),
            "configmap/dapr-trust-bundle",
            &request,
        ];
        cluster.kubectl(&bundle, "").await?;
        await_condition("a new root alone", ROTATION, async || {
            let now = roots(&cluster).await?;
            ensure!(now.len() == 1 && now != before, "{} roots", now.len());
            Ok(())
        })
        .await?;
    }
    traffic.namespace.deploy("late", 1).await?;
    traffic.end("two rotations of the root").await?;
    cluster.uninstall().await
}

/// The certificates in the bundle.
async fn roots(cluster: &Cluster) -> Result<Vec<String>> {
    let bundle = [
        "configmap/dapr-trust-bundle",
        "--namespace",
        cluster.system(),
    ];
    let bundle = cluster.get(&bundle).await?;
    let text = bundle["data"]["ca.crt"].as_str().context("no ca.crt")?;
    let roots = text.split_inclusive("-----END CERTIFICATE-----");
    let roots = roots.map(|it| it.trim().to_owned());
    Ok(roots.filter(|it| !it.is_empty()).collect())
}

#[tokio::test]
async fn the_api_server_restarts_and_etcd_stands_still() -> Result<()> {
    let story = "the API server away";
    let (Some(cluster), Some(node)) = (Cluster::take(story).await?, Node::find(story)?) else {
        return Ok(());
    };
    cluster.install(&[])?;
    let traffic = Traffic::start(&cluster, "story-apiserver").await?;
    node.restart("apiserver").await?;
    await_condition("the API server is back", SOON, async || {
        cluster.get(&["namespaces"]).await.map(drop)
    })
    .await?;
    node.pause("etcd").await?;
    sleep(PAUSE).await;
    node.resume("etcd").await?;
    await_condition("etcd is back", SOON, async || {
        cluster.get(&["namespaces"]).await.map(drop)
    })
    .await?;
    is_told_of_a_component(&traffic.namespace).await?;
    traffic.namespace.deploy("late", 1).await?;
    traffic.end("the API server restarted, etcd paused").await?;
    for app in CONTROL_PLANE {
        await_condition(app, SOON, || one_is_ready(&cluster, app)).await?;
    }
    Ok(())
}
