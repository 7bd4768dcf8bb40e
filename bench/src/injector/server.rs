//! An injector of one measurement: an API server two milliseconds away, a Sentry that gives it a certificate, its process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_e2e::{Process, Spec, ports};
use dapr_e2e_apiserver::scripted::{self, Options};
use serde_json::{Value, json};

use super::client::Connection;
use crate::cores::Split;
use crate::kinds;
use crate::sentry::server::{NAMESPACE, is_healthy, pause};

/// How far away the API server is.
const LATENCY: Duration = Duration::from_millis(2);
/// A start on a busy machine stays well below.
const START: Duration = Duration::from_secs(30);
const TRUST_DOMAIN: &str = "cluster.local";
/// Where Sentry publishes its roots.
const BUNDLE: &str = "dapr-trust-bundle";
const ACCOUNT: &str = "dapr-injector";
/// The pod of the injector.
const POD: &str = "dapr-sidecar-injector-0";
/// Both refuse to run as root otherwise; who measures may be.
const ANY_USER: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";

/// What an injector needs around it.
#[derive(Debug)]
pub struct Plane<'a> {
    folder: &'a Path,
    program: PathBuf,
    cluster: scripted::Server,
    sentry: Server,
}

/// A running process of the control plane.
#[derive(Debug)]
pub struct Server {
    process: Process,
    address: SocketAddr,
}

impl<'a> Plane<'a> {
    /// Starts what is around it.
    pub async fn start(folder: &'a Path, binaries: &Path) -> Result<Self> {
        let cluster = cluster().await?;
        let kubeconfig = cluster.kubeconfig(folder)?;
        std::fs::create_dir_all(folder.join("credentials"))?;
        let arguments = [
            format!(
                "--issuer-credentials={}",
                folder.join("credentials").display()
            ),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--trust-domain={TRUST_DOMAIN}"),
            "--mode=kubernetes".to_owned(),
        ];
        let environment = [("NAMESPACE", NAMESPACE), (ANY_USER, "true")];
        let sentry = binaries.join("sentry");
        let sentry = start(folder, &sentry, &arguments, &environment, None).await?;
        let bundle = cluster.get(&object("v1", "ConfigMap", BUNDLE));
        let bundle = bundle.context("nothing is published")?;
        let anchors = bundle["data"]["ca.crt"].as_str();
        std::fs::write(
            folder.join("ca.crt"),
            anchors.context("no roots are published")?,
        )?;
        std::fs::write(folder.join("token"), token())?;
        Ok(Self {
            folder,
            program: binaries.join("injector"),
            cluster,
            sentry,
        })
    }

    /// Starts an injector and waits until it is healthy.
    pub async fn injector(&self, split: Option<&Split>) -> Result<Server> {
        let kubeconfig = self.cluster.kubeconfig(self.folder)?;
        let arguments = [format!("--kubeconfig={}", kubeconfig.display())];
        let file = |name: &str| self.folder.join(name).display().to_string();
        let sentry = self.sentry.address.to_string();
        let (anchors, token) = (file("ca.crt"), file("token"));
        let environment = [
            ("NAMESPACE", NAMESPACE),
            ("SIDECAR_IMAGE", "registry.example.org/daprd:1.18.3"),
            ("KUBE_CLUSTER_DOMAIN", "cluster.local"),
            ("DAPR_SENTRY_ADDRESS", &sentry),
            ("DAPR_SENTRY_TOKEN_FILE", &token),
            ("DAPR_TRUST_ANCHORS_FILE", &anchors),
            ("DAPR_CONTROL_PLANE_TRUST_DOMAIN", TRUST_DOMAIN),
            // The same on both sides.
            ("NATIVE_SIDECAR_ENABLED", "false"),
            (ANY_USER, "true"),
        ];
        start(self.folder, &self.program, &arguments, &environment, split).await
    }

    /// A connection as the API server makes it.
    pub async fn dial(&self, server: &Server) -> Result<Connection> {
        let anchors = std::fs::read(self.folder.join("ca.crt"))?;
        Connection::dial(server.address, &anchors).await
    }

    /// Ends what is around it.
    pub async fn stop(self) -> Result<()> {
        self.sentry.kill().await
    }
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.process.id().context("it has ended")
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as a crash would.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await
    }
}

/// Starts a program with ports of its own and waits until it is healthy.
pub(crate) async fn start(
    folder: &Path,
    program: &Path,
    more: &[String],
    environment: &[(&str, &str)],
    split: Option<&Split>,
) -> Result<Server> {
    let (port, health_port, metrics_port) = (
        ports::free().await?,
        ports::free().await?,
        ports::free().await?,
    );
    let mut arguments = vec![
        format!("--port={port}"),
        format!("--healthz-port={health_port}"),
        format!("--metrics-port={metrics_port}"),
        "--log-level=warn".to_owned(),
    ];
    arguments.extend_from_slice(more);
    let name = program.file_name().context("a program has a name")?;
    let name = name.to_string_lossy().into_owned();
    let (program, arguments) = match split {
        Some(split) => split.wrap(program, arguments),
        None => (program.to_owned(), arguments),
    };
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment: BTreeMap<_, _> = environment.iter().map(own).collect();
    let started = Instant::now();
    let mut process = Process::start(&Spec {
        name: name.clone(),
        program,
        arguments,
        environment,
        folder: folder.to_owned(),
    })?;
    while !is_healthy(health_port).await {
        process.check_running()?;
        ensure!(started.elapsed() < START, "{name} did not become healthy");
        pause().await?;
    }
    Ok(Server {
        process,
        address: SocketAddr::from(([127, 0, 0, 1], port)),
    })
}

/// An API server with what both look at.
async fn cluster() -> Result<scripted::Server> {
    let cluster = scripted::Server::start(Options {
        latency: Some(LATENCY),
        ..Options::complete()
    })
    .await?;
    kinds::define(&cluster);
    cluster.on_post("/apis/authentication.k8s.io/v1/tokenreviews", |review| {
        (201, reviewed(review))
    });
    for kind in ["Secret", "ConfigMap"] {
        cluster.put(object("v1", kind, BUNDLE));
    }
    cluster.put(object("dapr.io/v1alpha1", "Configuration", "daprsystem"));
    let mut pod = object("v1", "Pod", POD);
    pod["metadata"]["annotations"] = json!({"dapr.io/control-plane": "injector"});
    pod["spec"] = json!({"serviceAccountName": ACCOUNT});
    cluster.put(pod);
    cluster.put(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "dapr-sidecar-injector"},
        "webhooks": [{
            "name": "sidecar-injector.dapr.io", "clientConfig": {"caBundle": ""}, "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"],
        }],
    }));
    Ok(cluster)
}

fn object(api_version: &str, kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"namespace": NAMESPACE, "name": name}, "spec": {},
    })
}

/// The injector's; Sentry reads the pod's name in it, and leaves the rest to the review.
fn token() -> String {
    let claims = json!({
        "aud": [format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/dapr-sentry")], "exp": 4_102_444_800u64,
        "kubernetes.io": {"namespace": NAMESPACE, "pod": {"name": POD}, "serviceaccount": {"name": ACCOUNT}},
        "sub": format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"),
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signature = URL_SAFE_NO_PAD.encode([7; 256]);
    format!(
        "{}.{}.{signature}",
        encode(r#"{"alg":"RS256"}"#),
        encode(&claims.to_string())
    )
}

/// Any token is one of the injector's.
fn reviewed(mut review: Value) -> Value {
    let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    let audiences = review["spec"]["audiences"].clone();
    review["status"] =
        json!({"authenticated": true, "audiences": audiences, "user": {"username": user}});
    review
}
