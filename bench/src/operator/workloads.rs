//! Workloads at once on a real API server, through the operator and, beside it, what the API server takes for the same
//! writes without one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::real;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use serde_json::{Value, json};

use super::server::Plane;

/// Writes at the same time, as many as the operator has.
const AT_ONCE: usize = 100;
/// Pause between two looks at how many there are.
const LOOK: Duration = Duration::from_millis(50);
/// The longest it may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where the kinds of Dapr are.
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml");

/// How long the writes took; `None` without an API server, which was reported.
#[derive(Debug, Default)]
pub struct Written {
    /// From the first Deployment until the operator has written the last Service.
    pub through: Option<Duration>,
    /// The same Deployments and Services by this program.
    pub directly: Option<Duration>,
}

/// Measures so many Deployments.
pub async fn measure(plane: &Plane<'_>, count: usize) -> Result<Written> {
    let Some(server) = real::owned("bench: Deployments on a real API server").await? else {
        return Ok(Written::default());
    };
    let client = server.client().await?;
    for namespace in ["dapr-system", "direct", "through"] {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
        });
        server.apply(&object).await?;
    }
    server.create_crds(Path::new(CRDS)).await?;
    server.apply(&plane.configuration()).await?;

    let began = Instant::now();
    deployments(&client, "direct", count).await?;
    each(count, |number| {
        post(
            &client,
            "/api/v1/namespaces/direct/services",
            service(number),
        )
    })
    .await?;
    let directly = began.elapsed();

    let operator = plane.operator(Some(server.kubeconfig()), None).await?;
    let began = Instant::now();
    deployments(&client, "through", count).await?;
    while services(&client, "through").await? < count {
        ensure!(began.elapsed() < PATIENCE, "the Services do not come");
        tokio::time::sleep(LOOK).await;
    }
    let through = began.elapsed();
    operator.kill().await?;
    Ok(Written {
        through: Some(through),
        directly: Some(directly),
    })
}

async fn deployments(client: &Client, namespace: &str, count: usize) -> Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    each(count, |number| post(client, &path, deployment(number))).await
}

async fn each<F: Future<Output = Result<()>>>(
    count: usize,
    write: impl Fn(usize) -> F,
) -> Result<()> {
    let writes = futures::stream::iter((0..count).map(write));
    writes.buffer_unordered(AT_ONCE).try_collect().await
}

async fn post(client: &Client, path: &str, object: Value) -> Result<()> {
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&object)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// How many Services a namespace has, without reading them.
async fn services(client: &Client, namespace: &str) -> Result<usize> {
    let path = format!("/api/v1/namespaces/{namespace}/services?limit=1");
    let list: Value = client
        .request(http::Request::get(path).body(Vec::new())?)
        .await?;
    let shown = list["items"].as_array().map_or(0, Vec::len);
    let more = list["metadata"]["remainingItemCount"].as_u64();
    Ok(shown + usize::try_from(more.unwrap_or_default()).context("too many")?)
}

fn deployment(number: usize) -> Value {
    let name = format!("app-{number}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {
                    "labels": {"app": name},
                    "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": name},
                },
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    })
}

/// What the operator writes.
fn service(number: usize) -> Value {
    let name = format!("app-{number}");
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("{name}-dapr"), "labels": {"dapr.io/enabled": "true"},
            "annotations": {
                "dapr.io/app-id": name, "prometheus.io/path": "/", "prometheus.io/port": "9090",
                "prometheus.io/probe": "true", "prometheus.io/scrape": "true",
            },
        },
        "spec": {
            "clusterIP": "None", "selector": {"app": name},
            "ports": [
                port("dapr-http", 80, 3500),
                port("dapr-grpc", 50001, 50001),
                port("dapr-internal", 50002, 50002),
                port("dapr-metrics", 9090, 9090),
            ],
        },
    })
}
