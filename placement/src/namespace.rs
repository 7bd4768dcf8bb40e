//! The owner of one namespace: a task that feeds [`Rounds`] and carries out what they decide.
//!
//! It lives as long as somebody holds a sender for it, which is every stream of the namespace.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use dapr_kit::duration::GoDuration;
use dapr_proto::dapr::proto::placement::v1::Host;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::dissemination::{Action, Coalescing, Event, Rounds, StreamId, Timer};
use crate::state::{Shown, Table};
use crate::stream::Outbox;
use crate::table::Order;
use crate::term::Term;

/// How rounds run; the same for all namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Virtual nodes per host; sidecars need it for their ring.
    pub(crate) replication_factor: i64,
    /// Limit for one whole round.
    pub(crate) timeout: Duration,
    /// Pause after a round; zero is none.
    pub(crate) window: Duration,
    /// Whether tables are shown on `/placement/state`.
    pub(crate) shown: bool,
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
    /// Where the table is shown, and the version that is.
    shown: Shown,
    shown_version: u64,
}

impl Owner {
    pub(crate) fn new(name: String, settings: Settings, shown: Shown) -> Self {
        let coalescing = if settings.window.is_zero() {
            Coalescing::Off
        } else {
            Coalescing::On
        };
        Self {
            name,
            rounds: Rounds::new(settings.replication_factor, coalescing),
            settings,
            outboxes: HashMap::new(),
            round: None,
            window: None,
            shown,
            shown_version: 0,
        }
    }

    /// Works until the last sender is gone or the term ends.
    pub(crate) async fn run(mut self, term: Arc<Term>, mut messages: mpsc::Receiver<Message>) {
        loop {
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
            for action in self.rounds.handle(event) {
                match action {
                    Action::Send { to, order } => {
                        events.extend(self.send(&to, &order).into_iter().map(Event::Disconnected));
                    }
                    Action::Close { stream, version } => self.close_late(stream, version),
                    Action::Arm(Timer::Round) => {
                        self.round = Some(Instant::now() + self.settings.timeout)
                    }
                    Action::Arm(Timer::Window) => {
                        self.window = Some(Instant::now() + self.settings.window)
                    }
                    Action::Disarm(Timer::Round) => self.round = None,
                    Action::Disarm(Timer::Window) => self.window = None,
                }
            }
        }
        self.show();
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
                .map_or(Ok(()), |outbox| outbox.send(order.bytes.clone()));
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

    /// Hosts change only together with the version.
    fn show(&mut self) {
        let version = self.rounds.version();
        if self.settings.shown && version != self.shown_version {
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
