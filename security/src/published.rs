//! What Sentry publishes in its ConfigMap: the trust bundle, for a pod that was started before there was one, and where a
//! replica of it is, for a pod whose node does not yet know that Sentry's Service leads to it.
//!
//! A file that is mounted from a ConfigMap comes with the kubelet's next look at the pod, up to a minute and a half after
//! Sentry has written it. Until then it is read from where the kubelet would get it, with the pod's service account; the
//! API server is believed exactly as far as it is for the file. Once there is the file, the API server is not asked again.
//!
//! The address is a hint and nothing more: whoever is there has to show the identity of Sentry, as behind its Service.
//!
//! Placement asks too, and has no other use for a client of Kubernetes: one question of HTTP/1.1 does without it.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::anchors::{self, TrustAnchors};
use crate::dial::dial;
use crate::verifier::provider;

/// Where every pod finds the files of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The ConfigMap, and the key of the bundle in it.
const NAME: &str = "dapr-trust-bundle";
const KEY: &str = "ca.crt";
/// The annotation with the address of the replica that wrote last.
pub const SENTRY_ANNOTATION: &str = "dapr.io/sentry-address";
/// Limit of one question.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest answer: a ConfigMap has at most 1 MiB of data, which JSON may escape.
const LARGEST: usize = 4 << 20;

/// Why the ConfigMap could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file of the service account.
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    /// The service account's CA.
    #[error("the CA of the API server: {0}")]
    Ca(String),
    /// Host of the API server.
    #[error("{0:?} is not the address of an API server")]
    Address(String),
    #[error("the API server cannot be reached: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer of the API server: {0}")]
    Exchange(String),
    #[error("no answer of the API server within 5 s")]
    Late,
    #[error("the API server answers {0}")]
    Refused(StatusCode),
    #[error("key {KEY:?}: {0}")]
    Bundle(#[from] anchors::Error),
}

/// The ConfigMap of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    host: String,
    port: u16,
    service_account: PathBuf,
    namespace: String,
}

/// What the ConfigMap says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// `None` while the ConfigMap, or its key, is not there or empty.
    pub(crate) anchors: Option<TrustAnchors>,
    /// Where a replica of Sentry is, or was. What is no address is none.
    pub(crate) sentry: Option<SocketAddr>,
}

/// As much of a ConfigMap as is read.
#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "dapr.io/sentry-address", default)]
    sentry: String,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "ca.crt", default)]
    bundle: String,
}

impl Published {
    /// The ConfigMap in the control plane's namespace of the cluster around this process; `None` outside of one, and for
    /// a pod without a service account's token.
    pub(crate) fn here(namespace: &str) -> Option<Self> {
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        Self::at(&host, &port, Path::new(SERVICE_ACCOUNT), namespace)
    }

    /// Like [`Published::here`], with everything named.
    pub(crate) fn at(
        host: &str,
        port: &str,
        service_account: &Path,
        namespace: &str,
    ) -> Option<Self> {
        let port = port.parse().ok()?;
        let present = !host.is_empty() && service_account.join("token").exists();
        present.then(|| Self {
            host: host.to_owned(),
            port,
            service_account: service_account.to_owned(),
            namespace: namespace.to_owned(),
        })
    }

    /// Asks once.
    pub(crate) async fn read(&self) -> Result<Found, Error> {
        timeout(LIMIT, self.ask()).await.unwrap_or(Err(Error::Late))
    }

    async fn ask(&self) -> Result<Found, Error> {
        let token = self.file("token").await?;
        let tls = client(&self.file("ca.crt").await?)?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Error::Address(self.host.clone()))?;
        let tcp = dial(&self.host, self.port).await?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let exchange = |error: hyper::Error| Error::Exchange(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(exchange)?;
        let answer = async {
            let response = sender
                .send_request(self.request(token.trim())?)
                .await
                .map_err(exchange)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| Error::Exchange(error.to_string()))?;
            found(status, &body.to_bytes())
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // What the connection has brought before it ended is still there to be read.
            _ = connection => answer.await,
        }
    }

    fn request(&self, token: &str) -> Result<Request<Empty<Bytes>>, Error> {
        let path = format!("/api/v1/namespaces/{}/configmaps/{NAME}", self.namespace);
        Request::get(path)
            .header(HOST, self.authority())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::new())
            // The text of such an error names no value, so the token stays out of it.
            .map_err(|error| Error::Exchange(error.to_string()))
    }

    fn authority(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{}]:{}", self.host, self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    async fn file(&self, name: &str) -> Result<String, Error> {
        let path = self.service_account.join(name);
        tokio::fs::read_to_string(&path)
            .await
            .map_err(|source| Error::File {
                path: path.display().to_string(),
                source,
            })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "no setting of a program: the kubelet tells it to every pod"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What an answer says.
fn found(status: StatusCode, body: &[u8]) -> Result<Found, Error> {
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(Found::default()),
        other => return Err(Error::Refused(other)),
    }
    let map: ConfigMap =
        serde_json::from_slice(body).map_err(|error| Error::Exchange(error.to_string()))?;
    let bundle = map.data.map(|it| it.bundle).unwrap_or_default();
    let anchors = match TrustAnchors::from_pem(bundle.as_bytes()) {
        Ok(anchors) => Some(anchors),
        Err(anchors::Error::Missing) => None,
        Err(error) => return Err(error.into()),
    };
    let annotations = map.metadata.annotations;
    let sentry = annotations.and_then(|it| it.sentry.parse().ok());
    Ok(Found { anchors, sentry })
}

fn client(ca: &str) -> Result<Arc<ClientConfig>, Error> {
    let ca = TrustAnchors::from_pem(ca.as_bytes()).map_err(|it| Error::Ca(it.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|it| Error::Ca(it.to_string()))?
        .with_root_certificates(Arc::clone(ca.roots()))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use parking_lot::Mutex;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tempfile::TempDir;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An API server with one answer to each question, and a pod that asks it.
    pub(crate) struct Server {
        pub(crate) published: Published,
        answer: Arc<Mutex<(StatusCode, String)>>,
        asked: Arc<Mutex<Vec<String>>>,
        service_account: TempDir,
    }

    impl Server {
        pub(crate) async fn start() -> Self {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
                .unwrap()
                .self_signed(&key)
                .unwrap();
            let service_account = tempfile::tempdir().unwrap();
            let write = |name, text: &str| {
                std::fs::write(service_account.path().join(name), text).unwrap();
            };
            write("token", "of-the-pod\n");
            write("ca.crt", &certificate.pem());
            let tls = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                )
                .unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port().to_string();
            let answer = Arc::new(Mutex::new((StatusCode::NOT_FOUND, String::new())));
            let asked = Arc::new(Mutex::new(Vec::new()));
            tokio::spawn(serve(
                listener,
                TlsAcceptor::from(Arc::new(tls)),
                Arc::clone(&answer),
                Arc::clone(&asked),
            ));
            let published =
                Published::at("127.0.0.1", &port, service_account.path(), "dapr-system").unwrap();
            Self {
                published,
                answer,
                asked,
                service_account,
            }
        }

        pub(crate) fn answers(&self, status: StatusCode, body: &str) {
            *self.answer.lock() = (status, body.to_owned());
        }

        /// Publishes a new root, and tells it.
        pub(crate) fn publishes(&self) -> TrustAnchors {
            let pem = root();
            let body = serde_json::json!({"data": {"ca.crt": pem}});
            self.answers(StatusCode::OK, &body.to_string());
            TrustAnchors::from_pem(pem.as_bytes()).unwrap()
        }

        /// Says where Sentry is.
        pub(crate) fn tells(&self, address: SocketAddr) {
            let annotations = serde_json::json!({SENTRY_ANNOTATION: address.to_string()});
            let body = serde_json::json!({"metadata": {"annotations": annotations}});
            self.answers(StatusCode::OK, &body.to_string());
        }
    }

    fn root() -> String {
        let key = KeyPair::generate().unwrap();
        let root = CertificateParams::default().self_signed(&key).unwrap();
        root.pem()
    }

    async fn serve(
        listener: TcpListener,
        tls: TlsAcceptor,
        answer: Arc<Mutex<(StatusCode, String)>>,
        asked: Arc<Mutex<Vec<String>>>,
    ) {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(stream) = tls.accept(tcp).await else {
                continue;
            };
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let header = |name| request.headers()[name].to_str().unwrap().to_owned();
                let line = format!("{} {}", request.uri(), header(AUTHORIZATION));
                asked.lock().push(line);
                let (status, body) = answer.lock().clone();
                let mut response = Response::new(Full::new(Bytes::from(body)));
                *response.status_mut() = status;
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            served.await.unwrap_or_default();
        }
    }

    #[tokio::test]
    async fn what_is_not_there_yet_is_no_error() {
        let server = Server::start().await;
        let nothing = Found::default();
        assert_eq!(server.published.read().await.unwrap(), nothing);
        for body in [
            "{}",
            r#"{"data": null}"#,
            r#"{"data": {}}"#,
            r#"{"data": {"ca.crt": " "}}"#,
            r#"{"metadata": {"annotations": null}}"#,
            r#"{"metadata": {"annotations": {"dapr.io/sentry-address": "10.0.0.1"}}}"#,
        ] {
            server.answers(StatusCode::OK, body);
            assert_eq!(server.published.read().await.unwrap(), nothing, "{body}");
        }
        let anchors = server.publishes();
        let found = server.published.read().await.unwrap();
        assert_eq!((found.anchors, found.sentry), (Some(anchors), None));
        for address in ["10.0.0.1:50001", "[fd00::1]:50001"] {
            let address = address.parse().unwrap();
            server.tells(address);
            assert_eq!(server.published.read().await.unwrap().sentry, Some(address));
        }
        assert_eq!(
            server.asked.lock()[0],
            "/api/v1/namespaces/dapr-system/configmaps/dapr-trust-bundle Bearer of-the-pod"
        );
    }

    #[tokio::test]
    async fn other_answers_are_errors_without_the_token() {
        let server = Server::start().await;
        let check = async |status, body: &str, expected: &str| {
            server.answers(status, body);
            let error = server.published.read().await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("of-the-pod"), "{error}");
        };
        check(
            StatusCode::FORBIDDEN,
            "",
            "the API server answers 403 Forbidden",
        )
        .await;
        check(StatusCode::OK, "<html>", "no answer of the API server: ").await;
        check(
            StatusCode::OK,
            r#"{"data": {"ca.crt": "garbage"}}"#,
            "key \"ca.crt\": failed to decode trust anchors",
        )
        .await;
        let huge = "x".repeat(LARGEST + 1);
        check(StatusCode::OK, &huge, "no answer of the API server: ").await;
    }

    #[tokio::test]
    async fn only_the_clusters_own_api_server_is_believed() {
        let server = Server::start().await;
        server.publishes();
        std::fs::write(server.service_account.path().join("ca.crt"), root()).unwrap();
        let error = server.published.read().await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error}");
        assert_eq!(server.asked.lock().len(), 0, "the token was shown to it");
    }

    #[test]
    fn nobody_is_asked_without_a_token() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Published::at("10.0.0.1", "443", folder.path(), "n").is_none());
        std::fs::write(folder.path().join("token"), "t").unwrap();
        assert!(Published::at("10.0.0.1", "443", folder.path(), "n").is_some());
        assert!(Published::at("10.0.0.1", "none", folder.path(), "n").is_none());
        let v6 = Published::at("fd00::1", "443", folder.path(), "n").unwrap();
        assert_eq!(v6.authority(), "[fd00::1]:443");
    }
}
