//! The Service reconciler against a real API server, and against one that does little or fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real::{self, ApiServer};
use dapr_e2e_apiserver::scripted::{Options, Resource, Server, Verb};
use dapr_kubernetes::{Config, Place, watch};
use dapr_operator::pods::Pod;
use dapr_operator::services::{self, Metrics, Watches, Which};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Long against everything that happens here, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);

/// A running reconciler of one namespace. Dropped, it ends.
struct Reconciler {
    registry: Registry,
    task: JoinHandle<Result<()>>,
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Served,
    Left,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rollouts {
    Served,
    Left,
}

impl Reconciler {
    async fn start(kubeconfig: PathBuf, namespace: Option<&str>, others: Others) -> Result<Self> {
        Self::start_with(kubeconfig, namespace, others, Rollouts::Left).await
    }

    async fn start_with(
        kubeconfig: PathBuf,
        namespace: Option<&str>,
        others: Others,
        rollouts: Rollouts,
    ) -> Result<Self> {
        let client = dapr_kubernetes::client(&Place::Kubeconfig(kubeconfig)).await?;
        let registry = Registry::new();
        let metrics = Metrics::register(&registry)?;
        let namespace = namespace.map(str::to_owned);
        let task = tokio::spawn(async move {
            let (pods, watcher) = watch::<Pod>(Api::all(client.clone()), Config::default());
            let others = (others == Others::Served).then_some(pods);
            let rollouts = rollouts == Rollouts::Served;
            let which = Which::All { rollouts };
            let watches = Watches::new(&client, namespace.as_deref(), which);
            let run = services::run(client, watches, others, metrics);
            tokio::select! {
                never = watcher.run(|_| {}) => match never {},
                ended = run => ended,
            }
        });
        Ok(Self { registry, task })
    }

    fn count(&self, name: &str, app_id: &str) -> u64 {
        let name = format!("dapr_operator_service_{name}_total");
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], |family| family.get_metric());
        let metric = metrics
            .iter()
            .find(|metric| metric.get_label()[0].value() == app_id);
        metric.map_or(0, |metric| metric.get_counter().get_value() as u64)
    }
}

fn workload(kind: &str, namespace: &str, name: &str, annotations: &Value) -> Value {
    let mut workload = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    });
    if kind == "StatefulSet" {
        workload["spec"]["serviceName"] = json!("");
    }
    workload
}

fn enabled(app_id: &str) -> Value {
    json!({"dapr.io/enabled": "true", "dapr.io/app-id": app_id})
}

async fn services(server: &ApiServer, namespace: &str) -> Result<Api<Service>> {
    Ok(Api::namespaced(server.client().await?, namespace))
}

async fn await_service(
    services: &Api<Service>,
    name: &str,
    what: &str,
    is_right: impl Fn(&Service) -> bool,
) -> Result<Service> {
    await_condition(what, SOON, || async {
        let service = services.get(name).await?;
        ensure!(
            is_right(&service),
            "{:?} {:?}",
            service.metadata,
            service.spec
        );
        Ok(service)
    })
    .await
}

fn owner(service: &Service) -> &str {
    let owners = service.metadata.owner_references.as_deref();
    owners
        .and_then(<[_]>::first)
        .map_or("", |owner| owner.name.as_str())
}

fn owner_kind(service: &Service) -> &str {
    let owners = service.metadata.owner_references.as_deref();
    owners
        .and_then(<[_]>::first)
        .map_or("", |owner| owner.kind.as_str())
}

fn port(service: &Service, name: &str) -> Option<i32> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some(name));
    port.map(|port| port.port)
}

async fn patch(services: &Api<Service>, name: &str, patch: Value) -> Result<()> {
    services
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

#[tokio::test]
async fn every_annotated_workload_has_its_service_whatever_is_done_to_it() -> Result<()> {
    let Some(server) = real::shared("operator: Services").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("services").await?;
    let api = services(server, &namespace).await?;
    let before = workload("Deployment", &namespace, "before", &enabled("before"));
    server.apply(&before).await?;
    let reconciler =
        Reconciler::start(server.kubeconfig().into(), Some(&namespace), Others::Left).await?;

    await_service(
        &api,
        "before-dapr",
        "a Service from before the start",
        |_| true,
    )
    .await?;
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "shop",
            &enabled("shop"),
        ))
        .await?;
    server
        .apply(&workload("StatefulSet", &namespace, "db", &enabled("db")))
        .await?;
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "plain",
            &json!({"dapr.io/app-id": "plain"}),
        ))
        .await?;
    await_service(&api, "db-dapr", "the Service of a StatefulSet", |_| true).await?;
    let service = await_service(&api, "shop-dapr", "the Service of a Deployment", |_| true).await?;
    let spec = service.spec.clone().context("a spec")?;
    ensure!(spec.cluster_ip.as_deref() == Some("None"), "{spec:?}");
    ensure!(spec.selector == Some([("app".to_owned(), "shop".to_owned())].into()));
    ensure!(
        service.metadata.labels == Some([("dapr.io/enabled".to_owned(), "true".to_owned())].into())
    );
    ensure!(owner(&service) == "shop");
    await_condition("counters", SOON, || async {
        let counts = (
            reconciler.count("created", "shop"),
            reconciler.count("updated", "shop"),
        );
        ensure!(counts == (1, 1), "{counts:?}");
        Ok(())
    })
    .await?;

    // Nothing differs, so nothing is written.
    let version = service.metadata.resource_version.clone();
    let scale = json!({"spec": {"replicas": 3}});
    Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(server.client().await?, &namespace)
        .patch("shop", &PatchParams::default(), &Patch::Merge(scale))
        .await?;

    // Edits are taken back, the label that we find it by among them.
    patch(
        &api,
        "shop-dapr",
        json!({"metadata": {"labels": {"dapr.io/enabled": null, "mine": "x"}}}),
    )
    .await?;
    await_service(&api, "shop-dapr", "labels again", |service| {
        service.metadata.labels == Some([("dapr.io/enabled".to_owned(), "true".to_owned())].into())
    })
    .await?;
    patch(
        &api,
        "shop-dapr",
        json!({"spec": {"selector": {"app": "other"}}}),
    )
    .await?;
    let service = await_service(&api, "shop-dapr", "the selector again", |service| {
        let spec = service.spec.as_ref();
        spec.and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| selector["app"] == "shop")
    })
    .await?;
    ensure!(service.metadata.resource_version != version);

    // A deleted one is made again.
    let uid = service.metadata.uid.clone();
    api.delete("shop-dapr", &DeleteParams::default()).await?;
    await_service(&api, "shop-dapr", "a new one", |service| {
        service.metadata.uid != uid
    })
    .await?;

    // What the user wants differently is so, and what he no longer wants stays as it is.
    let mut other = enabled("shop");
    other["dapr.io/grpc-port"] = json!("7000");
    other["dapr.io/enable-metrics"] = json!("false");
    other["dapr.io/sidecar-svc-annotations"] = json!("team=a");
    server
        .apply(&workload("Deployment", &namespace, "shop", &other))
        .await?;
    let service = await_service(&api, "shop-dapr", "the port", |service| {
        port(service, "dapr-grpc") == Some(7000)
    })
    .await?;
    let annotations = service.metadata.annotations.context("annotations")?;
    ensure!(
        annotations.len() == 2 && annotations["team"] == "a",
        "{annotations:?}"
    );
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "shop",
            &json!({"dapr.io/enabled": "false"}),
        ))
        .await?;
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "last",
            &enabled("last"),
        ))
        .await?;
    await_service(&api, "last-dapr", "a later one", |_| true).await?;
    ensure!(api.get_opt("shop-dapr").await?.is_some());
    ensure!(api.get_opt("plain-dapr").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_is_said_and_mended_later() -> Result<()> {
    let Some(server) = real::shared("operator: Services that cannot be").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("services").await?;
    let api = services(server, &namespace).await?;
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken-dapr", "namespace": namespace},
        "spec": {"ports": [{"port": 80}]},
    });
    server.apply(&foreign).await?;
    let _reconciler =
        Reconciler::start(server.kubeconfig().into(), Some(&namespace), Others::Left).await?;
    for (name, annotations) in [
        ("taken", enabled("taken")),
        ("invalid", enabled("In_valid")),
        ("empty", enabled("")),
        (
            "port",
            json!({"dapr.io/enabled": "true", "dapr.io/app-id": "port", "dapr.io/grpc-port": "99999"}),
        ),
        (
            "twice",
            json!({"dapr.io/enabled": "true", "dapr.io/app-id": "twice", "dapr.io/grpc-port": "80"}),
        ),
        ("good", enabled("good")),
    ] {
        server
            .apply(&workload("Deployment", &namespace, name, &annotations))
            .await?;
    }
    await_service(&api, "good-dapr", "the good one", |_| true).await?;
    let taken = api.get("taken-dapr").await?;
    ensure!(
        owner(&taken).is_empty(),
        "a Service with a cluster IP is left alone"
    );
    ensure!(api.list(&ListParams::default()).await?.items.len() == 2);

    // The user mends each of them.
    api.delete("taken-dapr", &DeleteParams::default()).await?;
    await_service(&api, "taken-dapr", "the name is free", |it| {
        owner(it) == "taken"
    })
    .await?;
    for (name, app_id) in [("invalid", "valid"), ("port", "port"), ("twice", "twice")] {
        server
            .apply(&workload("Deployment", &namespace, name, &enabled(app_id)))
            .await?;
        await_service(&api, &format!("{app_id}-dapr"), "mended", |_| true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_workloads_of_one_app_id_do_not_fight() -> Result<()> {
    let Some(server) = real::shared("operator: one app id twice").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("services").await?;
    let api = services(server, &namespace).await?;
    let _reconciler =
        Reconciler::start(server.kubeconfig().into(), Some(&namespace), Others::Left).await?;
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "blue",
            &enabled("shop"),
        ))
        .await?;
    let service = await_service(&api, "shop-dapr", "the first", |it| owner(it) == "blue").await?;
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "green",
            &enabled("shop"),
        ))
        .await?;
    server
        .apply(&workload(
            "Deployment",
            &namespace,
            "later",
            &enabled("later"),
        ))
        .await?;
    await_service(&api, "later-dapr", "a later one", |_| true).await?;
    let now = api.get("shop-dapr").await?;
    ensure!(now.metadata.resource_version == service.metadata.resource_version);

    // No garbage is collected here: the Service of the dead is taken over, not made again.
    Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(server.client().await?, &namespace)
        .delete("blue", &DeleteParams::default())
        .await?;
    await_service(&api, "shop-dapr", "the second", |it| owner(it) == "green").await?;

    // As is that of one who lives on under another id, or without one.
    for (next, annotations) in [("red", enabled("other")), ("white", json!({}))] {
        let holder = owner(&api.get("shop-dapr").await?).to_owned();
        let next_one = workload("Deployment", &namespace, next, &enabled("shop"));
        server.apply(&next_one).await?;
        let holder = workload("Deployment", &namespace, &holder, &annotations);
        server.apply(&holder).await?;
        await_service(&api, "shop-dapr", next, |it| owner(it) == next).await?;
    }
    Ok(())
}

/// The definition of a custom resource that says which pods are its own.
const FLEETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: fleets.games.example.org
spec:
  group: games.example.org
  scope: Namespaced
  names: {kind: Fleet, plural: fleets, singular: fleet}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

#[tokio::test]
async fn whatever_owns_annotated_pods_is_a_workload_if_it_is_wanted() -> Result<()> {
    let Some(server) = real::shared("operator: Services of other workloads").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("services").await?;
    let api = services(server, &namespace).await?;
    server.service_account(&namespace, "app").await?;
    // A kind that nobody but the server knows.
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("fleets.yaml"), FLEETS)?;
    server.create_crds(folder.path()).await?;
    let fleet = json!({
        "apiVersion": "games.example.org/v1", "kind": "Fleet",
        "metadata": {"name": "fleet", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "fleet"}}},
    });
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": namespace},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "app", "image": "app"}],
        }}},
    });
    for (object, app_id) in [
        (workload("ReplicaSet", &namespace, "set", &json!({})), "set"),
        (
            workload("DaemonSet", &namespace, "daemon", &json!({})),
            "daemon",
        ),
        (
            workload("Deployment", &namespace, "plain", &json!({})),
            "plain",
        ),
        (job, "job"),
        (fleet, "fleet"),
    ] {
        let made = server.apply(&object).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{app_id}-pod"), "namespace": namespace, "annotations": {
                    "dapr.io/enabled": "true", "dapr.io/app-id": app_id, "dapr.io/metrics-port": "9191",
                },
                "ownerReferences": [{
                    "apiVersion": object["apiVersion"], "kind": object["kind"], "name": object["metadata"]["name"],
                    "uid": made.metadata.uid, "controller": true,
                }],
            },
            "spec": {
                "serviceAccountName": "app", "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "app"}],
            },
        });
        server.apply(&pod).await?;
    }
    // Nobody wants it yet.
    let kubeconfig = || server.kubeconfig().into();
    let without = Reconciler::start(kubeconfig(), Some(&namespace), Others::Left).await?;
    let marker = workload("Deployment", &namespace, "marker", &enabled("marker"));
    server.apply(&marker).await?;
    await_service(&api, "marker-dapr", "the Service of a Deployment", |_| true).await?;
    ensure!(api.list(&ListParams::default()).await?.items.len() == 1);
    drop(without);

    let _reconciler = Reconciler::start(kubeconfig(), Some(&namespace), Others::Served).await?;
    for (name, kind) in [
        ("set", "ReplicaSet"),
        ("daemon", "DaemonSet"),
        ("fleet", "Fleet"),
    ] {
        let service = await_service(&api, &format!("{name}-dapr"), kind, |_| true).await?;
        ensure!(owner(&service) == name && owner_kind(&service) == kind);
        ensure!(port(&service, "dapr-metrics") == Some(9191));
        let selector = service.spec.and_then(|spec| spec.selector);
        ensure!(selector == Some([("app".to_owned(), name.to_owned())].into()));
    }
    api.delete("set-dapr", &DeleteParams::default()).await?;
    await_service(&api, "set-dapr", "a new one", |_| true).await?;
    for foreign in ["job-dapr", "plain-dapr"] {
        ensure!(api.get_opt(foreign).await?.is_none(), "{foreign}");
    }
    Ok(())
}

/// A scripted server with its kubeconfig.
async fn scripted(options: Options) -> Result<(Server, tempfile::TempDir)> {
    let server = Server::start(options).await?;
    let folder = tempfile::tempdir()?;
    server.kubeconfig(folder.path())?;
    Ok((server, folder))
}

fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

fn names(server: &Server) -> Vec<String> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "shop"}});
    let objects = server.objects(&Resource::of(&service));
    let name = |it: &Value| {
        it["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    objects.iter().map(name).collect()
}

async fn await_names(server: &Server, expected: &[&str]) -> Result<()> {
    await_condition("Services", SOON, || async {
        let names = names(server);
        ensure!(names == expected, "{names:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_minimal_server_is_enough_and_may_be_away() -> Result<()> {
    // What has a namespace can only be made in it.
    let options = Options {
        namespaced_lists: true,
        ..Options::minimal()
    };
    let (server, folder) = scripted(options).await?;
    server.put(workload("Deployment", "shop", "a", &enabled("a")));
    let reconciler = Reconciler::start(kubeconfig(folder.path()), None, Others::Left).await?;
    await_names(&server, &["a-dapr"]).await?;
    server.put(workload("StatefulSet", "shop", "b", &enabled("b")));
    await_names(&server, &["a-dapr", "b-dapr"]).await?;

    server.stop().await;
    server.put(workload("Deployment", "shop", "c", &enabled("c")));
    let gone = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-dapr", "namespace": "shop"}});
    ensure!(server.delete(&gone));
    server.resume().await?;
    await_names(&server, &["a-dapr", "b-dapr", "c-dapr"]).await?;
    // Counted once the answer is here, which is after the Service is there.
    await_condition("the counter", SOON, || async {
        let created = reconciler.count("created", "a");
        ensure!(created == 2, "{created}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rollouts_are_workloads_if_they_are_wanted() -> Result<()> {
    let (server, folder) = scripted(Options::complete()).await?;
    let mut rollout = workload("Rollout", "shop", "canary", &enabled("canary"));
    rollout["apiVersion"] = json!("argoproj.io/v1alpha1");
    server.put(rollout.clone());
    let without = Reconciler::start(kubeconfig(folder.path()), None, Others::Left).await?;
    server.put(workload("Deployment", "shop", "marker", &enabled("marker")));
    await_names(&server, &["marker-dapr"]).await?;
    ensure!(server.count(Verb::List, "rollouts") + server.count(Verb::Watch, "rollouts") == 0);
    drop(without);

    let kubeconfig = kubeconfig(folder.path());
    let with = Reconciler::start_with(kubeconfig, None, Others::Left, Rollouts::Served).await?;
    await_names(&server, &["canary-dapr", "marker-dapr"]).await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "canary-dapr", "namespace": "shop"}});
    let made = server.get(&service).context("a Service")?;
    let made: Service = serde_json::from_value(made)?;
    ensure!(
        owner(&made) == "canary" && owner_kind(&made) == "Rollout",
        "{made:?}"
    );
    // What is deleted is made again, and an edit of the Rollout is followed.
    ensure!(server.delete(&service));
    let template = &mut rollout["spec"]["template"]["metadata"]["annotations"];
    template["dapr.io/grpc-port"] = json!("7000");
    server.put(rollout);
    await_condition("the port", SOON, || async {
        let made = server.get(&service).context("no Service")?;
        let made: Service = serde_json::from_value(made)?;
        ensure!(port(&made, "dapr-grpc") == Some(7000), "{made:?}");
        Ok(())
    })
    .await?;
    drop(with);
    Ok(())
}

#[tokio::test]
async fn a_server_that_asks_for_time_is_asked_again() -> Result<()> {
    let (server, folder) = scripted(Options::complete()).await?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    server.on_post("/api/v1/namespaces/shop/services", move |_| {
        let times = count.fetch_add(1, Ordering::Relaxed);
        let code = [429, 500, 503].get(times).copied();
        match code {
            Some(code) => (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code, "message": "not now"}),
            ),
            None => (
                201,
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-dapr"}}),
            ),
        }
    });
    let reconciler = Reconciler::start(kubeconfig(folder.path()), None, Others::Left).await?;
    server.put(workload("Deployment", "shop", "a", &enabled("a")));
    await_condition("the fourth attempt", SOON, || async {
        let created = reconciler.count("created", "a");
        ensure!(created == 1, "{created} after {asked:?}");
        Ok(())
    })
    .await?;
    ensure!(asked.load(Ordering::Relaxed) == 4, "{asked:?}");
    Ok(())
}

/// The watch never tells of a Service that is gone before it was listed, so this one is only said to be made.
#[tokio::test]
async fn a_service_that_is_gone_before_it_is_seen_is_made_again() -> Result<()> {
    let (server, folder) = scripted(Options::complete()).await?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    server.on_post("/api/v1/namespaces/shop/services", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let made = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-dapr"}});
        (201, made)
    });
    server.put(workload("Deployment", "shop", "a", &enabled("a")));
    let _reconciler = Reconciler::start(kubeconfig(folder.path()), None, Others::Left).await?;
    await_condition("another attempt", SOON, || async {
        let times = asked.load(Ordering::Relaxed);
        ensure!(times > 1, "{times}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_workloads_at_once_are_as_quick_as_a_real_server() -> Result<()> {
    const MANY: usize = 150;
    const AT_ONCE: usize = 50;
    let Some(server) = real::shared("operator: many Services").await? else {
        return Ok(());
    };
    let client = server.client().await?;
    let direct = server.create_namespace("direct").await?;
    let through = server.create_namespace("through").await?;
    let create = async |namespace: &str, object: Value| {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("a kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        api.create(&PostParams::default(), &object).await?;
        anyhow::Ok(())
    };
    let name = |number: usize| format!("app-{number}");
    let deployments = async |namespace: &str| {
        let writes = (0..MANY).map(|number| {
            let name = name(number);
            create(
                namespace,
                workload("Deployment", namespace, &name, &enabled(&name)),
            )
        });
        let writes = stream::iter(writes).buffer_unordered(AT_ONCE);
        writes.try_collect::<()>().await
    };

    // What the server takes for the same writes.
    let began = Instant::now();
    deployments(&direct).await?;
    let services = (0..MANY).map(|number| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)},
            "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
        });
        create(&direct, service)
    });
    let services = stream::iter(services).buffer_unordered(AT_ONCE);
    services.try_collect::<()>().await?;
    let directly = began.elapsed();

    let reconciler =
        Reconciler::start(server.kubeconfig().into(), Some(&through), Others::Left).await?;
    let api = self::services(server, &through).await?;
    let began = Instant::now();
    deployments(&through).await?;
    await_condition("all Services", SOON, || async {
        let there = api.list_metadata(&ListParams::default()).await?.items.len();
        ensure!(there == MANY, "{there}");
        Ok(())
    })
    .await?;
    let took = began.elapsed();
    println!("{MANY} Deployments and Services: {took:?}, directly {directly:?}");
    ensure!(took < 4 * directly + Duration::from_secs(2), "{took:?}");
    await_condition("counters", SOON, || async {
        let created = (0..MANY).map(|number| reconciler.count("created", &name(number)));
        ensure!(
            created.clone().all(|created| created == 1),
            "{:?}",
            created.collect::<Vec<_>>()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_workloads_at_once_are_as_quick_as_the_server() -> Result<()> {
    const MANY: usize = 300;
    let (server, folder) = scripted(Options::complete()).await?;
    let reconciler = Reconciler::start(kubeconfig(folder.path()), None, Others::Left).await?;
    let start = Instant::now();
    for number in 0..MANY {
        let name = format!("app-{number}");
        server.put(workload("Deployment", "shop", &name, &enabled(&name)));
    }
    await_condition("all Services", SOON, || async {
        let there = names(&server).len();
        ensure!(there == MANY, "{there}");
        Ok(())
    })
    .await?;
    println!("{MANY} Services in {:?}", start.elapsed());
    // One write each, and none of them twice.
    let writes = server.count(Verb::Create, "services");
    ensure!(writes == MANY, "{writes}");
    await_condition("the counter", SOON, || async {
        let created = reconciler.count("created", "app-0");
        ensure!(created == 1, "{created}");
        Ok(())
    })
    .await
}
