//! A real kube-apiserver: identity, permissions, custom resources, and its failures.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e_apiserver::real::{ApiServer, Reach, client, owned, rule, shared};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::time::timeout;

const LIFETIME: Duration = Duration::from_secs(600);

/// Far longer than a write takes while etcd runs.
const STUCK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_bound_token_tells_account_and_pod() -> Result<()> {
    let Some(server) = shared("bound tokens").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("token").await?;
    server.service_account(&namespace, "shop").await?;
    let pod = server
        .pod(&namespace, "shop-0", "shop", &[("dapr.io/app-id", "shop")])
        .await?;
    ensure!(pod.annotations()["dapr.io/app-id"] == "shop");
    let audiences = ["dapr.io/sentry"];
    let token = server
        .bound_token(&namespace, "shop", "shop-0", &audiences, LIFETIME)
        .await?;

    let status = review(server, &token, &audiences).await?;
    ensure!(status.authenticated == Some(true), "{status:?}");
    let user = status.user.context("no user")?;
    let expected = format!("system:serviceaccount:{namespace}:shop");
    ensure!(user.username == Some(expected), "{user:?}");
    let extra = user.extra.context("no extra")?;
    let pods = extra.get("authentication.kubernetes.io/pod-name");
    ensure!(pods == Some(&vec!["shop-0".to_owned()]), "{extra:?}");

    let status = review(server, &token, &["somebody-else"]).await?;
    ensure!(status.authenticated != Some(true), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_restricted_kubeconfig_allows_its_rules_and_no_more() -> Result<()> {
    let Some(server) = shared("restricted kubeconfigs").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("restricted").await?;
    let other = server.create_namespace("restricted").await?;
    server.service_account(&namespace, "reader").await?;
    let rules = [rule("", &["pods"], &["list"])];
    let all = ListParams::default();

    let reach = Reach::Namespace(&namespace);
    let kubeconfig = server
        .kubeconfig_for(&namespace, "reader", reach, &rules)
        .await?;
    let reader = client(&kubeconfig).await?;
    let own = Api::<Pod>::default_namespaced(reader.clone());
    own.list(&all).await?;
    refused(own.get("any").await)?;
    refused(
        Api::<ConfigMap>::namespaced(reader.clone(), &namespace)
            .list(&all)
            .await,
    )?;
    refused(
        Api::<Pod>::namespaced(reader.clone(), &other)
            .list(&all)
            .await,
    )?;
    refused(Api::<Namespace>::all(reader).list(&all).await)?;

    server.service_account(&namespace, "operator").await?;
    let kubeconfig = server
        .kubeconfig_for(&namespace, "operator", Reach::Cluster, &rules)
        .await?;
    let operator = client(&kubeconfig).await?;
    Api::<Pod>::all(operator.clone()).list(&all).await?;
    refused(Api::<Namespace>::all(operator).list(&all).await)?;
    Ok(())
}

#[tokio::test]
async fn custom_resources_are_served_once_their_definitions_are_created() -> Result<()> {
    let Some(server) = shared("custom resources").await? else {
        return Ok(());
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/yaml");
    let names = server.create_crds(&folder).await?;
    ensure!(
        names.contains(&"components.dapr.io".to_owned()),
        "{names:?}"
    );
    let namespace = server.create_namespace("resources").await?;
    let component = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: store, namespace: {namespace}}}\n\
         spec: {{type: state.in-memory, version: v1, metadata: []}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, namespace: {namespace}}}\n",
    );
    let applied = server.apply_yaml(&component).await?;
    ensure!(applied.len() == 2, "{applied:?}");
    ensure!(applied[0].data["spec"]["type"] == "state.in-memory");
    ensure!(applied[0].namespace() == Some(namespace.clone()));
    let nonsense = json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": { "name": "nonsense", "namespace": namespace },
        "spec": { "type": 7 },
    });
    let Err(error) = server.apply(&nonsense).await else {
        bail!("the schema was not looked at")
    };
    ensure!(format!("{error:#}").contains("spec.type"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn a_story_stops_and_starts_its_own_server() -> Result<()> {
    let Some(server) = owned("stopping the API server").await? else {
        return Ok(());
    };
    let folder = server.kubeconfig().parent().context("a folder")?.to_owned();
    let namespace = server.create_namespace("kept").await?;
    let maps = Api::<ConfigMap>::namespaced(server.client().await?, &namespace);
    maps.create(&PostParams::default(), &config_map("before"))
        .await?;

    server.stop()?;
    ensure!(maps.get("before").await.is_err(), "somebody answered");
    server.restart().await?;
    maps.get("before").await?;

    server.pause_etcd()?;
    let (params, map) = (PostParams::default(), config_map("paused"));
    let write = timeout(STUCK, maps.create(&params, &map)).await;
    ensure!(write.is_err(), "written without etcd");
    server.resume_etcd()?;
    maps.create(&PostParams::default(), &config_map("after"))
        .await?;
    maps.delete("after", &DeleteParams::default()).await?;

    drop(server);
    ensure!(!folder.exists(), "the folder is still there");
    ensure!(maps.get("before").await.is_err(), "somebody answered");
    Ok(())
}

async fn review(server: &ApiServer, token: &str, audiences: &[&str]) -> Result<TokenReviewStatus> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(audiences.iter().copied().map(str::to_owned).collect()),
            token: Some(token.to_owned()),
        },
        ..TokenReview::default()
    };
    let reviews = Api::<TokenReview>::all(server.client().await?);
    let answer = reviews.create(&PostParams::default(), &review).await?;
    answer.status.context("a review without a status")
}

/// Expects that the API server refused a request for want of a permission.
fn refused<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => bail!("another error: {error}"),
        Ok(_) => bail!("it was allowed"),
    }
}

fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map
}
