//! Sentry in a cluster: a real API server, real bound tokens, and the rights an installation gives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dapr_e2e_apiserver::real::{self, ApiServer, Reach, rule};
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_proto::dapr::proto::sentry::v1::sign_certificate_request::TokenValidator;
use dapr_security::certificate::{chain_from_pem, parse};
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{
    AnchorsSource, Expect, KeyKind, Options, SENTRY_APP_ID, Security, TokenSource, TrustDomain,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::Code;
use x509_parser::extensions::GeneralName;

use crate::process::{SOON, Sentry, command, eventually};

mod lagging;
mod material;
mod minimal;
mod refusals;
mod replicas;
mod reviews;
mod rotation;
mod stage;

const NAME: &str = "dapr-trust-bundle";
const HOUR: Duration = Duration::from_secs(3600);

/// A namespace of the control plane, as an installation leaves it.
struct Place {
    server: &'static ApiServer,
    namespace: String,
    kubeconfig: PathBuf,
    folder: TempDir,
}

/// The place of a story; none if there is no API server to be had, which was reported.
async fn place(story: &str) -> Option<Place> {
    static KINDS: OnceCell<()> = OnceCell::const_new();
    let server = real::shared(story).await.unwrap()?;
    let kinds = async || {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        server.create_crds(&crds).await.unwrap();
    };
    KINDS.get_or_init(kinds).await;
    Some(Place::new(server).await)
}

impl Place {
    async fn new(server: &'static ApiServer) -> Self {
        let namespace = server.create_namespace("dapr-system").await.unwrap();
        let configuration = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": "daprsystem", "namespace": namespace},
            "spec": {"mtls": {
                "enabled": true, "workloadCertTTL": "1h", "allowedClockSkew": "0s",
                "controlPlaneTrustDomain": "cluster.local", "sentryAddress": "unused:443",
            }},
        });
        server.apply(&configuration).await.unwrap();
        for kind in ["Secret", "ConfigMap"] {
            let object = json!({
                "apiVersion": "v1", "kind": kind,
                "metadata": {"name": NAME, "namespace": namespace},
            });
            server.apply(&object).await.unwrap();
        }
        server
            .service_account(&namespace, "dapr-sentry")
            .await
            .unwrap();
        let kubeconfig = allow(server, &namespace).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("credentials")).unwrap();
        Self {
            server,
            namespace,
            kubeconfig,
            folder,
        }
    }

    fn flags(&self) -> Vec<String> {
        vec![
            "--mode=kubernetes".to_owned(),
            "--trust-domain=cluster.local".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!(
                "--issuer-credentials={}",
                self.folder.path().join("credentials").display()
            ),
        ]
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = command();
        command
            .env("NAMESPACE", &self.namespace)
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true");
        command
    }

    async fn start(&self, more: &[&str]) -> Sentry {
        self.start_as(self.command(), more).await
    }

    async fn start_as(&self, command: tokio::process::Command, more: &[&str]) -> Sentry {
        let mut flags = self.flags();
        flags.extend(more.iter().map(ToString::to_string));
        let root = self.folder.path().join("unused");
        let mut sentry = Sentry::spawn(command, flags, root).await;
        sentry.await_ready().await;
        sentry
    }

    /// Runs it to its end, which has to be a failure.
    async fn fail(&self, more: &[&str], expected: &str) {
        let output = self
            .command()
            .args(self.flags())
            .args(["--port=0", "--healthz-port=0", "--metrics-port=0"])
            .args(more)
            .stdin(Stdio::null())
            .output();
        let output = timeout(SOON, output).await.unwrap().unwrap();
        let text = told(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }

    async fn secret(&self) -> BTreeMap<String, String> {
        let secrets =
            Api::<Secret>::namespaced(self.server.client().await.unwrap(), &self.namespace);
        let data = secrets.get(NAME).await.unwrap().data.unwrap_or_default();
        data.into_iter()
            .map(|(key, value)| (key, String::from_utf8(value.0).unwrap()))
            .collect()
    }

    async fn config_map(&self) -> BTreeMap<String, String> {
        self.whole_config_map().await.data.unwrap_or_default()
    }

    async fn whole_config_map(&self) -> ConfigMap {
        let client = self.server.client().await.unwrap();
        let maps = Api::<ConfigMap>::namespaced(client, &self.namespace);
        maps.get(NAME).await.unwrap()
    }

    /// Writes the Secret's and the ConfigMap's data.
    async fn fill(&self, secret: &Value, config_map: &Value) {
        for (kind, field, data) in [
            ("Secret", "stringData", secret),
            ("ConfigMap", "data", config_map),
        ] {
            let object = json!({
                "apiVersion": "v1", "kind": kind,
                "metadata": {"name": NAME, "namespace": self.namespace},
                field: data,
            });
            self.server.apply(&object).await.unwrap();
        }
    }

    fn audience(&self) -> String {
        format!(
            "spiffe://cluster.local/ns/{}/{SENTRY_APP_ID}",
            self.namespace
        )
    }

    /// A file with a bound token of a pod.
    async fn token(&self, namespace: &str, pod: &str, audience: &str) -> PathBuf {
        let token = self
            .server
            .bound_token(namespace, "app", pod, &[audience], HOUR)
            .await
            .unwrap();
        let path = self.folder.path().join(format!("{namespace}-{pod}.token"));
        std::fs::write(&path, token).unwrap();
        path
    }

    async fn pod(&self, namespace: &str, name: &str, annotations: &[(&str, &str)]) {
        // The account may be there already.
        drop(self.server.service_account(namespace, "app").await);
        self.server
            .pod(namespace, name, "app", annotations)
            .await
            .unwrap();
    }

    async fn options(
        &self,
        sentry: &Sentry,
        namespace: &str,
        app_id: &str,
        token: PathBuf,
    ) -> Options {
        let anchors = self.config_map().await.remove("ca.crt").unwrap();
        Options {
            trust_anchors: AnchorsSource::Inline(anchors),
            sentry_address: format!("127.0.0.1:{}", sentry.port),
            control_plane_trust_domain: TrustDomain::new("cluster.local").unwrap(),
            control_plane_namespace: self.namespace.clone(),
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
            token: TokenSource::Kubernetes(token),
            jwt_audiences: Vec::new(),
            key: KeyKind::Ed25519,
            trust_domain_in_request: None,
            mtls: true,
        }
    }

    /// The identity of a pod that asks with its own token.
    async fn identity(
        &self,
        sentry: &Sentry,
        namespace: &str,
        pod: &str,
        app_id: &str,
    ) -> Security {
        let token = self.token(namespace, pod, &self.audience()).await;
        let options = self.options(sentry, namespace, app_id, token).await;
        let started = timeout(SOON, Security::start(options)).await.unwrap();
        started.unwrap().0
    }
}

/// A log without the escapes of its quotation marks.
fn told(log: &[u8]) -> String {
    String::from_utf8_lossy(log).replace("\\\"", "\"")
}

/// The rights of the original's chart; for a story's own server they must suffice.
async fn allow(server: &ApiServer, namespace: &str) -> PathBuf {
    let everywhere = [
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("dapr.io", &["configurations"], &["list", "get", "watch"]),
        rule("", &["pods"], &["list", "get", "watch"]),
    ];
    let only_bundle = |resource, verbs: &[&str]| {
        let mut rule = rule("", &[resource], verbs);
        rule.resource_names = Some(vec![NAME.to_owned()]);
        rule
    };
    let here = [
        only_bundle("secrets", &["get", "update", "delete"]),
        only_bundle("configmaps", &["get", "update", "watch", "list"]),
        rule("dapr.io", &["configurations"], &["list", "get", "watch"]),
    ];
    let reach = Reach::Namespace(namespace);
    server
        .kubeconfig_for(namespace, "dapr-sentry", reach, &here)
        .await
        .unwrap();
    server
        .kubeconfig_for(namespace, "dapr-sentry", Reach::Cluster, &everywhere)
        .await
        .unwrap()
}

fn signed(
    key: &rcgen::KeyPair,
    id: &str,
    namespace: &str,
    token: String,
) -> SignCertificateRequest {
    let mut request = SignCertificateRequest {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        token,
        certificate_signing_request: signing_request(key).unwrap().into_bytes().into(),
        ..Default::default()
    };
    request.set_token_validator(TokenValidator::Kubernetes);
    request
}

#[tokio::test]
async fn a_pod_gets_the_identity_its_annotations_say() {
    let Some(place) = place("sentry: identities of pods").await else {
        return;
    };
    let sentry = place.start(&[]).await;
    let shop = place.server.create_namespace("shop").await.unwrap();
    place
        .pod(&shop, "orders-0", &[("dapr.io/app-id", "orders")])
        .await;
    let security = place.identity(&sentry, &shop, "orders-0", "orders").await;
    assert_eq!(
        security.identity().unwrap().to_string(),
        format!("spiffe://public/ns/{shop}/orders")
    );

    // Without an app id the pod's name stands for it; a configuration names the trust domain.
    let configuration = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": "settings", "namespace": shop},
        "spec": {"accessControl": {"trustDomain": "shop.example"}},
    });
    place.server.apply(&configuration).await.unwrap();
    place
        .pod(&shop, "cart", &[("dapr.io/config", "settings")])
        .await;
    let security = place.identity(&sentry, &shop, "cart", "cart").await;
    assert_eq!(
        security.identity().unwrap().to_string(),
        format!("spiffe://shop.example/ns/{shop}/cart")
    );
}

#[tokio::test]
async fn the_control_plane_gets_host_names() {
    let Some(place) = place("sentry: identities of the control plane").await else {
        return;
    };
    let sentry = place.start(&[]).await;
    let namespace = &place.namespace;
    place
        .pod(
            namespace,
            "operator-0",
            &[("dapr.io/control-plane", "operator")],
        )
        .await;
    let security = place
        .identity(&sentry, namespace, "operator-0", "dapr-operator")
        .await;
    assert_eq!(
        security.identity().unwrap().to_string(),
        format!("spiffe://cluster.local/ns/{namespace}/dapr-operator")
    );
    let token = place
        .token(namespace, "operator-0", &place.audience())
        .await;
    let token = std::fs::read_to_string(token).unwrap();
    let key = generate_key(KeyKind::Rsa2048).unwrap();
    let request = signed(&key, "dapr-operator", namespace, token);
    let mut client = client(&place, &sentry, &security).await;
    let answer = client.sign_certificate(request).await.unwrap().into_inner();
    let chain = chain_from_pem(&answer.workload_certificate).unwrap();
    let leaf = parse(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::DNSName(&format!("dapr-webhook.{namespace}.svc")),
            GeneralName::URI(&format!(
                "spiffe://cluster.local/ns/{namespace}/dapr-operator"
            )),
        ]
    );
}

async fn client(
    place: &Place,
    sentry: &Sentry,
    security: &Security,
) -> dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient<tonic::transport::Channel> {
    let id = place.audience().parse().unwrap();
    sentry.client_of(security, Expect::Id(id)).await
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let Some(server) = real::owned("sentry: API server away").await.unwrap() else {
        return;
    };
    let server: &'static ApiServer = Box::leak(Box::new(server));
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    server.create_crds(&crds).await.unwrap();
    let place = Place::new(server).await;
    let sentry = place.start(&[]).await;
    place
        .pod(&place.namespace, "a", &[("dapr.io/app-id", "a")])
        .await;
    let security = place.identity(&sentry, &place.namespace, "a", "a").await;
    let token = place.token(&place.namespace, "a", &place.audience()).await;
    let token = std::fs::read_to_string(token).unwrap();
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let request = signed(&key, "a", &place.namespace, token);
    let mut client = client(&place, &sentry, &security).await;

    server.stop().unwrap();
    let status = client.sign_certificate(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(sentry.health().await.unwrap().starts_with("HTTP/1.1 200"));
    server.restart().await.unwrap();
    eventually("certificates again", async || {
        client.sign_certificate(request.clone()).await.is_ok()
    })
    .await;
    assert_eq!(sentry.stop().await.code(), Some(0));
}
