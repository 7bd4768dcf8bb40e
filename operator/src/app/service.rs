//! What the operator does once it has an identity: it serves, it watches, and as the leader it acts.

use std::fmt;
use std::time::Duration;

use dapr_kit::health::Target;
use dapr_security::{Acceptor, Security, ServerOptions, serve};
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::cluster::Parts;
use super::state::State;
use super::{Duties, leader};
use crate::server::Api;
use crate::{services, webhook};

/// Calls that one connection may have open. A sidecar has seven streams and a few lists; more wait at the client.
const STREAMS: u32 = 256;

/// How long calls may go on once the process is told to stop. A sidecar that reads nothing is cut off then.
const DRAIN: Duration = Duration::from_secs(5);

/// Everything the operator works with.
pub struct Service {
    /// The API server.
    pub client: Client,
    /// The identity it serves with.
    pub security: Security,
    /// The control-plane namespace.
    pub namespace: String,
    /// The one namespace to watch; `None` for all.
    pub scope: Option<String>,
    /// Whether the conversion webhook is served and the CRD is patched.
    pub webhooks: bool,
    /// What the leader does.
    pub duties: Duties,
    /// The namespace in which the leader is elected; `None` if there is no election.
    pub election: Option<String>,
    /// What the leader counts.
    pub metrics: services::Metrics,
    /// How fresh it is what is known.
    pub state: State,
    /// Its health.
    pub targets: Targets,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("namespace", &self.namespace)
            .field("scope", &self.scope)
            .field("duties", &self.duties)
            .finish_non_exhaustive()
    }
}

/// The health targets of the operator.
#[derive(Debug)]
pub struct Targets {
    /// Ready once the API is served.
    pub api: Target,
    /// Ready while the API server can convert Subscriptions, or is not to.
    pub webhook: Target,
    /// Ready once the resources are known.
    pub cluster: Target,
}

/// Where the operator serves.
#[derive(Debug)]
pub struct Listeners {
    /// The API.
    pub api: TcpListener,
    /// The conversion webhook, if it is served.
    pub webhook: Option<TcpListener>,
}

impl Service {
    /// Serves and watches until the token is cancelled. `tasks` end only by the token; what is added to `work` ends
    /// with an error when the process must not go on.
    pub fn spawn(
        self,
        listeners: Listeners,
        tasks: &mut JoinSet<()>,
        work: &mut JoinSet<anyhow::Result<()>>,
        token: &CancellationToken,
    ) {
        let Self {
            client,
            security,
            namespace,
            scope,
            webhooks,
            duties,
            election,
            metrics,
            state,
            targets,
        } = self;
        let cluster = Parts::new(client.clone(), scope.clone());
        let (resources, known) = (cluster.resources(), cluster.known());

        let address = listeners.api.local_addr().ok();
        tracing::info!(
            address = address.map(tracing::field::display),
            "operator API is listening"
        );
        let api = Api::new(resources.clone(), scope.clone());
        let acceptor = Acceptor::Mutual(security.clone());
        let options = ServerOptions {
            max_concurrent_streams: Some(STREAMS),
            ..ServerOptions::default()
        };
        let served = serve(listeners.api, acceptor, api, options, token.clone());
        tasks.spawn(drained(served, token.clone()));
        targets.api.ready();
        match listeners.webhook {
            Some(listener) if webhooks => {
                let serve = webhook::serve(listener, security.clone(), token.clone());
                tasks.spawn(drained(serve, token.clone()));
                let (client, stop) = (client.clone(), token.clone());
                let target = targets.webhook;
                work.spawn(async move {
                    let keep = webhook::keep_crd(client, &namespace, security, target);
                    match stop.run_until_cancelled(keep).await {
                        Some(Err(error)) => Err(error.into()),
                        Some(Ok(never)) => match never {},
                        None => Ok(()),
                    }
                });
            }
            Some(_) | None => targets.webhook.ready(),
        }
        let stop = token.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            // Streams end well, so that the server can.
            resources.close();
        });

        let stop = token.clone();
        let (cluster_target, shown) = (targets.cluster, state.clone());
        tasks.spawn(async move {
            let mut watches = JoinSet::new();
            cluster.spawn(&mut watches, &shown, cluster_target);
            // None of them ends by itself, and dropping the set ends them all.
            tokio::select! {
                () = stop.cancelled() => {}
                ended = watches.join_next() => tracing::error!(?ended, "a background task ended"),
            }
        });
        let leader = leader::Leader {
            client,
            scope,
            duties,
            known,
            state,
            metrics,
        };
        work.spawn(leader.run(election, token.clone()));
    }
}

/// Serves to its end, which has some time once the process is told to stop. Dropping it closes what is left.
async fn drained(served: impl Future<Output = ()>, stop: CancellationToken) {
    let deadline = async {
        stop.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        () = served => {}
        () = deadline => tracing::warn!("clients did not go away, closing their connections"),
    }
}
