//! Events on resources that sidecars will trip over: once each, and never with a secret in it.

use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real;
use dapr_e2e_apiserver::scripted::{Options, Resource, Server, Verb};
use dapr_kubernetes::{Config, Object, Place, Reader, watch};
use dapr_operator::notices::{self, Resources, Sources};
use dapr_operator::services::{Watches, Which};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

/// Long against everything that happens here, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);
const HIDDEN: &str = "correct-horse-battery";

struct Notices(JoinHandle<()>);

impl Drop for Notices {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn start(client: kube::Client, namespace: String) -> Notices {
    Notices(tokio::spawn(async move {
        let watches = Watches::new(&client, Some(&namespace), Which::None);
        let mut tasks = JoinSet::new();
        let sources = Sources {
            pods: watched(&client, &namespace, &mut tasks),
            services: watches.services(),
            secrets: watched(&client, &namespace, &mut tasks),
            resources: Resources {
                components: watched(&client, &namespace, &mut tasks),
                configurations: watched(&client, &namespace, &mut tasks),
                http_endpoints: watched(&client, &namespace, &mut tasks),
                mcp_servers: watched(&client, &namespace, &mut tasks),
                resiliencies: watched(&client, &namespace, &mut tasks),
                subscriptions: watched(&client, &namespace, &mut tasks),
                workflow_access_policies: watched(&client, &namespace, &mut tasks),
            },
        };
        tokio::select! {
            never = watches.run() => match never {},
            never = notices::run(client, sources, Duration::from_secs(1)) => match never {},
        }
    }))
}

/// What is watched by a task of `tasks`.
fn watched<K>(client: &kube::Client, namespace: &str, tasks: &mut JoinSet<()>) -> Reader<K>
where
    K: Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::namespaced(client.clone(), namespace);
    let (reader, watcher) = watch(api, Config::default());
    tasks.spawn(async move { match watcher.run(|_| {}).await {} });
    reader
}

#[tokio::test]
async fn what_is_wrong_with_a_resource_is_told_once() -> Result<()> {
    let Some(server) = real::shared("operator: notices").await? else {
        return Ok(());
    };
    let crds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    server.create_crds(&crds).await?;
    let namespace = server.create_namespace("notices").await?;
    server.service_account(&namespace, "app").await?;
    let annotations = [("dapr.io/enabled", "true"), ("dapr.io/app-id", "shop")];
    server.pod(&namespace, "shop", "app", &annotations).await?;
    let secret = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "stringData": {"password": HIDDEN},
        })
    };
    let component = |name: &str, secret: &str, scopes: &[&str]| {
        json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"type": "state.redis", "version": "v1", "metadata": [
                {"name": "redisPassword", "secretKeyRef": {"name": secret, "key": "password"}},
                {"name": "inline", "value": HIDDEN},
            ]},
            "scopes": scopes,
        })
    };
    let headers = json!([
        {"name": "inline", "value": HIDDEN},
        {"name": "key", "secretKeyRef": {"name": "gone", "key": "password"}},
    ]);
    let other = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": kind,
            "metadata": {"name": "secretless", "namespace": namespace}, "spec": spec,
        })
    };
    let subscription = |name: &str| {
        json!({
            "apiVersion": "dapr.io/v2alpha1", "kind": "Subscription",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"pubsubname": "p", "topic": "t", "routes": {"default": "/orders"}},
        })
    };
    server.apply(&secret("there")).await?;
    for object in [
        component("good", "there", &["shop"]),
        component("secretless", "gone", &[]),
        component("scoped", "there", &["shop", "sohp"]),
        other(
            "HTTPEndpoint",
            json!({"baseUrl": "http://a", "headers": headers}),
        ),
        other(
            "MCPServer",
            json!({"endpoint": {"sse": {"url": "http://a", "headers": headers}}}),
        ),
        other(
            "Configuration",
            json!({"tracing": {"samplingRate": "1", "otel": {
                "protocol": "grpc", "endpointAddress": "a:1", "isSecure": false, "headers": headers,
            }}}),
        ),
        subscription("one"),
        subscription("two"),
    ] {
        server.apply(&object).await?;
    }
    let place = Place::Kubeconfig(server.kubeconfig().into());
    let client = dapr_kubernetes::client(&place).await?;
    let running = start(client.clone(), namespace.clone());

    let events = Api::<Event>::namespaced(server.client().await?, &namespace);
    let told = || async {
        let events = events.list(&ListParams::default()).await?;
        let mut told: Vec<String> = events
            .into_iter()
            .map(|event| {
                let about = event.involved_object;
                let text = |text: Option<String>| text.unwrap_or_default();
                let (kind, name) = (text(about.kind), text(about.name));
                format!(
                    "{kind} {name} {}: {}",
                    text(event.reason),
                    text(event.message)
                )
            })
            .collect();
        told.sort_unstable();
        anyhow::Ok(told)
    };
    let expected = [
        "Component scoped UnknownApp: scopes name apps that are not in this namespace: sohp",
        "Component secretless SecretNotFound: secrets it refers to are not in this namespace: gone",
        "Configuration secretless SecretNotFound: secrets it refers to are not in this namespace: gone",
        "HTTPEndpoint secretless SecretNotFound: secrets it refers to are not in this namespace: gone",
        "MCPServer secretless SecretNotFound: secrets it refers to are not in this namespace: gone",
        "Subscription one DuplicateRoute: the Subscription two brings topic t of p to the route /orders of the same apps",
        "Subscription two DuplicateRoute: the Subscription one brings topic t of p to the route /orders of the same apps",
    ];
    await_condition("Events", SOON, || async {
        let told = told().await?;
        ensure!(told == expected, "{told:#?}");
        Ok(())
    })
    .await?;

    // Another leader tells nothing again, but what is new.
    drop(running);
    let _running = start(client, namespace.clone());
    server.apply(&component("later", "gone-too", &[])).await?;
    await_condition("one more Event", SOON, || async {
        let told = told().await?;
        ensure!(told.len() == expected.len() + 1, "{told:#?}");
        Ok(())
    })
    .await?;
    let all = serde_json::to_string(&events.list(&ListParams::default()).await?.items)?;
    ensure!(!all.contains(HIDDEN), "{all}");
    ensure!(!all.contains(&STANDARD.encode(HIDDEN)), "{all}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_is_told_without_its_values() -> Result<()> {
    let server = Server::start(Options::complete()).await?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = server.kubeconfig(folder.path())?;
    let client = dapr_kubernetes::client(&Place::Kubeconfig(kubeconfig)).await?;
    let broken = |version: &str| {
        json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "broken", "namespace": "shop"},
            "spec": {"type": "state.redis", "version": version, "ignoreErrors": HIDDEN, "metadata": []},
        })
    };
    server.put(broken("v1"));
    let _running = start(client, "shop".to_owned());
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x", "namespace": "shop"}});
    let events = || server.objects(&Resource::of(&event));
    await_condition("an Event", SOON, || async {
        ensure!(events().len() == 1, "{:?}", events());
        Ok(())
    })
    .await?;
    let told = &events()[0];
    ensure!(told["reason"] == "Unreadable", "{told}");
    ensure!(
        told["message"]
            == "sidecars do not get this Component: invalid type: string …, expected a boolean",
        "{told}"
    );
    // Still wrong in the same way is nothing new, so nothing is sent; what is wrong with the next one is.
    server.put(broken("v2"));
    let later = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "later", "namespace": "shop"},
        "spec": {"type": "state.redis", "version": "v1", "metadata": [
            {"name": "p", "secretKeyRef": {"name": "gone", "key": "k"}},
        ]},
    });
    server.put(later);
    await_condition("the next Event", SOON, || async {
        ensure!(events().len() == 2, "{:?}", events());
        Ok(())
    })
    .await?;
    // The name of an Event follows from what it says, so one that is told again would not be there twice.
    let sent = server.count(Verb::Create, "events");
    ensure!(sent == 2, "{sent}");

    let kinds = [
        ("Configuration", "v1alpha1", "tracing"),
        ("HTTPEndpoint", "v1alpha1", "headers"),
        ("MCPServer", "v1alpha1", "endpoint"),
        ("Resiliency", "v1alpha1", "policies"),
        ("Subscription", "v2alpha1", "routes"),
        ("WorkflowAccessPolicy", "v1alpha1", "rules"),
    ];
    for (kind, version, field) in kinds {
        server.put(json!({
            "apiVersion": format!("dapr.io/{version}"), "kind": kind,
            "metadata": {"name": "odd", "namespace": "shop"}, "spec": {field: HIDDEN},
        }));
    }
    await_condition("an Event for each kind", SOON, || async {
        let all = events();
        let odd = all
            .iter()
            .filter(|it| it["involvedObject"]["name"] == "odd" && it["reason"] == "Unreadable");
        let mut told: Vec<_> = odd.map(|it| &it["involvedObject"]["kind"]).collect();
        told.sort_unstable_by_key(|kind| kind.to_string());
        ensure!(told == kinds.map(|(kind, ..)| kind), "{told:?}");
        Ok(())
    })
    .await?;
    ensure!(!format!("{:?}", events()).contains(HIDDEN));
    Ok(())
}
