//! An operator of one measurement: a scripted API server, a Sentry that gives it and its sidecars their identities.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_e2e_apiserver::scripted::{self, Options};
use dapr_security::{AnchorsSource, KeyKind, Security, TokenSource, TrustDomain};
use serde_json::{Value, json};

use crate::cores::Split;
use crate::injector::server::{Server, start};
use crate::kinds;
use crate::sentry::server::NAMESPACE;

const TRUST_DOMAIN: &str = "cluster.local";
/// The id of the operator.
pub const OPERATOR: &str = "spiffe://cluster.local/ns/dapr-system/dapr-operator";
/// Where the sidecars are.
pub const NAMESPACE_OF_APPS: &str = "default";
/// Their app.
const APP: &str = "shop";
/// Where Sentry publishes its roots.
const BUNDLE: &str = "dapr-trust-bundle";
/// They refuse to run as root otherwise; who measures may be.
const ANY_USER: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";

/// What an operator needs around it.
#[derive(Debug)]
pub struct Plane<'a> {
    folder: &'a Path,
    program: PathBuf,
    cluster: scripted::Server,
    sentry: Server,
}

impl<'a> Plane<'a> {
    /// Starts what is around it.
    pub async fn start(folder: &'a Path, binaries: &Path) -> Result<Self> {
        let cluster = scripted::Server::start(Options::complete()).await?;
        kinds::define(&cluster);
        cluster.on_post("/apis/authentication.k8s.io/v1/tokenreviews", |review| {
            (201, reviewed(review))
        });
        for kind in ["Secret", "ConfigMap"] {
            cluster.put(object("v1", kind, NAMESPACE, BUNDLE));
        }
        cluster.put(object(
            "dapr.io/v1alpha1",
            "Configuration",
            NAMESPACE,
            "daprsystem",
        ));
        let mut operator = object("v1", "Pod", NAMESPACE, "dapr-operator-0");
        operator["metadata"]["annotations"] = json!({"dapr.io/control-plane": "operator"});
        operator["spec"] = json!({"serviceAccountName": "dapr-operator"});
        cluster.put(operator);
        let mut app = object("v1", "Pod", NAMESPACE_OF_APPS, "shop-0");
        app["metadata"]["annotations"] = json!({"dapr.io/enabled": "true", "dapr.io/app-id": APP});
        app["spec"] = json!({"serviceAccountName": APP});
        cluster.put(app);

        let kubeconfig = cluster.kubeconfig(folder)?;
        let credentials = folder.join("credentials");
        std::fs::create_dir_all(&credentials)?;
        let arguments = [
            format!("--issuer-credentials={}", credentials.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--trust-domain={TRUST_DOMAIN}"),
            "--mode=kubernetes".to_owned(),
        ];
        let environment = [("NAMESPACE", NAMESPACE), (ANY_USER, "true")];
        let sentry = binaries.join("sentry");
        let sentry = start(folder, &sentry, &arguments, &environment, None).await?;
        let bundle = cluster.get(&object("v1", "ConfigMap", NAMESPACE, BUNDLE));
        let bundle = bundle.context("nothing is published")?;
        let anchors = bundle["data"]["ca.crt"].as_str();
        std::fs::write(
            folder.join("ca.crt"),
            anchors.context("no roots are published")?,
        )?;
        std::fs::write(
            folder.join("operator.token"),
            token(NAMESPACE, "dapr-operator-0", "dapr-operator"),
        )?;
        std::fs::write(
            folder.join("app.token"),
            token(NAMESPACE_OF_APPS, "shop-0", APP),
        )?;
        let plane = Self {
            folder,
            program: binaries.join("operator"),
            cluster,
            sentry,
        };
        plane.cluster.put(plane.configuration());
        Ok(plane)
    }

    /// What an operator reads at its start, on whatever API server.
    pub fn configuration(&self) -> Value {
        let mut configuration =
            object("dapr.io/v1alpha1", "Configuration", NAMESPACE, "daprsystem");
        configuration["spec"] = json!({"mtls": {
            "enabled": true, "controlPlaneTrustDomain": TRUST_DOMAIN,
            "sentryAddress": self.sentry.address().to_string(),
        }});
        configuration
    }

    /// Starts an operator on the scripted API server, or on that of a kubeconfig, and waits until it is healthy.
    pub async fn operator(
        &self,
        kubeconfig: Option<&Path>,
        split: Option<&Split>,
    ) -> Result<Server> {
        let kubeconfig = match kubeconfig {
            Some(kubeconfig) => kubeconfig.to_owned(),
            None => self.cluster.kubeconfig(self.folder)?,
        };
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--trust-anchors-file={}", self.file("ca.crt")),
            "--disable-leader-election".to_owned(),
        ];
        let token = self.file("operator.token");
        let environment = [
            ("NAMESPACE", NAMESPACE),
            ("DAPR_SENTRY_TOKEN_FILE", token.as_str()),
            ("ENABLE_WEBHOOKS", "false"),
            (ANY_USER, "true"),
        ];
        start(self.folder, &self.program, &arguments, &environment, split).await
    }

    /// The identity of a sidecar. It is renewed by nobody; it lasts a day.
    pub async fn sidecar(&self) -> Result<Security> {
        let options = dapr_security::Options {
            trust_anchors: AnchorsSource::File(self.folder.join("ca.crt")),
            sentry_address: self.sentry.address().to_string(),
            control_plane_trust_domain: TrustDomain::new(TRUST_DOMAIN)?,
            control_plane_namespace: NAMESPACE.to_owned(),
            namespace: NAMESPACE_OF_APPS.to_owned(),
            app_id: APP.to_owned(),
            token: TokenSource::Kubernetes(self.folder.join("app.token")),
            jwt_audiences: Vec::new(),
            key: KeyKind::Ed25519,
            trust_domain_in_request: None,
            mtls: true,
        };
        let (security, renewal) = Security::start(options).await?;
        drop(renewal);
        Ok(security)
    }

    /// Makes pods of as many apps, and Components that all of them may see.
    pub fn fill(&self, pods: usize, components: usize) {
        for number in 0..pods {
            self.cluster.put(pod(number));
        }
        for number in 0..components {
            self.cluster.put(component(number, "v1"));
        }
    }

    /// Changes one Component.
    pub fn change(&self, number: usize) {
        self.cluster.put(component(0, &version(number)));
    }

    /// Ends what is around it.
    pub async fn stop(self) -> Result<()> {
        self.sentry.kill().await
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// What the Component says after a change; no other text of it holds this.
pub fn version(number: usize) -> String {
    format!("change-{number}-end")
}

fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": {},
    })
}

/// As large as pods with a sidecar are, about 8 KiB, most of it of no interest to the operator.
fn pod(number: usize) -> Value {
    let mut pod = object(
        "v1",
        "Pod",
        NAMESPACE_OF_APPS,
        &format!("app-{number}-5b8f7c9d4-x{number}"),
    );
    pod["metadata"]["labels"] =
        json!({"app": format!("app-{number}"), "dapr.io/sidecar-injected": "true"});
    pod["metadata"]["annotations"] = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": format!("app-{number}"), "dapr.io/config": "tracing",
        "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z",
    });
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{number}-5b8f7c9d4"),
        "uid": format!("00000000-0000-4000-8000-{number:012}"), "controller": true, "blockOwnerDeletion": true,
    }]);
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.org/{name}:1.0.0"),
            "env": (0..20).map(|at| json!({"name": format!("VARIABLE_{at}"), "value": "some value of some length"}))
                .collect::<Vec<_>>(),
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        })
    };
    pod["spec"] =
        json!({"containers": [container("app"), container("daprd")], "nodeName": "node-1"});
    pod["status"] = json!({"phase": "Running", "conditions": (0..6).map(|at| json!({
        "type": format!("Condition{at}"), "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
    })).collect::<Vec<_>>()});
    pod
}

/// About a kilobyte.
fn component(number: usize, version: &str) -> Value {
    let mut component = object(
        "dapr.io/v1alpha1",
        "Component",
        NAMESPACE_OF_APPS,
        &format!("component-{number}"),
    );
    component["spec"] = json!({
        "type": "state.redis", "version": version,
        "metadata": (0..15).map(|at| json!({"name": format!("setting{at}"), "value": "a value of some length"}))
            .collect::<Vec<_>>(),
    });
    component
}

/// Sentry reads the pod's name in it, and leaves the rest to the review.
fn token(namespace: &str, pod: &str, account: &str) -> String {
    let claims = json!({
        "aud": [format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/dapr-sentry")], "exp": 4_102_444_800u64,
        "kubernetes.io": {"namespace": namespace, "pod": {"name": pod}, "serviceaccount": {"name": account}},
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signature = URL_SAFE_NO_PAD.encode([7; 256]);
    format!(
        "{}.{}.{signature}",
        encode(r#"{"alg":"RS256"}"#),
        encode(&claims.to_string())
    )
}

/// Any token is of whom it names.
fn reviewed(mut review: Value) -> Value {
    let claims = review["spec"]["token"].as_str().and_then(claims);
    let user = claims.map_or(Value::Null, |mut claims| claims["sub"].take());
    let audiences = review["spec"]["audiences"].clone();
    review["status"] = json!({
        "authenticated": !user.is_null(), "audiences": audiences, "user": {"username": user},
    });
    review
}

fn claims(token: &str) -> Option<Value> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}
