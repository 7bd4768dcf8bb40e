//! An API server that can do very little: no versions, watches of one event, no GET of a pod.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_e2e_apiserver::scripted::{Options as Abilities, Server, Verb, Versions};

use super::*;

/// A token as the script's review knows it.
pub(super) fn token(namespace: &str, pod: &str) -> String {
    let claims = json!({"kubernetes.io": {"namespace": namespace, "pod": {"name": pod}}});
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// Says that any token of this form is one of the service account `app`.
pub(super) fn review(review: &Value) -> (u16, Value) {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|it| URL_SAFE_NO_PAD.decode(it).ok());
    let claims: Value = serde_json::from_slice(&claims.unwrap_or_default()).unwrap_or_default();
    let namespace = claims["kubernetes.io"]["namespace"]
        .as_str()
        .unwrap_or_default();
    let user = format!("system:serviceaccount:{namespace}:app");
    (
        201,
        json!({"status": {"authenticated": true, "user": {"username": user}}}),
    )
}

pub(super) fn pod(namespace: &str, name: &str, app_id: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"dapr.io/app-id": app_id}},
        "spec": {"serviceAccountName": "app"},
    })
}

#[tokio::test]
async fn a_minimal_api_server_is_enough() {
    let server = Server::start(Abilities {
        versions: Versions::Off,
        initial_events: false,
        events_per_watch: Some(1),
        paging: false,
        ..Abilities::complete()
    })
    .await
    .unwrap();
    server.on_post("/apis/authentication.k8s.io/v1/tokenreviews", |it| {
        review(&it)
    });
    for kind in ["Secret", "ConfigMap"] {
        server.put(json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {"name": NAME, "namespace": "dapr-system"},
        }));
    }
    server.put(json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": "daprsystem", "namespace": "dapr-system"}, "spec": {},
    }));
    server.put(pod("shop", "orders-0", "orders"));

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("credentials")).unwrap();
    let mut command = command();
    command
        .env("NAMESPACE", "dapr-system")
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true");
    let flags = vec![
        "--mode=kubernetes".to_owned(),
        "--trust-domain=cluster.local".to_owned(),
        format!(
            "--kubeconfig={}",
            server.kubeconfig(folder.path()).unwrap().display()
        ),
        format!(
            "--issuer-credentials={}",
            folder.path().join("credentials").display()
        ),
    ];
    let mut sentry = Sentry::spawn(command, flags, folder.path().join("unused")).await;
    sentry.await_ready().await;

    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": "dapr-system"},
    });
    let anchors = server.get(&bundle).unwrap()["data"]["ca.crt"]
        .as_str()
        .unwrap()
        .to_owned();
    let identity = async |pod: &str, app_id: &str| {
        let path = folder.path().join("token");
        std::fs::write(&path, token("shop", pod)).unwrap();
        let options = Options {
            trust_anchors: AnchorsSource::Inline(anchors.clone()),
            sentry_address: format!("127.0.0.1:{}", sentry.port),
            control_plane_trust_domain: TrustDomain::new("cluster.local").unwrap(),
            control_plane_namespace: "dapr-system".to_owned(),
            namespace: "shop".to_owned(),
            app_id: app_id.to_owned(),
            token: TokenSource::Kubernetes(path),
            jwt_audiences: Vec::new(),
            key: KeyKind::Ed25519,
            trust_domain_in_request: None,
            mtls: true,
        };
        let started = timeout(SOON, Security::start(options)).await.unwrap();
        started.map(|(security, _)| security.identity().unwrap().to_string())
    };
    assert_eq!(
        identity("orders-0", "orders").await.unwrap(),
        "spiffe://public/ns/shop/orders"
    );
    assert!(identity("orders-0", "cart").await.is_err());
    // What comes later is seen too, though each watch ends with its first event.
    for name in ["one", "two", "three"] {
        server.put(pod("shop", name, name));
    }
    for name in ["three", "one", "two"] {
        assert_eq!(
            identity(name, name).await.unwrap(),
            format!("spiffe://public/ns/shop/{name}")
        );
    }
    server.delete(&pod("shop", "one", "one"));
    eventually("the pod is forgotten", async || {
        identity("one", "one").await.is_err()
    })
    .await;
    assert_eq!(
        server.count(Verb::Get, "pods"),
        0,
        "no call per certificate but the review"
    );
    assert_eq!(sentry.stop().await.code(), Some(0));
}
