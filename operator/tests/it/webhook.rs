//! The conversion of Subscriptions through a real API server, and what keeps its CRD right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real::{self, ApiServer, Reach, rule};
use dapr_e2e_apiserver::scripted::{Options, Server};
use dapr_kit::health::Health;
use dapr_kubernetes::Place;
use dapr_operator::webhook::{self, Error};
use dapr_security::request::generate_key;
use dapr_security::{KeyKind, Publisher, Security, Svid, TrustAnchors};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Long against everything that happens here, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);
const CRD: &str = "subscriptions.dapr.io";

/// A new authority, and a certificate of it for a name the API server can call.
fn identity() -> Result<(Svid, TrustAnchors)> {
    let key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = root.self_signed(&key)?;
    let anchors = TrustAnchors::from_chain(vec![root.der().clone()])?;
    let issuer = Issuer::from_ca_cert_der(root.der(), key)?;
    let key = generate_key(KeyKind::Rsa2048)?;
    let mut leaf = CertificateParams::new(["localhost".to_owned()])?;
    let id = "spiffe://cluster.local/ns/dapr-system/dapr-operator";
    leaf.subject_alt_names.push(SanType::URI(id.try_into()?));
    leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let leaf = leaf.signed_by(&key, &issuer)?;
    Ok((Svid::new(vec![leaf.der().clone()], &key)?, anchors))
}

/// A running webhook and its keeper. Dropped, they end.
struct Webhook {
    health: Health,
    publisher: Publisher,
    tasks: JoinSet<Result<(), Error>>,
}

impl Webhook {
    async fn start(kubeconfig: PathBuf, listener: TcpListener) -> Result<Self> {
        let (svid, anchors) = identity()?;
        let (security, publisher) = Security::from_issuer(svid, anchors)?;
        let health = Health::new();
        let target = health.target("webhook");
        let client = dapr_kubernetes::client(&Place::Kubeconfig(kubeconfig)).await?;
        let mut tasks = JoinSet::new();
        let serving = webhook::serve(listener, security.clone(), CancellationToken::new());
        tasks.spawn(async move {
            serving.await;
            Ok(())
        });
        tasks.spawn(async move {
            let kept = webhook::keep_crd(client, "dapr-system", security, target).await;
            kept.map(|never| match never {})
        });
        Ok(Self {
            health,
            publisher,
            tasks,
        })
    }

    async fn ready(&self) -> Result<()> {
        Ok(tokio::time::timeout(SOON, self.health.await_ready()).await?)
    }
}

/// An API server of its own, for the CRD is one for all: installed as users do, and pointed to a port of this machine.
async fn installed(story: &str) -> Result<Option<(ApiServer, TcpListener)>> {
    let Some(server) = real::owned(story).await? else {
        return Ok(None);
    };
    server
        .create_crds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml"))
        .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!(
        "https://localhost:{}/convert",
        listener.local_addr()?.port()
    );
    let client = json!({"url": url, "service": null});
    change(&server, client).await?;
    Ok(Some((server, listener)))
}

async fn change(server: &ApiServer, client_config: Value) -> Result<()> {
    let crds = Api::<CustomResourceDefinition>::all(server.client().await?);
    let patch = json!({"spec": {"conversion": {"webhook": {"clientConfig": client_config}}}});
    crds.patch(CRD, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

async fn bundle(server: &ApiServer) -> Result<Vec<u8>> {
    let crds = Api::<CustomResourceDefinition>::all(server.client().await?);
    let conversion = crds.get(CRD).await?.spec.conversion;
    let webhook = conversion.and_then(|conversion| conversion.webhook);
    let client = webhook.and_then(|webhook| webhook.client_config);
    let bundle = client.and_then(|client| client.ca_bundle);
    Ok(bundle.context("no bundle")?.0)
}

async fn await_bundle(server: &ApiServer, anchors: &TrustAnchors) -> Result<()> {
    await_condition("the bundle", SOON, || async {
        ensure!(
            bundle(server).await? == anchors.pem().as_bytes(),
            "another one"
        );
        Ok(())
    })
    .await
}

/// Lets kubectl do something, and reads what it prints.
async fn kubectl(server: &ApiServer, words: &[&str], input: Option<&Value>) -> Result<Value> {
    let mut command = Command::new(server.kubectl());
    command
        .arg("--kubeconfig")
        .arg(server.kubeconfig())
        .args(words)
        .args(["-o", "json"]);
    let folder = tempfile::tempdir()?;
    if let Some(input) = input {
        let file = folder.path().join("object.json");
        std::fs::write(&file, input.to_string())?;
        command.arg("-f").arg(file);
    }
    let output = command.output().await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test]
async fn subscriptions_of_both_versions_go_round() -> Result<()> {
    let Some((server, listener)) = installed("operator: conversion").await? else {
        return Ok(());
    };
    let webhook = Webhook::start(server.kubeconfig().into(), listener).await?;
    webhook.ready().await?;

    let old = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Subscription",
        "metadata": {"name": "old", "namespace": "default", "labels": {"a": "b"}},
        "spec": {"pubsubname": "p", "topic": "t", "route": "/orders", "deadLetterTopic": "d"}, "scopes": ["shop"],
    });
    // The API server may not have the new bundle yet.
    await_condition("a Subscription of the old version", SOON, || async {
        kubectl(&server, &["apply"], Some(&old)).await
    })
    .await?;
    let stored = kubectl(
        &server,
        &["get", "subscriptions.v2alpha1.dapr.io", "old"],
        None,
    )
    .await?;
    ensure!(
        stored["spec"]["routes"] == json!({"default": "/orders"}),
        "{stored}"
    );
    ensure!(
        stored["spec"]["deadLetterTopic"] == "d" && stored["scopes"] == json!(["shop"]),
        "{stored}"
    );
    ensure!(
        stored["metadata"]["labels"] == json!({"a": "b"}),
        "{stored}"
    );
    let read = kubectl(
        &server,
        &["get", "subscriptions.v1alpha1.dapr.io", "old"],
        None,
    )
    .await?;
    ensure!(read["spec"]["route"] == "/orders", "{read}");

    let new = json!({
        "apiVersion": "dapr.io/v2alpha1", "kind": "Subscription",
        "metadata": {"name": "new", "namespace": "default"},
        "spec": {"pubsubname": "p", "topic": "t", "routes": {
            "rules": [{"match": "true", "path": "/a"}], "default": "/b",
        }},
    });
    kubectl(&server, &["apply"], Some(&new)).await?;
    let read = kubectl(
        &server,
        &["get", "subscriptions.v1alpha1.dapr.io", "new"],
        None,
    )
    .await?;
    ensure!(
        read["spec"]["route"] == "/b" && read["spec"].get("routes").is_none(),
        "{read}"
    );
    // Both, in one review; the rules are still there, for nothing was written.
    let all = kubectl(&server, &["get", "subscriptions.v1alpha1.dapr.io"], None).await?;
    ensure!(
        all["items"]
            .as_array()
            .is_some_and(|items| items.len() == 2),
        "{all}"
    );
    let stored = kubectl(
        &server,
        &["get", "subscriptions.v2alpha1.dapr.io", "new"],
        None,
    )
    .await?;
    ensure!(
        stored["spec"]["routes"]["rules"][0]["path"] == "/a",
        "{stored}"
    );

    // Nor does a write through the old version erase them.
    let words = [
        "patch",
        "subscriptions.v1alpha1.dapr.io",
        "new",
        "--type=merge",
        r#"--patch={"spec":{"route":"/c"}}"#,
    ];
    kubectl(&server, &words, None).await?;
    let words = ["get", "subscriptions.v2alpha1.dapr.io", "new"];
    let stored = kubectl(&server, &words, None).await?;
    let routes = json!({"rules": [{"match": "true", "path": "/a"}], "default": "/c"});
    ensure!(stored["spec"]["routes"] == routes, "{stored}");
    let kept = &stored["metadata"]["annotations"]["dapr.io/subscription-rules"];
    ensure!(kept.is_null(), "{stored}");
    Ok(())
}

#[tokio::test]
async fn the_crd_is_kept_right() -> Result<()> {
    let Some((server, listener)) = installed("operator: the CRD of Subscriptions").await? else {
        return Ok(());
    };
    let mut webhook = Webhook::start(server.kubeconfig().into(), listener).await?;
    webhook.ready().await?;
    let first = bundle(&server).await?;

    // Somebody installs it anew, or puts another certificate there.
    let (_, foreign) = identity()?;
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(foreign.pem().as_bytes());
    change(&server, json!({"caBundle": text})).await?;
    await_condition("our bundle", SOON, || async {
        ensure!(bundle(&server).await? == first, "another one");
        Ok(())
    })
    .await?;
    change(
        &server,
        json!({"url": null, "service": {"namespace": "replaceme", "name": "dapr-webhook"}}),
    )
    .await?;
    await_condition("our namespace", SOON, || async {
        let crds = Api::<CustomResourceDefinition>::all(server.client().await?);
        let crd = serde_json::to_value(crds.get(CRD).await?)?;
        let found = &crd["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["namespace"];
        ensure!(found == "dapr-system", "{found}");
        Ok(())
    })
    .await?;

    // The anchors change.
    let (svid, anchors) = identity()?;
    webhook.publisher.replace(svid, anchors.clone())?;
    await_bundle(&server, &anchors).await?;

    // An API server that is away is no end.
    server.stop()?;
    let (svid, anchors) = identity()?;
    webhook.publisher.replace(svid, anchors.clone())?;
    server.restart().await?;
    await_bundle(&server, &anchors).await?;
    ensure!(webhook.tasks.try_join_next().is_none(), "nothing ended");
    Ok(())
}

/// helm 4 applies definitions with every install, and is refused what somebody else owns.
#[tokio::test]
async fn the_crd_can_be_applied_again() -> Result<()> {
    let Some((server, listener)) = installed("operator: the CRD of Subscriptions, applied").await?
    else {
        return Ok(());
    };
    let crds = Api::<CustomResourceDefinition>::all(server.client().await?);
    let mut documents = dapr_crds::documents::all().into_iter();
    let document = documents
        .find(|document| document.definition["metadata"]["name"] == CRD)
        .context("no definition")?;
    let service = json!({"namespace": "replaceme", "name": "dapr-webhook"});
    change(&server, json!({"url": null, "service": service})).await?;
    let shipped = Patch::Apply(&document.definition);
    let helm = PatchParams::apply("helm");
    crds.patch(CRD, &helm.clone().force(), &shipped).await?;

    let webhook = Webhook::start(server.kubeconfig().into(), listener).await?;
    webhook.ready().await?;
    for _ in 0..2 {
        await_condition("our namespace", SOON, || async {
            let crd = serde_json::to_value(crds.get(CRD).await?)?;
            let client = &crd["spec"]["conversion"]["webhook"]["clientConfig"];
            ensure!(client["service"]["namespace"] == "dapr-system", "{client}");
            ensure!(client["caBundle"].is_string(), "{client}");
            Ok(())
        })
        .await?;
        await_condition("helm applies it", SOON, || async {
            crds.patch(CRD, &helm, &shipped).await?;
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_rights_of_the_original_chart_are_enough_to_start() -> Result<()> {
    let Some((server, listener)) = installed("operator: rights on CRDs").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("dapr-system").await?;
    server.service_account(&namespace, "dapr-operator").await?;
    let rights = [rule(
        "apiextensions.k8s.io",
        &["customresourcedefinitions"],
        &["get", "patch"],
    )];
    let kubeconfig = server
        .kubeconfig_for(&namespace, "dapr-operator", Reach::Cluster, &rights)
        .await?;
    let webhook = Webhook::start(kubeconfig, listener).await?;
    webhook.ready().await?;
    let first = bundle(&server).await?;
    let (svid, anchors) = identity()?;
    webhook.publisher.replace(svid, anchors.clone())?;
    await_bundle(&server, &anchors).await?;
    ensure!(bundle(&server).await? != first);
    Ok(())
}

#[tokio::test]
async fn a_crd_without_a_webhook_is_a_reason_not_to_start() -> Result<()> {
    let server = Server::start(Options::complete()).await?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = server.kubeconfig(folder.path())?;
    let crd = |spec: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": CRD}, "spec": spec,
        })
    };
    for (object, expected) in [
        (None, "cannot be set"),
        (
            Some(crd(json!({"conversion": {"strategy": "None"}}))),
            "does not have an existing webhook client config",
        ),
    ] {
        if let Some(object) = object {
            server.put(object);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut webhook = Webhook::start(kubeconfig.clone(), listener).await?;
        let ended = tokio::time::timeout(SOON, webhook.tasks.join_next()).await?;
        let error = ended.context("a task")??.expect_err("it does not start");
        ensure!(error.to_string().contains(expected), "{error}");
        ensure!(!webhook.health.is_ready());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_named_gets_is_asked_for_a_list_of_definitions() -> Result<()> {
    let options = Options {
        named_gets: false,
        ..Options::complete()
    };
    let server = Server::start(options).await?;
    let folder = tempfile::tempdir()?;
    let client = json!({"service": {"namespace": "replaceme", "name": "dapr-webhook"}});
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD},
        "spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client}}},
    });
    server.put(crd.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let webhook = Webhook::start(server.kubeconfig(folder.path())?, listener).await?;
    webhook.ready().await?;
    let patched = server.get(&crd).context("a definition")?;
    let client = &patched["spec"]["conversion"]["webhook"]["clientConfig"];
    ensure!(client["service"]["namespace"] == "dapr-system", "{client}");
    ensure!(client["caBundle"].is_string(), "{client}");
    Ok(())
}
