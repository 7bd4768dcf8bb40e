//! API servers that show what was there long ago, or never answer: a proxy before the scripted one does it to the bundle.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use dapr_e2e_apiserver::scripted::{Options as Abilities, Server, Verb};
use http::{Method, Response, StatusCode};
use tokio::net::TcpListener;

use super::minimal::{pod, review, token};
use super::*;

/// How GETs of the Secret and the ConfigMap are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// As they were at the beginning.
    AsInstalled,
    /// Not at all.
    Never,
}

struct Stage {
    server: Arc<Server>,
    folder: TempDir,
    command: tokio::process::Command,
    flags: Vec<String>,
}

fn bundle(kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": NAME, "namespace": "dapr-system"},
    })
}

impl Stage {
    async fn new(answer: Answer) -> Self {
        let server = Arc::new(Server::start(Abilities::complete()).await.unwrap());
        server.on_post("/apis/authentication.k8s.io/v1/tokenreviews", |it| {
            review(&it)
        });
        server.put(json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": "daprsystem", "namespace": "dapr-system"}, "spec": {},
        }));
        server.put(pod("shop", "orders-0", "orders"));
        let installed = ["Secret", "ConfigMap"].map(|kind| server.put(bundle(kind)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = server.url();
        let router = axum::Router::new().fallback(async move |request: Request| {
            let plurals = ["secrets", "configmaps"];
            let at = plurals
                .iter()
                .position(|it| request.uri().path().ends_with(&format!("/{it}/{NAME}")));
            match (request.method(), at, answer) {
                (&Method::GET, Some(at), Answer::AsInstalled) => {
                    axum::Json(installed[at].clone()).into_response()
                }
                (&Method::GET, Some(_), Answer::Never) => std::future::pending().await,
                _ => forward(&target, request).await,
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("credentials")).unwrap();
        let kubeconfig = server.kubeconfig(folder.path()).unwrap();
        let text = std::fs::read_to_string(&kubeconfig).unwrap();
        std::fs::write(&kubeconfig, text.replace(&server.url(), &url)).unwrap();
        let mut command = command();
        command
            .env("NAMESPACE", "dapr-system")
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true");
        let credentials = folder.path().join("credentials");
        let flags = vec![
            "--mode=kubernetes".to_owned(),
            "--trust-domain=cluster.local".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--issuer-credentials={}", credentials.display()),
        ];
        Self {
            server,
            folder,
            command,
            flags,
        }
    }

    async fn spawn(self) -> (Sentry, Arc<Server>, TempDir) {
        let root = self.folder.path().join("unused");
        let sentry = Sentry::spawn(self.command, self.flags, root).await;
        (sentry, self.server, self.folder)
    }
}

async fn forward(target: &str, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let answer = reqwest::Client::new()
        .request(head.method, format!("{target}{}", head.uri))
        .headers(head.headers)
        .body(body)
        .send()
        .await;
    match answer {
        Ok(answer) => Response::<reqwest::Body>::from(answer).map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

#[tokio::test]
async fn what_was_written_counts_before_it_can_be_read() {
    let stage = Stage::new(Answer::AsInstalled).await;
    let (mut sentry, server, folder) = stage.spawn().await;
    sentry.await_ready().await;
    let object = server.get(&bundle("ConfigMap")).unwrap();
    let anchors = object["data"]["ca.crt"].as_str().unwrap().to_owned();
    let path = folder.path().join("token");
    std::fs::write(&path, token("shop", "orders-0")).unwrap();
    let options = Options {
        trust_anchors: AnchorsSource::Inline(anchors),
        sentry_address: format!("127.0.0.1:{}", sentry.port),
        control_plane_trust_domain: TrustDomain::new("cluster.local").unwrap(),
        control_plane_namespace: "dapr-system".to_owned(),
        namespace: "shop".to_owned(),
        app_id: "orders".to_owned(),
        token: TokenSource::Kubernetes(path),
        jwt_audiences: Vec::new(),
        key: KeyKind::Ed25519,
        trust_domain_in_request: None,
        mtls: true,
    };
    let started = timeout(SOON, Security::start(options)).await.unwrap();
    let id = started.unwrap().0.identity().unwrap().to_string();
    assert_eq!(id, "spiffe://public/ns/shop/orders");
    assert_eq!(server.count(Verb::Update, "secrets"), 1);
    assert_eq!(server.count(Verb::Update, "configmaps"), 1);
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_signal_ends_a_start_that_waits_for_the_api_server() {
    let stage = Stage::new(Answer::Never).await;
    let (sentry, _server, _folder) = stage.spawn().await;
    let mut told = String::new();
    eventually("health", async || match sentry.health().await {
        Ok(answer) => {
            told = answer;
            true
        }
        Err(_) => false,
    })
    .await;
    assert!(told.starts_with("HTTP/1.1 503"), "{told}");
    assert_eq!(sentry.stop().await.code(), Some(0));
}
