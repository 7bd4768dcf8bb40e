//! Where the API server is. Precedence differs between the binaries, so they choose; the environment is theirs too.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::Error;

/// Where every pod finds the files of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the API server is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The current context of a kubeconfig file.
    Kubeconfig(PathBuf),
    /// The current context of several, read as one: the first that names something is right about it. Those that are not
    /// there are skipped.
    Kubeconfigs(Vec<PathBuf>),
    /// The cluster the process runs in.
    InCluster(InCluster),
}

/// What a pod is told about its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCluster {
    host: String,
    port: String,
    service_account: PathBuf,
}

impl Place {
    /// The usual order: an explicit kubeconfig, the cluster around the process, `home`'s `.kube/config`.
    ///
    /// `host` and `port` are the variables `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`. An empty path or
    /// variable counts as absent.
    ///
    /// # Errors
    /// [`Error::Nowhere`] when there is nothing to choose from.
    pub fn choose(
        explicit: Option<&Path>,
        host: Option<&str>,
        port: Option<&str>,
        home: Option<&Path>,
    ) -> Result<Self, Error> {
        let named = |path: &&Path| !path.as_os_str().is_empty();
        if let Some(path) = explicit.filter(named) {
            return Ok(Self::Kubeconfig(path.to_owned()));
        }
        if let Some(cluster) = InCluster::find(host, port) {
            return Ok(Self::InCluster(cluster));
        }
        let home = home.filter(named).ok_or(Error::Nowhere)?;
        Ok(Self::Kubeconfig(home.join(".kube/config")))
    }

    /// The files that the variable `KUBECONFIG` lists. If none is there, the cluster around the process is next, and the
    /// home directory is not: who names a file means no other.
    pub fn listed(variable: &str, host: Option<&str>, port: Option<&str>) -> Self {
        let mut paths = Vec::new();
        for path in std::env::split_paths(variable) {
            if !path.as_os_str().is_empty() && !paths.contains(&path) {
                paths.push(path);
            }
        }
        // One that cannot be looked at is there, and its reader says why it cannot.
        let is_there = |path: &PathBuf| path.try_exists().unwrap_or(true);
        if paths.iter().any(is_there) {
            return Self::Kubeconfigs(paths);
        }
        InCluster::find(host, port).map_or(Self::Kubeconfigs(paths), Self::InCluster)
    }
}

impl InCluster {
    /// The cluster around this process; `None` without both variables (`KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT`) or without the token of a service account.
    pub fn find(host: Option<&str>, port: Option<&str>) -> Option<Self> {
        Self::at(host?, port?, Path::new(SERVICE_ACCOUNT))
    }

    /// Like [`InCluster::find`], with the files of the service account in `service_account`.
    pub fn at(host: &str, port: &str, service_account: &Path) -> Option<Self> {
        let present =
            !host.is_empty() && !port.is_empty() && service_account.join("token").exists();
        present.then(|| Self {
            host: host.to_owned(),
            port: port.to_owned(),
            service_account: service_account.to_owned(),
        })
    }

    /// The configuration kube needs; token and CA stay files, so that rotation is seen.
    pub(super) fn config(&self) -> Result<kube::Config, Error> {
        let address = self.address();
        let uri = address
            .parse()
            .map_err(|source| Error::Address { address, source })?;
        let mut config = kube::Config::new(uri);
        let ca = self.service_account.join("ca.crt");
        if !read(&ca)?.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Error::Certificate { path: ca });
        }
        config.root_cert_file = Some(ca);
        // The verifier of the file replaces these; without any, kube would ask for the system's roots first.
        config.root_cert = Some(Vec::new());
        config.auth_info.token_file =
            Some(self.service_account.join("token").display().to_string());
        // A pod may have its token projected without the namespace.
        if let Ok(namespace) = read(&self.service_account.join("namespace")) {
            namespace.trim().clone_into(&mut config.default_namespace);
        }
        Ok(config)
    }

    fn address(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(_) => format!("https://[{}]:{}", self.host, self.port),
            Err(_) => format!("https://{}:{}", self.host, self.port),
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::ServiceAccount {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("token", "secret"),
            ("ca.crt", "-----BEGIN CERTIFICATE-----\n"),
            ("namespace", "dapr-system\n"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        folder
    }

    #[test]
    fn an_explicit_kubeconfig_wins_and_home_is_last() {
        let home = Path::new("/home/me");
        let explicit = Place::choose(
            Some(Path::new("/k")),
            Some("10.0.0.1"),
            Some("443"),
            Some(home),
        );
        assert_eq!(explicit.expect("a place"), Place::Kubeconfig("/k".into()));
        let fallback = Place::choose(Some(Path::new("")), None, None, Some(home));
        assert_eq!(
            fallback.expect("a place"),
            Place::Kubeconfig("/home/me/.kube/config".into())
        );
        assert!(matches!(
            Place::choose(None, None, None, None),
            Err(Error::Nowhere)
        ));
    }

    #[test]
    fn a_list_of_kubeconfigs() {
        let check = |variable: &str, expected: &[&str]| {
            let paths = expected.iter().map(PathBuf::from).collect();
            let place = Place::listed(variable, None, None);
            assert_eq!(place, Place::Kubeconfigs(paths), "{variable}");
        };
        check("/a", &["/a"]);
        check(":/b::/a:/b:", &["/b", "/a"]);
        check(":", &[]);
    }

    #[test]
    fn a_pod_needs_both_variables_and_a_token() {
        let folder = pod();
        assert!(InCluster::at("10.0.0.1", "443", folder.path()).is_some());
        assert!(InCluster::at("", "443", folder.path()).is_none());
        assert!(InCluster::at("10.0.0.1", "", folder.path()).is_none());
        std::fs::remove_file(folder.path().join("token")).expect("removed");
        assert!(InCluster::at("10.0.0.1", "443", folder.path()).is_none());
    }

    #[test]
    fn a_pod_keeps_its_token_and_ca_as_files() {
        let folder = pod();
        let cluster = InCluster::at("fd00::1", "6443", folder.path()).expect("in a cluster");
        let config = cluster.config().expect("a configuration");
        assert_eq!(config.cluster_url.to_string(), "https://[fd00::1]:6443/");
        assert_eq!(config.default_namespace, "dapr-system");
        assert_eq!(config.root_cert_file, Some(folder.path().join("ca.crt")));
        assert!(config.auth_info.token_file.is_some());
    }

    #[test]
    fn a_broken_service_account_is_named() {
        let folder = pod();
        let cluster = InCluster::at("10.0.0.1", "443", folder.path()).expect("in a cluster");
        std::fs::write(folder.path().join("ca.crt"), "nothing").expect("a file");
        assert!(matches!(cluster.config(), Err(Error::Certificate { .. })));
        std::fs::remove_file(folder.path().join("ca.crt")).expect("removed");
        assert!(matches!(
            cluster.config(),
            Err(Error::ServiceAccount { .. })
        ));
        let nonsense = InCluster::at("not a host", "443", folder.path()).expect("in a cluster");
        assert!(matches!(nonsense.config(), Err(Error::Address { .. })));
    }
}
