//! The webhook and what keeps it right, once there is an identity.

use std::fmt;
use std::time::Duration;

use dapr_kit::health::Target;
use dapr_security::{Acceptor, Security, ServerOptions, serve};
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{State, cluster, webhook};
use crate::admission::Injector;
use crate::metrics::Metrics;
use crate::requester::Rules;
use crate::server::Webhook;
use crate::settings::Settings;

/// How long the head of a request may take.
const HEADER: Duration = Duration::from_secs(10);
/// A connection without a request for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A connection that was never without a request for so long is replaced, and closed after as long again. A review takes
/// ten seconds at most, and the API server dials anew.
const BUSY: Duration = Duration::from_secs(30);
/// Requests that one connection may have open; the API server has many at a time only when pods start in herds.
const STREAMS: u32 = 256;

/// Everything the webhook works with.
pub struct Service {
    /// What it puts into sidecars.
    pub sidecars: Settings,
    /// For whom.
    pub rules: Rules,
    /// The API server.
    pub client: Client,
    /// The identity it serves with.
    pub security: Security,
    /// What it counts.
    pub metrics: Metrics,
    /// Its health.
    pub targets: Targets,
    /// Where it shows what it knows.
    pub state: State,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("sidecars", &self.sidecars)
            .finish_non_exhaustive()
    }
}

/// The health targets of the webhook.
#[derive(Debug)]
pub struct Targets {
    /// Ready once the cluster is known.
    pub service: Target,
    /// Ready while the API server knows which certificates to trust.
    pub webhook: Target,
}

/// A service whose certificates the API server trusts, and that serves nothing yet.
#[derive(Debug)]
pub struct Prepared {
    injector: Injector,
    security: Security,
    metrics: Metrics,
    cluster: cluster::Parts,
    keeper: webhook::Keeper,
    target: Target,
    state: State,
}

impl Service {
    /// Tells the API server which certificates to trust.
    ///
    /// # Errors
    /// The webhook configuration is missing, or must not be patched.
    pub async fn prepare(self) -> anyhow::Result<Prepared> {
        let Self {
            sidecars,
            rules,
            client,
            security,
            metrics,
            targets,
            state,
        } = self;
        let namespace = sidecars.namespace.clone();
        let keeper = webhook::Keeper::new(client.clone(), security.clone(), targets.webhook);
        keeper.start().await?;
        let cluster = cluster::Parts::new(client, security.clone(), &namespace, &rules).await;
        Ok(Prepared {
            injector: Injector {
                settings: sidecars,
                rules,
            },
            security,
            metrics,
            cluster,
            keeper,
            target: targets.service,
            state,
        })
    }
}

impl Prepared {
    /// Serves until the token is cancelled. The tasks belong to `tasks`; they end only by the token.
    pub fn spawn(self, listener: TcpListener, tasks: &mut JoinSet<()>, token: &CancellationToken) {
        let Self {
            injector,
            security,
            metrics,
            cluster,
            keeper,
            target,
            state,
        } = self;
        let routes = Webhook::new(injector, cluster.live(), metrics.clone()).routes();
        let options = ServerOptions {
            header_timeout: Some(HEADER),
            max_connection_busy: Some(BUSY),
            max_concurrent_streams: Some(STREAMS),
            max_connection_idle: Some(IDLE),
            date: true,
            ..ServerOptions::default()
        };
        let acceptor = Acceptor::ServerOnly(security);
        tasks.spawn(serve(listener, acceptor, routes, options, token.clone()));
        let stop = token.clone();
        tasks.spawn(async move {
            let mut watches = JoinSet::new();
            cluster.spawn(&mut watches, target, &state, &metrics);
            keeper.spawn(&mut watches);
            // None of them ends by itself, and dropping the set ends them all.
            tokio::select! {
                () = stop.cancelled() => {}
                ended = watches.join_next() => tracing::error!(?ended, "a background task ended"),
            }
        });
    }
}
