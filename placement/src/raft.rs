//! The replicas: one of them leads, and all agree on the tables.
//!
//! Leading needs more than having won an election: a replica leads only while a quorum has acknowledged it within
//! [`LEASE`], and a follower that has acknowledged a leader votes for nobody else before [`LEASE`] is over. A
//! restart makes a replica forget that. So it says and hears nothing for [`SILENCE`] after its start, which is
//! longer; to the others it is simply gone until no such promise is left.
//!
//! The log is in memory or on a disk. A replica that comes back without one listens until a leader has brought it
//! up to date, and only then votes again (`roster`). When so many have lost their log that what was agreed on is
//! gone, the rest goes on with what it has: sidecars report the difference, for they know what they host. A replica
//! that finds its own log contradicted then forgets it, as if it had been restarted; a log on a disk is left to a
//! human, because there it must not happen.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dapr_security::{Acceptor, ServerOptions, serve};
use openraft::alias::LogIdOf;
use openraft::errors::{Fatal, InitializeError};
use openraft::impls::BasicNode;
use openraft::{ConfigError, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ledger;
use crate::metrics::Metrics;
use crate::term::Lead;

mod cluster;
mod disk;
mod lead;
mod log;
mod machine;
mod network;
mod replica;
mod roster;
mod service;
mod store;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use cluster::{Cluster, Error as ClusterError, Peer};
pub(crate) use disk::Disk;
pub(crate) use network::Network;

use log::Log;
use machine::StateMachine;
use replica::Replica;
use wire::Hello;

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
/// Entries after which the log is replaced by a snapshot, and how many a slow replica may still be sent.
const SNAPSHOT_AFTER: u64 = 2000;
const KEPT_ENTRIES: u64 = 500;

openraft::declare_raft_types!(
    /// The types of the log.
    pub(crate) Types: D = ledger::Entry, R = (), Node = BasicNode
);

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// The replica cannot go on.
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
    #[error("log cannot be read or written")]
    Store(#[source] io::Error),
    #[error(
        "log in {0} contradicts what the other replicas agree on: it is of another cluster or a disk was set back; \
         move it away, and this replica learns everything anew"
    )]
    Contradicted(PathBuf),
}

/// Everything a replica needs.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) cluster: Cluster,
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: Acceptor,
    pub(crate) network: Network,
    pub(crate) metrics: Metrics,
    /// Where the log is, with the folder's name; none is in memory.
    pub(crate) disk: Option<(PathBuf, Disk)>,
    /// When the process was started, in milliseconds since 1970.
    pub(crate) started: u64,
    /// Told what this replica leads with, none while it does not lead.
    pub(crate) leads: watch::Sender<Option<Lead>>,
}

/// Whether the replica takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It keeps to itself.
    Silent,
    /// Alone it leads, with others it follows or stands for election.
    Taken,
}

/// Takes part until the token is cancelled. `report` is told whenever that begins or stops. A leader hands its
/// leadership over before it goes, so it must not serve any more when the token is cancelled.
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
        disk,
        started,
        leads,
    } = options;
    let seat = Seat::new(Hello {
        list: cluster.addresses(),
        started,
    });
    // Until this replica has handed over what it had.
    let over = CancellationToken::new();
    let serving = serve(
        listener,
        acceptor,
        service::routes(seat.clone(), cluster.own_id()),
        ServerOptions::default(),
        over.clone(),
    );
    let replica = Replica {
        cluster,
        network,
        metrics,
        disk,
        leads,
        seat,
        report,
    };
    let outcome = tokio::select! {
        outcome = replica.run(&token) => outcome,
        () = serving => Ok(()),
    };
    replica.metrics.set_raft_leader(false);
    if outcome.is_err() {
        // Told only here: at an ordered end the service has its own reason to close its streams.
        replica.leads.send_replace(None);
    }
    outcome
}

/// One life of a replica, as the raft port sees it.
#[derive(Clone)]
struct Member {
    raft: Raft,
    log: Log,
    /// Cancelled when the others contradict what was agreed on.
    contradicted: CancellationToken,
    /// It may vote.
    whole: Arc<AtomicBool>,
    /// What the first leader it heard of had agreed on: with that it is whole.
    goal: Arc<Mutex<Option<u64>>>,
}

impl Member {
    fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    fn heard(&self, committed: Option<LogIdOf<Types>>) {
        if let Some(committed) = committed
            && !self.is_whole()
        {
            self.goal.lock().get_or_insert(committed.index());
        }
    }
}

/// Where the raft port finds the current life, if the replica takes part, and leaves what others ask for.
#[derive(Clone)]
struct Seat {
    member: Arc<RwLock<Option<Member>>>,
    /// The list of replicas of the latest start there is word of.
    wanted: Arc<Mutex<Hello>>,
}

impl Seat {
    fn new(own: Hello) -> Self {
        Self {
            member: Arc::default(),
            wanted: Arc::new(Mutex::new(own)),
        }
    }

    fn want(&self, hello: Hello) {
        let mut wanted = self.wanted.lock();
        if hello.started > wanted.started {
            *wanted = hello;
        }
    }

    fn wanted(&self) -> Hello {
        self.wanted.lock().clone()
    }
}
