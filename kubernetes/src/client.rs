//! The client of the API server: where it is, how it is reached, and what bounds a call.
//!
//! Calls are neither throttled nor retried here: who calls knows whether a second attempt is safe. Token files are read
//! again after ten seconds, the service account's CA after a minute, so that rotated ones are picked up.

mod deadline;
mod place;
mod token;
mod transport;

use std::io;
use std::path::PathBuf;

use kube::config::{Kubeconfig, KubeconfigError};

pub use place::{InCluster, Place};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kubeconfig nor the files of a service account.
    #[error("no API server is configured: not in a cluster, and no kubeconfig is named")]
    Nowhere,
    /// The kubeconfig cannot be read or does not name a cluster.
    #[error("kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The kubeconfig wants a proxy.
    #[error("kubeconfig {path} names a proxy-url, which is not supported")]
    Proxy {
        /// The file.
        path: PathBuf,
    },
    /// A file of the service account cannot be read.
    #[error("the service account's file {path} cannot be read")]
    ServiceAccount {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The service account's CA file is no PEM.
    #[error("the service account's file {path} holds no certificate")]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// Host and port of the API server do not make an address.
    #[error("{address:?} is not the address of an API server")]
    Address {
        /// What was made of host and port.
        address: String,
        /// Why not.
        source: http::uri::InvalidUri,
    },
    /// The file of a token cannot be read.
    #[error("the token in {path} cannot be used")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Credentials or certificates do not make a client.
    #[error("the credentials of the API server cannot be used")]
    Credentials(#[source] kube::Error),
    /// The thread that reads the files was cancelled: the runtime is stopping.
    #[error("the runtime stopped while the client was made")]
    Stopping,
}

/// A client of the API server at `place`.
///
/// Connecting takes at most ten seconds, every call but a watch at most one minute, its body included;
/// a dead peer is noticed by TCP within about a minute. Nothing is sent yet: an API server that is down is no error
/// here.
///
/// # Errors
/// A file that is missing or wrong; never the network.
pub async fn client(place: &Place) -> Result<kube::Client, Error> {
    let place = place.clone();
    // Files are read, and a kubeconfig may run a credential plugin: both block.
    let made = tokio::task::spawn_blocking(move || transport::client(config(&place)?));
    made.await.unwrap_or(Err(Error::Stopping))
}

fn config(place: &Place) -> Result<kube::Config, Error> {
    match place {
        Place::Kubeconfig(path) => kubeconfig(std::slice::from_ref(path)),
        Place::Kubeconfigs(paths) => kubeconfig(paths),
        Place::InCluster(cluster) => cluster.config(),
    }
}

fn kubeconfig(paths: &[PathBuf]) -> Result<kube::Config, Error> {
    let (path, file) = merged(paths)?;
    if names_proxy(&file) {
        return Err(Error::Proxy { path });
    }
    match kube::Config::try_from(file) {
        Ok(config) => Ok(config),
        Err(source) => Err(Error::Kubeconfig { path, source }),
    }
}

/// The files as one, and their names. One at least has to be there.
fn merged(paths: &[PathBuf]) -> Result<(PathBuf, Kubeconfig), Error> {
    let mut all: Option<Kubeconfig> = None;
    let mut missing = Error::Nowhere;
    for path in paths {
        let named = |source| Error::Kubeconfig {
            path: path.clone(),
            source,
        };
        let mut file = match Kubeconfig::read_from(path) {
            Ok(file) => file,
            Err(source) if is_missing(&source) => {
                missing = named(source);
                continue;
            }
            Err(source) => return Err(named(source)),
        };
        // `kubectl config unset current-context` leaves an empty one, which must not hide that of the next file.
        file.current_context.take_if(|context| context.is_empty());
        all = Some(match all {
            Some(all) => all.merge(file).map_err(named)?,
            None => file,
        });
    }
    // What one of them lacks may be meant to stand in any.
    let names = std::env::join_paths(paths).unwrap_or_default();
    all.map(|all| (names.into(), all)).ok_or(missing)
}

fn is_missing(error: &KubeconfigError) -> bool {
    matches!(error, KubeconfigError::ReadConfig(source, _) if source.kind() == io::ErrorKind::NotFound)
}

/// A proxy of the environment is ignored, as it is meant for the outside; one in the file is meant for us.
fn names_proxy(file: &Kubeconfig) -> bool {
    let context = file
        .contexts
        .iter()
        .find(|named| Some(&named.name) == file.current_context.as_ref());
    let cluster = context
        .and_then(|named| named.context.as_ref())
        .map(|context| context.cluster.as_str());
    file.clusters
        .iter()
        .filter(|named| Some(named.name.as_str()) == cluster)
        .filter_map(|named| named.cluster.as_ref()?.proxy_url.as_deref())
        .any(|proxy| !proxy.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    #[test]
    fn kubeconfigs_are_read_as_one_and_the_first_is_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let contexts = file(
            &folder,
            "contexts",
            "{current-context: '', contexts: [{name: shop, context: {cluster: home, namespace: n, user: me}}]}",
        );
        let here = file(
            &folder,
            "here",
            "{current-context: shop, clusters: [{name: home, cluster: {server: 'https://here:1', tls-server-name: x}}]}",
        );
        let there = file(
            &folder,
            "there",
            "{current-context: other, clusters: [{name: home, cluster: {server: 'https://there:2'}}], \
             users: [{name: me, user: {tokenFile: token}}]}",
        );
        let none = folder.path().join("none");
        let config = kubeconfig(&[none.clone(), contexts.clone(), here, there.clone()]);
        let config = config.expect("a configuration");
        assert_eq!(config.cluster_url.to_string(), "https://here:1/");
        assert_eq!(config.default_namespace, "n");
        // Relative to the file that names it.
        let token = folder.path().join("token").display().to_string();
        assert_eq!(config.auth_info.token_file, Some(token));
        let other = kubeconfig(&[there, contexts]).expect_err("no context of that name");
        let Error::Kubeconfig { path, .. } = other else {
            panic!("{other}")
        };
        assert!(path.to_string_lossy().contains(':'), "both: {path:?}");
        assert!(matches!(
            kubeconfig(&[none]),
            Err(Error::Kubeconfig { source, .. }) if is_missing(&source)
        ));
        assert!(matches!(kubeconfig(&[]), Err(Error::Nowhere)));
    }

    #[test]
    fn a_kubeconfig_that_is_no_yaml_is_not_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let broken = file(&folder, "broken", "[");
        let good = file(&folder, "good", "{}");
        let error = kubeconfig(&[good, broken.clone()]).expect_err("broken");
        assert!(matches!(error, Error::Kubeconfig { path, .. } if path == broken));
    }
}
