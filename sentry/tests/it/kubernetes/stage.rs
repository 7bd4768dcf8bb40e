//! A scripted API server behind a proxy, which may delay, refuse or answer what it likes.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
pub(super) use axum::extract::Request;
use axum::response::IntoResponse as _;
use dapr_e2e_apiserver::scripted::{Options as Abilities, Server};
pub(super) use http::{Method, Response, StatusCode};
use tokio::net::TcpListener;

use super::minimal::{pod, review, token};
use super::*;

pub(super) const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// An answer of the proxy's own, or the request once more, to be answered by the server.
pub(super) type Handled = Pin<Box<dyn Future<Output = Result<Response<Body>, Request>> + Send>>;

/// The server, and what a Sentry needs to run there.
pub(super) struct Stage {
    pub(super) server: Arc<Server>,
    pub(super) folder: TempDir,
    flags: Vec<String>,
}

/// The Secret or the ConfigMap, by name only.
pub(super) fn bundle(kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": NAME, "namespace": "dapr-system"},
    })
}

/// A server as an installation leaves it, with one pod.
pub(super) async fn installed() -> Arc<Server> {
    let server = Arc::new(Server::start(Abilities::complete()).await.unwrap());
    server.on_post(REVIEWS, |it| review(&it));
    configure(&server, json!({}));
    server.put(pod("shop", "orders-0", "orders"));
    for kind in ["Secret", "ConfigMap"] {
        server.put(bundle(kind));
    }
    server
}

pub(super) fn configure(server: &Server, mtls: Value) {
    server.put(json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": "daprsystem", "namespace": "dapr-system"}, "spec": {"mtls": mtls},
    }));
}

/// A proxy that passes everything on.
pub(super) fn pass(request: Request) -> Handled {
    Box::pin(async { Err(request) })
}

/// Whether it is a request of this method for the Secret or the ConfigMap.
pub(super) fn is_for(request: &Request, method: &Method, plural: &str) -> bool {
    let path = request.uri().path();
    request.method() == method && path.ends_with(&format!("/{plural}/{NAME}"))
}

impl Stage {
    pub(super) async fn new(
        server: Arc<Server>,
        handle: impl Fn(Request) -> Handled + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = server.url();
        let router = axum::Router::new().fallback(async move |request: Request| {
            match handle(request).await {
                Ok(answer) => answer,
                Err(request) => forward(&target, request).await,
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let credentials = folder.path().join("credentials");
        std::fs::create_dir(&credentials).unwrap();
        let kubeconfig = server.kubeconfig(folder.path()).unwrap();
        let text = std::fs::read_to_string(&kubeconfig).unwrap();
        std::fs::write(&kubeconfig, text.replace(&server.url(), &url)).unwrap();
        let flags = vec![
            "--mode=kubernetes".to_owned(),
            "--trust-domain=cluster.local".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--issuer-credentials={}", credentials.display()),
        ];
        Self {
            server,
            folder,
            flags,
        }
    }

    pub(super) async fn spawn(&self, more: &[&str]) -> Sentry {
        let mut command = command();
        command
            .env("NAMESPACE", "dapr-system")
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true");
        let more = more.iter().map(ToString::to_string);
        let flags = self.flags.iter().cloned().chain(more).collect();
        Sentry::spawn(command, flags, self.folder.path().join("unused")).await
    }

    pub(super) async fn start(&self, more: &[&str]) -> Sentry {
        let mut sentry = self.spawn(more).await;
        sentry.await_ready().await;
        sentry
    }

    /// The published roots.
    pub(super) fn roots(&self) -> String {
        let object = self.server.get(&bundle("ConfigMap")).unwrap();
        let roots = object["data"]["ca.crt"].as_str();
        roots.unwrap_or_default().to_owned()
    }

    /// What the pod asks the Sentry at this port with.
    pub(super) fn options(&self, port: u16, pod: &str, app_id: &str) -> Options {
        let path = self.folder.path().join(format!("{pod}.token"));
        std::fs::write(&path, token("shop", pod)).unwrap();
        Options {
            trust_anchors: AnchorsSource::Inline(self.roots()),
            sentry_address: format!("127.0.0.1:{port}"),
            control_plane_trust_domain: TrustDomain::new("cluster.local").unwrap(),
            control_plane_namespace: "dapr-system".to_owned(),
            namespace: "shop".to_owned(),
            app_id: app_id.to_owned(),
            token: TokenSource::Kubernetes(path),
            jwt_audiences: Vec::new(),
            key: KeyKind::Ed25519,
            trust_domain_in_request: None,
            mtls: true,
        }
    }

    /// Whether the Sentry gives the one pod a certificate, and has one itself that the roots lead to.
    pub(super) async fn is_served(&self, sentry: &Sentry, roots: &str) -> bool {
        let mut options = self.options(sentry.port, "orders-0", "orders");
        options.trust_anchors = AnchorsSource::Inline(roots.to_owned());
        let started = timeout(Duration::from_secs(2), Security::start(options)).await;
        started.is_ok_and(|started| started.is_ok())
    }

    /// A client for requests of the test's own making.
    pub(super) async fn client(
        &self,
        sentry: &Sentry,
    ) -> dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient<tonic::transport::Channel> {
        let options = self.options(sentry.port, "orders-0", "orders");
        let started = timeout(SOON, Security::start(options)).await.unwrap();
        let id = "spiffe://cluster.local/ns/dapr-system/dapr-sentry".parse();
        sentry
            .client_of(&started.unwrap().0, Expect::Id(id.unwrap()))
            .await
    }
}

pub(super) async fn forward(target: &str, request: Request) -> Response<Body> {
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
