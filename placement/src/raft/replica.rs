//! The lives of a replica: from its silence after the start to the hand-over at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::impls::BasicNode;
use openraft::{Config, Instant, RaftMetrics, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::machine::StateMachine;
use super::roster::{self, Members, Next};
use super::store::LogStore;
use super::wire::Greeting;
use super::{
    Cluster, Disk, ELECTION, Error, HEARTBEAT, KEPT_ENTRIES, LEASE, LEASE_CHECK, LEASE_MARGIN, Log,
    Member, Network, Part, Raft, SILENCE, SNAPSHOT_AFTER, Seat, SnapshotPolicy, Types, lead,
};
use crate::ledger::{Entry, Tables};
use crate::metrics::Metrics;
use crate::proposals::Proposals;
use crate::term::Lead;

/// Pause between two greetings of a replica that may not vote yet.
const HELLO_PAUSE: Duration = Duration::from_millis(100);
/// Looks at the members between two greetings of one that only has another list than the members.
const LIST_PAUSE: Duration = Duration::from_secs(1);
/// How long a replica without a log waits for a leader to bring it up to date while others remember. Then it votes:
/// a table that sidecars have to report again is better than none.
const WELCOME: Duration = Duration::from_secs(10);
/// How long a leader that goes waits for its successor.
const HAND_OVER: Duration = Duration::from_secs(1);

pub(super) struct Replica<F> {
    pub(super) cluster: Cluster,
    pub(super) network: Network,
    pub(super) metrics: Metrics,
    pub(super) disk: Option<(PathBuf, Disk)>,
    pub(super) leads: watch::Sender<Option<Lead>>,
    pub(super) seat: Seat,
    pub(super) report: F,
}

/// How far a replica is that leads.
enum Role {
    No,
    /// It waits until all is applied that it may have proposed before it lost its lease for a while.
    Preparing(u64, AbortOnDropHandle<bool>),
    Leading(u64, AbortOnDropHandle<()>),
}

impl Role {
    /// Waits until the preparations are over: the term to lead in, or none when they were in vain.
    async fn prepared(&mut self) -> Option<u64> {
        match self {
            Self::Preparing(term, barrier) => {
                let reached = barrier.await.unwrap_or(false);
                reached.then_some(*term)
            }
            Self::No | Self::Leading(..) => pending().await,
        }
    }
}

impl<F: Fn(Part)> Replica<F> {
    pub(super) async fn run(&self, token: &CancellationToken) -> Result<(), Error> {
        loop {
            let (member, tables) = self.wake().await?;
            let alone = self.is_alone(&member.raft);
            let silence = if alone { Duration::ZERO } else { SILENCE };
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = sleep(silence) => {}
            }
            let raft = member.raft.clone();
            let contradicted = member.contradicted.clone();
            raft.run();
            if alone && member.is_whole() {
                // Nobody else could lead, so there is nothing to wait for.
                let elected = raft.trigger().elect(false).await;
                elected.map_err(Box::new)?;
            }
            *self.seat.member.write() = Some(member.clone());
            self.metrics.set_raft_voter(member.is_whole());
            let outcome = tokio::select! {
                outcome = self.take_part(&raft, &tables) => outcome,
                outcome = self.find_in(&member) => outcome,
                () = token.cancelled() => {
                    self.hand_over(&raft).await;
                    Ok(())
                }
                () = contradicted.cancelled() => Ok(()),
            };
            *self.seat.member.write() = None;
            outcome?;
            raft.shutdown()
                .await
                .map_err(|error| Error::Shutdown(io::Error::other(error)))?;
            if token.is_cancelled() {
                return Ok(());
            }
            if let Some((folder, _)) = &self.disk {
                return Err(Error::Contradicted(folder.clone()));
            }
            tracing::warn!("Other replicas have lost what was agreed on: starting over");
            (self.report)(Part::Silent);
            self.metrics.set_raft_leader(false);
            self.metrics.set_raft_voter(false);
            self.leads.send_replace(None);
        }
    }

    /// Everything that is needed to take part, from the disk or from nothing.
    async fn wake(&self) -> Result<(Member, Arc<Mutex<Tables>>), Error> {
        let whole = match &self.disk {
            Some((_, disk)) => disk.is_whole().map_err(Error::Store)?,
            None => false,
        };
        let id = self.cluster.own_id();
        let config = config(whole)?;
        let network = self.network.clone();
        let (log, machine) = match &self.disk {
            None => (Log::Memory(LogStore::default()), StateMachine::default()),
            Some((_, disk)) => {
                let machine = StateMachine::open(disk.clone()).await;
                (Log::Disk(disk.clone()), machine.map_err(Error::Store)?)
            }
        };
        let tables = machine.tables();
        let raft = Raft::build(id, config, network, log.clone(), machine).await;
        let member = Member {
            raft: raft.map_err(Box::new)?,
            log,
            contradicted: CancellationToken::new(),
            whole: Arc::new(AtomicBool::new(whole)),
            goal: Arc::default(),
        };
        Ok((member, tables))
    }

    /// Whether there is nobody else, neither in the list nor among the members.
    fn is_alone(&self, raft: &Raft) -> bool {
        let metrics = raft.metrics();
        let members = &metrics.borrow_watched().membership_config;
        let own = self.cluster.own_id();
        self.cluster.is_single() && members.voter_ids().all(|id| id == own)
    }

    /// Sees to it that the replica may vote and that the members learn of its list. Ends only with an error.
    async fn find_in(&self, member: &Member) -> Result<(), Error> {
        let mut since = None;
        loop {
            if member.is_whole() {
                sleep(LIST_PAUSE).await;
                if !self.is_listed(&member.raft) {
                    self.hello(&member.raft).await;
                }
                continue;
            }
            let answers = self.hello(&member.raft).await;
            let list = self.cluster.addresses().into_keys().collect();
            let next = roster::next(self.cluster.own_id(), &list, &answers);
            if answers
                .values()
                .any(|answer| matches!(answer, Greeting::Whole(_)))
            {
                since.get_or_insert_with(tokio::time::Instant::now);
            }
            match next {
                _ if caught_up(member) => self.vote(member).await?,
                Next::Begin => {
                    self.vote(member).await?;
                    initialize(&member.raft, self.cluster.addresses()).await?;
                }
                Next::Join => self.vote(member).await?,
                Next::Wait if since.is_some_and(|since| since.elapsed() > WELCOME) => {
                    tracing::warn!(
                        "No leader has brought this replica up to date: taking part with what it has"
                    );
                    self.vote(member).await?;
                }
                Next::Wait => sleep(HELLO_PAUSE).await,
            }
        }
    }

    /// From here on the replica votes.
    async fn vote(&self, member: &Member) -> Result<(), Error> {
        if let Log::Disk(disk) = &member.log {
            disk.set_whole().await.map_err(Error::Store)?;
        }
        member.whole.store(true, Ordering::Release);
        self.metrics.set_raft_voter(true);
        member.raft.runtime_config().elect(true);
        Ok(())
    }

    /// Whether the members are those of the own list, or those of a list that counts more.
    fn is_listed(&self, raft: &Raft) -> bool {
        let list: BTreeSet<u64> = self.cluster.addresses().into_keys().collect();
        let metrics = raft.metrics();
        let members = &metrics.borrow_watched().committed_membership_config;
        members.voter_ids().collect::<BTreeSet<u64>>() == list
    }

    /// Greets all others of the list, and the members it would replace, at once.
    async fn hello(&self, raft: &Raft) -> BTreeMap<u64, Greeting> {
        let own = self.cluster.own_id();
        let wanted = self.seat.wanted();
        let mut others = members_by_address(&raft.metrics().borrow_watched());
        others.extend(self.cluster.addresses());
        let greetings = others
            .into_iter()
            .filter(|(id, _)| *id != own)
            .map(|(id, address)| {
                let hello = wanted.clone();
                async move {
                    let greeting = self.network.client(id, &address).hello(hello).await;
                    greeting.map(|greeting| (id, greeting))
                }
            });
        join_all(greetings).await.into_iter().flatten().collect()
    }

    /// Ends only with an error.
    async fn take_part(&self, raft: &Raft, tables: &Arc<Mutex<Tables>>) -> Result<(), Error> {
        let mut changes = raft.metrics();
        let mut look = interval(LEASE_CHECK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = false;
        let mut role = Role::No;
        let mut reform: Option<AbortOnDropHandle<()>> = None;
        loop {
            let (elected, serves) = {
                let seen = changes.borrow_watched();
                seen.running_state.clone().map_err(Box::new)?;
                let voters = seen.committed_membership_config.voter_ids().count();
                self.metrics.set_raft_voters(voters);
                let elected = seen.state == ServerState::Leader;
                (elected.then_some(seen.current_term), may_serve(&seen))
            };
            self.metrics.set_raft_leader(elected.is_some());
            role = self.lead(role, elected.filter(|_| serves), raft);
            let leading = matches!(role, Role::Leading(..));
            if leading && reform.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
                reform = self.reform(raft, tables);
            }
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
                term = role.prepared() => role = self.begin(term, raft, tables),
                _ = look.tick() => {}
            }
        }
    }

    /// Prepares to lead, or ends to and says so.
    fn lead(&self, role: Role, term: Option<u64>, raft: &Raft) -> Role {
        let goes_on = match &role {
            Role::No => term.is_none(),
            Role::Preparing(held, _) => term == Some(*held),
            // A proposal that failed says that somebody else has led since, whoever leads now.
            Role::Leading(held, proposer) => term == Some(*held) && !proposer.is_finished(),
        };
        if goes_on {
            return role;
        }
        if matches!(role, Role::Leading(..)) {
            self.leads.send_replace(None);
        }
        match term {
            None => Role::No,
            Some(term) => {
                let raft = raft.clone();
                let barrier = tokio::spawn(async move { raft.write_blank().await.is_ok() });
                Role::Preparing(term, AbortOnDropHandle::new(barrier))
            }
        }
    }

    fn begin(&self, term: Option<u64>, raft: &Raft, tables: &Arc<Mutex<Tables>>) -> Role {
        let Some(term) = term else { return Role::No };
        let proposals = Proposals::default();
        self.leads.send_replace(Some(Lead {
            proposals: proposals.clone(),
            tables: Arc::clone(tables),
        }));
        let proposer = tokio::spawn(lead::propose(raft.clone(), proposals));
        Role::Leading(term, AbortOnDropHandle::new(proposer))
    }

    /// Takes the next step from the members to the list that counts, if there is one.
    fn reform(&self, raft: &Raft, tables: &Mutex<Tables>) -> Option<AbortOnDropHandle<()>> {
        let wanted = self.seat.wanted();
        let agreed = tables.lock().roster;
        let members = members(&raft.metrics().borrow_watched());
        let same = members.learners.is_empty() && members.voters.iter().eq(wanted.list.keys());
        if wanted.started < agreed || same {
            return None;
        }
        let raft = raft.clone();
        let step = if wanted.started > agreed {
            // The next leader must not go back to a list that counts less.
            Step::Agree(wanted.started)
        } else {
            Step::Change(roster::change(&members, &wanted.list)?)
        };
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = match step {
                Step::Agree(started) => {
                    let entry = Entry {
                        roster: Some(started),
                        ..Entry::default()
                    };
                    raft.client_write(entry).await
                }
                Step::Change(change) => {
                    tracing::info!(%change, "Changing the replicas to those of --initial-cluster");
                    raft.change_membership(change, false).await
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "Replicas could not be changed, trying again");
                sleep(LIST_PAUSE).await;
            }
        })))
    }

    /// Gives the leadership to another replica, if this one has it and there is one that can take it.
    async fn hand_over(&self, raft: &Raft) {
        let own = self.cluster.own_id();
        let mut changes = raft.metrics();
        let successor = successor(own, &changes.borrow_watched());
        let Some(successor) = successor else { return };
        if let Err(error) = raft.trigger().transfer_leader(successor).await {
            tracing::debug!(%error, "Leadership was not handed over");
            return;
        }
        let handed = async {
            while changes.borrow_watched().current_leader == Some(own) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        match timeout(HAND_OVER, handed).await {
            Ok(()) => tracing::info!("Leadership was handed over"),
            Err(_) => tracing::warn!("No other replica took the leadership in time"),
        }
    }
}

enum Step {
    Agree(u64),
    Change(openraft::ChangeMembers<u64, BasicNode>),
}

pub(super) fn config(whole: bool) -> Result<Arc<Config>, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "dapr-placement".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION),
        // The library takes its lease from this setting.
        election_timeout_max: millis(LEASE),
        enable_pre_vote: Some(true),
        enable_elect: whole,
        // A replica that was restarted comes back with less than it had.
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        backoff: "100ms 100ms 100ms ...100ms".to_owned(),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(Box::new)?))
}

/// Every replica sets the same members. One that has heard of them already has nothing to do.
async fn initialize(raft: &Raft, list: BTreeMap<u64, String>) -> Result<(), Error> {
    let nodes: BTreeMap<u64, BasicNode> = list
        .into_iter()
        .map(|(id, address)| (id, BasicNode::new(address)))
        .collect();
    match raft.initialize(nodes).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(error)) => Err(Error::Initialize(Box::new(error))),
        Err(RaftError::Fatal(fatal)) => Err(Error::Fatal(Box::new(fatal))),
    }
}

/// A leader serves while a quorum holds on to it, and not before it has applied all that earlier leaders have left:
/// an entry of its own term comes after those.
fn may_serve(seen: &RaftMetrics<Types>) -> bool {
    let applied = seen.last_applied.map(|applied| applied.leader_id.term);
    let alone = seen.membership_config.voter_ids().eq([seen.id]);
    applied == Some(seen.current_term) && (alone || holds_lease(seen))
}

fn holds_lease(seen: &RaftMetrics<Types>) -> bool {
    seen.last_quorum_acked
        .is_some_and(|acked| acked.elapsed() < LEASE - LEASE_MARGIN)
}

fn caught_up(member: &Member) -> bool {
    let goal = *member.goal.lock();
    let metrics = member.raft.metrics();
    let applied = metrics.borrow_watched().last_applied.map(|id| id.index);
    goal.is_some() && applied >= goal
}

fn members_by_address(seen: &RaftMetrics<Types>) -> BTreeMap<u64, String> {
    let nodes = seen.committed_membership_config.nodes();
    nodes.map(|(id, node)| (*id, node.addr.clone())).collect()
}

fn members(seen: &RaftMetrics<Types>) -> Members {
    let config = &seen.membership_config;
    let committed = seen.local_committed.map(|id| id.index);
    let voters: BTreeSet<u64> = config.voter_ids().collect();
    let learners = config.nodes().map(|(id, _)| *id);
    let learners = learners.filter(|id| !voters.contains(id)).map(|id| {
        let matched = seen.replication.as_ref().and_then(|all| all.get(&id));
        let matched = matched.and_then(|matched| matched.as_ref());
        (id, matched.map(|id| id.index) >= committed)
    });
    Members {
        learners: learners.collect(),
        voters,
    }
}

/// The voter that has most of the log.
fn successor(own: u64, seen: &RaftMetrics<Types>) -> Option<u64> {
    let voters: BTreeSet<u64> = seen.membership_config.voter_ids().collect();
    let replication = seen.replication.as_ref()?;
    let others = replication
        .iter()
        .filter(|(id, _)| **id != own && voters.contains(id));
    others
        .filter_map(|(id, matched)| Some((matched.as_ref()?.index, *id)))
        .max()
        .map(|(_, id)| id)
}
