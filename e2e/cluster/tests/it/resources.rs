//! What `kubectl apply` does to sidecars that run.

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_cluster::{App, Cluster, Namespace, SOON};
use serde_json::{Value, json};

/// A component with this spec, for some applications.
pub(crate) fn component(name: &str, spec: &Value, scopes: &[&str]) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": spec,
        "scopes": scopes,
    })
}

/// A store that takes nothing from anywhere.
pub(crate) fn memory() -> Value {
    json!({"type": "state.in-memory", "version": "v1", "metadata": []})
}

#[tokio::test]
async fn a_component_and_its_secret_reach_the_sidecars_in_scope_only() -> Result<()> {
    let Some(cluster) = Cluster::take("components").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-components").await?;
    namespace.deploy("cart", 1).await?;
    namespace.deploy("orders", 1).await?;

    let secret = |path: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "database"},
            "stringData": {"connection": path},
        })
    };
    // Only the secret says where the data are.
    let database = json!({
        "type": "state.sqlite",
        "version": "v1",
        "metadata": [
            {"name": "connectionString", "secretKeyRef": {"name": "database", "key": "connection"}},
        ],
    });
    namespace.apply(&secret("file::memory:")).await?;
    namespace
        .apply(&component("store", &database, &["cart"]))
        .await?;
    has(&namespace, "cart", "store state.sqlite").await?;
    save_and_read(&namespace, "store", "1").await?;

    // Changed.
    namespace
        .apply(&component("store", &memory(), &["cart"]))
        .await?;
    has(&namespace, "cart", "store state.in-memory").await?;
    save_and_read(&namespace, "store", "2").await?;

    // Another for everybody; whoever has that one has been told of all before.
    namespace
        .apply(&component("common", &memory(), &[]))
        .await?;
    has(&namespace, "orders", "common state.in-memory").await?;
    let components = namespace.components("orders").await?;
    ensure!(
        components == ["common state.in-memory"],
        "out of scope: {components:?}"
    );
    let refused = namespace
        .ask_sidecar("orders", "GET", "state/store/key", "")
        .await?;
    ensure!(refused.status == 400, "out of scope: {refused:?}");

    // Deleted.
    namespace.delete("component.dapr.io/store").await?;
    await_condition("the store is gone", SOON, async || {
        let components = namespace.components("cart").await?;
        ensure!(components == ["common state.in-memory"], "{components:?}");
        Ok(())
    })
    .await?;
    namespace.remove().await
}

/// Waits until an application's sidecar has a component.
async fn has(namespace: &Namespace<'_>, app: &str, component: &str) -> Result<()> {
    await_condition(&format!("{app} has {component}"), SOON, async || {
        let components = namespace.components(app).await?;
        ensure!(
            components.iter().any(|it| it == component),
            "{components:?}"
        );
        Ok(())
    })
    .await
}

async fn save_and_read(namespace: &Namespace<'_>, store: &str, value: &str) -> Result<()> {
    let path = format!("state/{store}");
    let items = json!([{"key": "key", "value": value}]).to_string();
    namespace
        .ask_sidecar("cart", "POST", &path, &items)
        .await?
        .ok()?;
    let read = namespace
        .ask_sidecar("cart", "GET", &format!("{path}/key"), "")
        .await?
        .ok()?;
    ensure!(read == format!("{value:?}"), "{read} instead of {value:?}");
    Ok(())
}

#[tokio::test]
async fn subscriptions_of_both_versions_deliver() -> Result<()> {
    let Some(cluster) = Cluster::take("subscriptions").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-subscriptions").await?;
    let broker = json!({"type": "pubsub.in-memory", "version": "v1", "metadata": []});
    namespace.apply(&component("broker", &broker, &[])).await?;
    namespace.deploy("orders", 1).await?;
    has(&namespace, "orders", "broker pubsub.in-memory").await?;

    let first = json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Subscription",
        "metadata": {"name": "first"},
        "spec": {"pubsubname": "broker", "topic": "one", "route": "/events/first"},
    });
    let second = json!({
        "apiVersion": "dapr.io/v2alpha1",
        "kind": "Subscription",
        "metadata": {"name": "second"},
        "spec": {"pubsubname": "broker", "topic": "two", "routes": {"default": "/events/second"}},
    });
    // The definition knows its webhook some moments after the operator leads.
    await_condition("v1alpha1 is taken", SOON, || namespace.apply(&first)).await?;
    namespace.apply(&second).await?;
    // Each is there in the other version.
    for version in ["v1alpha1", "v2alpha1"] {
        let kind = format!("subscriptions.{version}.dapr.io");
        let list = cluster
            .get(&[&kind, "--namespace", namespace.name()])
            .await?;
        let names = list["items"].as_array().map_or(0, Vec::len);
        ensure!(names == 2, "{version}: {list}");
    }
    for (topic, name) in [("one", "first"), ("two", "second")] {
        // Subscriptions become live at some moment; what was published before went to nobody.
        await_condition(&format!("an event of {name}"), SOON, async || {
            let path = format!("publish/broker/{topic}");
            let event = json!({"by": name}).to_string();
            namespace
                .ask_sidecar("orders", "POST", &path, &event)
                .await?
                .ok()?;
            let events = namespace
                .ask("orders", "GET", "http://127.0.0.1:8000/events", "")
                .await?
                .ok()?;
            let events: Value = serde_json::from_str(&events)?;
            ensure!(events[name][0]["by"] == *name, "{events}");
            Ok(())
        })
        .await?;
    }
    namespace.delete("subscription.dapr.io/first").await?;
    namespace.delete("subscription.dapr.io/second").await?;
    namespace.remove().await
}

#[tokio::test]
async fn a_configuration_says_who_may_call() -> Result<()> {
    let Some(cluster) = Cluster::take("configurations").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-access").await?;
    namespace.apply(&only("cart", "public")).await?;
    // The same name in another trust domain.
    let abroad = json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Configuration",
        "metadata": {"name": "abroad"},
        "spec": {"accessControl": {"trustDomain": "abroad.example", "defaultAction": "allow", "policies": []}},
    });
    namespace.apply(&abroad).await?;
    namespace
        .run(&App::new("orders").annotated("config", "only"))
        .await?;
    namespace.deploy("cart", 1).await?;
    namespace.deploy("stranger", 1).await?;
    answers(&namespace, "cart", 200).await?;
    answers(&namespace, "stranger", 403).await?;
    namespace
        .run(&App::new("cart").annotated("config", "abroad"))
        .await?;
    answers(&namespace, "cart", 403).await?;

    // Changed, it counts in sidecars that run.
    namespace.apply(&only("stranger", "public")).await?;
    answers(&namespace, "stranger", 200).await?;
    answers(&namespace, "cart", 403).await?;
    namespace.remove().await
}

/// Lets one application call.
fn only(app_id: &str, trust_domain: &str) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Configuration",
        "metadata": {"name": "only"},
        "spec": {"accessControl": {
            "defaultAction": "deny",
            "trustDomain": "public",
            "policies": [{
                "appId": app_id,
                "defaultAction": "allow",
                "trustDomain": trust_domain,
                "namespace": "story-access",
            }],
        }},
    })
}

/// Waits until a call of `orders` is answered with a status.
async fn answers(namespace: &Namespace<'_>, app: &str, status: u16) -> Result<()> {
    await_condition(&format!("{app} is answered {status}"), SOON, async || {
        let reply = namespace
            .ask_sidecar(app, "GET", "invoke/orders/method/who", "")
            .await?;
        ensure!(reply.status == status, "{reply:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_resiliency_retries_and_times_out() -> Result<()> {
    let Some(cluster) = Cluster::take("resiliency").await? else {
        return Ok(());
    };
    cluster.install(&[])?;
    let namespace = Namespace::create(&cluster, "story-resiliency").await?;
    namespace.deploy("orders", 1).await?;
    namespace.deploy("cart", 1).await?;
    answers(&namespace, "cart", 200).await?;
    let call = async |method: &str| {
        let path = format!("invoke/orders/method/{method}");
        namespace.ask_sidecar("cart", "GET", &path, "").await
    };
    let alone = call("unsteady/alone").await?;
    ensure!(alone.status == 500, "without a policy: {alone:?}");
    let slow = call("slow/700").await?;
    ensure!(slow.status == 200, "without a policy: {slow:?}");

    let policy = json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Resiliency",
        "metadata": {"name": "patience"},
        "spec": {
            "policies": {
                "timeouts": {"short": "500ms"},
                "retries": {"thrice": {"policy": "constant", "duration": "10ms", "maxRetries": 3}},
            },
            "targets": {"apps": {"orders": {"timeout": "short", "retry": "thrice"}}},
        },
        "scopes": ["cart"],
    });
    namespace.apply(&policy).await?;
    let mut round = 0;
    let reply = await_condition("the policy retries", SOON, || {
        round += 1;
        let method = format!("unsteady/{round}");
        async move { call(&method).await?.ok().context("a failure") }
    })
    .await?;
    ensure!(!reply.is_empty(), "an empty answer");
    let slow = call("slow/700").await?;
    ensure!(slow.status >= 400, "not cut: {slow:?}");
    namespace.remove().await
}
