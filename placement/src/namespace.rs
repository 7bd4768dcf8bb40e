//! The owner of one namespace: a task that feeds [`Rounds`] and carries out what they decide.
//!
//! It lives as long as somebody holds a sender for it, which is every stream of the namespace, and itself while
//! it waits for sidecars of a former leader.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use dapr_kit::duration::GoDuration;
use dapr_proto::dapr::proto::placement::v1::Host;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::dissemination::{Action, Coalescing, Event, Rounds, StreamId, Timer};
use crate::ledger::Namespace;
use crate::proposals::{Agreed, Proposals};
use crate::state::{Shown, Table};
use crate::stream::Outbox;
use crate::table::{Order, TABLE_LIMIT};
use crate::term::Term;

#[cfg(test)]
mod tests;

/// How long a round waits for streams whose actors stay where they are. A sidecar that is well answers within
/// milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// How rounds run; the same for all namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Virtual nodes per host; sidecars need it for their ring.
    pub(crate) replication_factor: i64,
    /// Limit for one whole round.
    pub(crate) timeout: Duration,
    /// Pause after a round; zero is none.
    pub(crate) window: Duration,
    /// How long hosts of a former leader may take to come back.
    pub(crate) lease: Duration,
    /// Whether tables are shown on `/placement/state`.
    pub(crate) shown: bool,
}

impl Settings {
    fn coalescing(&self) -> Coalescing {
        if self.window.is_zero() {
            Coalescing::Off
        } else {
            Coalescing::On
        }
    }

    fn length(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Round => self.timeout,
            Timer::Window => self.window,
            Timer::Patience => PATIENCE,
            Timer::Grace => self.timeout,
            Timer::Lease => self.lease,
        }
    }
}

/// What a namespace is called and where its changes go.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) name: String,
    pub(crate) proposals: Proposals,
}

/// What the streams of a namespace tell its owner.
#[derive(Debug)]
pub(crate) enum Message {
    Connected {
        stream: StreamId,
        host: Host,
        outbox: Outbox,
    },
    Report {
        stream: StreamId,
        host: Host,
    },
    /// The stream belongs to another namespace.
    Visit {
        stream: StreamId,
        host: Host,
    },
    /// The stream is over, and should end with this status if it still can.
    Ended {
        stream: StreamId,
        status: Status,
    },
}

#[derive(Debug)]
pub(crate) struct Owner {
    name: String,
    settings: Settings,
    rounds: Rounds,
    outboxes: HashMap<StreamId, Outbox>,
    round: Option<Instant>,
    window: Option<Instant>,
    patience: Option<Instant>,
    grace: Option<Instant>,
    lease: Option<Instant>,
    /// Tells this namespace from others that had its name.
    life: u64,
    proposals: Proposals,
    agreed: Agreed,
    /// Where the table is shown, and the version that is.
    shown: Shown,
    shown_version: u64,
}

impl Owner {
    /// The owner of a namespace whose first stream has come.
    pub(crate) fn new(origin: Origin, settings: Settings, shown: Shown, life: u64) -> Self {
        let rounds = Rounds::new(settings.replication_factor, settings.coalescing());
        Self::with(origin, settings, shown, life, rounds)
    }

    /// The owner of a namespace a former leader has left.
    pub(crate) fn resume(
        origin: Origin,
        settings: Settings,
        shown: Shown,
        left: &Namespace,
    ) -> Self {
        let (rounds, actions) =
            Rounds::resume(settings.replication_factor, settings.coalescing(), left);
        let mut owner = Self::with(origin, settings, shown, left.life, rounds);
        let mut events = VecDeque::new();
        owner.carry_out(actions, &mut events);
        owner.show();
        owner
    }

    fn with(
        Origin { name, proposals }: Origin,
        settings: Settings,
        shown: Shown,
        life: u64,
        rounds: Rounds,
    ) -> Self {
        Self {
            name,
            rounds,
            settings,
            outboxes: HashMap::new(),
            round: None,
            window: None,
            patience: None,
            grace: None,
            lease: None,
            life,
            proposals,
            agreed: Agreed::new(watch::Sender::new(0)),
            shown,
            shown_version: 0,
        }
    }

    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Works until the last sender is gone or the term ends. `own` is one of them, given up when nobody is waited
    /// for who has no stream yet.
    pub(crate) async fn run(
        mut self,
        term: Arc<Term>,
        mut messages: mpsc::Receiver<Message>,
        mut own: Option<mpsc::Sender<Message>>,
    ) {
        let mut agreed = self.agreed.subscribe();
        // What was proposed before may be agreed on already.
        agreed.mark_changed();
        loop {
            if !self.rounds.is_leased() {
                drop(own.take());
            }
            let event = tokio::select! {
                biased;
                status = term.ended() => return self.end(messages, &status),
                // Before the messages, of which there may always be one more.
                () = at(self.round) => {
                    self.round = None;
                    Event::Fired(Timer::Round)
                }
                () = at(self.window) => {
                    self.window = None;
                    Event::Fired(Timer::Window)
                }
                () = at(self.patience) => {
                    self.patience = None;
                    Event::Fired(Timer::Patience)
                }
                () = at(self.grace) => {
                    self.grace = None;
                    Event::Fired(Timer::Grace)
                }
                () = at(self.lease) => {
                    self.lease = None;
                    tracing::info!(namespace = %self.name, "Hosts of the former leader that did not come back are removed");
                    Event::Fired(Timer::Lease)
                }
                // This owner holds the other end, so there is always a version.
                _ = agreed.changed() => Event::Committed(*agreed.borrow_and_update()),
                message = messages.recv() => match message {
                    Some(message) => self.event(message),
                    None => return,
                },
            };
            self.handle(event);
        }
    }

    fn end(self, mut messages: mpsc::Receiver<Message>, status: &Status) {
        for outbox in self.outboxes.into_values() {
            outbox.end(status.clone());
        }
        messages.close();
        while let Ok(message) = messages.try_recv() {
            if let Message::Connected { outbox, .. } = message {
                outbox.end(status.clone());
            }
        }
    }

    fn event(&mut self, message: Message) -> Event {
        match message {
            Message::Connected {
                stream,
                host,
                outbox,
            } => {
                tracing::debug!(namespace = %self.name, stream = stream.0, app = %host.id, host = %host.name, "Sidecar connected");
                self.outboxes.insert(stream, outbox);
                Event::Connected(stream, host)
            }
            Message::Report { stream, host } => Event::Message(stream, host),
            Message::Visit { stream, host } => Event::Visited(stream, host),
            Message::Ended { stream, status } => {
                if let Some(outbox) = self.outboxes.remove(&stream) {
                    tracing::debug!(namespace = %self.name, stream = stream.0, cause = status.message(), "Sidecar disconnected");
                    outbox.end(status);
                }
                Event::Disconnected(stream)
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.rounds.handle(event);
            self.carry_out(actions, &mut events);
        }
        self.show();
    }

    fn carry_out(&mut self, actions: Vec<Action>, events: &mut VecDeque<Event>) {
        for action in actions {
            match action {
                Action::Send { to, order } => {
                    events.extend(self.send(&to, &order).into_iter().map(Event::Disconnected));
                }
                Action::Close { stream, version } => self.close_late(stream, version),
                Action::Refuse {
                    stream,
                    share,
                    room,
                } => self.refuse(stream, share, room),
                Action::Arm(timer) => {
                    let after = self.settings.length(timer);
                    *self.timer(timer) = Some(Instant::now() + after);
                }
                Action::Disarm(timer) => *self.timer(timer) = None,
                Action::Propose(step) => {
                    self.proposals
                        .step(&self.name, self.life, step, &self.agreed);
                }
            }
        }
    }

    fn timer(&mut self, timer: Timer) -> &mut Option<Instant> {
        match timer {
            Timer::Round => &mut self.round,
            Timer::Window => &mut self.window,
            Timer::Patience => &mut self.patience,
            Timer::Grace => &mut self.grace,
            Timer::Lease => &mut self.lease,
        }
    }

    /// Returns the streams that were closed because they read nothing.
    fn send(&mut self, to: &[StreamId], order: &Order) -> Vec<StreamId> {
        tracing::debug!(namespace = %self.name, operation = order.operation.as_str(), version = order.version,
            streams = to.len(), "Sending order");
        let mut full = Vec::new();
        for stream in to {
            let sent = self
                .outboxes
                .get(stream)
                .map_or(Ok(()), |outbox| outbox.send(order.frame.clone()));
            if sent.is_err() {
                full.push(*stream);
            }
        }
        for stream in &full {
            if let Some(outbox) = self.outboxes.remove(stream) {
                tracing::warn!(namespace = %self.name, stream = stream.0, "Closing a stream that does not read its orders");
                outbox.end(Status::resource_exhausted(
                    "stream does not read its orders",
                ));
            }
        }
        full
    }

    fn close_late(&mut self, stream: StreamId, version: u64) {
        if let Some(outbox) = self.outboxes.remove(&stream) {
            let timeout = GoDuration(self.settings.timeout);
            tracing::warn!(namespace = %self.name, stream = stream.0, version, "Closing a stream that held up a round for {timeout}");
            let text = format!("dissemination timeout after {timeout} for version {version}");
            outbox.end(Status::deadline_exceeded(text));
        }
    }

    fn refuse(&mut self, stream: StreamId, share: usize, room: usize) {
        tracing::warn!(namespace = %self.name, stream = stream.0, share, room, "Refusing a host the table has no room for");
        if let Some(outbox) = self.outboxes.remove(&stream) {
            let text = format!(
                "actor types take {share} bytes of the table, of whose {TABLE_LIMIT} other hosts of the namespace \
                 have left {room}: host fewer types or give them shorter names"
            );
            outbox.end(Status::resource_exhausted(text));
        }
    }

    /// Hosts change only together with the version.
    fn show(&mut self) {
        let version = self.rounds.version();
        if self.settings.shown && version != self.shown_version && self.rounds.is_agreed() {
            self.shown_version = version;
            self.shown
                .show(Table::new(version, self.rounds.hosts().sorted()));
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
