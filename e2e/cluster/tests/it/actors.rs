//! Actors on several replicas.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_cluster::{App, Cluster, Namespace, SOON, Summary};
use serde_json::{Value, json};

use crate::resources::component;

/// So many actors are on every replica, as good as surely.
const ACTORS: usize = 30;
/// How many seconds the application serves on.
const LINGER: u32 = 5;
/// The actor has answered where it was once so many calls were sent.
const CALLS: usize = 20;

/// The application serves on for as long as its sidecar needs to give its actors away.
#[tokio::test]
async fn actors_move_when_a_pod_goes() -> Result<()> {
    let Some(cluster) = Cluster::take("actors").await? else {
        return Ok(());
    };
    let app = app()
        .annotated("enable-native-sidecar", "false")
        .lingering(LINGER);
    let load = moved(&cluster, "story-actors", &app).await?;
    ensure!(load.failed() == 0, "{:?}", load.failures);
    Ok(())
}

/// A native sidecar is told to end when the application has ended, so it has actors for a moment that nobody answers for.
/// Those calls reached nobody, and calls go on.
#[tokio::test]
async fn actors_move_when_an_application_goes_before_its_sidecar() -> Result<()> {
    let Some(cluster) = Cluster::take("actors of a native sidecar").await? else {
        return Ok(());
    };
    let app = app().annotated("enable-native-sidecar", "true");
    let load = moved(&cluster, "story-actors-native", &app).await?;
    let others = load
        .failures
        .keys()
        .find(|it| !it.contains("connection refused"));
    ensure!(others.is_none(), "{:?}", load.failures);
    Ok(())
}

fn app() -> App {
    App::new("cells").replicas(3).with_actors("Cell")
}

/// Deletes the pod of an actor that is called all the time, and tells what became of the calls.
#[expect(clippy::print_stdout, reason = "whoever runs the stories reads it")]
async fn moved(cluster: &Cluster, namespace: &str, app: &App) -> Result<Summary> {
    cluster.install(&[])?;
    let namespace = Namespace::create(cluster, namespace).await?;
    let store = json!({
        "type": "state.in-memory",
        "version": "v1",
        "metadata": [{"name": "actorStateStore", "value": "true"}],
    });
    namespace.apply(&component("store", &store, &[])).await?;
    namespace.run(app).await?;
    namespace.deploy("cart", 1).await?;
    let before = await_condition("actors on three hosts", SOON, async || {
        let hosts = hosts(&namespace).await?;
        ensure!(hosts.len() == 3, "{hosts:?}");
        Ok(hosts)
    })
    .await?;

    // The load goes to an actor of the pod that is deleted.
    let gone = &host(&namespace, "moving").await?;
    ensure!(before.contains(gone), "{gone} is none of {before:?}");
    namespace.start_load("cart", &actor("moving"), 50).await?;
    namespace.await_sent("cart", CALLS).await?;
    namespace.delete(&format!("pod/{gone}")).await?;
    namespace.await_ready("cells", 3).await?;
    let after = await_condition("actors on the new host", SOON, async || {
        let hosts = hosts(&namespace).await?;
        ensure!(hosts.len() == 3 && !hosts.contains(gone), "{hosts:?}");
        Ok(hosts)
    })
    .await?;
    ensure!(
        before.intersection(&after).count() == 2,
        "{before:?} {after:?}"
    );
    let load = namespace.end_load("cart").await?;
    println!(
        "actor calls while a host went: {} answered, {} failed {:?}",
        load.answered(),
        load.failed(),
        load.failures
    );
    let mut pods = load.answers.keys();
    ensure!(
        load.answers.len() > 1 && pods.any(|it| it.contains(gone.as_str())),
        "it did not move: {:?}",
        load.answers
    );
    namespace.remove().await?;
    Ok(load)
}

fn actor(id: &str) -> String {
    format!("http://127.0.0.1:3500/v1.0/actors/Cell/{id}/method/where")
}

/// The pods that actors live in.
async fn hosts(namespace: &Namespace<'_>) -> Result<BTreeSet<String>> {
    let mut hosts = BTreeSet::new();
    for id in 0..ACTORS {
        hosts.insert(host(namespace, &id.to_string()).await?);
    }
    Ok(hosts)
}

/// The pod that an actor lives in.
async fn host(namespace: &Namespace<'_>, id: &str) -> Result<String> {
    let reply = namespace.ask("cart", "POST", &actor(id), "").await?.ok()?;
    let host: Value = serde_json::from_str(&reply)?;
    Ok(host.as_str().context("no name of a pod")?.to_owned())
}
