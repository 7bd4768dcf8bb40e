//! A sidecar as in a pod: everything it loads comes from the operator, and what changes is applied while it serves.

use anyhow::{Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::ports;
use dapr_e2e::standalone::{ControlPlane, Sidecar, SidecarSpec};
use dapr_security::{AnchorsSource, Security};
use serde_json::{Value, json};

use super::kubernetes_mode_operator::Operator;
use super::mtls::options;
use crate::support::{App, LIMIT, Stage, fetch, story};

/// `sesame` as Kubernetes and the operator write it.
const SECRET: &str = "c2VzYW1l";

/// Starts an operator that shows the identity `app_id` of the control plane.
async fn operator(plane: &ControlPlane, app_id: &str) -> Result<Operator> {
    let anchors = AnchorsSource::Inline(plane.sentry.trust_anchors.clone());
    let mut options = options(&plane.sentry, anchors, app_id)?;
    options.trust_domain_in_request = Some("localhost".to_owned());
    let (security, renewal) = Security::start(options).await?;
    // A story is shorter than the identity is valid.
    drop(renewal);
    Operator::start(security, "default").await
}

/// How the injector starts a sidecar, on ports of its own.
async fn spec(stage: &Stage, id: &str, app: &App, operator: &Operator) -> Result<SidecarSpec> {
    let mut spec = stage.spec(id, Some(app));
    spec.flags.extend([
        "--mode=kubernetes".to_owned(),
        format!("--control-plane-address={}", operator.address),
        "--control-plane-trust-domain=localhost".to_owned(),
        "--control-plane-namespace=default".to_owned(),
        "--config=appconfig".to_owned(),
        format!("--dapr-public-port={}", ports::free().await?),
        "--dapr-public-listen-address=127.0.0.1".to_owned(),
    ]);
    spec.environment.insert(
        "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK".to_owned(),
        "true".to_owned(),
    );
    spec.environment
        .insert("POD_NAME".to_owned(), id.to_owned());
    Ok(spec)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": "default", "creationTimestamp": null },
        "spec": spec,
    })
}

fn component(name: &str, kind: &str, metadata: Value) -> Value {
    let spec = json!({ "type": kind, "version": "v1", "metadata": metadata, "ignoreErrors": false, "initTimeout": "" });
    let mut component = object("Component", name, spec);
    component["auth"] = json!({ "secretStore": "" });
    component
}

/// A store whose path is a secret of the cluster.
fn sqlite(stage: &Stage, file: &str) -> Value {
    use base64::Engine as _;
    let path = stage.folder().join(file).display().to_string();
    let path = base64::engine::general_purpose::STANDARD.encode(path);
    let pair = json!({
        "name": "connectionString", "value": path, "secretKeyRef": { "name": "db", "key": "path" },
    });
    component("store", "state.sqlite", json!([pair]))
}

fn configuration(features: Value) -> Value {
    object(
        "Configuration",
        "appconfig",
        json!({ "features": features }),
    )
}

/// Waits until the metadata API lists exactly these under `key`.
async fn await_listed(
    stage: &Stage,
    sidecar: &Sidecar,
    key: &str,
    expected: &[&str],
) -> Result<()> {
    let what = format!("{key} are {expected:?}");
    await_condition(&what, LIMIT, || async {
        let reply = fetch(stage.http.get(sidecar.url("metadata"))).await?;
        let metadata = reply.expect(200)?.json()?;
        let mut names: Vec<&str> = metadata[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["name"].as_str().or(entry.as_str()))
            .collect();
        names.sort_unstable();
        ensure!(names == expected, "{names:?}");
        Ok(())
    })
    .await
}

async fn save(stage: &Stage, sidecar: &Sidecar) -> Result<()> {
    let items = json!([{ "key": "k", "value": 1 }]);
    let request = stage.http.post(sidecar.url("state/store")).json(&items);
    fetch(request).await?.expect(204).map(drop)
}

/// Waits until a key of the store is read with this status.
async fn await_read(stage: &Stage, sidecar: &Sidecar, status: u16) -> Result<()> {
    await_condition(&format!("the key is read with {status}"), LIMIT, || async {
        fetch(stage.http.get(sidecar.url("state/store/k")))
            .await?
            .expect(status)
            .map(drop)
    })
    .await
}

#[test]
fn resources_come_from_the_operator_and_change_live() {
    story("kubernetes-mode", async |stage| {
        let app = App::plain().await?;
        let plane = stage.control_plane(0).await?;
        let operator = operator(&plane, "dapr-operator").await?;
        operator.apply(&configuration(json!([])));
        operator.apply(&sqlite(stage, "one.db"));
        let mut elsewhere = component("elsewhere", "state.in-memory", json!([]));
        elsewhere["scopes"] = json!(["somebody-else"]);
        operator.apply(&elsewhere);
        let id = stage.id("pod");
        let spec = spec(stage, &id, &app, &operator).await?;
        let sidecar = stage.sidecar(&spec, Some(&plane)).await?;
        await_listed(stage, &sidecar, "components", &["store"]).await?;
        await_listed(stage, &sidecar, "enabledFeatures", &["HotReload"]).await?;
        save(stage, &sidecar).await?;
        await_read(stage, &sidecar, 200).await?;

        // Created: a broker, then a subscription on it.
        operator.apply(&component("bus", "pubsub.in-memory", json!([])));
        await_listed(stage, &sidecar, "components", &["bus", "store"]).await?;
        let routes = json!({ "default": "/orders" });
        let subscription = json!({ "pubsubname": "bus", "topic": "orders", "routes": routes });
        operator.apply(&object("Subscription", "orders", subscription));
        let publish = || {
            stage
                .http
                .post(sidecar.url("publish/bus/orders"))
                .json(&json!({ "id": 1 }))
        };
        await_condition("the application gets an event", LIMIT, || async {
            fetch(publish()).await?.expect(204)?;
            ensure!(!app.seen("/orders").is_empty(), "none yet");
            Ok(())
        })
        .await?;

        // Changed: another database behind the same name, which has no such key.
        operator.apply(&sqlite(stage, "two.db"));
        await_read(stage, &sidecar, 204).await?;

        // An endpoint with a header from a secret.
        let header = json!({ "name": "x-key", "value": SECRET, "secretKeyRef": { "name": "s", "key": "k" } });
        let base_url = format!("http://127.0.0.1:{}", app.port());
        let endpoint = json!({ "baseUrl": base_url, "headers": [header] });
        operator.apply(&object("HTTPEndpoint", "outside", endpoint));
        await_listed(stage, &sidecar, "httpEndpoints", &["outside"]).await?;
        fetch(stage.http.get(sidecar.url("invoke/outside/method/hello")))
            .await?
            .expect(200)?;
        let seen = app.await_seen("/hello", 1).await?;
        ensure!(seen[0].header("x-key") == "sesame", "{:?}", seen[0].headers);

        // Deleted.
        operator.delete("Component", "store");
        await_read(stage, &sidecar, 500).await?;
        await_listed(stage, &sidecar, "components", &["bus"]).await?;

        // A Configuration begins anew, with everything else as it was.
        operator.apply(&configuration(json!([{ "name": "New", "enabled": true }])));
        await_listed(stage, &sidecar, "enabledFeatures", &["HotReload", "New"]).await?;
        await_listed(stage, &sidecar, "components", &["bus"]).await?;
        Ok(())
    });
}

#[test]
fn what_changed_while_the_operator_was_away_is_found() {
    story("kubernetes-operator-away", async |stage| {
        let app = App::plain().await?;
        let plane = stage.control_plane(0).await?;
        let mut operator = operator(&plane, "dapr-operator").await?;
        operator.apply(&configuration(json!([])));
        operator.apply(&component("first", "state.in-memory", json!([])));
        let id = stage.id("pod");
        let spec = spec(stage, &id, &app, &operator).await?;
        let sidecar = stage.sidecar(&spec, Some(&plane)).await?;
        await_listed(stage, &sidecar, "components", &["first"]).await?;
        operator.stop().await;
        operator.apply(&component("second", "state.in-memory", json!([])));
        operator.delete("Component", "first");
        operator.resume().await?;
        await_listed(stage, &sidecar, "components", &["second"]).await?;
        // The new connection tells about changes, too.
        operator.apply(&component("third", "state.in-memory", json!([])));
        await_listed(stage, &sidecar, "components", &["second", "third"]).await?;
        Ok(())
    });
}

#[test]
fn somebody_else_at_the_operators_address_is_not_believed() {
    story("kubernetes-operator-identity", async |stage| {
        let app = App::plain().await?;
        let plane = stage.control_plane(0).await?;
        let impostor = operator(&plane, "dapr-injector").await?;
        impostor.apply(&configuration(json!([])));
        let id = stage.id("pod");
        let spec = spec(stage, &id, &app, &impostor).await?;
        let mut sidecar = Sidecar::start(stage.folder(), &spec, Some(&plane)).await?;
        await_condition("the log names the wrong identity", LIMIT, || {
            let log = sidecar.process.log();
            async move {
                ensure!(log.contains("unexpected SPIFFE ID"), "not yet");
                Ok(())
            }
        })
        .await?;
        sidecar.process.check_running()?;
        sidecar.process.signal("TERM").await?;
        let status = sidecar.process.ended(LIMIT).await?;
        ensure!(status.code() == Some(1), "{status}");
        Ok(())
    });
}

#[test]
fn resources_in_a_folder_change_live() {
    story("hot-reload", async |stage| {
        let app = App::plain().await?;
        let folder = stage.resources(
            "resources",
            &[component("first", "state.in-memory", json!([])).to_string()],
        )?;
        let mut spec = stage.spec(&stage.id("app"), Some(&app));
        spec.resources = Some(folder.clone());
        let sidecar = stage.sidecar(&spec, None).await?;
        await_listed(stage, &sidecar, "components", &["first"]).await?;
        let second = component("second", "state.in-memory", json!([]));
        std::fs::write(folder.join("01.yaml"), second.to_string())?;
        await_listed(stage, &sidecar, "components", &["first", "second"]).await?;
        // A file that cannot be read leaves everything as it is; the next change shows that it was noticed.
        std::fs::write(folder.join("02.yaml"), "apiVersion: [")?;
        std::fs::remove_file(folder.join("00.yaml"))?;
        await_listed(stage, &sidecar, "components", &["second"]).await?;
        let resiliency = json!({ "policies": { "timeouts": { "general": "5s" } }, "targets": {} });
        let resiliency = object("Resiliency", "policies", resiliency);
        std::fs::write(folder.join("02.yaml"), resiliency.to_string())?;
        await_listed(stage, &sidecar, "resiliencies", &["policies"]).await?;
        Ok(())
    });
}

#[test]
fn secrets_are_read_by_applications_and_by_components() {
    story("secrets", async |stage| {
        let file = stage.file(
            "secrets.json",
            r#"{"db": {"path": "data.db"}, "hidden": "h"}"#,
        )?;
        let store = component(
            "vault",
            "secretstores.local.file",
            json!([
                { "name": "secretsFile", "value": file.display().to_string() },
                { "name": "multiValued", "value": "true" },
            ]),
        );
        // It stands before its secret store, which is opened first all the same.
        let pair =
            json!({ "name": "connectionString", "secretKeyRef": { "name": "db", "key": "path" } });
        let mut database = component("a-database", "state.sqlite", json!([pair]));
        database["auth"]["secretStore"] = json!("vault");
        let scopes = json!({ "scopes": [{ "storeName": "vault", "deniedSecrets": ["hidden"] }] });
        let config = object("Configuration", "c", json!({ "secrets": scopes }));
        let config = stage.file("config.yaml", &config.to_string())?;
        let mut spec = stage.spec(&stage.id("app"), None);
        spec.resources =
            Some(stage.resources("resources", &[database.to_string(), store.to_string()])?);
        spec.flags.push(format!("--config={}", config.display()));
        let sidecar = stage.sidecar(&spec, None).await?;
        await_listed(stage, &sidecar, "components", &["a-database", "vault"]).await?;
        ensure!(
            stage.folder().join("data.db").is_file(),
            "the secret was not used"
        );

        let secret = fetch(stage.http.get(sidecar.url("secrets/vault/db"))).await?;
        ensure!(secret.expect(200)?.json()? == json!({ "path": "data.db" }));
        let all = fetch(stage.http.get(sidecar.url("secrets/vault/bulk"))).await?;
        ensure!(all.expect(200)?.json()? == json!({ "db": { "path": "data.db" } }));
        let hidden = fetch(stage.http.get(sidecar.url("secrets/vault/hidden"))).await?;
        hidden.refusal(403, "ERR_PERMISSION_DENIED")?;
        Ok(())
    });
}
