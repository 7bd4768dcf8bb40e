//! The watcher against a real API server, over TLS.

use anyhow::ensure;
use dapr_e2e_apiserver::real::owned;
use dapr_kubernetes::{Config, Place, State, client};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{Watched, config_map, quick, until};

fn named(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(config_map(name, value)).expect("an object")
}

#[tokio::test]
async fn a_real_server_is_followed_through_its_restart() -> anyhow::Result<()> {
    let Some(server) = owned("a watcher of a real API server").await? else {
        return Ok(());
    };
    let client = client(&Place::Kubeconfig(server.kubeconfig().to_owned())).await?;
    let objects = Api::<ConfigMap>::namespaced(client.clone(), "default");
    for number in 0..7 {
        objects
            .create(
                &PostParams::default(),
                &named(&format!("object-{number}"), "1"),
            )
            .await?;
    }
    let config = Config {
        page: 3,
        labels: Some("!kube".to_owned()),
        fields: Some("metadata.name!=kube-root-ca.crt".to_owned()),
        // A real server is not as quick.
        list_timeout: Config::default().list_timeout,
        ..quick()
    };
    let watched = Watched::<ConfigMap>::run(Api::namespaced(client, "default"), config)
        .synced()
        .await;
    ensure!(watched.seen().len() == 7, "{:?}", watched.seen());
    let health = watched.reader.health();

    let patch = Patch::Merge(json!({"data": {"value": "2"}}));
    objects
        .patch("object-3", &PatchParams::default(), &patch)
        .await?;
    objects.delete("object-4", &DeleteParams::default()).await?;
    until("the changes", || {
        watched.value("object-3").as_deref() == Some("2") && watched.value("object-4").is_none()
    })
    .await;

    server.stop()?;
    until("stale", || {
        matches!(health.borrow().state, State::Stale { .. })
    })
    .await;
    ensure!(watched.reader.len() == 6, "what was known is still served");
    server.restart().await?;
    objects
        .create(&PostParams::default(), &named("after", "1"))
        .await?;
    until("the object after the restart", || {
        watched.value("after").is_some()
    })
    .await;
    until("synced", || health.borrow().state == State::Synced).await;
    ensure!(
        watched.told.lock().deleted.len() == 1,
        "{:?}",
        watched.told.lock()
    );
    ensure!(
        watched.told.lock().wrong.is_empty(),
        "{:?}",
        watched.told.lock().wrong
    );
    Ok(())
}
