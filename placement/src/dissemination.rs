//! The rounds of one namespace: events in, actions out.
//!
//! Every change of the hosts gets a new version and a round of three orders (`lock`, `update`, `unlock`);
//! each follows when all streams have answered the one before, and no table leaves before the replicas agree on
//! it. Nothing here knows a clock, a socket or a lock: the owner of a [`Rounds`] feeds it events one at a time
//! and carries out what it returns, in order.
//!
//! Hosts that a former leader has left stay in the table while their sidecars find their way here. One that
//! reports what the table has gets the table alone; the others hear nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};

use crate::ledger::{Namespace, Step};
use crate::table::{self, Hosts, Operation, Order};

#[cfg(test)]
mod tests;

/// How often a round is abandoned for reports. Those that come then wait for its end: a sidecar that changes its mind
/// without pause must not keep all others locked, nor fill what they have not read yet.
const ABANDONED: u32 = 16;

/// A connected stream. Ids grow, and none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// The timers of a namespace; the owner knows how long they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The limit for a whole round.
    Round,
    /// The coalescing window after a round.
    Window,
    /// How long streams whose actors do not move may hold up the others.
    Patience,
    /// How long streams nobody waits for any more may stay silent.
    Grace,
    /// How long hosts of a former leader may take to come back.
    Lease,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A stream sent its first message.
    Connected(StreamId, Host),
    /// A connected stream sent another message.
    Message(StreamId, Host),
    /// A stream of another namespace sent a message that names this one.
    Visited(StreamId, Host),
    /// A stream has ended.
    Disconnected(StreamId),
    /// A timer ran out.
    Fired(Timer),
    /// The replicas agree on everything up to this version.
    Committed(u64),
}

/// Something the owner must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send {
        to: Vec<StreamId>,
        order: Order,
    },
    /// The stream was too slow for the round with this version. It is already forgotten here.
    Close {
        stream: StreamId,
        version: u64,
    },
    /// The stream reported more than the table has room for, both in bytes. It is already forgotten here.
    Refuse {
        stream: StreamId,
        share: usize,
        room: usize,
    },
    /// Start the timer, anew if it runs.
    Arm(Timer),
    Disarm(Timer),
    /// Ask the replicas to agree.
    Propose(Step),
}

/// Whether connects and disconnects wait for each other after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coalescing {
    Off,
    On,
}

/// What the round waits for: the answers to the order it has sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Waiting(Operation),
}

/// A stream that takes part in rounds.
#[derive(Debug, Default)]
struct Member {
    /// It has answered the last order of the round, or is not waited for any more.
    answered: bool,
    /// Its answers say which order they are for. Those of older clients do not, and a late one would be taken
    /// for a report: such a stream is always waited for.
    dated: bool,
    /// The round moves its actors.
    concerned: bool,
    /// The first version it has not answered for while nobody waited. Nobody waits for it again before it does, unless
    /// its actors move.
    owes: Option<u64>,
    courtesy: Option<Courtesy>,
}

/// The three orders a stream without actor types got outside of a round, until their last answer is in.
#[derive(Debug)]
struct Courtesy {
    /// Triples whose answer to `unlock` is not in.
    outstanding: usize,
    /// The order of the running round whose answer must come before the answers to the last triple.
    owed: Option<Operation>,
}

/// The state of one namespace.
#[derive(Debug)]
pub(crate) struct Rounds {
    replication_factor: i64,
    coalescing: Coalescing,
    version: u64,
    /// What the replicas agree on; never above `version`.
    committed: u64,
    phase: Phase,
    window_open: bool,
    /// The lease of hosts without a stream runs.
    leased: bool,
    hosts: Hosts,
    members: BTreeMap<StreamId, Member>,
    /// Members that have not answered the last order; the count of `!answered`.
    missing: usize,
    /// What members owe up to this version is due when the timer fires that runs.
    grace: Option<u64>,
    /// Streams that came during a round or a window, with their report if they made one.
    parked: BTreeMap<StreamId, Option<Host>>,
    /// Rounds that were abandoned since the last one that ended.
    abandoned: u32,
    /// Reports that wait for the end of the round.
    held: BTreeMap<StreamId, Host>,
    /// Streams that ended and are still in `hosts`.
    gone: BTreeSet<StreamId>,
    /// Streams that get the table outside of a round as soon as it is agreed on.
    courtesies: BTreeSet<StreamId>,
    /// The update order of the current version, once somebody needed it.
    update: Option<Order>,
    actions: Vec<Action>,
}

impl Rounds {
    pub(crate) fn new(replication_factor: i64, coalescing: Coalescing) -> Self {
        Self {
            replication_factor,
            coalescing,
            version: 0,
            committed: 0,
            phase: Phase::Idle,
            window_open: false,
            leased: false,
            hosts: Hosts::default(),
            members: BTreeMap::new(),
            missing: 0,
            grace: None,
            parked: BTreeMap::new(),
            abandoned: 0,
            held: BTreeMap::new(),
            gone: BTreeSet::new(),
            courtesies: BTreeSet::new(),
            update: None,
            actions: Vec::new(),
        }
    }

    /// Goes on where a former leader stopped. The actions come before those of the first event.
    pub(crate) fn resume(
        replication_factor: i64,
        coalescing: Coalescing,
        left: &Namespace,
    ) -> (Self, Vec<Action>) {
        let mut rounds = Self {
            version: left.version,
            committed: left.version,
            hosts: Hosts::inherit(&left.hosts),
            ..Self::new(replication_factor, coalescing)
        };
        rounds.leased = rounds.hosts.has_orphans();
        if rounds.leased {
            rounds.actions.push(Action::Arm(Timer::Lease));
        }
        // With another factor the table is another one, though the hosts are the same.
        if left.replication_factor != replication_factor {
            rounds.next_version();
        }
        let actions = mem::take(&mut rounds.actions);
        (rounds, actions)
    }

    /// Takes one event and returns what follows from it.
    pub(crate) fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Connected(stream, host) => self.connected(stream, host),
            Event::Message(stream, host) => self.message(stream, host),
            Event::Visited(stream, host) => self.visited(stream, host),
            Event::Disconnected(stream) => self.disconnected(stream),
            Event::Fired(Timer::Round) => self.expired(),
            Event::Fired(Timer::Window) => self.window_closed(),
            Event::Fired(Timer::Patience) => self.excuse(),
            Event::Fired(Timer::Grace) => self.call_in(),
            Event::Fired(Timer::Lease) => {
                self.leased = false;
                self.gone.extend(self.hosts.give_up_orphans());
            }
            Event::Committed(version) => self.agreed(version),
        }
        self.advance();
        if self.leased && !self.hosts.has_orphans() {
            self.leased = false;
            self.actions.push(Action::Disarm(Timer::Lease));
        }
        mem::take(&mut self.actions)
    }

    /// The version of the last round, 0 before the first.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether the replicas agree on the hosts as they are here.
    pub(crate) fn is_agreed(&self) -> bool {
        self.committed == self.version
    }

    /// The last version the replicas agree on.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn agreed_version(&self) -> u64 {
        self.committed
    }

    /// Whether hosts of a former leader are waited for, so that the namespace outlives its last stream.
    pub(crate) fn is_leased(&self) -> bool {
        self.leased
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    fn connected(&mut self, stream: StreamId, host: Host) {
        // Clients from before the operations existed open with UNKNOWN, which can only be a report.
        let reports = matches!(
            operation(&host),
            Some(HostOperation::Report | HostOperation::Unknown)
        );
        self.parked.insert(stream, reports.then_some(host));
    }

    fn agreed(&mut self, version: u64) {
        self.committed = self.committed.max(version.min(self.version));
        if self.is_agreed() {
            for stream in mem::take(&mut self.courtesies) {
                self.send_courtesy(stream);
            }
        }
    }

    fn message(&mut self, stream: StreamId, host: Host) {
        if operation(&host) == Some(HostOperation::Unknown)
            && let Some(member) = self.members.get_mut(&stream)
        {
            member.dated = false;
        }
        match (operation(&host), self.phase) {
            (Some(HostOperation::Report), _) | (Some(HostOperation::Unknown), Phase::Idle) => {
                self.reported(stream, host)
            }
            (
                Some(
                    HostOperation::Unknown
                    | HostOperation::Lock
                    | HostOperation::Update
                    | HostOperation::Unlock,
                ),
                _,
            ) => self.answered(stream, &host),
            (None, _) => {}
        }
    }

    fn reported(&mut self, stream: StreamId, host: Host) {
        if let Some(parked) = self.parked.get_mut(&stream) {
            *parked = Some(host);
        } else if self.members.contains_key(&stream) {
            self.report_or_hold(stream, host);
        }
    }

    /// What a stream of another namespace reports is a host here until the stream ends, but it gets no orders and
    /// nobody waits for it. Its answers mean nothing.
    fn visited(&mut self, stream: StreamId, host: Host) {
        if let (Some(HostOperation::Report), _) | (Some(HostOperation::Unknown), Phase::Idle) =
            (operation(&host), self.phase)
        {
            self.report_or_hold(stream, host);
        }
    }

    fn report_or_hold(&mut self, stream: StreamId, host: Host) {
        if self.is_late(&host) {
            return;
        }
        if self.phase != Phase::Idle && self.abandoned >= ABANDONED {
            self.held.insert(stream, host);
        } else {
            self.report(stream, host);
        }
    }

    fn report(&mut self, stream: StreamId, host: Host) {
        if !self.has_room(stream, &host) {
            return;
        }
        if self.hosts.report(stream, host) {
            self.abandoned += u32::from(self.phase != Phase::Idle);
            // Whoever has left goes with the first round that starts.
            self.remove_gone();
            self.start_round();
        } else if !self.hosts.contains(stream) {
            self.send_courtesy(stream);
        }
    }

    /// Whether the table has room for a host. Otherwise its stream leaves, and with it what it reported before.
    fn has_room(&mut self, stream: StreamId, host: &Host) -> bool {
        let (share, room) = (table::share(host), self.hosts.room(stream));
        if share > room {
            self.disconnected(stream);
            self.actions.push(Action::Refuse {
                stream,
                share,
                room,
            });
        }
        share <= room
    }

    /// One round for all reports that waited.
    fn report_held(&mut self) {
        let mut changed = self.remove_gone();
        let mut unchanged = Vec::new();
        for (stream, host) in mem::take(&mut self.held) {
            if !self.has_room(stream, &host) {
                continue;
            }
            if self.hosts.report(stream, host) {
                changed = true;
            } else if !self.hosts.contains(stream) {
                unchanged.push(stream);
            }
        }
        if changed {
            self.start_round();
        } else {
            for stream in unchanged {
                self.send_courtesy(stream);
            }
        }
    }

    /// Counts an answer for the order the round waits for. Which operation it names is not looked at.
    fn answered(&mut self, stream: StreamId, host: &Host) {
        if let Some(member) = self.members.get_mut(&stream)
            && member.owes.is_some_and(|owed| host.version >= Some(owed))
        {
            member.owes = None;
        }
        if self.is_late(host) {
            return;
        }
        let Some(member) = self.members.get_mut(&stream) else {
            return;
        };
        let counts = match &mut member.courtesy {
            Some(courtesy) if host.version.is_none_or(|version| version == self.version) => {
                courtesy.outstanding -= usize::from(operation(host) == Some(HostOperation::Unlock));
                let last = courtesy.outstanding == 0;
                // Answers come in the order of the orders: before this one, the owed answer has been given too.
                let owed = courtesy
                    .owed
                    .is_some_and(|operation| self.phase == Phase::Waiting(operation));
                if last {
                    member.courtesy = None;
                }
                last && owed
            }
            _ => true,
        };
        if counts && !member.answered {
            member.answered = true;
            self.missing -= 1;
        }
    }

    /// Whether a message is for a version that is over.
    fn is_late(&self, host: &Host) -> bool {
        host.version.is_some_and(|version| version < self.version)
    }

    fn disconnected(&mut self, stream: StreamId) {
        self.parked.remove(&stream);
        self.held.remove(&stream);
        if let Some(member) = self.members.remove(&stream) {
            self.missing -= usize::from(!member.answered);
        }
        if self.hosts.contains(stream) {
            self.gone.insert(stream);
        }
    }

    /// Goes on without the streams whose actors stay where they are: what they route by is of no harm to those
    /// whose actors move, for a host refuses calls for actors it does not own. They get all orders in turn.
    fn excuse(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        for member in self.members.values_mut() {
            if !member.answered && !member.concerned && member.dated {
                member.answered = true;
                self.missing -= 1;
                member.owes.get_or_insert(self.version);
            }
        }
        self.give_grace();
    }

    fn give_grace(&mut self) {
        if self.grace.is_none() && self.members.values().any(|member| member.owes.is_some()) {
            self.grace = Some(self.version);
            self.actions.push(Action::Arm(Timer::Grace));
        }
    }

    /// Closes the streams that have stayed silent for as long as a round may take. Those that fell silent after that
    /// time began have as long again.
    fn call_in(&mut self) {
        let due = self.grace.take();
        let silent: Vec<(StreamId, u64)> = self
            .members
            .iter()
            .filter_map(|(stream, member)| Some((*stream, member.owes?)))
            .filter(|(_, owed)| Some(*owed) <= due)
            .collect();
        for (stream, version) in silent {
            self.disconnected(stream);
            self.actions.push(Action::Close { stream, version });
        }
        self.give_grace();
    }

    /// The round took too long: whoever holds it up leaves, the others start over.
    fn expired(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        // The replicas hold it up, not the streams: another version would not be agreed on sooner.
        if self.missing == 0 {
            self.actions.push(Action::Arm(Timer::Round));
            return;
        }
        let late: Vec<StreamId> = self
            .members
            .iter()
            .filter(|(_, member)| !member.answered)
            .map(|(stream, _)| *stream)
            .collect();
        for stream in late {
            self.members.remove(&stream);
            self.held.remove(&stream);
            self.hosts.remove(stream);
            self.actions.push(Action::Close {
                stream,
                version: self.version,
            });
        }
        self.remove_gone();
        self.admit_parked();
        self.start_round();
    }

    fn window_closed(&mut self) {
        self.window_open = false;
        // During a round the queues wait for its end, which opens the next window.
        if self.phase == Phase::Idle {
            let removed = self.remove_gone();
            self.admit(removed);
        }
    }

    /// Does what needs no further event: the next order when all have answered, queued work when idle.
    fn advance(&mut self) {
        loop {
            match self.phase {
                Phase::Waiting(_) if self.missing > 0 => return,
                Phase::Waiting(Operation::Lock) if !self.is_agreed() => return,
                Phase::Waiting(Operation::Lock) => {
                    let order = self.update();
                    self.broadcast(order);
                }
                Phase::Waiting(Operation::Update) => {
                    self.broadcast(Order::bare(Operation::Unlock, self.version))
                }
                Phase::Waiting(Operation::Unlock) => self.end_round(),
                Phase::Idle if !self.held.is_empty() => self.report_held(),
                Phase::Idle if self.window_open => return,
                // Removals go first, in a round of their own. With nobody to tell they need none.
                Phase::Idle if !self.gone.is_empty() => {
                    self.remove_gone();
                    if self.members.is_empty() {
                        self.next_version();
                    } else {
                        self.start_round();
                    }
                }
                Phase::Idle if !self.parked.is_empty() => self.admit(false),
                Phase::Idle => return,
            }
        }
    }

    /// Lets the parked streams in, with a round when the hosts changed and the courtesy orders otherwise.
    fn admit(&mut self, changed: bool) {
        let (admitted, added) = self.admit_parked();
        if changed || added {
            self.start_round();
        } else {
            for stream in admitted {
                self.send_courtesy(stream);
            }
        }
    }

    /// Returns the streams that reported something, and whether the hosts are others now.
    fn admit_parked(&mut self) -> (Vec<StreamId>, bool) {
        let mut reporting = Vec::new();
        let mut added = false;
        for (stream, host) in mem::take(&mut self.parked) {
            if host
                .as_ref()
                .is_some_and(|host| !self.has_room(stream, host))
            {
                continue;
            }
            let dated = host
                .as_ref()
                .is_none_or(|host| operation(host) != Some(HostOperation::Unknown));
            self.members.insert(
                stream,
                Member {
                    // Outside of a round nothing is missing.
                    answered: true,
                    dated,
                    ..Member::default()
                },
            );
            if let Some(host) = host {
                added |= self.hosts.report(stream, host);
                reporting.push(stream);
            }
        }
        (reporting, added)
    }

    fn remove_gone(&mut self) -> bool {
        let mut removed = false;
        for stream in mem::take(&mut self.gone) {
            removed |= self.hosts.remove(stream);
        }
        removed
    }

    fn next_version(&mut self) {
        self.version += 1;
        self.update = None;
        let step = self.hosts.step(self.version, self.replication_factor);
        self.actions.push(Action::Propose(step));
    }

    fn start_round(&mut self) {
        self.next_version();
        // From here on every older answer is told by its version.
        for (stream, member) in &mut self.members {
            member.courtesy = None;
            member.concerned = self.hosts.concerns(*stream);
        }
        self.courtesies.clear();
        self.actions.push(Action::Arm(Timer::Round));
        self.broadcast(Order::bare(Operation::Lock, self.version));
    }

    fn end_round(&mut self) {
        self.phase = Phase::Idle;
        self.abandoned = 0;
        self.hosts.settle();
        self.actions.push(Action::Disarm(Timer::Round));
        if self.coalescing == Coalescing::On && !self.window_open {
            self.window_open = true;
            self.actions.push(Action::Arm(Timer::Window));
        }
    }

    /// Sends an order of the round to all members and waits for their answers.
    fn broadcast(&mut self, order: Order) {
        self.phase = Phase::Waiting(order.operation);
        self.missing = 0;
        let mut bystanders = false;
        for member in self.members.values_mut() {
            let bystander = !member.concerned && member.dated;
            member.answered = bystander && member.owes.is_some();
            self.missing += usize::from(!member.answered);
            bystanders |= bystander && !member.answered;
        }
        if !self.members.is_empty() {
            let to = self.members.keys().copied().collect();
            self.actions.push(Action::Send { to, order });
        }
        if bystanders {
            self.actions.push(Action::Arm(Timer::Patience));
        }
    }

    /// Gives a stream that changes nothing the current table alone: it is in nobody's way.
    fn send_courtesy(&mut self, stream: StreamId) {
        if !self.is_agreed() {
            self.courtesies.insert(stream);
            return;
        }
        let update = self.update();
        let Some(member) = self.members.get_mut(&stream) else {
            return;
        };
        let owed = match self.phase {
            Phase::Waiting(operation) if !member.answered => Some(operation),
            Phase::Waiting(_) | Phase::Idle => None,
        };
        let outstanding = member
            .courtesy
            .take()
            .map_or(0, |courtesy| courtesy.outstanding)
            + 1;
        member.courtesy = Some(Courtesy { outstanding, owed });
        for order in [
            Order::bare(Operation::Lock, self.version),
            update,
            Order::bare(Operation::Unlock, self.version),
        ] {
            self.actions.push(Action::Send {
                to: vec![stream],
                order,
            });
        }
    }

    fn update(&mut self) -> Order {
        self.update
            .get_or_insert_with(|| self.hosts.update(self.version, self.replication_factor))
            .clone()
    }
}

/// The operation a message names, `None` for a number of a later protocol.
fn operation(host: &Host) -> Option<HostOperation> {
    HostOperation::try_from(host.operation).ok()
}
