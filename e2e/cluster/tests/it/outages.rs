//! Applications call each other while something below them goes and comes back. Not one call fails.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_charts::CHART;
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::preparation::skipped;
use dapr_e2e_cluster::{Cluster, Namespace, Node, SOON, Traffic};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::resources::{component, memory};

/// The workloads of the control plane.
const CONTROL_PLANE: [&str; 4] = [
    "dapr-operator",
    "dapr-sentry",
    "dapr-sidecar-injector",
    "dapr-placement-server",
];
/// The root of the repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
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

/// From the chart as it was before its last change. The programs are those of this build on both sides, for older ones would
/// have to be compiled; a value makes every pod another one.
#[tokio::test]
async fn helm_upgrades_every_pod_of_the_control_plane() -> Result<()> {
    let story = "an upgrade";
    let Some(cluster) = Cluster::take(story).await? else {
        return Ok(());
    };
    cluster.uninstall().await?;
    match earlier_chart()? {
        Ok(folder) => {
            let chart = folder.path().join("charts/dapr");
            cluster.install_from(chart.to_str().context("a path that is no text")?, &[])?;
        }
        Err(reason) => {
            skipped("an upgrade from the chart before this one", &reason)?;
            cluster.install(&[])?;
        }
    }
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

/// The chart as it was before the last commit that changed it, or before what is not committed yet; or why there is none.
fn earlier_chart() -> Result<Result<TempDir, String>> {
    let run = |program: &str, arguments: &[&str]| -> Result<Result<String, String>> {
        let mut command = Command::new(program);
        let output = command.current_dir(ROOT).args(arguments).output();
        Ok(match output {
            Ok(it) if it.status.success() => Ok(String::from_utf8(it.stdout)?),
            Ok(it) => Err(String::from_utf8_lossy(&it.stderr).trim().to_owned()),
            Err(error) => Err(format!("{program}: {error}")),
        })
    };
    let changes = match run("git", &["status", "--porcelain", "--", "charts/dapr"])? {
        Ok(changes) => changes,
        Err(reason) => return Ok(Err(reason)),
    };
    let last = run("git", &["log", "-1", "--format=%H", "--", "charts/dapr"])?;
    let commit = match last {
        Ok(_) if !changes.is_empty() => "HEAD".to_owned(),
        Ok(last) => format!("{}^", last.trim()),
        Err(reason) => return Ok(Err(reason)),
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().context("a path that is no text")?;
    let archive = format!("{path}/chart.tar");
    let output = format!("--output={archive}");
    if let Err(reason) = run("git", &["archive", &output, &commit, "charts/dapr"])? {
        return Ok(Err(reason));
    }
    let extract = ["--extract", "--file", &archive, "--directory", path];
    Ok(run("tar", &extract)?.map(|_| folder))
}

#[test]
fn the_chart_before_this_one_is_another() -> Result<()> {
    let folder = match earlier_chart()? {
        Ok(folder) => folder,
        Err(reason) => return skipped("the chart before this one", &reason),
    };
    let earlier = folder.path().join("charts/dapr");
    ensure!(earlier.join("Chart.yaml").is_file(), "no chart");
    let same = Command::new("diff")
        .args(["--recursive", "--brief"])
        .arg(&earlier)
        .arg(CHART)
        .output()?;
    ensure!(!same.status.success(), "the same chart");
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
