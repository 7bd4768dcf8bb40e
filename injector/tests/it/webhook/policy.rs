//! The real process, killed and started again: with the policy no pod starts bare meanwhile.

use std::net::TcpListener as Socket;
use std::time::Duration;

use dapr_kit::testing::{Daemon, request};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{REGISTRATION, register, sidecar};
use crate::authority::Authority;
use crate::support::{eventually, server};
use controller::Controller;

mod controller;

const POLICY: &str = include_str!("../../../policy/sidecar-required.yaml");
const PODS: usize = 50;
const APP: &str = "cart";
/// How long all of them may take once the injector is back.
const BACK: Duration = Duration::from_secs(30);
const NAME: &str = "dapr-sidecar-required";

/// A port below those the kernel gives away by itself, for a process that comes back to it.
fn free_port() -> u16 {
    let start = u16::try_from(std::process::id() % 20_000).expect("below 20000");
    let mut ports = (start + 10_000..32_000).chain(10_000..32_000);
    let free = ports.find(|port| Socket::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a free port")
}

fn template() -> Value {
    json!({
        "metadata": {
            "labels": {"app": APP},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": APP},
        },
        "spec": {
            "serviceAccountName": "app", "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app:1"}],
        },
    })
}

fn pod() -> Pod {
    let mut pod = template();
    pod["metadata"]["generateName"] = json!("cart-");
    serde_json::from_value(pod).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_starts_bare_while_the_injector_is_away() {
    let Some(server) = server("injector: policy").await else {
        return;
    };
    let _alone = REGISTRATION.lock().await;
    let control_plane = server.create_namespace("dapr-system").await.unwrap();
    let shop = server.create_namespace("shop").await.unwrap();
    server.service_account(&shop, "app").await.unwrap();
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let anchors = file("ca.crt", authority.anchors().pem());
    let token = file("token", "token");
    let (sentry_port, sentry) = authority.sentry(&control_plane).await;
    let sentry_address = format!("127.0.0.1:{sentry_port}");
    let port = free_port();
    let start = || {
        let flags = [
            "--healthz-port=0".to_owned(),
            "--metrics-port=0".to_owned(),
            format!("--port={port}"),
            format!("--kubeconfig={}", server.kubeconfig().display()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Daemon::start(
            env!("CARGO_BIN_EXE_injector"),
            &flags,
            &[
                ("NAMESPACE", &control_plane),
                ("SIDECAR_IMAGE", "daprd:1"),
                ("DAPR_SENTRY_ADDRESS", &sentry_address),
                ("DAPR_SENTRY_TOKEN_FILE", &token),
                ("DAPR_TRUST_ANCHORS_FILE", &anchors),
                ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true"),
            ],
        )
    };

    // As the chart registers it: a webhook that is away is passed over.
    register(server, &shop, port, "Ignore").await;
    apply_policy(server, &control_plane, &shop).await;
    let pods = Api::<Pod>::namespaced(server.client().await.unwrap(), &shop);
    let create = async || pods.create(&PostParams::default(), &pod()).await;
    eventually("the policy", async || match create().await {
        Ok(created) => {
            let at_once = DeleteParams::default().grace_period(0);
            let name = created.metadata.name.unwrap();
            pods.delete(&name, &at_once).await.unwrap();
            false
        }
        Err(error) => error.to_string().contains("the sidecar injector is away"),
    })
    .await;
    let controller = Controller::start(server, &shop).await;
    controller.is_refused().await;
    let bare = pods.list(&ListParams::default()).await.unwrap().items;
    assert!(bare.is_empty(), "{bare:?}");

    let back = Instant::now();
    let mut injector = start();
    let healthz = injector.address("healthz");
    injector.line("Sidecar injector is listening");
    let mut all = Vec::new();
    eventually("all pods", async || {
        all = pods.list(&ListParams::default()).await.unwrap().items;
        all.len() == PODS
    })
    .await;
    assert!(
        back.elapsed() <= BACK,
        "all of them took {:?}",
        back.elapsed()
    );
    drop(controller);
    for pod in all {
        // Nothing is said about native sidecars, and the API server is new enough for them.
        assert!(sidecar(&pod).is_none());
        let init = pod.spec.unwrap().init_containers.unwrap();
        assert_eq!(
            (init[0].name.as_str(), init[0].restart_policy.as_deref()),
            ("daprd", Some("Always"))
        );
    }
    eventually("health", async || {
        request(healthz, "GET", "/healthz").0 == 200
    })
    .await;
    let metrics = injector.address("metrics");
    let (_, text) = request(metrics, "GET", "/");
    let counted = format!("dapr_injector_sidecar_injection_succeeded_total{{app_id=\"{APP}\"}} ");
    assert!(text.contains(&counted), "{text}");
    assert!(
        text.contains("dapr_injector_watch_followed{kind=\"components\"} 1"),
        "{text}"
    );

    injector.signal("TERM");
    let ended = tokio::task::spawn_blocking(|| injector.ended());
    let ended = timeout(BACK, ended).await.unwrap().unwrap();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    create().await.unwrap_err();
    sentry.abort();
}

/// The policy of an installation in `control_plane`, for one namespace alone.
async fn apply_policy(
    server: &dapr_e2e_apiserver::real::ApiServer,
    control_plane: &str,
    shop: &str,
) {
    let text = POLICY.replace("dapr-system", control_plane);
    for document in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(document).unwrap();
        assert_eq!(object["metadata"]["name"], NAME);
        if object["kind"] == "ValidatingAdmissionPolicyBinding" {
            let only = json!({"matchLabels": {"kubernetes.io/metadata.name": shop}});
            object["spec"]["matchResources"] = json!({"namespaceSelector": only});
        }
        server.apply(&object).await.unwrap();
    }
}
