//! Actors on several replicas.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_cluster::{App, Cluster, Namespace, SOON};
use serde_json::{Value, json};

use crate::resources::component;

/// So many actors are on every replica, as good as surely.
const ACTORS: usize = 30;

#[tokio::test]
async fn actors_move_when_a_pod_goes() -> Result<()> {
    let Some(cluster) = Cluster::take("actors").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-actors").await?;
    let store = json!({
        "type": "state.in-memory",
        "version": "v1",
        "metadata": [{"name": "actorStateStore", "value": "true"}],
    });
    namespace.apply(&component("store", &store, &[])).await?;
    let app = App::new("cells").replicas(3).with_actors("Cell");
    namespace.run(&app).await?;
    namespace.deploy("cart", 1).await?;
    let before = await_condition("actors on three hosts", SOON, async || {
        let hosts = hosts(&namespace).await?;
        ensure!(hosts.len() == 3, "{hosts:?}");
        Ok(hosts)
    })
    .await?;

    let gone = before.first().context("no host")?;
    namespace.start_load("cart", &actor("moving"), 50).await?;
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
    ensure!(load.answered() > 0, "{:?}", load.failures);
    ensure!(load.failed() == 0, "{:?}", load.failures);
    namespace.remove().await
}

fn actor(id: &str) -> String {
    format!("http://127.0.0.1:3500/v1.0/actors/Cell/{id}/method/where")
}

/// The pods that actors live in.
async fn hosts(namespace: &Namespace<'_>) -> Result<BTreeSet<String>> {
    let mut hosts = BTreeSet::new();
    for id in 0..ACTORS {
        let reply = namespace
            .ask("cart", "POST", &actor(&id.to_string()), "")
            .await?
            .ok()?;
        let host: Value = serde_json::from_str(&reply)?;
        hosts.insert(host.as_str().context("no name of a pod")?.to_owned());
    }
    Ok(hosts)
}
