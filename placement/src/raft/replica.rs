//! The lives of a replica: from its silence after the start to the hand-over at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::type_config::TypeConfigExt;
use openraft::{Config, Instant, RaftMetrics, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::network::{Carrier, Client, Clients};
use super::roster::{self, Known, Learner, Members, Next, Wanted};
use super::standing::{Standing, Store};
use super::wire::{Greeting, Hello};
use super::{
    Cluster, Compaction, ELECTION, Error, HEARTBEAT, Kind, LEASE, LEASE_CHECK, LEASE_MARGIN,
    Member, Node, Part, Raft, SILENCE, Seat, SnapshotPolicy, lead,
};
use crate::ledger::{Entry, Tables};
use crate::metrics::Metrics;
use crate::proposals::Proposals;
use crate::term::Lead;

/// Pause between two greetings of a replica that may not vote yet.
const HELLO_PAUSE: Duration = Duration::from_millis(100);
/// Looks at the members between two greetings of one that only has another list than the members.
const LIST_PAUSE: Duration = Duration::from_secs(1);
/// How often one says whom it waits for.
const WORD: Duration = Duration::from_secs(5);
/// How long one that has decided to begin waits until the others of its list that are there have decided so too:
/// whoever has not when the first of them leads is a stranger to it.
const GATHER: Duration = Duration::from_millis(500);
/// Pause between two of its greetings meanwhile.
const BEGIN_PAUSE: Duration = Duration::from_millis(20);
/// How long a leader that goes sees to it that the others can do without it.
const FINISH: Duration = Duration::from_secs(2);
/// How long it waits for its successor.
const HAND_OVER: Duration = Duration::from_secs(1);

#[doc(hidden)]
pub(super) struct Replica<C: Kind, P, D, F> {
    pub(super) cluster: Cluster,
    pub(super) clients: Clients<P>,
    pub(super) metrics: Metrics,
    pub(super) store: Store,
    /// Draws an incarnation.
    pub(super) draw: D,
    pub(super) leads: watch::Sender<Option<Lead>>,
    pub(super) seat: Seat<C>,
    pub(super) compaction: Compaction,
    pub(super) report: F,
}

/// How far a replica is that leads.
enum Role {
    No,
    /// It waits until all is applied that it may have proposed before it lost its lease for a while.
    Preparing(u64, BoxFuture<'static, bool>),
    /// Proposals come into the log until one fails, which says that somebody else has led since.
    Leading(u64, BoxFuture<'static, ()>),
}

/// What becomes of a role.
enum Turn {
    Prepared(u64),
    Over,
}

impl Role {
    async fn turn(&mut self) -> Turn {
        match self {
            Self::No => pending().await,
            Self::Preparing(term, barrier) => match barrier.await {
                true => Turn::Prepared(*term),
                false => Turn::Over,
            },
            Self::Leading(_, proposer) => {
                proposer.await;
                Turn::Over
            }
        }
    }
}

impl<C, P, D, F> Replica<C, P, D, F>
where
    C: Kind,
    P: Carrier<C>,
    D: Fn() -> u64,
    F: Fn(Part),
{
    pub(super) async fn run(&self, token: &CancellationToken) -> Result<(), Error> {
        loop {
            let (member, tables) = self.wake().await?;
            let alone = self.is_alone(&member.raft);
            let silence = if alone { Duration::ZERO } else { SILENCE };
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                () = C::sleep(silence) => {}
            }
            let raft = member.raft.clone();
            let contradicted = member.contradicted.clone();
            raft.run();
            if alone && member.standing().is_whole() {
                // Nobody else could lead, so there is nothing to wait for.
                let elected = raft.trigger().elect(false).await;
                elected.map_err(fatal)?;
            }
            *self.seat.member.write() = Some(member.clone());
            self.metrics.set_raft_voter(member.standing().is_whole());
            let outcome = tokio::select! {
                biased;
                outcome = self.take_part(&raft, &tables) => outcome,
                outcome = self.find_in(&member) => outcome,
                () = token.cancelled() => {
                    self.hand_over(&raft, &tables).await;
                    Ok(())
                }
                () = contradicted.cancelled() => Ok(()),
            };
            *self.seat.member.write() = None;
            outcome?;
            raft.shutdown()
                .await
                .map_err(|error| Error::Shutdown(io::Error::other(error.to_string())))?;
            if token.is_cancelled() {
                return Ok(());
            }
            if let Some(folder) = self.store.folder() {
                return Err(Error::Contradicted(folder));
            }
            tracing::warn!("Other replicas have lost what was agreed on: starting over");
            (self.report)(Part::Silent);
            self.metrics.set_raft_leader(false);
            self.metrics.set_raft_voter(false);
            self.leads.send_replace(None);
        }
    }

    /// Everything that is needed to take part, from the disk or from nothing.
    async fn wake(&self) -> Result<(Member<C>, Arc<Mutex<Tables>>), Error> {
        let standing = self.store.standing(&self.draw).await;
        let standing = standing.map_err(Error::Store)?;
        let (log, machine) = self.store.open().await.map_err(Error::Store)?;
        let tables = machine.tables();
        let clients = self.clients.clone();
        let config = config(self.compaction)?;
        let raft = Raft::build(self.seat.own, config, clients, log.clone(), machine).await;
        let member = Member {
            raft: raft.map_err(fatal)?,
            log,
            contradicted: CancellationToken::new(),
            standing: Arc::new(Mutex::new(standing)),
            begun: Arc::new(OnceLock::new()),
        };
        Ok((member, tables))
    }

    /// Whether there is nobody else, neither in the list nor among the members.
    fn is_alone(&self, raft: &Raft<C>) -> bool {
        let metrics = raft.metrics();
        let members = &metrics.borrow_watched().membership_config;
        let own = self.cluster.own_id();
        self.cluster.is_single() && members.voter_ids().all(|id| id == own)
    }

    /// Sees to it that the replica may vote and that the members learn of its list. Ends only with an error.
    async fn find_in(&self, member: &Member<C>) -> Result<(), Error> {
        let mut led = false;
        let mut answered = BTreeMap::new();
        let began = C::now();
        let mut word = began;
        let mut part = None;
        let mut take = |new| {
            if part.replace(new) != Some(new) && !self.cluster.is_single() {
                (self.report)(new);
            }
        };
        loop {
            let standing = member.standing();
            let whole = standing.is_whole();
            if whole && !member.has_nothing() {
                take(Part::Taken);
                C::sleep(LIST_PAUSE).await;
                if !self.is_listed(&member.raft) {
                    self.hello(member).await;
                }
                continue;
            }
            if !whole && is_let_in(&member.raft, self.seat.own, standing) {
                self.vote(member, standing.let_in()).await?;
                continue;
            }
            let answers = self.hello(member).await;
            answered.extend(answers.keys().map(|id| (*id, C::now())));
            let list: BTreeSet<u64> = self.cluster.addresses().into_keys().collect();
            let absent = list
                .iter()
                .filter(|id| **id != self.seat.own && !answers.contains_key(id));
            let silent = absent.map(|id| answered.get(id).unwrap_or(&began).elapsed());
            let known = Known {
                memberships: self.seat.memberships(),
                silent: silent.min().unwrap_or_default(),
                answers,
            };
            let leads = known
                .answers
                .values()
                .any(|answer| matches!(answer, Greeting::Whole(_)));
            led |= leads || !known.memberships.is_empty();
            // As long as there is nothing to be let into it can do no more, and others may wait for it to be ready.
            take(if led && !whole {
                Part::Outside
            } else {
                Part::Taken
            });
            let next = roster::next(self.seat.own, &list, &known);
            if next == Next::Begin {
                member.begun.get_or_init(C::now);
            }
            // What was decided stays so: others may rely on it already.
            if let Some(decided) = member.begun.get().filter(|_| !whole) {
                let mut others = known.answers.values();
                let hesitant = others.any(|answer| *answer == Greeting::Fresh);
                if hesitant && decided.elapsed() < GATHER {
                    C::sleep(BEGIN_PAUSE).await;
                    continue;
                }
                if !leads {
                    initialize(&member.raft, self.cluster.addresses()).await?;
                }
                self.vote(member, standing.inherit()).await?;
                continue;
            }
            match next {
                Next::Join if !whole => {
                    self.vote(member, standing.inherit()).await?;
                    continue;
                }
                // It has joined one that is gone before it has said anything.
                Next::Begin => initialize(&member.raft, self.cluster.addresses()).await?,
                Next::Wait(ids) if word.elapsed() >= WORD => {
                    word = C::now();
                    let ids = self.cluster.names(&ids);
                    tracing::warn!(replicas = %ids, "Waiting for replicas that may remember what was agreed on");
                }
                Next::Wait(_) | Next::Join => {}
            }
            C::sleep(HELLO_PAUSE).await;
        }
    }

    /// From here on the replica counts as one that votes.
    async fn vote(&self, member: &Member<C>, standing: Standing) -> Result<(), Error> {
        self.store.keep(standing).await.map_err(Error::Store)?;
        *member.standing.lock() = standing;
        self.metrics.set_raft_voter(true);
        // Nobody shall take it for the stranger it was.
        self.hello(member).await;
        Ok(())
    }

    /// Whether the members are those of the list that counts, as far as it is known here.
    fn is_listed(&self, raft: &Raft<C>) -> bool {
        let list: BTreeSet<u64> = self.seat.wanted().addresses.into_keys().collect();
        let metrics = raft.metrics();
        let members = &metrics.borrow_watched().committed_membership_config;
        members.voter_ids().collect::<BTreeSet<u64>>() == list
    }

    /// Greets all others of the own list and of the one that counts, and the members these would replace, at once.
    async fn hello(&self, member: &Member<C>) -> BTreeMap<u64, Greeting> {
        let own = self.seat.own;
        let hello = Hello {
            from: member.standing().name(own),
            greeting: member.greeting(),
            list: self.seat.wanted(),
        };
        let mut others = members_by_address(&member.raft.metrics().borrow_watched());
        others.extend(hello.list.addresses.clone());
        others.extend(self.cluster.addresses());
        let greetings = others
            .into_iter()
            .filter(|(id, _)| *id != own)
            .map(|(id, address)| {
                let hello = hello.clone();
                let node = Node {
                    address,
                    incarnation: 0,
                };
                let client = Client::<C, P>::new(self.clients.0.clone(), id, node);
                async move { client.hello(hello).await }
            });
        let answers = join_all(greetings).await.into_iter().flatten();
        answers
            .map(|(name, greeting)| {
                self.seat.note(name, &greeting);
                (name.id, greeting)
            })
            .collect()
    }

    /// Ends only with an error.
    async fn take_part(&self, raft: &Raft<C>, tables: &Arc<Mutex<Tables>>) -> Result<(), Error> {
        let mut changes = raft.metrics();
        let mut reported = !self.cluster.is_single();
        let mut role = Role::No;
        let mut reform: Option<BoxFuture<'static, ()>> = None;
        loop {
            let (elected, serves) = {
                let seen = changes.borrow_watched();
                seen.running_state.clone().map_err(fatal)?;
                let voters = seen.committed_membership_config.voter_ids().count();
                self.metrics.set_raft_voters(voters);
                let elected = seen.state == ServerState::Leader;
                self.metrics.set_raft_leader(elected && is_followed(&seen));
                (elected.then_some(seen.current_term), may_serve(&seen))
            };
            role = self.lead(role, elected.filter(|_| serves), raft);
            let leading = matches!(role, Role::Leading(..));
            if leading && reform.is_none() {
                reform = self.reform(raft, tables);
            }
            // A replica without others is of no use before it leads, which is at once. Of others, see `find_in`.
            if !reported && leading {
                reported = true;
                (self.report)(Part::Taken);
            }
            tokio::select! {
                biased;
                turn = role.turn() => role = match turn {
                    Turn::Prepared(term) => self.begin(term, raft, tables),
                    Turn::Over => {
                        if leading {
                            self.leads.send_replace(None);
                        }
                        Role::No
                    }
                },
                () = done(&mut reform) => reform = None,
                changed = changes.changed() => {
                    // Without a sender the library has stopped, and its last state says why.
                    if changed.is_err() {
                        changes.borrow_watched().running_state.clone().map_err(fatal)?;
                        return Err(fatal(Fatal::<C>::Stopped));
                    }
                }
                // The age of the last acknowledgement changes by itself.
                () = C::sleep(LEASE_CHECK) => {}
            }
        }
    }

    /// Prepares to lead, or ends to and says so.
    fn lead(&self, role: Role, term: Option<u64>, raft: &Raft<C>) -> Role {
        let goes_on = match &role {
            Role::No => term.is_none(),
            Role::Preparing(held, _) | Role::Leading(held, _) => term == Some(*held),
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
                let barrier = async move { raft.write_blank().await.is_ok() };
                Role::Preparing(term, barrier.boxed())
            }
        }
    }

    fn begin(&self, term: u64, raft: &Raft<C>, tables: &Arc<Mutex<Tables>>) -> Role {
        // Those that are not let in say so again, others may have begun meanwhile.
        self.seat.forget_heard();
        let proposals = Proposals::default();
        self.leads.send_replace(Some(Lead {
            proposals: proposals.clone(),
            tables: Arc::clone(tables),
        }));
        Role::Leading(term, lead::propose(raft.clone(), proposals).boxed())
    }

    /// Takes the next step from the members to the list that counts, if there is one.
    fn reform(&self, raft: &Raft<C>, tables: &Mutex<Tables>) -> Option<BoxFuture<'static, ()>> {
        let list = self.seat.wanted();
        let agreed = tables.lock().roster;
        if list.started < agreed {
            return None;
        }
        let wanted = Wanted {
            list: list.addresses,
            heard: self.seat.heard(),
        };
        let change = roster::change(&members(&raft.metrics().borrow_watched()), &wanted)?;
        let raft = raft.clone();
        let step = async move {
            let outcome = if list.started > agreed {
                // The next leader must not go back to a list that counts less.
                let entry = Entry {
                    roster: Some(list.started),
                    ..Entry::default()
                };
                raft.client_write(entry).await
            } else {
                tracing::info!(%change, "Changing the members");
                raft.change_membership(change, false).await
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "Replicas could not be changed, trying again");
                C::sleep(LIST_PAUSE).await;
            }
        };
        Some(step.boxed())
    }

    /// Lets in who is there and makes whole what was begun, so that the others can do without this one.
    async fn finish(&self, raft: &Raft<C>, tables: &Mutex<Tables>) {
        loop {
            let members = members(&raft.metrics().borrow_watched());
            let wanted = Wanted {
                list: self.seat.wanted().addresses,
                heard: self.seat.claims(),
            };
            if !wanted.is_strained(&members) {
                return;
            }
            match self.reform(raft, tables) {
                Some(step) => step.await,
                None => C::sleep(LEASE_CHECK).await,
            }
        }
    }

    /// Gives the leadership to another replica, if this one has it and there is one that can take it.
    async fn hand_over(&self, raft: &Raft<C>, tables: &Mutex<Tables>) {
        let own = self.seat.own;
        let mut changes = raft.metrics();
        let leads = changes.borrow_watched().state == ServerState::Leader;
        if leads {
            tokio::select! {
                biased;
                () = self.finish(raft, tables) => {}
                () = C::sleep(FINISH) => tracing::warn!("Members could not be completed in time"),
            }
        }
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
        match C::timeout(HAND_OVER, handed).await {
            Ok(()) => tracing::info!("Leadership was handed over"),
            Err(_) => tracing::warn!("No other replica took the leadership in time"),
        }
    }
}

fn fatal<C: Kind>(error: Fatal<C>) -> Error {
    Error::Fatal(io::Error::other(error))
}

/// Waits for a step that was begun.
async fn done(step: &mut Option<BoxFuture<'static, ()>>) {
    match step {
        Some(step) => step.await,
        None => pending().await,
    }
}

pub(super) fn config(compaction: Compaction) -> Result<Arc<Config>, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "dapr-placement".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION),
        // The library takes its lease from this setting.
        election_timeout_max: millis(LEASE),
        enable_pre_vote: Some(true),
        // A replica that stands in for one that was has less than that had.
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.after),
        max_in_snapshot_log_to_keep: compaction.kept,
        backoff: "100ms 100ms 100ms ...100ms".to_owned(),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(Box::new)?))
}

/// Every replica sets the same members, those of the first hour. One that has heard of them already has nothing to do.
async fn initialize<C: Kind>(raft: &Raft<C>, list: BTreeMap<u64, String>) -> Result<(), Error> {
    let nodes = list.into_iter().map(|(id, address)| {
        let incarnation = 0;
        (
            id,
            Node {
                address,
                incarnation,
            },
        )
    });
    let nodes: BTreeMap<u64, Node> = nodes.collect();
    match raft.initialize(nodes).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(error)) => Err(Error::Initialize(io::Error::other(error))),
        Err(RaftError::Fatal(error)) => Err(fatal(error)),
    }
}

/// A leader serves while a quorum holds on to it, and not before it has applied all that earlier leaders have left:
/// an entry of its own term comes after those.
fn may_serve<C: Kind>(seen: &RaftMetrics<C>) -> bool {
    let applied = seen.last_applied.map(|applied| applied.leader_id.term);
    applied == Some(seen.current_term) && is_followed(seen)
}

/// Whether no other replica can lead meanwhile: an elected one that reaches no majority goes on as if it led.
fn is_followed<C: Kind>(seen: &RaftMetrics<C>) -> bool {
    let alone = seen.membership_config.voter_ids().eq([seen.id]);
    let acked = seen.last_quorum_acked;
    alone || acked.is_some_and(|acked| acked.elapsed() < LEASE - LEASE_MARGIN)
}

/// Whether all voters agree that this incarnation is one of them, and it has applied what they agreed on before. While
/// the members change, a majority of the former is needed too, and it does not count among those.
fn is_let_in<C: Kind>(raft: &Raft<C>, own: u64, standing: Standing) -> bool {
    let metrics = raft.metrics();
    let seen = metrics.borrow_watched();
    let members = &seen.committed_membership_config;
    let node = members.get_node(&own);
    node.is_some_and(|node| node.incarnation == standing.incarnation())
        && members.voter_ids().any(|id| id == own)
        && members.membership().get_joint_config().len() == 1
        && seen.last_applied >= *members.log_id()
}

fn members_by_address<C: Kind>(seen: &RaftMetrics<C>) -> BTreeMap<u64, String> {
    let nodes = seen.committed_membership_config.nodes();
    nodes
        .map(|(id, node)| (*id, node.address.clone()))
        .collect()
}

fn members<C: Kind>(seen: &RaftMetrics<C>) -> Members {
    let config = &seen.membership_config;
    let committed = seen.local_committed.map(|id| id.index);
    let voting: BTreeSet<u64> = config.voter_ids().collect();
    let mut members = Members::default();
    if let [.., _, next] = config.membership().get_joint_config().as_slice() {
        members.next = Some(next.clone());
    }
    for (id, node) in config.nodes() {
        if voting.contains(id) {
            members.voters.insert(*id, node.incarnation);
        } else {
            let matched = seen.replication.as_ref().and_then(|all| all.get(id));
            let matched = matched.and_then(|matched| matched.as_ref());
            let learner = Learner {
                incarnation: node.incarnation,
                caught_up: matched.map(|id| id.index) >= committed,
            };
            members.learners.insert(*id, learner);
        }
    }
    members
}

/// The voter that has most of the log.
fn successor<C: Kind>(own: u64, seen: &RaftMetrics<C>) -> Option<u64> {
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
