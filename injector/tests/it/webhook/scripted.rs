//! The webhook and its watches on an API server that counts what it is asked, and fails on demand.

use std::sync::Arc;
use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Fault, Options, Server};
use dapr_kit::health;
use dapr_security::TrustAnchors;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{INJECTOR, Injector, NAME, SOON, listener};
use crate::authority::Authority;
use crate::support::eventually;

const CONTROL_PLANE: &str = "dapr-system";
const KINDS: [&str; 3] = ["configurations", "components", "serviceaccounts"];

fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace, "name": name},
    })
}

fn configuration(mtls: bool) -> Value {
    let mut object = object(
        "dapr.io/v1alpha1",
        "Configuration",
        CONTROL_PLANE,
        "daprsystem",
    );
    object["spec"] = json!({"mtls": {"enabled": mtls}});
    object
}

fn component() -> Value {
    let mut object = object("dapr.io/v1alpha1", "Component", "shop", "store");
    object["metadata"]["annotations"] =
        json!({"dapr.io/component-container": r#"{"image": "store:1"}"#});
    object
}

/// The injector, its API server, and who trusts it.
struct Stage {
    server: Server,
    injector: Injector,
    authority: Authority,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn start() -> Self {
        let server = Server::start(Options::complete()).await.unwrap();
        server.put(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": NAME},
            "webhooks": [{
                "name": "sidecar-injector.dapr.io", "clientConfig": {"caBundle": ""},
                "sideEffects": "None", "admissionReviewVersions": ["v1"],
            }],
        }));
        server.put(configuration(false));
        server.put(component());
        Self::on(server).await
    }

    async fn on(server: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = server.kubeconfig(folder.path()).unwrap();
        let authority = Authority::new();
        let identity = authority.identity(INJECTOR);
        let (socket, port) = listener().await;
        let injector = Injector::try_start(&kubeconfig, CONTROL_PLANE, identity, socket).await;
        let injector = injector.unwrap();
        injector.ready().await;
        Self {
            server,
            injector,
            authority,
            port,
            _folder: folder,
        }
    }

    async fn dial(&self, anchors: &TrustAnchors) -> Connection {
        Connection::dial(self.port, anchors).await.unwrap()
    }

    /// A review on a connection of its own: one that says nothing for ten seconds is closed.
    async fn review(&self) -> (Vec<String>, Vec<String>) {
        self.dial(&self.authority.anchors()).await.review().await
    }

    /// What the page of the health server says about each kind.
    async fn state(&self) -> Vec<(String, String)> {
        let (listener, port) = listener().await;
        let token = CancellationToken::new();
        let page = self.injector.state.page();
        let health = self.injector.health.clone();
        let serving = tokio::spawn(health::serve(listener, health, Some(page), token));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request =
            b"GET /injector/state HTTP/1.1\r\nhost: injector\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        serving.abort();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let lines: Vec<Value> = serde_json::from_str(body).unwrap();
        let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
        let lines = lines.iter();
        lines
            .map(|line| (text(line, "kind"), text(line, "state")))
            .collect()
    }

    async fn await_state(&self, expected: &str) {
        let expected = KINDS.map(|kind| (kind.to_owned(), expected.to_owned()));
        eventually("the state of the watches", async || {
            self.state().await == expected
        })
        .await;
    }
}

/// A connection by hand, so that it is known which one it is.
struct Connection(TlsStream<TcpStream>);

impl Connection {
    async fn dial(port: u16, anchors: &TrustAnchors) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in dapr_security::certificate::chain_from_pem(anchors.pem().as_bytes()).unwrap() {
            roots.add(root).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = "localhost".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self(connector.connect(name, stream).await?))
    }

    /// Asks for a pod's sidecar and returns its arguments, and the names of all containers that are added.
    async fn review(&mut self) -> (Vec<String>, Vec<String>) {
        added(&self.ask(&review()).await)
    }

    /// The answer to a review.
    async fn ask(&mut self, review: &Value) -> Value {
        let body = review.to_string();
        let head = format!(
            "POST /mutate HTTP/1.1\r\nhost: injector\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(head.as_bytes()).await.unwrap();
        self.0.write_all(body.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(SOON, self.0.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// Whether the server ends it.
    async fn ends(&mut self, limit: Duration) -> bool {
        let mut rest = Vec::new();
        let ended = timeout(limit, self.0.read_to_end(&mut rest)).await;
        ended.is_ok()
    }
}

/// The arguments of the sidecar, and the names of all containers that are added.
fn added(reply: &Value) -> (Vec<String>, Vec<String>) {
    assert_eq!(reply["response"]["allowed"], true, "{reply}");
    let patch = reply["response"]["patch"].as_str().unwrap();
    let patch = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, patch);
    let patch: Vec<Value> = serde_json::from_slice(&patch.unwrap()).unwrap();
    let containers = patch.iter().filter(|it| it["path"] == "/spec/containers/-");
    let containers: Vec<&Value> = containers.map(|it| &it["value"]).collect();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let arguments = containers[0]["args"].as_array().unwrap();
    (
        arguments.iter().map(text).collect(),
        containers.iter().map(|it| text(&it["name"])).collect(),
    )
}

fn review() -> Value {
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "cart", "dapr.io/inject-pluggable-components": "true",
    });
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": {
                "metadata": {"generateName": "cart-", "annotations": annotations},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            },
        },
    })
}

fn has_mtls(arguments: &[String]) -> bool {
    arguments.iter().any(|word| word == "--enable-mtls")
}

#[tokio::test]
async fn nothing_is_fetched_during_an_admission() {
    let stage = Stage::start().await;
    stage.await_state("followed").await;
    let before = stage.server.counts();
    let mut connection = stage.dial(&stage.authority.anchors()).await;
    for _ in 0..100 {
        let (arguments, containers) = connection.review().await;
        assert!(!has_mtls(&arguments), "the Configuration is known");
        assert_eq!(containers, ["daprd", "store"], "the Component is known");
    }
    assert_eq!(stage.server.counts(), before);
    // The API server of the watches is away, and pods are answered all the same.
    stage.server.stop().await;
    stage.await_state("stale").await;
    let (arguments, containers) = stage.review().await;
    assert!(!has_mtls(&arguments));
    assert_eq!(containers, ["daprd", "store"]);
    assert!(
        stage.injector.health.is_ready(),
        "or no pod would be asked about"
    );
    stage.server.resume().await.unwrap();
    stage.await_state("followed").await;
    stage.server.put(configuration(true));
    eventually("the new Configuration", async || {
        has_mtls(&stage.review().await.0)
    })
    .await;
}

#[tokio::test]
async fn what_is_not_known_is_taken_for_absent_unless_the_pod_needs_it() {
    let server = Stage::start().await.server;
    for kind in KINDS {
        server.install(kind, false);
    }
    let stage = Stage::on(server).await;
    // The kind itself is missing: no list, but also no object of the name.
    let state = stage.state().await;
    assert!(
        state
            .iter()
            .all(|(_, state)| state == "cold" || state == "read"),
        "{state:?}"
    );
    let mut connection = stage.dial(&stage.authority.anchors()).await;
    let refused = connection.ask(&review()).await;
    let message = &refused["response"]["status"]["message"];
    let expected = "error when fetching components: ";
    assert!(message.as_str().unwrap().starts_with(expected), "{refused}");
    let mut plain = review();
    plain["request"]["object"]["metadata"]["annotations"]["dapr.io/inject-pluggable-components"] =
        json!("false");
    let (arguments, containers) = added(&connection.ask(&plain).await);
    assert!(has_mtls(&arguments), "as if there were no Configuration");
    assert_eq!(containers, ["daprd"], "it needs no Component");
    for kind in KINDS {
        stage.server.install(kind, true);
    }
    stage.await_state("followed").await;
    let (arguments, containers) = stage.review().await;
    assert!(!has_mtls(&arguments));
    assert_eq!(containers, ["daprd", "store"]);
}

#[tokio::test]
async fn a_new_certificate_drops_no_connection() {
    let stage = Stage::start().await;
    let old = stage.authority.anchors();
    let mut before = stage.dial(&old).await;
    before.review().await;
    let renewed = Authority::new();
    let (svid, anchors) = renewed.identity(INJECTOR);
    stage.injector.publisher.replace(svid, anchors).unwrap();
    let mut after = stage.dial(&renewed.anchors()).await;
    after.review().await;
    let stale = Connection::dial(stage.port, &old).await;
    assert!(stale.is_err(), "new connections get the new certificate");
    before.review().await;
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
    });
    let new = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        renewed.anchors().pem().as_bytes(),
    );
    eventually("the new bundle", async || {
        let object = stage.server.get(&configuration).unwrap();
        object["webhooks"][0]["clientConfig"]["caBundle"] == json!(new)
    })
    .await;
}

#[tokio::test]
async fn slow_clients_are_cut_and_others_are_not() {
    let stage = Stage::start().await;
    let anchors = stage.authority.anchors();
    let mut slow = stage.dial(&anchors).await;
    slow.0
        .write_all(b"POST /mutate HTTP/1.1\r\nx-slow: ")
        .await
        .unwrap();
    let mut body = stage.dial(&anchors).await;
    body.0
        .write_all(b"POST /mutate HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    // Ten seconds each, and for the second ten more after its answer.
    let limit = Duration::from_secs(25);
    let (slow, body) = tokio::join!(slow.ends(limit), body.ends(limit));
    assert!(slow && body, "{slow} {body}");
    stage.dial(&anchors).await.review().await;
}

#[tokio::test]
async fn without_its_registration_it_does_not_start() {
    let server = Server::start(Options::complete()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(folder.path()).unwrap();
    let identity = Authority::new().identity(INJECTOR);
    let (socket, _) = listener().await;
    let started = Injector::try_start(&kubeconfig, CONTROL_PLANE, identity, socket).await;
    let error = started.err().unwrap().to_string();
    let expected = format!("failed to patch caBundle in webhook configuration {NAME:?}");
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_list_that_fails_for_a_while_is_tried_again() {
    let stage = Stage::start().await;
    stage.server.disturb(Fault::Reset);
    for _ in 0..3 {
        stage.server.fail_list(Fault::Status {
            code: 500,
            retry_after: None,
        });
    }
    stage.server.put(configuration(true));
    eventually("the new Configuration", async || {
        has_mtls(&stage.review().await.0)
    })
    .await;
}
