//! The election of one leader among the replicas.
//!
//! Nothing but the leader is agreed on: the log holds the list of members and one empty entry per election, and
//! lives in memory. That is safe here because leading needs more than having won: a replica leads only while a
//! quorum has acknowledged it within [`LEASE`], and a follower that has acknowledged a leader votes for nobody
//! else before [`LEASE`] is over. A restart makes a replica forget its promise. So it says and hears nothing for
//! [`SILENCE`] after its start, which is longer; to the others it is simply gone until no promise is left.
//!
//! What the log of a restarted replica lacks is sent to it again by the leader. When so many have restarted that the
//! others contradict what a replica knows as agreed, that replica forgets it all, as if it had been restarted too.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dapr_security::{Acceptor, ServerOptions, serve};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::impls::BasicNode;
use openraft::{Config, ConfigError, Instant, RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

mod cluster;
mod network;
mod service;
mod store;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use cluster::{Cluster, Error as ClusterError, Peer};
pub(crate) use network::Network;

use store::{LogStore, StateMachine};

/// Pause between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How long a follower misses its leader at least, beyond [`LEASE`], before it stands for election. At most it is
/// as long as the lease, so a dead leader is replaced 1.8 to 2.4 seconds after its last heartbeat.
const ELECTION: Duration = Duration::from_millis(600);
/// How long an acknowledgement binds the follower that gave it.
const LEASE: Duration = Duration::from_millis(1200);
/// The leader stops this much before the first follower may vote for another, for clocks and schedulers are not exact.
const LEASE_MARGIN: Duration = Duration::from_millis(150);
/// How long a started replica keeps to itself when there are others.
const SILENCE: Duration = Duration::from_millis(1500);
/// How often the age of the last acknowledgement is looked at.
const LEASE_CHECK: Duration = Duration::from_millis(50);

openraft::declare_raft_types!(
    /// The types of the election.
    pub(crate) Types: D = Nothing, R = (), Node = BasicNode
);

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// What is replicated beside the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Nothing {}

impl fmt::Display for Nothing {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// The election cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("election settings are invalid")]
    Config(#[from] Box<ConfigError>),
    #[error("election failed")]
    Fatal(#[from] Box<Fatal<Types>>),
    #[error("members of the election cannot be set")]
    Initialize(#[source] Box<InitializeError<Types>>),
    #[error("election did not end in order")]
    Shutdown(#[source] io::Error),
}

/// Everything the election needs.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) cluster: Cluster,
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: Acceptor,
    pub(crate) network: Network,
    pub(crate) metrics: Metrics,
    /// Told whether this replica leads.
    pub(crate) leads: watch::Sender<bool>,
}

/// Whether the replica takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It keeps to itself.
    Silent,
    /// Alone it leads, with others it follows or stands for election.
    Taken,
}

/// Takes part in the election until the token is cancelled. `report` is told whenever that begins or stops.
pub(crate) async fn run(
    options: Options,
    report: impl Fn(Part),
    token: CancellationToken,
) -> Result<(), Error> {
    let Options {
        cluster,
        listener,
        acceptor,
        network,
        metrics,
        leads,
    } = options;
    let seat = Seat::default();
    let routes = service::routes(seat.clone(), &cluster);
    let serving = serve(
        listener,
        acceptor,
        routes,
        ServerOptions::default(),
        token.clone(),
    );
    let replica = Replica {
        cluster,
        network,
        metrics,
        leads,
        seat,
        report,
    };
    let outcome = tokio::select! {
        outcome = replica.run(&token) => outcome,
        // Ends with the token only, so that dropping it here closes what its drain still waits for.
        () = serving => Ok(()),
    };
    replica.metrics.set_raft_leader(false);
    if outcome.is_err() {
        // Told only here: at an ordered end the service has its own reason to close its streams.
        replica.leads.send_replace(false);
    }
    outcome
}

/// One life of a replica, as the raft port sees it.
#[derive(Clone)]
struct Member {
    raft: Raft,
    log: LogStore,
    /// Cancelled when the others contradict what was agreed on.
    contradicted: CancellationToken,
}

/// Where the raft port finds the current life, if the replica takes part.
type Seat = Arc<RwLock<Option<Member>>>;

struct Replica<F> {
    cluster: Cluster,
    network: Network,
    metrics: Metrics,
    leads: watch::Sender<bool>,
    seat: Seat,
    report: F,
}

impl<F: Fn(Part)> Replica<F> {
    async fn run(&self, token: &CancellationToken) -> Result<(), Error> {
        let mut silence = if self.cluster.is_single() {
            Duration::ZERO
        } else {
            SILENCE
        };
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = sleep(silence) => {}
            }
            let log = LogStore::default();
            let network = self.network.clone();
            let raft = Raft::new(
                self.cluster.own_id(),
                config()?,
                network,
                log.clone(),
                StateMachine::default(),
            );
            let raft = raft.await.map_err(Box::new)?;
            let member = Member {
                raft: raft.clone(),
                log,
                contradicted: CancellationToken::new(),
            };
            let contradicted = member.contradicted.clone();
            *self.seat.write() = Some(member);
            let outcome = tokio::select! {
                outcome = self.take_part(&raft) => outcome,
                () = token.cancelled() => Ok(()),
                () = contradicted.cancelled() => Ok(()),
            };
            *self.seat.write() = None;
            outcome?;
            raft.shutdown()
                .await
                .map_err(|error| Error::Shutdown(io::Error::other(error)))?;
            if token.is_cancelled() {
                return Ok(());
            }
            tracing::warn!("Other replicas have lost what was agreed on: starting over");
            (self.report)(Part::Silent);
            self.tell(false, false);
            silence = SILENCE;
        }
    }

    /// Ends only with an error.
    async fn take_part(&self, raft: &Raft) -> Result<(), Error> {
        initialize(raft, self.cluster.nodes()).await?;
        let mut changes = raft.metrics();
        let mut lease_check = interval(LEASE_CHECK);
        lease_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = false;
        loop {
            let (elected, leading) = {
                let seen = changes.borrow_watched();
                seen.running_state.clone().map_err(Box::new)?;
                let elected = seen.state == ServerState::Leader;
                (
                    elected,
                    elected && (self.cluster.is_single() || holds_lease(&seen)),
                )
            };
            self.tell(elected, leading);
            // A replica without others is of no use before it leads, which is at once.
            if !reported && (leading || !self.cluster.is_single()) {
                reported = true;
                (self.report)(Part::Taken);
            }
            tokio::select! {
                changed = changes.changed() => {
                    // Without a sender the library has stopped, and its last state says why.
                    if changed.is_err() {
                        changes.borrow_watched().running_state.clone().map_err(Box::new)?;
                        return Err(Error::Fatal(Box::new(Fatal::Stopped)));
                    }
                }
                _ = lease_check.tick() => {}
            }
        }
    }

    fn tell(&self, elected: bool, leading: bool) {
        self.metrics.set_raft_leader(elected);
        self.leads
            .send_if_modified(|leads| std::mem::replace(leads, leading) != leading);
    }
}

fn config() -> Result<Arc<Config>, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "dapr-placement".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION),
        // The library takes its lease from this setting.
        election_timeout_max: millis(LEASE),
        enable_pre_vote: Some(true),
        // A replica that was restarted comes back with less than it had.
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::Never,
        backoff: "100ms 100ms 100ms ...100ms".to_owned(),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(Box::new)?))
}

/// Every replica sets the same members. One that has heard of them already has nothing to do.
async fn initialize(raft: &Raft, nodes: BTreeMap<u64, BasicNode>) -> Result<(), Error> {
    match raft.initialize(nodes).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(error)) => Err(Error::Initialize(Box::new(error))),
        Err(RaftError::Fatal(fatal)) => Err(Error::Fatal(Box::new(fatal))),
    }
}

fn holds_lease(seen: &RaftMetrics<Types>) -> bool {
    seen.last_quorum_acked
        .is_some_and(|acked| acked.elapsed() < LEASE - LEASE_MARGIN)
}
