//! The task behind a resolver: it owns the sockets, answers questions and runs the browses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::{Error, ErrorKind};
use hickory_proto::op::{Message, MessageType};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::browsing::{Browsing, Waiter};
use crate::cache::Cache;
use crate::findings::{self, Finding};
use crate::interfaces::{self, Interface};
use crate::link::{Family, Link, PORT};
use crate::service::{self, Announcement, Querier, Service};

/// How often known apps are asked for again, and interfaces looked for.
const REFRESH: Duration = Duration::from_secs(30);
/// From the first to the second announcement.
const SECOND_ANNOUNCEMENT: Duration = Duration::from_secs(1);
/// Received packets that may wait; the kernel's buffers hold the rest.
const PACKETS: usize = 128;
/// The largest packet of multicast DNS.
const PACKET_SIZE: usize = 9000;
/// After an error of a socket, so that one which always fails does not keep a core busy.
const PAUSE: Duration = Duration::from_secs(1);

/// What a resolver asks of its engine.
#[derive(Debug)]
pub(crate) enum Command {
    LookUp {
        app_id: String,
        waiter: Waiter,
    },
    /// An instance could not be called: where is the app now?
    LookAgain {
        app_id: String,
    },
    /// Says goodbye and ends; the channel ends with it.
    Close(oneshot::Sender<()>),
}

type Place = (Interface, Family);

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    from: SocketAddr,
    place: Place,
}

#[derive(Debug)]
struct Open {
    link: Arc<Link>,
    receiving: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

/// The state of the task.
#[derive(Debug)]
pub(crate) struct Engine {
    service: Service,
    cache: Arc<Mutex<Cache>>,
    browsing: Browsing,
    links: BTreeMap<Place, Open>,
    packets: mpsc::Sender<Packet>,
}

/// Starts the task. It ends when the sender of `commands` is dropped, or with [`Command::Close`].
pub(crate) fn start(
    service: Service,
    cache: Arc<Mutex<Cache>>,
    commands: mpsc::Receiver<Command>,
) -> Result<JoinHandle<()>, Error> {
    let (packets, received) = mpsc::channel(PACKETS);
    let mut engine = Engine {
        service,
        cache,
        browsing: Browsing::default(),
        links: BTreeMap::new(),
        packets,
    };
    let failures = engine.open_links();
    if engine.links.is_empty() {
        let text = format!(
            "failed to open an mDNS socket on port {PORT}: {}",
            failures.join("; ")
        );
        return Err(Error::new(ErrorKind::Unavailable, text));
    }
    Ok(tokio::spawn(engine.run(commands, received)))
}

impl Engine {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut received: mpsc::Receiver<Packet>,
    ) {
        let mut announce_at = Some(Instant::now() + SECOND_ANNOUNCEMENT);
        let mut refresh_at = Instant::now() + REFRESH;
        self.announce(Announcement::Hello).await;
        let closed = loop {
            let timers = [Some(refresh_at), announce_at, self.browsing.next()];
            let wake_at = timers.into_iter().flatten().min().unwrap_or(refresh_at);
            tokio::select! {
                command = commands.recv() => match command {
                    // The time after the wait: a lookup after a long silence has all its time, too.
                    Some(Command::LookUp { app_id, waiter }) => self.look_up(&app_id, waiter, Instant::now()),
                    Some(Command::LookAgain { app_id }) => self.browsing.refresh(&app_id, Instant::now()),
                    Some(Command::Close(closed)) => break Some(closed),
                    None => break None,
                },
                Some(packet) = received.recv() => self.receive(packet).await,
                () = tokio::time::sleep_until(wake_at) => {}
            }
            let now = Instant::now();
            if announce_at.is_some_and(|at| at <= now) {
                announce_at = None;
                self.announce(Announcement::Hello).await;
            }
            if refresh_at <= now {
                refresh_at = now + REFRESH;
                self.refresh(now).await;
            }
            self.ask(now).await;
        };
        self.announce(Announcement::Goodbye).await;
        drop(closed);
    }

    /// Opens links on new interfaces and closes those whose interface is gone; returns what failed.
    fn open_links(&mut self) -> Vec<String> {
        let interfaces = interfaces::list();
        self.links
            .retain(|(interface, _), _| interfaces.contains(interface));
        let mut failures = Vec::new();
        for interface in interfaces {
            for family in [Family::V4, Family::V6] {
                let place = (interface.clone(), family);
                if self.links.contains_key(&place) {
                    continue;
                }
                match Link::open(&interface, family) {
                    Ok(link) => self.add(place, link),
                    Err(error) => {
                        tracing::debug!(?interface, ?family, %error, "no mDNS here");
                        failures.push(error.to_string());
                    }
                }
            }
        }
        failures
    }

    fn add(&mut self, place: Place, link: Link) {
        let link = Arc::new(link);
        let receiving = tokio::spawn(receive(
            Arc::clone(&link),
            place.clone(),
            self.packets.clone(),
        ));
        self.links.insert(place, Open { link, receiving });
    }

    fn look_up(&mut self, app_id: &str, waiter: Waiter, now: Instant) {
        let mut cache = self.cache.lock();
        // Another lookup may have been answered while this one was queued.
        if let Some(address) = cache.pick(app_id, now) {
            drop(waiter.send(Ok(address))); // Who has given up needs no answer.
            return;
        }
        cache.track(app_id);
        self.browsing.look_up(app_id, waiter, now);
    }

    async fn receive(&mut self, packet: Packet) {
        let Ok(message) = Message::from_vec(&packet.bytes) else {
            return;
        };
        match message.metadata.message_type {
            MessageType::Response => self.learn(&message),
            MessageType::Query => self.answer(&message, &packet).await,
        }
    }

    fn learn(&mut self, message: &Message) {
        let now = Instant::now();
        for finding in findings::read(message) {
            self.cache.lock().learn(&finding, now);
            if let Finding::Seen {
                app_id, address, ..
            } = &finding
            {
                self.browsing.found(app_id, *address, now);
            }
        }
    }

    async fn answer(&self, query: &Message, packet: &Packet) {
        let Some(Open { link, .. }) = self.links.get(&packet.place) else {
            return;
        };
        let (querier, to) = match packet.from.port() {
            PORT => (Querier::Multicast, link.group),
            _ => (Querier::Legacy, packet.from),
        };
        let Some(answer) = self.service.answer(query, querier) else {
            return;
        };
        match service::encode(&answer) {
            Ok(bytes) => send(link, &bytes, to).await,
            Err(error) => tracing::debug!(%error, "a question is left unanswered"),
        }
    }

    async fn announce(&self, announcement: Announcement) {
        match self.service.announcement(announcement) {
            Ok(bytes) => self.send_everywhere(&bytes).await,
            Err(error) => tracing::error!(%error, "cannot announce this sidecar"),
        }
    }

    async fn refresh(&mut self, now: Instant) {
        let known = self.links.len();
        let failures = self.open_links();
        if self.links.len() > known {
            tracing::debug!(links = self.links.len(), ?failures, "new interfaces");
            self.announce(Announcement::Hello).await;
        }
        self.cache
            .lock()
            .prune(now, |app_id| self.browsing.contains(app_id));
        let apps = self.cache.lock().apps();
        for app_id in apps {
            self.browsing.refresh(&app_id, now);
        }
    }

    async fn ask(&mut self, now: Instant) {
        for app_id in self.browsing.due(now) {
            match service::question(&app_id) {
                Ok(bytes) => self.send_everywhere(&bytes).await,
                Err(error) => self.browsing.fail(&app_id, &error),
            }
        }
    }

    async fn send_everywhere(&self, bytes: &[u8]) {
        for Open { link, .. } in self.links.values() {
            send(link, bytes, link.group).await;
        }
    }
}

/// An interface without an address or route is no reason to stop: the others may have one.
async fn send(link: &Link, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = link.socket.send_to(bytes, to).await {
        tracing::debug!(%to, %error, "mDNS packet not sent");
    }
}

/// Hands packets to the engine until that is gone.
async fn receive(link: Arc<Link>, place: Place, packets: mpsc::Sender<Packet>) {
    let mut buffer = vec![0; PACKET_SIZE];
    loop {
        match link.socket.recv_from(&mut buffer).await {
            Ok((size, from)) => {
                let packet = Packet {
                    bytes: buffer[..size].to_vec(),
                    from,
                    place: place.clone(),
                };
                if packets.send(packet).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(?place, %error, "receiving mDNS packets failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
