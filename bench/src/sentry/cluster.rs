//! What the `kubernetes` validator looks at: an API server in this program that reviews a token in two milliseconds, and
//! a pod for each app.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_e2e_apiserver::scripted::{Options, Server};
use serde_json::{Value, json};

use super::load::{self, Prepared};
use super::server::NAMESPACE;
use crate::kinds;

const REVIEW: Duration = Duration::from_millis(2);
const ACCOUNT: &str = "app";
/// Where Sentry keeps its authority.
const BUNDLE: &str = "dapr-trust-bundle";

/// A cluster as far as Sentry sees it.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    requests: Vec<Prepared>,
}

impl Cluster {
    /// One with a pod and a prepared request for each of `count` apps.
    pub async fn start(count: usize) -> Result<Self> {
        let server = Server::start(Options {
            latency: Some(REVIEW),
            ..Options::complete()
        })
        .await?;
        kinds::define(&server);
        server.on_post("/apis/authentication.k8s.io/v1/tokenreviews", |review| {
            (201, reviewed(review))
        });
        for kind in ["Secret", "ConfigMap"] {
            server.put(object("v1", kind, NAMESPACE, BUNDLE));
        }
        server.put(object(
            "dapr.io/v1alpha1",
            "Configuration",
            NAMESPACE,
            "daprsystem",
        ));
        let requests = load::prepare_with(count, |app_id| {
            let pod = server.put(pod(app_id));
            token(&pod["metadata"]["name"], &pod["metadata"]["uid"])
        })?;
        Ok(Self { server, requests })
    }

    /// The flags that make Sentry look at it; a file goes into `folder`.
    pub fn flags(&self, folder: &Path) -> Result<Vec<String>> {
        let kubeconfig = self.server.kubeconfig(folder)?;
        Ok(vec![
            "--mode=kubernetes".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
        ])
    }

    /// The trust anchors that Sentry has published.
    pub fn anchors(&self) -> Option<String> {
        let bundle = self
            .server
            .get(&object("v1", "ConfigMap", NAMESPACE, BUNDLE))?;
        Some(bundle["data"]["ca.crt"].as_str()?.to_owned())
    }

    /// The requests, one per pod.
    pub fn requests(&self) -> &[Prepared] {
        &self.requests
    }
}

fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": {},
    })
}

fn pod(app_id: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": load::NAMESPACE, "name": format!("{app_id}-0"),
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app_id},
        },
        "spec": {"serviceAccountName": ACCOUNT},
    })
}

/// A token of the size of a real one.
fn token(pod: &Value, uid: &Value) -> String {
    let claims = json!({
        "aud": [format!("spiffe://localhost/ns/{NAMESPACE}/dapr-sentry")],
        "exp": 4_102_444_800u64, "iat": 1_700_000_000, "iss": "https://kubernetes.default.svc.cluster.local",
        "jti": "6b2f8c4e-1d3a-4f57-9c8e-0a1b2c3d4e5f",
        "kubernetes.io": {
            "namespace": load::NAMESPACE, "node": {"name": "node-1", "uid": "1e0b5c7a-9f0d-4b2c-8a6e-3d5f7a9b1c2d"},
            "pod": {"name": pod, "uid": uid},
            "serviceaccount": {"name": ACCOUNT, "uid": "0f1e2d3c-4b5a-4697-8877-665544332211"},
        },
        "sub": format!("system:serviceaccount:{}:{ACCOUNT}", load::NAMESPACE),
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signature = URL_SAFE_NO_PAD.encode([7; 256]);
    format!(
        "{}.{}.{signature}",
        encode(r#"{"alg":"RS256"}"#),
        encode(&claims.to_string())
    )
}

/// Any token is one of the account's.
fn reviewed(mut review: Value) -> Value {
    let user = format!("system:serviceaccount:{}:{ACCOUNT}", load::NAMESPACE);
    let audiences = review["spec"]["audiences"].clone();
    review["status"] =
        json!({"authenticated": true, "audiences": audiences, "user": {"username": user}});
    review
}
