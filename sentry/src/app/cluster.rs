//! What only a Sentry in Kubernetes has: watches of pods, configurations and the published bundle, and the validator
//! that reads them.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use dapr_kit::health::Target;
use dapr_kubernetes::{Change, Config, Reader, State, Watcher, watch};
use dapr_security::SpiffeId;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::rotation::ledger::Ledger;
use crate::storage::{BUNDLE, Cluster as Bundle, Directory, Item};
use crate::validator::kubernetes::{Cluster, Configuration, ControlPlane, Pod, Reviewer};

/// The audience of tokens made for older versions.
const LEGACY_AUDIENCE: &str = "dapr.io/sentry";
/// A name every cluster has; its canonical form ends in the cluster's domain.
const API_SERVER: &str = "kubernetes.default.svc";
/// How long the look-up of the cluster's domain may take.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Everything of the cluster, before it runs.
pub(super) struct Parts {
    client: Client,
    namespace: String,
    validator: Arc<Cluster>,
    pods: Watcher<Pod>,
    configurations: Watcher<Configuration>,
    bundle: Watcher<ConfigMap>,
}

impl Parts {
    /// `scope` is the one namespace whose pods are looked at; `None` is all.
    pub(super) fn new(
        client: Client,
        control_plane: ControlPlane,
        sentry: &SpiffeId,
        scope: Option<&str>,
    ) -> Self {
        let namespace = control_plane.namespace.clone();
        let (pods_reader, pods) = watch(within(&client, scope), Config::default());
        let (configurations_reader, configurations) =
            watch(within(&client, scope), Config::default());
        let only_bundle = Config {
            fields: Some(format!("metadata.name={BUNDLE}")),
            ..Config::default()
        };
        let (_, bundle) = watch(Api::namespaced(client.clone(), &namespace), only_bundle);
        let audiences = vec![LEGACY_AUDIENCE.to_owned(), sentry.to_string()];
        let validator = Arc::new(Cluster {
            reviewer: Reviewer::new(client.clone(), audiences),
            pods: pods_reader,
            configurations: configurations_reader,
            control_plane,
        });
        Self {
            client,
            namespace,
            validator,
            pods,
            configurations,
            bundle,
        }
    }

    /// The two objects; their keys are called as the files are. `address` is the one of this replica.
    pub(super) fn storage(&self, files: &Directory, address: Option<SocketAddr>) -> Bundle {
        let items = [
            Item::Root,
            Item::Chain,
            Item::Key,
            Item::JwtKey,
            Item::JwtKeys,
        ];
        let keys = items.map(|item| {
            let name = files.path(item).file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        Bundle::new(self.client.clone(), &self.namespace, keys).reached_at(address)
    }

    pub(super) fn validator(&self) -> Arc<Cluster> {
        Arc::clone(&self.validator)
    }

    pub(super) fn pods(&self) -> Reader<Pod> {
        self.validator.pods.clone()
    }

    /// Starts the watches. Pods that end are taken out of the ledger; a change of the published bundle is told.
    pub(super) fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        ledger: Arc<Mutex<Ledger>>,
        changed: mpsc::Sender<()>,
        target: Target,
    ) {
        let Self {
            client: _,
            namespace: _,
            validator,
            pods,
            configurations,
            bundle,
        } = self;
        tasks.spawn(ended(pods.run(move |change| {
            if let Some(uid) = gone(&change) {
                ledger.lock().gone(uid);
            }
        })));
        tasks.spawn(ended(configurations.run(|_| {})));
        tasks.spawn(ended(bundle.run(move |change| {
            if is_bundle(&change) {
                // Full means that the reader has not yet looked, so it will see this change too.
                changed.try_send(()).unwrap_or_default();
            }
        })));
        tasks.spawn(report(validator, target));
    }
}

fn within<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn ended(watcher: impl Future<Output = Infallible>) {
    watcher.await;
}

/// The pod that needs no certificate any more.
fn gone(change: &Change<Pod>) -> Option<&str> {
    match change {
        Change::Deleted { old } => old.uid(),
        Change::Applied { new, .. } if new.has_ended() => new.uid(),
        Change::Applied { .. } | Change::Synced => None,
    }
}

/// A minimal server ignores that only one object was asked for.
fn is_bundle(change: &Change<ConfigMap>) -> bool {
    let (Change::Applied { new: object, .. } | Change::Deleted { old: object }) = change else {
        return false;
    };
    object.metadata.name.as_deref() == Some(BUNDLE)
}

/// Ready once both kinds are listed. A watch that fails later keeps the last known state, and says so in the log.
async fn report(validator: Arc<Cluster>, target: Target) {
    validator.pods.synced().await;
    validator.configurations.synced().await;
    target.ready();
    let mut pods = validator.pods.health();
    let mut configurations = validator.configurations.health();
    loop {
        tokio::select! {
            Ok(()) = pods.changed() => tell("pods", &pods.borrow_and_update().state),
            Ok(()) = configurations.changed() => {
                tell("configurations", &configurations.borrow_and_update().state);
            }
        }
    }
}

fn tell(kind: &str, state: &State) {
    match state {
        State::Starting => {}
        State::Synced => tracing::info!(kind, "The API server is followed again"),
        State::Stale { .. } => tracing::warn!(
            kind,
            "The API server cannot be followed; certificates are issued by the last known state"
        ),
    }
}

/// Where pods reach what listens at `listener`: at its address, or at the one that this process would ask the API server
/// from, as the kubelet tells where that is. None where nothing can be told, as outside of a cluster.
pub(super) fn address(
    listener: io::Result<SocketAddr>,
    api_server: Option<&str>,
) -> Option<SocketAddr> {
    let api_server: IpAddr = api_server?.parse().ok()?;
    let listener = listener.ok()?;
    if !listener.ip().is_unspecified() {
        return Some(listener);
    }
    let any: IpAddr = match api_server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Nothing is sent: a datagram socket that is connected knows its own side.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((api_server, 443)).ok()?;
    let own = socket.local_addr().ok()?;
    Some(SocketAddr::new(own.ip(), listener.port()))
}

/// The cluster's domain, from the full name of the API server.
pub(super) async fn domain() -> Option<String> {
    let look_up = tokio::task::spawn_blocking(canonical_name);
    let name = timeout(LOOK_UP, look_up).await.ok()?.ok()??;
    let domain = suffix(&name);
    if domain.is_none() {
        tracing::warn!(
            name,
            "The cluster's domain cannot be told from the name of the API server"
        );
    }
    domain
}

fn canonical_name() -> Option<String> {
    let hints = dns_lookup::AddrInfoHints {
        flags: libc::AI_CANONNAME,
        ..Default::default()
    };
    let found = dns_lookup::getaddrinfo(Some(API_SERVER), None, Some(hints)).ok()?;
    found.filter_map(Result::ok).find_map(|info| info.canonname)
}

fn suffix(name: &str) -> Option<String> {
    let rest = name.strip_prefix(API_SERVER)?.trim_matches('.');
    (!rest.is_empty()).then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_reach_a_replica_where_the_api_server_does() {
        let check = |listener: &str, api_server: Option<&str>, expected: Option<&str>| {
            let listener = listener.parse().map_err(io::Error::other);
            let found = address(listener, api_server).map(|it| it.to_string());
            assert_eq!(found.as_deref(), expected, "{api_server:?}");
        };
        check("[::]:50001", Some("127.0.0.1"), Some("127.0.0.1:50001"));
        check("0.0.0.0:443", Some("127.0.0.1"), Some("127.0.0.1:443"));
        check("10.1.1.1:443", Some("127.0.0.1"), Some("10.1.1.1:443"));
        check("[::]:50001", None, None);
        check("[::]:50001", Some("kubernetes"), None);
        check("no socket", Some("127.0.0.1"), None);
    }

    #[test]
    fn the_domain_is_what_follows_the_service() {
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(suffix(name).as_deref(), expected, "{name}");
        };
        check(
            "kubernetes.default.svc.cluster.local",
            Some("cluster.local"),
        );
        check("kubernetes.default.svc.corp.example.", Some("corp.example"));
        check("kubernetes.default.svc", None);
        check("kubernetes.default.svc.", None);
        check("elsewhere.example", None);
    }
}
