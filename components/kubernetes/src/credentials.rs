//! Where the API server is and what it is shown: the files of a pod's service account, or a kubeconfig.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_components_core::{Error, ErrorKind};
use serde::Deserialize;

use crate::Cluster;

/// What Kubernetes puts into every pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server and how to speak with it.
pub(crate) struct Place {
    /// `https://host:port`
    pub(crate) url: String,
    /// PEM of its authority; none for plain HTTP.
    pub(crate) authority: Option<Vec<u8>>,
    /// PEM of key and certificate of a client.
    pub(crate) identity: Option<Vec<u8>>,
    pub(crate) token: Token,
}

/// The token a request carries.
pub(crate) enum Token {
    None,
    Fixed(String),
    /// Read anew for each request: it is rotated.
    File(PathBuf),
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, text)
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))
}

impl Place {
    /// The API server of the pod, by its service account.
    pub(crate) async fn in_cluster(cluster: &Cluster) -> Result<Self, Error> {
        let (host, port) = cluster.api_server.as_ref().ok_or_else(|| {
            wrong(
                "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined",
            )
        })?;
        let folder = Path::new(SERVICE_ACCOUNT);
        let host = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]"),
            false => host.clone(),
        };
        Ok(Self {
            url: format!("https://{host}:{port}"),
            authority: Some(read(&folder.join("ca.crt")).await?),
            identity: None,
            token: Token::File(folder.join("token")),
        })
    }

    /// The current context of a kubeconfig.
    pub(crate) async fn of_kubeconfig(path: &Path) -> Result<Self, Error> {
        let text = read(path).await?;
        let config: Kubeconfig = serde_yaml::from_slice(&text)
            .map_err(|error| wrong(format!("{} is no kubeconfig: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.place(folder).await.map_err(|error| {
            let text = format!("kubeconfig {}: {error}", path.display());
            wrong(text)
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Server,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Server {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    exec: Option<serde_json::Value>,
    #[serde(rename = "auth-provider")]
    auth_provider: Option<serde_json::Value>,
    username: Option<String>,
}

impl Kubeconfig {
    async fn place(mut self, folder: &Path) -> Result<Place, Error> {
        let name = &self.current_context;
        let context = self.contexts.iter().find(|context| context.name == *name);
        let context = context.ok_or_else(|| wrong(format!("it has no context {name:?}")))?;
        let cluster = &context.context.cluster;
        let server = self.clusters.iter().find(|it| it.name == *cluster);
        let server = &server
            .ok_or_else(|| wrong(format!("it has no cluster {cluster:?}")))?
            .cluster;
        for (is_set, field) in [
            (server.insecure_skip_tls_verify, "insecure-skip-tls-verify"),
            (server.proxy_url.is_some(), "proxy-url"),
        ] {
            if is_set {
                return Err(wrong(format!("its {field} is not supported")));
            }
        }
        let authority = document(
            folder,
            server.certificate_authority.as_deref(),
            server.certificate_authority_data.as_deref(),
        )
        .await?;
        let url = server.server.trim_end_matches('/').to_owned();
        let user = context.context.user.clone();
        let position = self.users.iter().position(|it| it.name == user);
        let user = position.map_or_else(User::default, |at| self.users.swap_remove(at).user);
        let (identity, token) = user.credentials(folder).await?;
        Ok(Place {
            url,
            authority,
            identity,
            token,
        })
    }
}

impl User {
    async fn credentials(self, folder: &Path) -> Result<(Option<Vec<u8>>, Token), Error> {
        for (is_set, field) in [
            (self.exec.is_some(), "exec"),
            (self.auth_provider.is_some(), "auth-provider"),
            (self.username.is_some(), "username"),
        ] {
            if is_set {
                return Err(wrong(format!(
                    "its {field} is not supported: use a token or a client certificate"
                )));
            }
        }
        let certificate = document(
            folder,
            self.client_certificate.as_deref(),
            self.client_certificate_data.as_deref(),
        );
        let key = document(
            folder,
            self.client_key.as_deref(),
            self.client_key_data.as_deref(),
        );
        let identity = match (key.await?, certificate.await?) {
            (Some(key), Some(certificate)) => Some([key, certificate].join(&b'\n')),
            (None, None) => None,
            _ => return Err(wrong("client certificate and client key go together")),
        };
        let token = match (self.token, self.token_file) {
            (_, Some(file)) => Token::File(folder.join(file)),
            (Some(token), None) => Token::Fixed(token),
            (None, None) => Token::None,
        };
        Ok((identity, token))
    }
}

/// A document that stands in the kubeconfig as base64, or beside it in a file.
async fn document(
    folder: &Path,
    file: Option<&Path>,
    data: Option<&str>,
) -> Result<Option<Vec<u8>>, Error> {
    match (data, file) {
        (Some(data), _) => {
            let decoded = STANDARD.decode(data.trim());
            Ok(Some(decoded.map_err(|error| {
                wrong(format!("a document is no base64: {error}"))
            })?))
        }
        (None, Some(file)) => Ok(Some(read(&folder.join(file)).await?)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn place(user: &str, cluster: &str) -> Result<Place, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://api:6443/'{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        );
        std::fs::write(&path, text).expect("written");
        let place = Place::of_kubeconfig(&path).await;
        place.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn tokens_and_certificates_are_taken() {
        let found = place("token: t", "").await.expect("reads");
        assert_eq!(found.url, "https://api:6443");
        assert!(matches!(found.token, Token::Fixed(token) if token == "t"));
        let found = place(
            "client-key-data: a2V5, client-certificate-data: Y2VydA==",
            ", certificate-authority-data: Y2E=",
        )
        .await
        .expect("reads");
        assert_eq!(found.identity.as_deref(), Some(&b"key\ncert"[..]));
        assert_eq!(found.authority.as_deref(), Some(&b"ca"[..]));
    }

    #[tokio::test]
    async fn what_is_not_supported_is_named() {
        let check = async |user: &str, cluster: &str, expected: &str| {
            let error = place(user, cluster).await.err().expect("refused");
            assert!(error.contains(expected), "{error}");
        };
        check("exec: {command: x}", "", "its exec is not supported").await;
        check(
            "",
            ", insecure-skip-tls-verify: true",
            "insecure-skip-tls-verify",
        )
        .await;
        check("client-key-data: a2V5", "", "go together").await;
        check("client-key-data: '%'", "", "no base64").await;
    }

    #[tokio::test]
    async fn outside_a_cluster_it_says_so() {
        let error = Place::in_cluster(&Cluster::default()).await.err();
        let text = error.expect("no cluster").to_string();
        assert!(text.contains("KUBERNETES_SERVICE_HOST"), "{text}");
    }
}
