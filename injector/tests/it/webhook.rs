//! The webhook as the API server calls it: registered by URL, trusted by the bundle it writes itself.

use std::time::Duration;

use dapr_e2e_apiserver::real::{ApiServer, Reach, rule};
use dapr_injector::app::{Service, State, Targets};
use dapr_injector::metrics::Metrics;
use dapr_injector::requester::Rules;
use dapr_kit::health::Health;
use dapr_kubernetes::Place;
use dapr_security::{Publisher, Security, Svid, TrustAnchors};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::support::{eventually, server, settings};

mod namespaced;
mod policy;
mod scripted;

const SOON: Duration = Duration::from_secs(60);
const NAME: &str = "dapr-sidecar-injector";
const INJECTOR: &str = "spiffe://cluster.local/ns/dapr-system/dapr-injector";
/// There is one object of that name, so its stories follow each other.
static REGISTRATION: Mutex<()> = Mutex::const_new(());

/// A running webhook. Dropped, it ends at once.
struct Injector {
    health: Health,
    state: State,
    publisher: Publisher,
    _tasks: JoinSet<()>,
}

impl Injector {
    /// Starts it with the rights of a kubeconfig, for the namespace of a control plane.
    async fn start(kubeconfig: &std::path::Path, namespace: &str, listener: TcpListener) -> Self {
        let identity = Authority::new().identity(INJECTOR);
        let started = Self::try_start(kubeconfig, namespace, identity, listener).await;
        started.unwrap()
    }

    async fn try_start(
        kubeconfig: &std::path::Path,
        namespace: &str,
        (svid, anchors): (Svid, TrustAnchors),
        listener: TcpListener,
    ) -> anyhow::Result<Self> {
        let (security, publisher) = Security::from_issuer(svid, anchors).unwrap();
        let place = Place::Kubeconfig(kubeconfig.to_owned());
        let (health, state) = (Health::new(), State::default());
        let service = Service {
            sidecars: settings(&[("NAMESPACE", namespace)]),
            rules: Rules::new(&[]),
            client: dapr_kubernetes::client(&place).await.unwrap(),
            security,
            metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
            targets: Targets {
                service: health.target("service"),
                webhook: health.target("webhook"),
            },
            state: state.clone(),
        };
        let mut tasks = JoinSet::new();
        let prepared = service.prepare().await?;
        prepared.spawn(listener, &mut tasks, &CancellationToken::new());
        Ok(Self {
            health,
            state,
            publisher,
            _tasks: tasks,
        })
    }

    async fn ready(&self) {
        let ready = self.health.await_ready();
        tokio::time::timeout(SOON, ready).await.unwrap();
    }
}

/// The chart's registration, by URL and for one namespace.
async fn register(server: &ApiServer, namespace: &str, port: u16, failure_policy: &str) {
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [{
            "name": "sidecar-injector.dapr.io",
            "clientConfig": {"url": format!("https://localhost:{port}/mutate")},
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
            }],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": failure_policy, "reinvocationPolicy": "IfNeeded", "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"],
        }],
    });
    server.apply(&object).await.unwrap();
}

async fn bundle(server: &ApiServer) -> Option<Vec<u8>> {
    let api = Api::<MutatingWebhookConfiguration>::all(server.client().await.unwrap());
    let object = api.get(NAME).await.unwrap();
    let webhook = object.webhooks?.into_iter().next()?;
    Some(webhook.client_config.ca_bundle?.0)
}

/// The pod of a name as the API server took it, once it takes it at all: it hears of a registration with some delay.
async fn pod(server: &ApiServer, namespace: &str, annotations: serde_json::Value) -> Pod {
    let pods = Api::<Pod>::namespaced(server.client().await.unwrap(), namespace);
    let pod = json!({
        "metadata": {"name": "cart", "annotations": annotations},
        "spec": {
            "serviceAccountName": "app", "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app:1"}],
        },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let mut created = None;
    eventually("a pod with a sidecar", async || {
        let Ok(pod) = pods.create(&PostParams::default(), &pod).await else {
            return false;
        };
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete("cart", &at_once).await.unwrap();
        created = Some(pod).filter(|pod| sidecar(pod).is_some());
        created.is_some()
    })
    .await;
    created.unwrap()
}

fn sidecar(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers
        .iter()
        .find(|container| container.name == "daprd")
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn pods_come_back_with_their_sidecar() {
    let Some(server) = server("injector: webhook").await else {
        return;
    };
    let _alone = REGISTRATION.lock().await;
    let control_plane = server.create_namespace("dapr-system").await.unwrap();
    let shop = server.create_namespace("shop").await.unwrap();
    server.service_account(&shop, "app").await.unwrap();
    server
        .service_account(&control_plane, "dapr-injector")
        .await
        .unwrap();
    // The rights of the original's chart, which has no watch.
    let mut patch = rule(
        "admissionregistration.k8s.io",
        &["mutatingwebhookconfigurations"],
        &["patch"],
    );
    patch.resource_names = Some(vec![NAME.to_owned()]);
    let everywhere = [
        rule("", &["serviceaccounts"], &["get", "list"]),
        rule("dapr.io", &["components"], &["get", "list"]),
        patch,
    ];
    let here = [rule("dapr.io", &["configurations"], &["get"])];
    let reach = Reach::Namespace(&control_plane);
    server
        .kubeconfig_for(&control_plane, "dapr-injector", reach, &here)
        .await
        .unwrap();
    let least = server
        .kubeconfig_for(&control_plane, "dapr-injector", Reach::Cluster, &everywhere)
        .await
        .unwrap();
    let configuration = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": "daprsystem", "namespace": control_plane},
        "spec": {"mtls": {
            "enabled": false, "controlPlaneTrustDomain": "cluster.local", "sentryAddress": "unused:443",
        }},
    });
    server.apply(&configuration).await.unwrap();
    let component = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {
            "name": "store", "namespace": shop,
            "annotations": {"dapr.io/component-container": r#"{"image": "store:1"}"#},
        },
        "spec": {"type": "state.in-memory", "version": "v1", "metadata": []},
    });
    server.apply(&component).await.unwrap();

    // With the least rights: the bundle is written, the Configuration is read by name.
    let (socket, port) = listener().await;
    register(server, &shop, port, "Fail").await;
    let injector = Injector::start(&least, &control_plane, socket).await;
    injector.ready().await;
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "cart", "dapr.io/inject-pluggable-components": "true",
    });
    let mut has_mtls = true;
    eventually(
        "a sidecar without mTLS, as the Configuration says",
        async || {
            let pod = pod(server, &shop, annotations.clone()).await;
            let args = sidecar(&pod).unwrap().args.clone().unwrap();
            has_mtls = args.iter().any(|word| word == "--enable-mtls");
            !has_mtls
        },
    )
    .await;
    let created = pod(server, &shop, annotations.clone()).await;
    let names: Vec<_> = created
        .spec
        .iter()
        .flat_map(|it| &it.containers)
        .map(|it| &it.name)
        .collect();
    assert_eq!(names, ["app", "daprd", "store"]);
    assert_eq!(
        created.metadata.labels.unwrap()["dapr.io/sidecar-injected"],
        "true"
    );
    drop(injector);

    // With a watch: an overwritten bundle comes back, and a new one is told.
    let (socket, port) = listener().await;
    register(server, &shop, port, "Fail").await;
    let injector = Injector::start(server.kubeconfig(), &control_plane, socket).await;
    injector.ready().await;
    pod(server, &shop, annotations.clone()).await;
    let right = bundle(server).await.unwrap();
    let strange = Authority::new().anchors();
    let overwrite = json!([{
        "op": "replace", "path": "/webhooks/0/clientConfig/caBundle",
        "value": k8s_openapi::ByteString(strange.pem().as_bytes().to_vec()),
    }]);
    let api = Api::<MutatingWebhookConfiguration>::all(server.client().await.unwrap());
    let overwrite = kube::api::Patch::Json::<()>(serde_json::from_value(overwrite).unwrap());
    let before = api
        .patch(NAME, &Default::default(), &overwrite)
        .await
        .unwrap();
    eventually("the right bundle again", async || {
        bundle(server).await.as_deref() == Some(&right)
    })
    .await;
    assert_ne!(
        api.get(NAME).await.unwrap().metadata.resource_version,
        before.metadata.resource_version
    );
    let (svid, anchors) = Authority::new().identity(INJECTOR);
    let new = anchors.pem().as_bytes().to_vec();
    injector.publisher.replace(svid, anchors).unwrap();
    eventually("the new bundle", async || {
        bundle(server).await.as_deref() == Some(&new)
    })
    .await;
    pod(server, &shop, annotations).await;
}
