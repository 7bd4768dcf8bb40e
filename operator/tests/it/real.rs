//! The API before a real API server.

use std::path::{Path, PathBuf};

use dapr_e2e_apiserver::real::{self, ApiServer, Reach, rule};
use dapr_proto::dapr::proto::operator::v1 as wire;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::support::{Operator, SOON, component_stream, components, eventually, names, next, read};

/// The server of this binary, with Dapr's kinds; none if there is none to be had, which was reported.
async fn server(story: &str) -> Option<&'static ApiServer> {
    static KINDS: OnceCell<()> = OnceCell::const_new();
    let server = real::shared(story).await.expect("a server")?;
    let kinds = async || {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        server.create_crds(&crds).await.expect("kinds");
    };
    KINDS.get_or_init(kinds).await;
    Some(server)
}

/// The rights of an installation, as far as the API needs them.
async fn kubeconfig(server: &ApiServer, namespace: &str) -> PathBuf {
    let reads = &["get", "list", "watch"];
    server
        .service_account(namespace, "dapr-operator")
        .await
        .expect("an account");
    let kinds = [
        "components",
        "configurations",
        "httpendpoints",
        "mcpservers",
        "resiliencies",
        "subscriptions",
        "workflowaccesspolicies",
    ];
    let rules = [
        rule("", &["pods", "secrets"], reads),
        rule("dapr.io", &kinds, reads),
    ];
    let reach = Reach::Cluster;
    server
        .kubeconfig_for(namespace, "dapr-operator", reach, &rules)
        .await
        .expect("a kubeconfig")
}

fn component(namespace: &str, name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "state.redis", "version": version, "metadata": [
            {"name": "password", "secretKeyRef": {"name": "redis", "key": "k"}},
        ]},
    })
}

fn secret(namespace: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "redis", "namespace": namespace}, "data": {"k": value},
    })
}

#[tokio::test]
async fn resources_of_a_real_api_server() {
    let Some(server) = server("operator: resources").await else {
        return;
    };
    let namespace = server.create_namespace("shop").await.expect("a namespace");
    let apply = async |object: Value| {
        server.apply(&object).await.expect("applied");
    };
    apply(secret(&namespace, "b25l")).await;
    apply(component(&namespace, "store", "v1")).await;
    let operator = Operator::ready(kubeconfig(server, &namespace).await, None).await;
    let mut shop = operator.app(&namespace, "shop").await;
    let list = components(&mut shop, &namespace).await.expect("a list");
    assert_eq!(names(&list), ["store"]);
    assert_eq!(list[0]["spec"]["metadata"][0]["value"], "b25l");
    assert!(list[0]["metadata"]["uid"].is_string());

    let mut stream = component_stream(&mut shop, &namespace).await;
    let mut labelled = component(&namespace, "store", "v1");
    labelled["metadata"]["labels"] = json!({"team": "a"});
    apply(labelled).await;
    apply(component(&namespace, "store", "v2")).await;
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["spec"]["version"]), (2, &json!("v2")));
    apply(secret(&namespace, "dHdv")).await;
    let (r#type, object) = next(&mut stream).await;
    let value = &object["spec"]["metadata"][0]["value"];
    assert_eq!((r#type, value), (2, &json!("dHdv")));
    let secrets = Api::<Secret>::namespaced(server.client().await.expect("a client"), &namespace);
    let deleted = secrets.delete("redis", &DeleteParams::default()).await;
    deleted.expect("deleted");
    eventually("the list fails", async || {
        components(&mut shop, &namespace).await.is_err()
    })
    .await;
    apply(secret(&namespace, "dHdv")).await;
    eventually("the list is back", async || {
        components(&mut shop, &namespace).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn old_and_new_subscriptions_are_served_as_new_ones() {
    let Some(server) = server("operator: subscriptions").await else {
        return;
    };
    let namespace = server.create_namespace("shop").await.expect("a namespace");
    let operator = Operator::ready(kubeconfig(server, &namespace).await, Some(&namespace)).await;
    let mut shop = operator.app(&namespace, "shop").await;
    let open = wire::SubscriptionUpdateRequest {
        namespace: namespace.clone(),
    };
    let mut stream = shop
        .subscription_update(open)
        .await
        .expect("open")
        .into_inner();
    let subscription = json!({
        "apiVersion": "dapr.io/v2alpha1", "kind": "Subscription",
        "metadata": {"name": "orders", "namespace": namespace},
        "spec": {"pubsubname": "p", "topic": "t", "routes": {"default": "/orders"}},
    });
    server.apply(&subscription).await.expect("applied");
    let event = timeout(SOON, stream.message()).await.expect("in time");
    let event = event.expect("a stream").expect("an event");
    assert_eq!(event.r#type, 1);
    assert_eq!(
        read(&event.subscription)["spec"]["routes"]["default"],
        "/orders"
    );
}

#[tokio::test]
async fn kubectl_shows_what_matters() {
    let Some(server) = server("operator: printer columns").await else {
        return;
    };
    let namespace = server.create_namespace("shop").await.expect("a namespace");
    let mut store = component(&namespace, "store", "v7");
    store["scopes"] = json!(["shop", "cart"]);
    server.apply(&store).await.expect("applied");
    let subscription = json!({
        "apiVersion": "dapr.io/v2alpha1", "kind": "Subscription",
        "metadata": {"name": "orders", "namespace": namespace},
        "spec": {"pubsubname": "bus", "topic": "t", "routes": {"default": "/orders"}},
    });
    server.apply(&subscription).await.expect("applied");
    let shown = async |kind: &str| {
        let mut command = tokio::process::Command::new(server.kubectl());
        command.arg("--kubeconfig").arg(server.kubeconfig());
        command.args(["--namespace", &namespace, "get", kind]);
        let output = command.output().await.expect("kubectl");
        let text = String::from_utf8(output.stdout).expect("text");
        let lines = text.lines().map(|line| {
            let mut words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            // The age.
            words.pop();
            words.join(" ")
        });
        lines.collect::<Vec<_>>()
    };
    let expected = [
        "NAME TYPE VERSION SCOPES",
        r#"store state.redis v7 ["shop","cart"]"#,
    ];
    assert_eq!(shown("components.dapr.io").await, expected);
    let lines = shown("subscriptions.v2alpha1.dapr.io").await;
    assert!(lines[0].starts_with("NAME PUBSUB TOPIC ROUTE"), "{lines:?}");
    assert!(lines[1].starts_with("orders bus t /orders"), "{lines:?}");
}
