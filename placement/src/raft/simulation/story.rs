//! What happens to simulated replicas, and the promises that are checked meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant;
use openraft::alias::InstantOf;
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Simulated;
use super::net::Net;
use crate::ledger::{Encoded, Step, Tables};
use crate::metrics::Metrics;
use crate::proposals::Agreed;
use crate::raft::network::Clients;
use crate::raft::replica::Replica;
use crate::raft::standing::{Lasting, Store};
use crate::raft::wire::List;
use crate::raft::{Cluster, Compaction, Part, Seat};
use crate::simulation::Dice;
use crate::term::Lead;

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(8);
/// How soon there has to be a leader once it is calm, and how soon all are well again.
const LEADER: Duration = Duration::from_secs(5);
const WELL: Duration = Duration::from_secs(15);
/// How long a first start may take.
const START: Duration = Duration::from_secs(8);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Few enough for one that was away to need a snapshot when it returns.
const COMPACTION: Compaction = Compaction { after: 20, kept: 5 };
const NAMESPACE: &str = "n";

/// What a run comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Times a replica began to lead.
    pub(super) leads: u64,
    /// Versions that were agreed on.
    pub(super) agreed: u64,
    /// Restarts without a log.
    pub(super) forgotten: u64,
    /// Other restarts, and partitions.
    pub(super) troubles: u64,
    /// Snapshots that one sent to another.
    pub(super) snapshots: u64,
    ended: Duration,
}

impl Told {
    pub(super) fn add(&mut self, other: &Self) {
        self.leads += other.leads;
        self.agreed += other.agreed;
        self.forgotten += other.forgotten;
        self.troubles += other.troubles;
        self.snapshots += other.snapshots;
    }
}

/// What clients were told.
#[derive(Debug, Default)]
struct Board {
    /// What each version has put into the table.
    agreed: BTreeMap<u64, Bytes>,
    /// Who leads, with the number of the life.
    leading: BTreeSet<(u64, u64)>,
    leads: u64,
    /// Counts what was proposed, so that no two are alike.
    proposals: u64,
    /// Nobody proposes any more.
    quiet: bool,
    /// A promise that was broken.
    broken: Option<String>,
}

impl Board {
    fn break_promise(&mut self, text: String) {
        self.broken.get_or_insert(text);
    }

    fn begin(&mut self, own: (u64, u64), tables: &Tables) {
        self.leads += 1;
        self.leading.insert(own);
        if self.leading.len() > 1 {
            self.break_promise(format!("{:?} lead at once", self.leading));
        }
        let hosts = tables.namespaces.get(NAMESPACE).map(|known| &known.hosts);
        let lost = self.agreed.iter().find(|(version, put)| {
            let known = hosts.and_then(|hosts| hosts.get(version));
            known.map(|known| &known.0) != Some(*put)
        });
        if let Some((version, _)) = lost {
            let text = format!("{own:?} leads without version {version} that was agreed on");
            self.break_promise(text);
        }
    }

    fn agree(&mut self, version: u64, put: Bytes) {
        if self.agreed.insert(version, put).is_some() {
            self.break_promise(format!("version {version} was agreed on twice"));
        }
    }

    fn put(&mut self) -> Bytes {
        self.proposals += 1;
        Bytes::copy_from_slice(&self.proposals.to_be_bytes())
    }
}

/// Serves as `server` does, and proposes without end while it leads.
async fn serve(
    own: (u64, u64),
    mut leads: watch::Receiver<Option<Lead>>,
    board: Arc<Mutex<Board>>,
    stop: CancellationToken,
    served: CancellationToken,
) {
    loop {
        board.lock().leading.remove(&own);
        let lead = leads.borrow_and_update().clone();
        if let Some(lead) = &lead {
            board.lock().begin(own, &lead.tables.lock());
        }
        let changed = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = leads.changed() => changed,
            () = propose(lead, &board) => continue,
        };
        if changed.is_err() {
            break;
        }
    }
    board.lock().leading.remove(&own);
    served.cancel();
}

async fn propose(lead: Option<Lead>, board: &Mutex<Board>) {
    let Some(Lead { proposals, tables }) = lead else {
        return std::future::pending().await;
    };
    let known = tables.lock().namespaces.get(NAMESPACE).cloned();
    let known = known.unwrap_or_default();
    let life = known.life.max(1);
    let agreed = Agreed::new(watch::Sender::new(0));
    let mut told = agreed.subscribe();
    for version in known.version + 1.. {
        while board.lock().quiet {
            Simulated::sleep(LOOK).await;
        }
        let put = board.lock().put();
        let step = Step {
            version,
            replication_factor: 100,
            put: BTreeMap::from([(version, Encoded(put.clone()))]),
            removed: BTreeSet::new(),
        };
        proposals.step(NAMESPACE, life, step, &agreed);
        if told.wait_for(|told| *told >= version).await.is_err() {
            return;
        }
        board.lock().agree(version, put);
        Simulated::sleep(Duration::from_millis(20 + version % 7 * 40)).await;
    }
}

/// A replica that runs.
struct Life {
    number: u64,
    seat: Seat<Simulated>,
    /// Told to stop in order.
    stop: CancellationToken,
    /// Gone at once.
    dead: CancellationToken,
    /// It has come to its end.
    over: CancellationToken,
    since: InstantOf<Simulated>,
}

struct World {
    dice: Dice,
    net: Net,
    board: Arc<Mutex<Board>>,
    clusters: BTreeMap<u64, Cluster>,
    /// What those with a disk have written.
    disks: BTreeMap<u64, Lasting>,
    lives: BTreeMap<u64, Life>,
    /// Who comes back, and when.
    returns: BTreeMap<u64, InstantOf<Simulated>>,
    /// When all can talk again.
    heals: Option<InstantOf<Simulated>>,
    /// The number of the last life.
    last: u64,
    told: Told,
}

pub(super) async fn tell(seed: u64) -> Told {
    let began = Simulated::now();
    let mut world = World::new(seed);
    for id in world.ids() {
        let wait = Duration::from_millis(world.dice.below(400));
        Simulated::sleep(wait).await;
        world.start(id);
    }
    world.await_leader(START).await;
    world.await_well(START).await;
    world.net.set_calm(false);
    let end = Simulated::now() + TROUBLE;
    while Simulated::now() < end {
        world.trouble().await;
    }
    world.settle().await;
    let board = world.board.lock();
    Told {
        leads: board.leads,
        agreed: board.agreed.len() as u64,
        snapshots: world.net.snapshots(),
        ended: began.elapsed(),
        ..world.told.clone()
    }
}

/// One that has lost its log and one that lags behind are cut off from the only one that remembers what was agreed on,
/// for longer than any replica waits for anything.
pub(super) async fn amnesia(seed: u64) {
    let mut world = World::of(seed, Dice(seed), 3);
    let leader = world.start_all().await;
    let others = world.ids().into_iter().filter(|id| *id != leader);
    let [lagging, forgetful] = others.collect::<Vec<_>>()[..] else {
        unreachable!("there are three")
    };
    world.isolate(lagging);
    world.await_versions(3).await;
    world.end(forgetful, false).await;
    world.isolate(leader);
    world.start(forgetful);
    let led = world.board.lock().leads;
    world
        .throughout(Duration::from_secs(15), |world| {
            world.board.lock().leads == led
        })
        .await;
    world.settle().await;
}

/// A follower is cut off for many election timeouts, and comes back.
pub(super) async fn isolation(seed: u64) {
    let mut world = World::of(seed, Dice(seed), 3);
    let leader = world.start_all().await;
    let seat = world.lives[&leader].seat.clone();
    let term = move || {
        let member = seat.member.read();
        let metrics = member.as_ref().map(|member| member.raft.metrics());
        metrics.map(|metrics| metrics.borrow_watched().current_term)
    };
    let (led, before) = (world.board.lock().leads, term());
    let follower = world.ids().into_iter().find(|id| *id != leader);
    world.isolate(follower.expect("there are three"));
    let unchanged = |world: &World| world.board.lock().leads == led && term() == before;
    world.throughout(Duration::from_secs(10), &unchanged).await;
    world.heal();
    world.throughout(Duration::from_secs(5), &unchanged).await;
    world.settle().await;
}

/// What a run of [`growth`] comes to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grown {
    /// Times the only voter could not be reached by those to come.
    pub(super) cuts: u64,
    /// Times one of them was restarted meanwhile.
    pub(super) restarts: u64,
}

/// One replica becomes three, while calls get lost, the one is cut off and the others are restarted.
pub(super) async fn growth(seed: u64) -> Grown {
    let mut dice = Dice(seed);
    let has_disk = [dice.once_in(2), dice.once_in(2), dice.once_in(2)];
    let mut world = World::of(seed, dice, 3);
    for (id, _) in world.ids().into_iter().zip(has_disk).filter(|pair| pair.1) {
        world.disks.insert(id, Lasting::default());
    }
    let single = Cluster::parse("p0", "p0=h0:1").expect("in the list");
    let first = single.own_id();
    let later: Vec<u64> = world.ids().into_iter().filter(|id| *id != first).collect();
    // As in an update, the first learns of the others from them; it has the longer list at its next start.
    let longer = world.clusters.insert(first, single);
    world.start(first);
    world.await_leader(START).await;
    world.await_versions(3).await;
    world.clusters.extend(longer.map(|longer| (first, longer)));

    world.net.set_calm(false);
    let mut grown = Grown::default();
    let end = Simulated::now() + TROUBLE;
    let mut heals = None;
    let mut starts = later.clone();
    while Simulated::now() < end {
        if heals.is_some_and(|at| at <= Simulated::now()) {
            heals = None;
            world.heal();
        }
        match world.dice.below(5) {
            // No longer than they wait for one that does not answer (`roster::WELCOME`).
            0 | 1 if heals.is_none() => {
                let length = Duration::from_millis(500 + world.dice.below(8000));
                heals = Some(Simulated::now() + length);
                world.isolate(first);
                grown.cuts += 1;
            }
            2 => {
                let id = later[world.dice.index(later.len())];
                // One that nobody counts on has promised nothing.
                if starts.is_empty() && (world.may_go(id) || !world.is_whole(id)) {
                    world.end(id, false).await;
                    world.start(id);
                    grown.restarts += 1;
                }
            }
            3 if world.disks.contains_key(&first) => {
                world.end(first, false).await;
                world.start(first);
            }
            _ => {}
        }
        if let Some(id) = starts.pop() {
            world.start(id);
        }
        let wait = Duration::from_millis(world.dice.below(1500));
        Simulated::sleep(wait).await;
        world.check();
    }
    world.settle().await;
    grown
}

/// How long it takes until another replica leads when the first leader ever dies at once.
pub(super) async fn founding(seed: u64) -> Duration {
    let mut world = World::new(seed);
    for id in world.ids() {
        world.start(id);
        let wait = Duration::from_millis(world.dice.below(100));
        Simulated::sleep(wait).await;
    }
    world.await_leader(START).await;
    let id = world.leader();
    let began = Simulated::now();
    world.end(id, false).await;
    world.await_leader(START).await;
    began.elapsed()
}

/// How long it takes until another replica leads when the leader dies, and when it is told to go.
pub(super) async fn succession(seed: u64) -> (Duration, Duration) {
    let mut world = World::new(seed);
    world.start_all().await;
    let mut took = Vec::new();
    for in_order in [false, true] {
        world.await_leader(START).await;
        let id = world.leader();
        let began = Simulated::now();
        if in_order {
            world.lives[&id].stop.cancel();
            let changed = async |world: &World| {
                let leading = &world.board.lock().leading;
                leading.first().is_some_and(|(next, _)| *next != id)
            };
            world.until("the next one leads", START, changed).await;
        } else {
            world.end(id, false).await;
            world.await_leader(START).await;
        }
        took.push(began.elapsed());
        if !in_order {
            world.start(id);
            world.await_well(WELL).await;
        }
    }
    (took[0], took[1])
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = if dice.once_in(2) { 3 } else { 5 };
        // None, all or some have a disk.
        let kind = dice.below(3);
        let mut world = Self::of(seed, dice, count);
        for id in world.ids() {
            let has_disk = match kind {
                0 => false,
                1 => true,
                _ => world.dice.once_in(2),
            };
            if has_disk {
                world.disks.insert(id, Lasting::default());
            }
        }
        world
    }

    /// So many replicas without a disk.
    fn of(seed: u64, dice: Dice, count: u64) -> Self {
        let entries: Vec<String> = (0..count).map(|id| format!("p{id}=h{id}:1")).collect();
        let list = entries.join(",");
        let clusters = (0..count).map(|id| {
            let cluster = Cluster::parse(&format!("p{id}"), &list).expect("in the list");
            (cluster.own_id(), cluster)
        });
        Self {
            net: Net::new(Dice(seed.wrapping_mul(31))),
            board: Arc::default(),
            clusters: clusters.collect(),
            disks: BTreeMap::new(),
            lives: BTreeMap::new(),
            returns: BTreeMap::new(),
            heals: None,
            last: 0,
            told: Told::default(),
            dice,
        }
    }

    fn ids(&self) -> Vec<u64> {
        self.clusters.keys().copied().collect()
    }

    /// Starts all at once, and waits until one of them leads and all others are well.
    async fn start_all(&mut self) -> u64 {
        for id in self.ids() {
            self.start(id);
        }
        self.await_well(START).await;
        self.await_leader(START).await;
        self.leader()
    }

    fn leader(&self) -> u64 {
        let leading = self.board.lock().leading.first().copied();
        leading.expect("one leads").0
    }

    /// Cuts one off from all others.
    fn isolate(&self, id: u64) {
        self.net.set_islands(BTreeMap::from([(id, 1)]));
    }

    fn heal(&self) {
        self.net.set_islands(BTreeMap::new());
    }

    /// Waits until so many versions more were agreed on.
    async fn await_versions(&self, more: usize) {
        let before = self.board.lock().agreed.len();
        let agreed = async |world: &Self| world.board.lock().agreed.len() >= before + more;
        self.until("versions are agreed on", LEADER, agreed).await;
    }

    /// Lets time pass in which a condition holds.
    async fn throughout(&self, length: Duration, holds: impl Fn(&Self) -> bool) {
        let end = Simulated::now() + length;
        while Simulated::now() < end {
            self.check();
            assert!(holds(self), "{}", self.describe());
            Simulated::sleep(LOOK).await;
        }
    }

    /// Waits until it is as if nothing had gone wrong.
    async fn settle(&mut self) {
        self.net.set_calm(true);
        self.heal();
        self.net.set_slow(None);
        for id in self.ids() {
            if !self.lives.contains_key(&id) {
                self.start(id);
            }
        }
        self.await_leader(LEADER).await;
        self.board.lock().quiet = true;
        self.await_well(WELL).await;
        self.await_same(LEADER).await;
    }

    fn start(&mut self, id: u64) {
        self.returns.remove(&id);
        self.last += 1;
        let number = self.last;
        let cluster = self.clusters[&id].clone();
        let list = List {
            addresses: cluster.addresses(),
            started: number,
        };
        let seat = Seat::new(id, list);
        let store = match self.disks.get(&id) {
            Some(lasting) => Store::Lasting(lasting.clone()),
            None => Store::Memory,
        };
        let (leads, leading) = watch::channel(None);
        let board = Arc::clone(&self.board);
        let replica = Replica {
            cluster,
            clients: Clients(self.net.wire(id, number)),
            metrics: Metrics::register(&Registry::new()).expect("names are valid"),
            store,
            draw: move || number,
            leads,
            seat: seat.clone(),
            compaction: COMPACTION,
            report: move |part| {
                if part == Part::Silent {
                    let text = "what was agreed on is contradicted";
                    board.lock().break_promise(text.to_owned());
                }
            },
        };
        let life = Life {
            number,
            seat: seat.clone(),
            stop: CancellationToken::new(),
            dead: CancellationToken::new(),
            over: CancellationToken::new(),
            since: Simulated::now(),
        };
        self.net.arrive(id, number, seat);
        let board = Arc::clone(&self.board);
        let (stop, dead, over) = (life.stop.clone(), life.dead.clone(), life.over.clone());
        // Whatever leads it is gone together with the replica.
        drop(SimRuntime::spawn(async move {
            let _over = over.drop_guard();
            let served = CancellationToken::new();
            let serving = serve(
                (id, number),
                leading,
                Arc::clone(&board),
                stop,
                served.clone(),
            );
            let living = async { futures::join!(replica.run(&served), serving).0 };
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                outcome = living => if let Err(error) = outcome {
                    board.lock().break_promise(format!("replica {id} fails: {error:?}"));
                },
            }
        }));
        self.lives.insert(id, life);
    }

    /// Takes a replica away, at once or in order.
    async fn end(&mut self, id: u64, in_order: bool) {
        let Some(life) = self.lives.remove(&id) else {
            return;
        };
        if in_order {
            life.stop.cancel();
            life.over.cancelled().await;
        }
        life.dead.cancel();
        self.net.leave(id);
        self.board.lock().leading.remove(&(id, life.number));
        match self.disks.get_mut(&id) {
            Some(lasting) => {
                *lasting = lasting.copy();
                self.told.troubles += 1;
            }
            None => self.told.forgotten += 1,
        }
        // The library's tasks would go on, heard by nobody.
        let member = life.seat.member.write().take();
        if let Some(member) = member {
            drop(SimRuntime::spawn(async move {
                drop(member.raft.shutdown().await);
            }));
        }
        let away = Duration::from_millis(self.dice.below(2500));
        self.returns.insert(id, Simulated::now() + away);
    }

    /// Whether it knows all it has promised.
    fn is_whole(&self, id: u64) -> bool {
        let member = self.lives.get(&id).and_then(|life| {
            let member = life.seat.member.read();
            member.as_ref().map(|member| member.standing())
        });
        match (member, self.disks.get(&id)) {
            (Some(standing), _) => standing.is_whole(),
            (None, Some(lasting)) => lasting.is_whole(),
            (None, None) => false,
        }
    }

    /// Whether enough others remember, if it has no disk.
    fn may_go(&self, id: u64) -> bool {
        let all = self.clusters.keys();
        let others = all.filter(|other| **other != id && self.is_whole(**other));
        self.disks.contains_key(&id) || others.count() * 2 > self.clusters.len()
    }

    /// Whether somebody waits to be let in, for a while already: it does not wait for ever.
    fn is_strained(&self) -> bool {
        let mut lives = self.lives.iter();
        lives.any(|(id, life)| !self.is_whole(*id) && life.since.elapsed() > Duration::from_secs(2))
    }

    async fn trouble(&mut self) {
        let wait = Duration::from_millis(self.dice.below(1200));
        Simulated::sleep(wait).await;
        self.check();
        let now = Simulated::now();
        let due: Vec<u64> = self
            .returns
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.start(id);
        }
        if self.heals.is_some_and(|at| at <= now) {
            self.heals = None;
            self.net.set_islands(BTreeMap::new());
        }
        if self.is_strained() {
            return;
        }
        let all = self.ids();
        let any = all[self.dice.index(all.len())];
        let leading = self.board.lock().leading.first().map(|(id, _)| *id);
        match self.dice.below(8) {
            0 | 1 if self.may_go(any) => self.end(any, false).await,
            2 | 3 => {
                let id = leading.unwrap_or(any);
                if self.may_go(id) {
                    self.end(id, false).await;
                }
            }
            4 => {
                let id = leading.unwrap_or(any);
                if self.may_go(id) {
                    self.end(id, true).await;
                }
            }
            5 | 6
                if all
                    .iter()
                    .all(|id| self.lives.contains_key(id) && self.is_whole(*id)) =>
            {
                let islands = all.iter().map(|id| (*id, self.dice.below(2)));
                let islands: BTreeMap<u64, u64> = islands.collect();
                self.net.set_islands(islands);
                let length = Duration::from_millis(500 + self.dice.below(2500));
                self.heals = Some(now + length);
                self.told.troubles += 1;
            }
            7 => {
                let slow = self.dice.once_in(2).then_some(any);
                self.net.set_slow(slow);
            }
            _ => {}
        }
    }

    /// How things stand, for whoever looks for the reason.
    fn describe(&self) -> String {
        let lives = self.lives.iter().map(|(id, life)| {
            let member = life.seat.member.read();
            let state = member.as_ref().map(|member| {
                let metrics = member.raft.metrics();
                let seen = metrics.borrow_watched();
                let standing = member.standing();
                format!("{standing:?} {:?} {}", life.seat.heard(), *seen)
            });
            format!("{id}: {state:?}")
        });
        lives.collect::<Vec<_>>().join("; ")
    }

    fn check(&self) {
        let broken = self.board.lock().broken.clone();
        assert_eq!(broken, None, "after {:?}", Simulated::now());
    }

    async fn until(&self, what: &str, limit: Duration, holds: impl AsyncFn(&Self) -> bool) {
        let end = Simulated::now() + limit;
        while !holds(self).await {
            self.check();
            let in_time = Simulated::now() < end;
            assert!(in_time, "in {limit:?}: {what}; {}", self.describe());
            Simulated::sleep(LOOK).await;
        }
        self.check();
    }

    async fn await_leader(&self, limit: Duration) {
        let leads = async |world: &Self| !world.board.lock().leading.is_empty();
        self.until("one leads", limit, leads).await;
    }

    /// Waits until all vote, and agree on that.
    async fn await_well(&self, limit: Duration) {
        let well = async |world: &Self| {
            world.lives.iter().all(|(id, life)| {
                let member = life.seat.member.read();
                world.is_whole(*id)
                    && member.as_ref().is_some_and(|member| {
                        let metrics = member.raft.metrics();
                        let seen = metrics.borrow_watched();
                        let voters = seen.committed_membership_config.voter_ids();
                        voters.eq(world.clusters.keys().copied())
                    })
            })
        };
        self.until("all vote", limit, well).await;
    }

    /// Waits until all have one table, with all that was agreed on.
    async fn await_same(&self, limit: Duration) {
        let same = async |world: &Self| {
            let mut all = Vec::new();
            for life in world.lives.values() {
                let member = life.seat.member.read().clone();
                let Some(member) = member else { return false };
                let tables = member
                    .raft
                    .with_state_machine(|machine| {
                        let tables = machine.tables().lock().clone();
                        Box::pin(async move { tables })
                    })
                    .await;
                all.push(tables.expect("it runs"));
            }
            all.windows(2).all(|pair| pair[0] == pair[1])
        };
        self.until("all have one table", limit, same).await;
    }
}
