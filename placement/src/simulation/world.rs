//! The clock, the network, the faults, and the promises that are checked after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dapr_proto::dapr::proto::placement::v1::{Host, PlacementOrder};
use dapr_security::Identity;
use prost::Message;
use tokio::sync::watch;

use super::Dice;
use super::model::{Append, Leader, Replica};
use super::sidecar::{Link, Sidecar};
use crate::admission;
use crate::dissemination::{Action, Coalescing, Event, Rounds, StreamId, Timer};
use crate::proposals::{Agreed, Batch, Proposals};
use crate::table::{Hosts, Operation, Order};

const NAMESPACES: [&str; 2] = ["north", "south"];
const TYPES: [&str; 3] = ["a", "b", "c"];
const FACTOR: i64 = 100;

/// In milliseconds, as they ship.
const HEARTBEAT: u64 = 150;
const LEASE: u64 = 1000;
const ROUND: u64 = 8000;
const PATIENCE: u64 = 250;
const RETURN: u64 = 5000;
/// How long things go wrong, and how long they may take to be good again.
const TROUBLE: u64 = 30_000;
const QUIET: u64 = 60_000;

/// What a run comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Leaders that came after another.
    pub(super) failovers: u64,
    /// Sidecars that a new leader gave the version they had left the one before with.
    pub(super) quiet_returns: u64,
    /// Messages that did not fit the certificate.
    pub(super) lies: u64,
    orders: u64,
    steps: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// A leader sends what it has to everybody.
    Beat {
        term: u64,
    },
    Append {
        to: usize,
        append: Append,
    },
    Ack(Ack),
    /// Is there a leader to be replaced?
    Elect,
    Connect {
        sidecar: usize,
        epoch: u64,
    },
    Say {
        link: Link,
        host: Option<Host>,
    },
    Order {
        sidecar: usize,
        epoch: u64,
        order: Order,
    },
    /// The server closes a stream, or its replica is gone.
    Closed {
        sidecar: usize,
        epoch: u64,
    },
    Fire {
        term: u64,
        namespace: &'static str,
        life: u64,
        timer: Timer,
        number: u64,
    },
    Trouble,
}

/// What a replica answers to a leader.
#[derive(Clone, Copy, Debug)]
struct Ack {
    term: u64,
    from: usize,
    /// Its life when it answered.
    life: u64,
    /// When it was asked.
    sent: u64,
    has: usize,
}

/// One namespace of the leader, as `namespace` and `term` run it.
struct Owner {
    rounds: Rounds,
    life: u64,
    agreed: Agreed,
    streams: BTreeMap<StreamId, usize>,
    /// The number of the last start of each timer that runs.
    timers: BTreeMap<u8, u64>,
}

/// A type that a sidecar has said to host, under the names in its certificate.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reported {
    namespace: String,
    app: String,
    name: String,
    entity: String,
}

/// A replica that serves.
struct Serving {
    replica: usize,
    term: u64,
    proposals: Proposals,
    /// What is in the log and not agreed on yet, with the length of the log that it takes.
    pending: VecDeque<(usize, Batch)>,
    owners: BTreeMap<&'static str, Owner>,
    next_id: u64,
    /// Tells this time of serving from others in the same term, for ids of streams begin anew.
    spell: u64,
}

pub(super) struct World {
    dice: Dice,
    now: u64,
    steps: BTreeMap<(u64, u64), Step>,
    number: u64,
    replicas: Vec<Replica>,
    leader: Option<Leader>,
    /// The term of a leader, and the length of the log it must have applied before it serves.
    barrier: Option<(u64, usize)>,
    serving: Option<Serving>,
    sidecars: Vec<Sidecar>,
    coalescing: Coalescing,
    disks: bool,
    calm: bool,
    tables: BTreeMap<(&'static str, u64, u64), Bytes>,
    reported: BTreeSet<Reported>,
    told: Told,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = if seed.is_multiple_of(40) {
            200
        } else {
            2 + dice.index(24)
        };
        let replicas = if dice.once_in(2) { 3 } else { 5 };
        let mut world = Self {
            now: 0,
            steps: BTreeMap::new(),
            number: 0,
            replicas: (0..replicas)
                .map(|_| Replica {
                    up: true,
                    whole: true,
                    ..Replica::default()
                })
                .collect(),
            leader: None,
            barrier: None,
            serving: None,
            sidecars: (0..count)
                .map(|number| Sidecar::new(number, NAMESPACES[number % NAMESPACES.len()]))
                .collect(),
            coalescing: if dice.once_in(4) {
                Coalescing::On
            } else {
                Coalescing::Off
            },
            disks: dice.once_in(2),
            calm: false,
            tables: BTreeMap::new(),
            reported: BTreeSet::new(),
            told: Told::default(),
            dice,
        };
        world.after(100, Step::Elect);
        world.after(2000, Step::Trouble);
        for sidecar in 0..count {
            world.choose_types(sidecar);
            let at = world.dice.below(3000);
            world.after(at, Step::Connect { sidecar, epoch: 0 });
        }
        world
    }

    pub(super) fn run(mut self) -> Told {
        while let Some(((at, _), step)) = self.steps.pop_first() {
            self.now = at;
            if self.now > TROUBLE && !self.calm {
                self.calm_down();
            }
            if self.now > TROUBLE + QUIET {
                break;
            }
            self.take(step);
            self.told.steps += 1;
        }
        self.check_quiet();
        self.told
    }

    fn after(&mut self, wait: u64, step: Step) {
        self.number += 1;
        self.steps.insert((self.now + wait, self.number), step);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Beat { term } => self.beat(term),
            Step::Append { to, append } => self.append(to, &append),
            Step::Ack(ack) => self.ack(ack),
            Step::Elect => self.elect(),
            Step::Connect { sidecar, epoch } => self.connect(sidecar, epoch),
            Step::Say { link, host } => self.hear(link, host),
            Step::Order {
                sidecar,
                epoch,
                order,
            } => self.obey(sidecar, epoch, &order),
            Step::Closed { sidecar, epoch } => self.closed(sidecar, epoch),
            Step::Fire {
                term,
                namespace,
                life,
                timer,
                number,
            } => self.fire(term, namespace, life, timer, number),
            Step::Trouble => self.trouble(),
        }
    }

    // The replicas.

    fn talk(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.replicas[one], &self.replicas[other]);
        one.up && other.up && one.island == other.island
    }

    fn beat(&mut self, term: u64) {
        let Some(leader) = self.leader.as_ref().filter(|leader| leader.term == term) else {
            return;
        };
        let from = leader.replica;
        self.send_log(from, term);
        self.after(HEARTBEAT, Step::Beat { term });
    }

    fn send_log(&mut self, from: usize, term: u64) {
        let append = Append {
            from,
            sent: self.now,
            term,
            log: Arc::clone(&self.replicas[from].log),
            committed: self.replicas[from].committed,
        };
        for to in 0..self.replicas.len() {
            if to == from || (!self.calm && self.dice.once_in(10)) {
                continue;
            }
            let copies = if !self.calm && self.dice.once_in(10) {
                2
            } else {
                1
            };
            for _ in 0..copies {
                let late = self.late();
                self.after(
                    late,
                    Step::Append {
                        to,
                        append: append.clone(),
                    },
                );
            }
        }
    }

    /// How long a message between replicas takes.
    fn late(&mut self) -> u64 {
        let most = if !self.calm && self.dice.once_in(8) {
            800
        } else {
            5
        };
        1 + self.dice.below(most)
    }

    fn append(&mut self, to: usize, append: &Append) {
        if self.talk(append.from, to) && self.replicas[to].append(append) {
            let ack = Ack {
                term: append.term,
                from: to,
                life: self.replicas[to].life,
                sent: append.sent,
                has: append.log.len(),
            };
            if !self.calm && self.dice.once_in(10) {
                return;
            }
            let late = self.late();
            self.after(late, Step::Ack(ack));
        }
    }

    fn ack(&mut self, ack: Ack) {
        let Ack {
            term,
            from,
            life,
            sent,
            has,
        } = ack;
        let now = self.now;
        let leading = self.leader.as_ref().filter(|leader| leader.term == term);
        let Some(own) = leading.map(|leader| leader.replica) else {
            return;
        };
        if !self.talk(from, own) || self.replicas[from].life != life {
            return;
        }
        let Some(leader) = self.leader.as_mut() else {
            return;
        };
        leader.acked[from] = leader.acked[from].max(sent);
        leader.acked[own] = now;
        leader.matched[from] = leader.matched[from].max(has);
        let quorum = leader.quorum();
        let replica = &mut self.replicas[own];
        // Only an entry of its own term says that those before are agreed on.
        let more = quorum > replica.committed && replica.log[quorum - 1].0 == term;
        if more {
            replica.committed = quorum;
            replica.applies();
        }
        if leader.heard() + LEASE <= now {
            return;
        }
        if self.serving.is_some() {
            if more {
                self.agreed(own);
            }
        } else {
            self.prepare(own, term);
        }
    }

    /// Serves when all is applied that this leader has ever proposed, also before it lost its lease for a while.
    fn prepare(&mut self, own: usize, term: u64) {
        let replica = &mut self.replicas[own];
        match self.barrier {
            Some((of, length)) if of == term => {
                if replica.applied >= length {
                    self.begin(own, term);
                }
            }
            Some(_) | None => {
                let log = Arc::make_mut(&mut replica.log);
                log.push((term, Arc::default()));
                let length = log.len();
                self.barrier = Some((term, length));
                if let Some(leader) = &mut self.leader {
                    leader.matched[own] = length;
                }
                self.send_log(own, term);
            }
        }
    }

    /// The leader has applied more and tells its namespaces.
    fn agreed(&mut self, replica: usize) {
        let applied = self.replicas[replica].applied;
        loop {
            let Some(serving) = &mut self.serving else {
                return;
            };
            match serving.pending.front() {
                Some((length, _)) if *length <= applied => {}
                _ => break,
            }
            if let Some((_, batch)) = serving.pending.pop_front() {
                batch.agreed();
            }
            let told: Vec<(&'static str, u64)> = serving
                .owners
                .iter()
                .map(|(name, owner)| (*name, *owner.agreed.borrow()))
                .collect();
            for (namespace, version) in told {
                self.feed(namespace, Event::Committed(version));
            }
        }
        self.propose();
    }

    /// One entry at a time, as `lead` does it.
    fn propose(&mut self) {
        let Some(serving) = self
            .serving
            .as_mut()
            .filter(|serving| serving.pending.is_empty())
        else {
            return;
        };
        let Some(batch) = serving.proposals.take() else {
            return;
        };
        let (own, term) = (serving.replica, serving.term);
        let log = Arc::make_mut(&mut self.replicas[own].log);
        log.push((term, Arc::new(batch.entry.clone())));
        serving.pending.push_back((log.len(), batch));
        let length = log.len();
        if let Some(leader) = self.leader.as_mut().filter(|leader| leader.term == term) {
            leader.matched[own] = length;
            self.send_log(own, term);
        }
    }

    fn elect(&mut self) {
        self.after(100, Step::Elect);
        if let Some(leader) = &self.leader {
            let gone = !self.replicas[leader.replica].up;
            if !gone && self.now < leader.heard() + LEASE {
                return;
            }
            // Nobody votes for another before the promise to the last one is over; by then it has stopped.
            let free = self.now >= leader.heard() + LEASE;
            if let Some(serving) = &self.serving
                && serving.term == leader.term
            {
                self.stop_serving();
            }
            if !free {
                return;
            }
        }
        let islands: BTreeSet<u64> = self.replicas.iter().map(|replica| replica.island).collect();
        for island in islands {
            let voters: Vec<usize> = (0..self.replicas.len())
                .filter(|id| {
                    let replica = &self.replicas[*id];
                    replica.up && replica.whole && replica.island == island
                })
                .collect();
            if voters.len() * 2 <= self.replicas.len() || (!self.calm && self.dice.once_in(3)) {
                continue;
            }
            let best = voters.iter().map(|id| self.replicas[*id].rank()).max();
            let candidates: Vec<usize> = voters
                .iter()
                .copied()
                .filter(|id| Some(self.replicas[*id].rank()) == best)
                .collect();
            let replica = candidates[self.dice.index(candidates.len())];
            self.lead(replica, &voters);
            return;
        }
    }

    fn lead(&mut self, replica: usize, voters: &[usize]) {
        let term = 1 + self
            .replicas
            .iter()
            .map(|replica| replica.term)
            .max()
            .unwrap_or(0);
        for voter in voters {
            self.replicas[*voter].term = term;
        }
        // The entry of its term, without anything.
        let log = Arc::make_mut(&mut self.replicas[replica].log);
        log.push((term, Arc::default()));
        let length = log.len();
        self.barrier = Some((term, length));
        let mut matched = vec![0; self.replicas.len()];
        matched[replica] = length;
        self.told.failovers += u64::from(self.leader.is_some());
        self.leader = Some(Leader {
            replica,
            term,
            matched,
            acked: vec![self.now; self.replicas.len()],
        });
        self.after(0, Step::Beat { term });
    }

    // The one that serves.

    fn begin(&mut self, replica: usize, term: u64) {
        self.stop_serving();
        self.number += 1;
        let left = self.replicas[replica].tables.clone();
        self.serving = Some(Serving {
            replica,
            term,
            proposals: Proposals::default(),
            pending: VecDeque::new(),
            owners: BTreeMap::new(),
            next_id: left.last_id + 1,
            spell: self.number,
        });
        for (name, namespace) in &left.namespaces {
            let name = known(name);
            let (rounds, actions) = Rounds::resume(FACTOR, self.coalescing, namespace);
            self.own(name, rounds, namespace.life);
            self.carry_out(name, actions);
        }
    }

    fn own(&mut self, name: &'static str, rounds: Rounds, life: u64) {
        let owner = Owner {
            rounds,
            life,
            agreed: Agreed::new(watch::Sender::new(0)),
            streams: BTreeMap::new(),
            timers: BTreeMap::new(),
        };
        if let Some(serving) = &mut self.serving {
            serving.owners.insert(name, owner);
        }
    }

    /// Every stream of the term ends; some sidecars hear of it late.
    fn stop_serving(&mut self) {
        self.barrier = None;
        let Some(serving) = self.serving.take() else {
            return;
        };
        for owner in serving.owners.into_values() {
            for (stream, sidecar) in owner.streams {
                self.close(sidecar, stream);
            }
        }
    }

    fn close(&mut self, sidecar: usize, stream: StreamId) {
        if self.sidecars[sidecar].link.map(|link| link.stream) != Some(stream) {
            return;
        }
        let most = if self.dice.once_in(6) { 2000 } else { 20 };
        let late = self.dice.below(most);
        let at = self.sidecars[sidecar].due.max(self.now + late);
        let epoch = self.sidecars[sidecar].epoch;
        let wait = at - self.now;
        self.after(wait, Step::Closed { sidecar, epoch });
    }

    fn connect(&mut self, number: usize, epoch: u64) {
        let sidecar = &self.sidecars[number];
        if sidecar.epoch != epoch || sidecar.link.is_some() {
            return;
        }
        let namespace = sidecar.namespace;
        let report = sidecar.report();
        let Some(serving) = &mut self.serving else {
            let wait = 20 + self.dice.below(200);
            self.after(
                wait,
                Step::Connect {
                    sidecar: number,
                    epoch,
                },
            );
            return;
        };
        if !serving.owners.contains_key(namespace) {
            let life = serving.next_id;
            serving.next_id += 1;
            self.own(namespace, Rounds::new(FACTOR, self.coalescing), life);
        }
        let Some(serving) = &mut self.serving else {
            return;
        };
        let stream = StreamId(serving.next_id);
        serving.next_id += 1;
        let link = Link {
            replica: serving.replica,
            term: serving.term,
            spell: serving.spell,
            stream,
        };
        if let Some(owner) = serving.owners.get_mut(namespace) {
            owner.streams.insert(stream, number);
        }
        let slow = !self.calm && self.dice.once_in(12);
        let pace = self.dice.below(if slow { 3000 } else { 4 });
        let sidecar = &mut self.sidecars[number];
        sidecar.link = Some(link);
        sidecar.due = self.now;
        sidecar.said = self.now;
        sidecar.pace = pace;
        sidecar.rounds = 0;
        self.note(number, &report);
        self.feed(namespace, Event::Connected(stream, report));
        self.propose();
    }

    /// Remembers who reports what, by the certificate and not by what the report says.
    fn note(&mut self, number: usize, report: &Host) {
        let Identity {
            namespace, app_id, ..
        } = self.sidecars[number].identity();
        for entity in &report.entities {
            self.reported.insert(Reported {
                namespace: namespace.clone(),
                app: app_id.clone(),
                name: report.name.clone(),
                entity: entity.clone(),
            });
        }
    }

    fn hear(&mut self, link: Link, host: Option<Host>) {
        let Some(serving) = self
            .serving
            .as_mut()
            .filter(|serving| serving.spell == link.spell)
        else {
            return;
        };
        let owner = serving
            .owners
            .iter_mut()
            .find(|(_, owner)| owner.streams.contains_key(&link.stream));
        let Some((&namespace, owner)) = owner else {
            return;
        };
        let sidecar = owner.streams[&link.stream];
        let identity = self.sidecars[sidecar].identity();
        let host = host.filter(|host| {
            let refused = admission::check(host, Some(&identity)).is_err();
            self.told.lies += u64::from(refused);
            !refused
        });
        match host {
            Some(host) => self.feed(namespace, Event::Message(link.stream, host)),
            // It has ended, or ends for what it said.
            None => {
                owner.streams.remove(&link.stream);
                self.close(sidecar, link.stream);
                self.feed(namespace, Event::Disconnected(link.stream));
            }
        }
        self.leave(namespace);
        self.propose();
    }

    /// The last stream has gone, and nobody is waited for.
    fn leave(&mut self, namespace: &'static str) {
        if let Some(serving) = &mut self.serving
            && let Some(owner) = serving.owners.get(namespace)
            && owner.streams.is_empty()
            && !owner.rounds.is_leased()
        {
            serving.proposals.end(namespace, owner.life);
            serving.owners.remove(namespace);
        }
    }

    fn fire(&mut self, term: u64, namespace: &'static str, life: u64, timer: Timer, number: u64) {
        let Some(serving) = self.serving.as_mut().filter(|serving| serving.term == term) else {
            return;
        };
        let Some(owner) = serving
            .owners
            .get_mut(namespace)
            .filter(|owner| owner.life == life)
        else {
            return;
        };
        if owner.timers.get(&slot(timer)) == Some(&number) {
            owner.timers.remove(&slot(timer));
            self.feed(namespace, Event::Fired(timer));
            self.leave(namespace);
            self.propose();
        }
    }

    fn feed(&mut self, namespace: &'static str, event: Event) {
        let Some(owner) = self
            .serving
            .as_mut()
            .and_then(|serving| serving.owners.get_mut(namespace))
        else {
            return;
        };
        let actions = owner.rounds.handle(event);
        self.carry_out(namespace, actions);
    }

    fn carry_out(&mut self, namespace: &'static str, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to, order } => self.send(namespace, &to, &order),
                Action::Close { stream, .. } | Action::Refuse { stream, .. } => {
                    let owner = self.owner(namespace);
                    if let Some(sidecar) = owner.streams.remove(&stream) {
                        self.close(sidecar, stream);
                    }
                }
                Action::Arm(timer) => self.arm(namespace, timer),
                Action::Disarm(timer) => {
                    self.owner(namespace).timers.remove(&slot(timer));
                }
                Action::Propose(step) => {
                    let serving = self.serving.as_ref().expect("somebody serves");
                    let owner = &serving.owners[namespace];
                    serving
                        .proposals
                        .step(namespace, owner.life, step, &owner.agreed);
                }
            }
        }
    }

    fn owner(&mut self, namespace: &str) -> &mut Owner {
        let serving = self.serving.as_mut().expect("somebody serves");
        serving.owners.get_mut(namespace).expect("it acts")
    }

    fn arm(&mut self, namespace: &'static str, timer: Timer) {
        let wait = match timer {
            Timer::Round => ROUND,
            Timer::Window => 500,
            Timer::Patience => PATIENCE,
            Timer::Grace => ROUND,
            Timer::Lease => RETURN,
        };
        let number = self.number + 1;
        let owner = self.owner(namespace);
        owner.timers.insert(slot(timer), number);
        let life = owner.life;
        let term = self.serving.as_ref().map_or(0, |serving| serving.term);
        self.after(
            wait,
            Step::Fire {
                term,
                namespace,
                life,
                timer,
                number,
            },
        );
    }

    fn send(&mut self, namespace: &'static str, to: &[StreamId], order: &Order) {
        if order.operation == Operation::Update {
            self.check_table(namespace, order);
        }
        for stream in to {
            let Some(sidecar) = self.owner(namespace).streams.get(stream).copied() else {
                continue;
            };
            self.told.orders += 1;
            // One that was restarted has another stream; the server does not know yet.
            if self.sidecars[sidecar].link.map(|link| link.stream) != Some(*stream) {
                continue;
            }
            let late = 1 + self.dice.below(3);
            let sidecar_state = &mut self.sidecars[sidecar];
            sidecar_state.due = sidecar_state.due.max(self.now + late) + sidecar_state.pace;
            let wait = sidecar_state.due - self.now;
            let epoch = sidecar_state.epoch;
            self.after(
                wait,
                Step::Order {
                    sidecar,
                    epoch,
                    order: order.clone(),
                },
            );
        }
    }

    // The sidecars.

    fn obey(&mut self, number: usize, epoch: u64, order: &Order) {
        let sidecar = &mut self.sidecars[number];
        if sidecar.epoch != epoch || sidecar.silent {
            return;
        }
        let Some(link) = sidecar.link else { return };
        let answer = sidecar.obey(order);
        if let Some((term, version)) = sidecar.left
            && order.operation == Operation::Unlock
            && sidecar.rounds == 1
            && link.term > term
            && order.version == version
            && version > 0
        {
            self.told.quiet_returns += 1;
        }
        self.say(number, Some(answer));
        self.check_served(number);
    }

    fn say(&mut self, number: usize, host: Option<Host>) {
        // Of one stream all come in order, but when the next one says something, some may still be on their way.
        let most = if !self.calm && self.dice.once_in(15) {
            1500
        } else {
            3
        };
        let late = 1 + self.dice.below(most);
        let sidecar = &mut self.sidecars[number];
        let Some(link) = sidecar.link else { return };
        sidecar.said = sidecar.said.max(self.now + late);
        let wait = sidecar.said - self.now;
        self.after(wait, Step::Say { link, host });
    }

    fn closed(&mut self, number: usize, epoch: u64) {
        let sidecar = &mut self.sidecars[number];
        if sidecar.epoch == epoch && sidecar.link.is_some() {
            sidecar.halt();
            let epoch = sidecar.epoch;
            let wait = 1 + self.dice.below(50);
            self.after(
                wait,
                Step::Connect {
                    sidecar: number,
                    epoch,
                },
            );
        }
    }

    fn choose_types(&mut self, number: usize) {
        let types = TYPES
            .iter()
            .copied()
            .filter(|_| self.dice.once_in(2))
            .collect();
        self.sidecars[number].entities = types;
    }

    // What goes wrong.

    fn trouble(&mut self) {
        if self.calm {
            return;
        }
        let number = self.dice.index(self.sidecars.len());
        let replica = self.dice.index(self.replicas.len());
        match self.dice.below(15) {
            0 => self.crash(replica),
            1 => {
                let leading = self.leader.as_ref().map(|leader| leader.replica);
                self.crash(leading.unwrap_or(replica));
            }
            2 | 3 => {
                for replica in &mut self.replicas {
                    replica.up = true;
                }
            }
            4 => self.replicas[replica].island = self.dice.below(2),
            5 => {
                for replica in &mut self.replicas {
                    replica.island = 0;
                }
            }
            6 | 7 => {
                // A sidecar dies; the server hears of it now or by its pings.
                let late = if self.dice.once_in(2) { 5000 } else { 5 };
                self.choose_types(number);
                let wait = self.dice.below(4000);
                self.restart(number, late, wait);
            }
            8 | 9 => {
                self.choose_types(number);
                let report = self.sidecars[number].report();
                self.note(number, &report);
                self.say(number, Some(report));
            }
            10 => self.sidecars[number].silent = true,
            11 => {
                // A connection is cut. The sidecar opens the next one long before the server gives up the last.
                let wait = self.dice.below(100);
                self.restart(number, 5000, wait);
            }
            12 | 13 => self.lie(number),
            _ => {
                // A message of a round that never was.
                let version = self.dice.below(20);
                let host = Host {
                    operation: i32::try_from(self.dice.below(6)).expect("small"),
                    version: Some(version),
                    entities: Vec::new(),
                    ..self.sidecars[number].report()
                };
                if host.operation != 1 && host.operation != 0 {
                    self.say(number, Some(host));
                }
            }
        }
        let wait = self.dice.below(1200);
        self.after(wait, Step::Trouble);
    }

    /// A sidecar says that it is another one, or hosts what only another one may.
    fn lie(&mut self, number: usize) {
        let other = self.dice.index(self.sidecars.len());
        let other = self.sidecars[other].report();
        let own = self.sidecars[number].report();
        let internal = format!("dapr.internal.{}.{}.workflow", other.namespace, other.id);
        let entities = vec![TYPES[self.dice.index(TYPES.len())].to_owned()];
        let lie = match self.dice.below(3) {
            0 => Host {
                id: other.id,
                entities,
                ..own
            },
            1 => Host {
                namespace: other.namespace,
                entities,
                ..own
            },
            _ => Host {
                entities: vec![internal],
                ..own
            },
        };
        // What is true of it in the end makes no difference to what it really hosts.
        if admission::check(&lie, Some(&self.sidecars[number].identity())).is_err() {
            self.say(number, Some(lie));
        }
    }

    /// A sidecar dies, the server hears of it, and it comes back.
    fn restart(&mut self, number: usize, late: u64, wait: u64) {
        let sidecar = &self.sidecars[number];
        if let Some(link) = sidecar.link {
            // Whatever it said before arrives first.
            let end = sidecar.said.max(self.now + late);
            self.after(end - self.now, Step::Say { link, host: None });
        }
        self.sidecars[number].halt();
        let epoch = self.sidecars[number].epoch;
        self.after(
            wait,
            Step::Connect {
                sidecar: number,
                epoch,
            },
        );
    }

    /// Kills a replica. Without its disk it forgets, as long as a majority is left that does not.
    fn crash(&mut self, replica: usize) {
        let remember = self.replicas.iter().filter(|replica| replica.whole).count();
        let can_forget = !self.disks
            && (remember - usize::from(self.replicas[replica].whole)) * 2 > self.replicas.len();
        if !self.disks && !can_forget {
            return;
        }
        if self
            .serving
            .as_ref()
            .is_some_and(|serving| serving.replica == replica)
        {
            self.stop_serving();
        }
        if let Some(leader) = self.leader.as_mut()
            && leader.replica == replica
        {
            // It leads no more, and its followers are still bound.
            leader.term = 0;
        }
        if can_forget {
            self.replicas[replica].forget();
            if let Some(leader) = self.leader.as_mut() {
                leader.matched[replica] = 0;
            }
        }
        self.replicas[replica].up = false;
    }

    fn calm_down(&mut self) {
        self.calm = true;
        for replica in &mut self.replicas {
            replica.up = true;
            replica.island = 0;
        }
        for number in 0..self.sidecars.len() {
            self.sidecars[number].pace = 1;
            if self.sidecars[number].silent {
                self.restart(number, 5, 100);
            }
        }
    }

    // The promises.

    /// One version is one table; it is the one the replicas agree on; and nobody is in it for what another reported.
    fn check_table(&mut self, namespace: &'static str, order: &Order) {
        let serving = self.serving.as_ref().expect("somebody serves");
        let life = serving.owners[namespace].life;
        let key = (namespace, life, order.version);
        if let Some(known) = self.tables.get(&key) {
            assert_eq!(*known, order.bytes, "{key:?} is one table");
            return;
        }
        let agreed = &self.replicas[serving.replica].tables;
        let hosts = match agreed.namespaces.get(namespace) {
            Some(agreed) if agreed.life == life => {
                assert_eq!(
                    agreed.version, order.version,
                    "only what was agreed on is served"
                );
                Hosts::inherit(&agreed.hosts)
            }
            Some(_) | None => {
                assert_eq!(order.version, 0, "only what was agreed on is served");
                Hosts::default()
            }
        };
        let expected = hosts.update(order.version, FACTOR);
        assert_eq!(expected.bytes, order.bytes, "{key:?} is what was agreed on");
        let decoded = PlacementOrder::decode(order.bytes.clone()).expect("orders decode");
        for (entity, table) in decoded.tables.expect("an update has tables").entries {
            for (name, host) in table.load_map {
                assert_eq!(host.namespace, namespace);
                let reported = Reported {
                    namespace: host.namespace,
                    app: host.id,
                    name,
                    entity: entity.clone(),
                };
                assert!(
                    self.reported.contains(&reported),
                    "{reported:?} was never reported"
                );
            }
        }
        self.tables.insert(key, order.bytes.clone());
    }

    /// Who serves has the table of its version.
    fn check_served(&self, number: usize) {
        let sidecar = &self.sidecars[number];
        if let (Some(version), Some((installed, bytes))) = (sidecar.unlocked, &sidecar.installed) {
            assert_eq!(version, *installed);
            let known = self.tables.iter().any(|((namespace, _, known), table)| {
                *namespace == sidecar.namespace && *known == version && table == bytes
            });
            assert!(known, "{number} serves with a table nobody was given");
        }
    }

    /// After everything is well again, all have one table, and it is what they host.
    fn check_quiet(&self) {
        let serving = self.serving.as_ref().expect("somebody leads in the end");
        for namespace in NAMESPACES {
            let here = || {
                self.sidecars
                    .iter()
                    .filter(|sidecar| sidecar.namespace == namespace)
            };
            if here().next().is_none() {
                continue;
            }
            let owner = &serving.owners[namespace];
            let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for sidecar in here() {
                for entity in &sidecar.entities {
                    let hosts = expected.entry((*entity).to_owned()).or_default();
                    hosts.insert(sidecar.report().name);
                }
            }
            for sidecar in here() {
                let number = sidecar.number;
                assert!(!owner.rounds.is_leased(), "nobody is waited for any more");
                let (_, bytes) = sidecar
                    .installed
                    .as_ref()
                    .unwrap_or_else(|| panic!("{number} has no table"));
                let version = sidecar.unlocked;
                assert_eq!(
                    version,
                    Some(owner.rounds.version()),
                    "{number} serves with the last version"
                );
                let order = PlacementOrder::decode(bytes.clone()).expect("orders decode");
                let held: BTreeMap<String, BTreeSet<String>> = order
                    .tables
                    .expect("an update has tables")
                    .entries
                    .into_iter()
                    .map(|(entity, table)| (entity, table.load_map.into_keys().collect()))
                    .collect();
                assert_eq!(held, expected, "{number} has the table of all");
            }
        }
    }
}

fn slot(timer: Timer) -> u8 {
    match timer {
        Timer::Round => 0,
        Timer::Window => 1,
        Timer::Patience => 2,
        Timer::Lease => 3,
        Timer::Grace => 4,
    }
}

fn known(name: &str) -> &'static str {
    NAMESPACES
        .into_iter()
        .find(|known| *known == name)
        .expect("one of two")
}
