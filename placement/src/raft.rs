//! The replicas: one of them leads, and all agree on the tables.
//!
//! Leading needs more than having won an election: a replica leads only while a quorum has acknowledged it within
//! [`LEASE`], and a follower that has acknowledged a leader votes for nobody else before [`LEASE`] is over. A
//! restart makes a replica forget that. So it says and hears nothing for [`SILENCE`] after its start, which is
//! longer; to the others it is simply gone until no such promise is left.
//!
//! The log is in memory or on a disk. A replica that comes back without one is another member, which has to be let in
//! (`standing`, `roster`). When so many have lost their log that what was agreed on is gone, the rest goes on with what
//! it has: sidecars report the difference, for they know what they host. A replica that finds its own log contradicted
//! then forgets it, as if it had been restarted; a log on a disk is left to a human, because there it must not happen.
//!
//! All of it runs on a simulated clock and network too (`simulation`): hence the parameters [`Kind`] and `Carrier`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dapr_security::{Acceptor, ServerOptions, serve};
use openraft::alias::{EntryOf, InstantOf, LeaderIdOf, PayloadOf, VoteOf};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::{ConfigError, Instant, RaftTypeConfig, SnapshotPolicy};
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
mod standing;
mod store;
mod wire;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use cluster::{Cluster, Error as ClusterError, Peer};
pub(crate) use disk::Disk;
pub(crate) use network::Network;

use log::Log;
use machine::StateMachine;
use network::Clients;
use replica::Replica;
use serde::{Deserialize, Serialize};
use standing::{Standing, Store};
use wire::{Greeting, Hello, List, Name};

/// Pause between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(150);
/// How long a follower misses its leader at least, beyond [`LEASE`], before it stands for election. At most it is
/// as long as the lease, so a dead leader is replaced 1.2 to 2 seconds after its last heartbeat. None of that can be
/// left out when its connections break: a leader that is only cut off serves to the end of its lease.
const ELECTION: Duration = Duration::from_millis(200);
/// How long an acknowledgement binds the follower that gave it.
const LEASE: Duration = Duration::from_secs(1);
/// The leader stops this much before the first follower may vote for another, for clocks and schedulers are not exact.
/// It counts from before it asked, the follower from when it answered, so only the pace of clocks matters and not what
/// they show; and five heartbeats in a row have to be lost before it stops in vain.
const LEASE_MARGIN: Duration = Duration::from_millis(150);
/// How long a started replica keeps to itself when there are others.
const SILENCE: Duration = Duration::from_millis(1300);
/// How often the age of the last acknowledgement is looked at.
const LEASE_CHECK: Duration = Duration::from_millis(50);
const COMPACTION: Compaction = Compaction {
    after: 2000,
    kept: 500,
};

/// How long after its beginning a replica still counts as knowing nothing, if nothing was agreed on with it: others
/// that were started together with it may come to begin a moment later.
const FOUNDING: Duration = Duration::from_secs(5);
/// For how long a replica is taken to be the one that was last heard of under its id. Those that are not let in say so
/// every 0.1 s, others every second.
const HEARD: Duration = Duration::from_secs(3);
/// For how long it has to say so before that is believed.
const SURE: Duration = Duration::from_millis(300);

openraft::declare_raft_types!(
    /// The types of the log.
    pub(crate) Types: D = ledger::Entry, R = (), Node = Node
);

/// The same types on whatever runtime.
// rustdoc 1.95 panics over the automatic traits of types that have this parameter, so they are hidden from it.
pub(crate) trait Kind:
    RaftTypeConfig<
        D = ledger::Entry,
        R = (),
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = LeaderIdOf<Types>,
        Vote = VoteOf<Types>,
        Payload = PayloadOf<Types>,
        Entry = EntryOf<Types>,
    >
{
}

impl<C> Kind for C where
    C: RaftTypeConfig<
            D = ledger::Entry,
            R = (),
            NodeId = u64,
            Node = Node,
            Term = u64,
            LeaderId = LeaderIdOf<Types>,
            Vote = VoteOf<Types>,
            Payload = PayloadOf<Types>,
            Entry = EntryOf<Types>,
        >
{
}

pub(crate) type Raft<C = Types> = openraft::Raft<C, StateMachine>;

/// A member: where it is, and which of those that had its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    address: String,
    /// 0 for a member of the first hour.
    incarnation: u64,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// When the log is replaced by a snapshot.
#[derive(Clone, Copy, Debug)]
struct Compaction {
    /// After so many entries.
    after: u64,
    /// How many of them a slow replica may still be sent.
    kept: u64,
}

/// The replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("election settings are invalid")]
    Config(#[from] Box<ConfigError>),
    #[error("election failed")]
    Fatal(#[source] io::Error),
    #[error("members of the election cannot be set")]
    Initialize(#[source] io::Error),
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
    /// Draws a number nobody has drawn before.
    pub(crate) draw: fn() -> u64,
    /// Told what this replica leads with, none while it does not lead.
    pub(crate) leads: watch::Sender<Option<Lead>>,
}

/// Whether the replica takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It keeps to itself.
    Silent,
    /// There is a cluster that has not let it in yet: whoever stops another replica now may stop them all.
    Outside,
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
        draw,
        leads,
    } = options;
    let list = List {
        addresses: cluster.addresses(),
        started,
    };
    let seat = Seat::new(cluster.own_id(), list);
    // Until this replica has handed over what it had.
    let over = CancellationToken::new();
    let serving = serve(
        listener,
        acceptor,
        service::routes(seat.clone()),
        ServerOptions::default(),
        over.clone(),
    );
    let replica = Replica {
        cluster,
        clients: Clients(network),
        metrics,
        store: disk.map_or(Store::Memory, |(folder, disk)| Store::Disk(folder, disk)),
        draw,
        leads,
        seat,
        compaction: COMPACTION,
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
#[doc(hidden)]
struct Member<C: Kind = Types> {
    raft: Raft<C>,
    log: Log,
    /// Cancelled when the others contradict what was agreed on.
    contradicted: CancellationToken,
    standing: Arc<Mutex<Standing>>,
    /// When it decided to begin together with all others.
    begun: Arc<OnceLock<InstantOf<C>>>,
}

impl<C: Kind> Member<C> {
    fn standing(&self) -> Standing {
        *self.standing.lock()
    }

    /// Whether it has begun a moment ago and holds nothing but the members of the beginning, so that nothing can have
    /// been agreed on by its word.
    fn has_just_begun(&self) -> bool {
        let recent = self.begun.get().is_some_and(|at| at.elapsed() < FOUNDING);
        let last = self.raft.metrics().borrow_watched().last_log_index;
        recent && last.unwrap_or_default() == 0
    }

    /// Whether it has never heard of any member.
    fn has_nothing(&self) -> bool {
        let metrics = self.raft.metrics();
        let members = &metrics.borrow_watched().membership_config;
        members.voter_ids().next().is_none()
    }
}

/// What a replica says who it is.
#[derive(Debug)]
struct Claim<I> {
    incarnation: Option<u64>,
    /// When it said so first, and last.
    since: I,
    at: I,
}

/// Where the raft port finds the current life, if the replica takes part, and leaves what others ask for.
#[derive(Clone)]
#[doc(hidden)]
struct Seat<C: Kind = Types> {
    own: u64,
    member: Arc<RwLock<Option<Member<C>>>>,
    /// The list of replicas of the latest start there is word of.
    wanted: Arc<Mutex<List>>,
    /// The incarnation each replica last went by, none for those that stand in for all they had.
    heard: Arc<Mutex<BTreeMap<u64, Claim<InstantOf<C>>>>>,
    /// The members each replica named last. Silence is no reason to forget them, a start without a log is.
    memberships: Arc<Mutex<BTreeMap<u64, BTreeSet<u64>>>>,
}

impl<C: Kind> Seat<C> {
    fn new(own: u64, list: List) -> Self {
        Self {
            own,
            member: Arc::default(),
            wanted: Arc::new(Mutex::new(list)),
            heard: Arc::default(),
            memberships: Arc::default(),
        }
    }

    fn hear(&self, hello: Hello) {
        let Hello {
            from,
            greeting,
            list,
        } = hello;
        let mut wanted = self.wanted.lock();
        if list.started > wanted.started {
            *wanted = list;
        }
        drop(wanted);
        self.note(from, &greeting);
    }

    fn note(&self, Name { id, incarnation }: Name, greeting: &Greeting) {
        match greeting {
            Greeting::Whole(members) if !members.is_empty() => {
                self.memberships.lock().insert(id, members.clone());
            }
            Greeting::Whole(_) => {}
            Greeting::Fresh | Greeting::Begun => {
                self.memberships.lock().remove(&id);
            }
        }
        let at = C::now();
        let mut heard = self.heard.lock();
        heard.retain(|_, claim| claim.at.elapsed() < HEARD);
        let known = heard
            .get(&id)
            .filter(|known| known.incarnation == incarnation);
        let since = known.map_or(at, |known| known.since);
        heard.insert(
            id,
            Claim {
                incarnation,
                since,
                at,
            },
        );
    }

    fn forget_heard(&self) {
        self.heard.lock().clear();
    }

    /// Those that were heard of lately. What one has said once may be over by the time it arrives.
    fn heard(&self) -> BTreeMap<u64, Option<u64>> {
        let heard = self.heard.lock();
        let sure = heard.iter().filter(|(_, claim)| {
            let repeated = claim.at - claim.since >= SURE;
            claim.at.elapsed() < HEARD && (repeated || claim.incarnation.is_none())
        });
        sure.map(|(id, claim)| (*id, claim.incarnation)).collect()
    }

    /// The same with those that may not be sure yet.
    fn claims(&self) -> BTreeMap<u64, Option<u64>> {
        let heard = self.heard.lock();
        let recent = heard.iter().filter(|(_, claim)| claim.at.elapsed() < HEARD);
        recent.map(|(id, claim)| (*id, claim.incarnation)).collect()
    }

    fn memberships(&self) -> BTreeMap<u64, BTreeSet<u64>> {
        self.memberships.lock().clone()
    }

    fn wanted(&self) -> List {
        self.wanted.lock().clone()
    }
}
