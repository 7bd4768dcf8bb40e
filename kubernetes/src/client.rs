//! The client of the API server: where it is, how it is reached, and what bounds a call.
//!
//! Calls are neither throttled nor retried here: who calls knows whether a second attempt is safe. Token files are read
//! again after ten seconds, the service account's CA after a minute, so that rotated ones are picked up.

mod deadline;
mod place;
mod token;
mod transport;

use std::path::PathBuf;

use kube::config::Kubeconfig;

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
        source: std::io::Error,
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
        source: std::io::Error,
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
        Place::Kubeconfig(path) => kubeconfig(path.clone()),
        Place::InCluster(cluster) => cluster.config(),
    }
}

fn kubeconfig(path: PathBuf) -> Result<kube::Config, Error> {
    let file = match Kubeconfig::read_from(&path) {
        Ok(file) => file,
        Err(source) => return Err(Error::Kubeconfig { path, source }),
    };
    if names_proxy(&file) {
        return Err(Error::Proxy { path });
    }
    match kube::Config::try_from(file) {
        Ok(config) => Ok(config),
        Err(source) => Err(Error::Kubeconfig { path, source }),
    }
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
