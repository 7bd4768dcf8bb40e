//! The client of placement: one stream at a time, orders through the pure core, effects on the runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dapr_proto::dapr::proto::placement::v1 as proto;
use dapr_sidecar_core::body::BoxError;
use futures::{StreamExt as _, TryStreamExt as _};
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::directory::is_local;
use crate::dissemination::{Answer, Dissemination, Effect, Order, Violation};
use crate::ring::Host;
use crate::settings::{Dialer, Discovery, Settings};
use crate::shared::Shared;

/// Level this sidecar reports; upstream's 1.18 reports the same.
const API_LEVEL: u32 = 20;

/// Messages on their way out: a round needs three, so a full channel is a server that does not read.
const OUTGOING: usize = 16;

/// Of failures in a row the first is a warning, then every so many; the others are for debugging.
const WARN_EVERY: u32 = 60;

/// Pause after a failed dial or opening, in milliseconds.
const JITTER: std::ops::Range<u64> = 250..750;

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot find the addresses of {address}")]
    Resolve {
        address: String,
        source: std::io::Error,
    },
    #[error("cannot connect to {address}")]
    Dial { address: String, source: BoxError },
    #[error("stream failed: {}", status.message())]
    Stream {
        status: Box<tonic::Status>,
        reached: Reached,
    },
    #[error("stream was ended by the server")]
    Server { reached: Reached },
    #[error("orders of the server break the protocol")]
    Violation(#[from] Violation),
    #[error("dissemination took longer than {0:?}")]
    Timeout(Duration),
    #[error("the server does not read")]
    Stalled,
    #[error("the runtime stops")]
    Stopped,
}

/// How far a stream got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// The connection failed before the server said anything.
    Nobody,
    /// The server took the stream, or said itself why not.
    Server,
    /// An order came.
    Orders,
}

impl Reached {
    fn or_server(self, is_there: bool) -> Self {
        match self {
            Self::Nobody if is_there => Self::Server,
            reached => reached,
        }
    }
}

/// What to do after a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Orders came: the next address is tried at once.
    None,
    /// The server was there, but has ordered nothing: at once as well, but not round and round without a pause.
    Around,
    Jitter,
}

impl Ended {
    fn pause(&self) -> Pause {
        match self {
            Self::Resolve { .. } | Self::Dial { .. } => Pause::Jitter,
            Self::Stream { reached, .. } | Self::Server { reached } => match reached {
                Reached::Nobody => Pause::Jitter,
                Reached::Server => Pause::Around,
                Reached::Orders => Pause::None,
            },
            Self::Violation(_) | Self::Timeout(_) | Self::Stalled | Self::Stopped => Pause::None,
        }
    }

    /// Whether another replica leads, which is nothing to worry about.
    fn is_redirect(&self) -> bool {
        matches!(self, Self::Stream { status, .. }
            if status.code() == tonic::Code::FailedPrecondition
                && status.message().contains("is not a leader"))
    }
}

/// Keeps a stream to placement until `stop`.
pub(crate) async fn run(shared: &Shared, stop: CancellationToken) {
    let mut addresses = Addresses::new(&shared.settings);
    let mut fruitless = 0;
    let mut failures = 0u32;
    while !stop.is_cancelled() {
        let ended = connect(shared, &mut addresses, &stop).await;
        if matches!(ended, Ended::Stopped) {
            return;
        }
        let pause = ended.pause();
        failures = match pause {
            Pause::None => 0,
            Pause::Around | Pause::Jitter if ended.is_redirect() => failures,
            Pause::Around | Pause::Jitter => failures.wrapping_add(1),
        };
        log(&ended, failures);
        shared.lost_placement().await;
        fruitless = if pause == Pause::Around {
            fruitless + 1
        } else {
            0
        };
        if pause == Pause::Jitter || is_breath(fruitless, addresses.count()) {
            let millis = rand::rng().random_range(JITTER);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(millis)) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// A cluster in election redirects everybody, and a server may refuse for good: after the first time around the
/// addresses, where upstream never does, there is a breath each time.
fn is_breath(fruitless: usize, addresses: usize) -> bool {
    fruitless > addresses && fruitless.is_multiple_of(addresses)
}

fn log(ended: &Ended, failures: u32) {
    let error = ended as &dyn std::error::Error;
    if ended.is_redirect() {
        tracing::debug!("placement server is not the leader");
    } else if failures % WARN_EVERY <= 1 {
        tracing::warn!(error, "stream to placement is over, connecting again");
    } else {
        tracing::debug!(error, "stream to placement is over, connecting again");
    }
}

async fn connect(shared: &Shared, addresses: &mut Addresses, stop: &CancellationToken) -> Ended {
    let dial = async {
        let address = addresses.next().await?;
        let dialer: &Arc<dyn Dialer> = &shared.settings.dialer;
        match dialer.connect(&address).await {
            Ok(channel) => Ok((channel, address)),
            Err(source) => Err(Ended::Dial { address, source }),
        }
    };
    let dialed = tokio::select! {
        dialed = dial => dialed,
        () = stop.cancelled() => return Ended::Stopped,
    };
    match dialed {
        Ok((channel, address)) => {
            tracing::debug!(address, "reporting to placement");
            Stream::new(shared).run(channel, stop).await
        }
        Err(ended) => ended,
    }
}

/// Walks the addresses, one per connection.
struct Addresses {
    list: Vec<String>,
    discovery: Discovery,
    turn: usize,
    found: usize,
}

impl Addresses {
    fn new(settings: &Settings) -> Self {
        Self {
            list: settings.placement_addresses.clone(),
            discovery: settings.discovery,
            turn: 0,
            found: 1,
        }
    }

    /// How many there are to walk.
    fn count(&self) -> usize {
        match self.discovery {
            Discovery::List => self.list.len().max(1),
            Discovery::Dns => self.found.max(1),
        }
    }

    async fn next(&mut self) -> Result<String, Ended> {
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        match self.discovery {
            Discovery::List => Ok(self.list[turn % self.count()].clone()),
            Discovery::Dns => {
                let address = self.list[0].clone();
                let found = tokio::net::lookup_host(&address).await;
                let found = found.map(Iterator::collect::<Vec<SocketAddr>>);
                let ips = match found {
                    Ok(ips) => in_order(ips),
                    Err(source) => return Err(Ended::Resolve { address, source }),
                };
                self.found = ips.len();
                let chosen = ips.get(turn % ips.len().max(1));
                Ok(chosen.map_or(address, ToString::to_string))
            }
        }
    }
}

/// Resolvers shuffle; a walk needs an order.
fn in_order(mut ips: Vec<SocketAddr>) -> Vec<SocketAddr> {
    ips.sort();
    ips.dedup();
    ips
}

/// One stream.
struct Stream<'a> {
    shared: &'a Shared,
    rounds: Dissemination,
    deadline: Option<Instant>,
    outgoing: Option<mpsc::Sender<proto::Host>>,
    reached: Reached,
}

impl<'a> Stream<'a> {
    fn new(shared: &'a Shared) -> Self {
        // The last table seen, so that rings need not be built again.
        let table = Arc::clone(&shared.directory().view().table);
        Self {
            shared,
            rounds: Dissemination::new(table),
            deadline: None,
            outgoing: None,
            reached: Reached::Nobody,
        }
    }

    async fn run(&mut self, channel: Channel, stop: &CancellationToken) -> Ended {
        let (outgoing, receiver) = mpsc::channel(OUTGOING);
        self.outgoing = Some(outgoing);
        let mut types = self.shared.hosts().reported();
        if let Err(ended) = self.report(&mut types) {
            return ended;
        }
        let mut client = proto::placement_client::PlacementClient::new(channel)
            .max_decoding_message_size(usize::MAX);
        // A parked stream gets no headers until its round, so opening is part of the loop below.
        let open = async move {
            client
                .report_dapr_status(ReceiverStream::new(receiver))
                .await
        };
        let opened = AtomicBool::new(false);
        let orders = futures::stream::once(open)
            .map_ok(|response| {
                opened.store(true, Ordering::Relaxed);
                self.shared
                    .directory()
                    .publish(|view| view.connected = true);
                response.into_inner()
            })
            .try_flatten();
        let mut orders = std::pin::pin!(orders.fuse());
        loop {
            let result = tokio::select! {
                order = orders.next() => match order {
                    Some(Ok(order)) => self.obey(order).await,
                    Some(Err(status)) => {
                        use std::error::Error as _;
                        // What broke on the way here has a source, and what the server says has none.
                        let is_said = opened.load(Ordering::Relaxed) || status.source().is_none();
                        Err(Ended::Stream {
                            reached: self.reached.or_server(is_said),
                            status: Box::new(status),
                        })
                    }
                    None => Err(Ended::Server { reached: self.reached.or_server(true) }),
                },
                // The sender lives as long as the runtime.
                Ok(()) = types.changed() => self.report(&mut types),
                () = sleep_until(self.deadline) => {
                    Err(Ended::Timeout(self.shared.settings.disseminate_timeout))
                }
                () = stop.cancelled() => Err(Ended::Stopped),
            };
            if let Err(ended) = result {
                return ended;
            }
        }
    }

    fn report(&self, types: &mut watch::Receiver<Vec<Arc<str>>>) -> Result<(), Ended> {
        let types = types.borrow_and_update().clone();
        for actor_type in &types {
            self.shared.settings.metrics.reported(actor_type);
        }
        let settings = &self.shared.settings;
        #[expect(deprecated, reason = "upstream's daprd fills it as well")]
        self.send(proto::Host {
            name: settings.own_address.clone(),
            entities: types.iter().map(|name| (**name).to_owned()).collect(),
            id: settings.app_id.clone(),
            api_level: API_LEVEL,
            namespace: settings.namespace.clone(),
            operation: proto::HostOperation::Report.into(),
            ..proto::Host::default()
        })
    }

    fn send(&self, host: proto::Host) -> Result<(), Ended> {
        match &self.outgoing {
            Some(outgoing) => outgoing.try_send(host).map_err(|_| Ended::Stalled),
            None => Ok(()),
        }
    }

    async fn obey(&mut self, order: proto::PlacementOrder) -> Result<(), Ended> {
        self.reached = Reached::Orders;
        for hosted in &self.shared.hosts().all().order {
            self.shared
                .settings
                .metrics
                .ordered(&hosted.name, &order.operation);
        }
        let order = convert(order, &self.shared.settings.own_address);
        for effect in self.rounds.order(order) {
            self.perform(effect).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, effect: Effect) -> Result<(), Ended> {
        match effect {
            Effect::StartTimer => {
                let limit = self.shared.settings.disseminate_timeout;
                self.deadline = Some(Instant::now() + limit);
                Ok(())
            }
            Effect::StopTimer => {
                self.deadline = None;
                Ok(())
            }
            Effect::Install { table, changed } => {
                self.shared.install(table, &changed).await;
                let (answer, version) = self.rounds.installed();
                self.answer(answer, version)
            }
            Effect::Unblock => {
                self.shared.unblock();
                Ok(())
            }
            Effect::Answer { answer, version } => self.answer(answer, version),
            Effect::Close(violation) => Err(Ended::Violation(violation)),
        }
    }

    fn answer(&self, answer: Answer, version: u64) -> Result<(), Ended> {
        let operation = match answer {
            Answer::Lock => proto::HostOperation::Lock,
            Answer::Update => proto::HostOperation::Update,
            Answer::Unlock => proto::HostOperation::Unlock,
        };
        self.send(proto::Host {
            id: self.shared.settings.app_id.clone(),
            namespace: self.shared.settings.namespace.clone(),
            operation: operation.into(),
            version: Some(version),
            ..proto::Host::default()
        })
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// An order as the core reads it. Old servers put the version into the tables.
fn convert(order: proto::PlacementOrder, own_address: &str) -> Order {
    let tables = order.tables.unwrap_or_default();
    #[expect(
        deprecated,
        reason = "the fallback for servers before the order's own version"
    )]
    let version = match order.version {
        0 => tables.version.parse().unwrap_or(0),
        version => version,
    };
    match order.operation.as_str() {
        "lock" => Order::Lock { version },
        "update" => Order::Update {
            version,
            entries: tables
                .entries
                .into_iter()
                .map(|(actor_type, table)| (actor_type.into(), hosts(table, own_address)))
                .collect(),
            replication: tables.replication_factor,
        },
        "unlock" => Order::Unlock { version },
        _ => Order::Unknown(order.operation),
    }
}

fn hosts(table: proto::PlacementTable, own_address: &str) -> Vec<Host> {
    table
        .load_map
        .into_iter()
        .map(|(name, host)| Host {
            local: is_local(&name, own_address),
            name: name.into(),
            app_id: host.id.into(),
            port: host.port,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_order_or_the_tables() {
        let check = |version: u64, text: &str, expected: u64| {
            #[expect(deprecated, reason = "old servers are the point")]
            let tables = proto::PlacementTables {
                version: text.to_owned(),
                ..proto::PlacementTables::default()
            };
            let order = proto::PlacementOrder {
                tables: Some(tables),
                operation: "lock".to_owned(),
                version,
            };
            assert_eq!(convert(order, "h:1"), Order::Lock { version: expected });
        };
        check(7, "3", 7);
        check(0, "3", 3);
        check(0, "x", 0);
    }

    #[tokio::test]
    async fn addresses_are_used_in_turn() {
        let check = async |discovery: Discovery, list: &[&str], expected: &[&str]| {
            let mut addresses = Addresses {
                list: list.iter().map(|address| (*address).to_owned()).collect(),
                discovery,
                turn: 0,
                found: 1,
            };
            for expected in expected {
                assert_eq!(addresses.next().await.expect("found"), *expected);
            }
        };
        check(Discovery::List, &["a:1", "b:1"], &["a:1", "b:1", "a:1"]).await;
        check(
            Discovery::Dns,
            &["127.0.0.1:1", "b:1"],
            &["127.0.0.1:1", "127.0.0.1:1"],
        )
        .await;
    }

    #[test]
    fn all_ips_of_a_name_are_walked() {
        let ips = |texts: &[&str]| -> Vec<SocketAddr> {
            let ips = texts.iter().map(|text| text.parse().expect("an address"));
            ips.collect()
        };
        let shuffled = ips(&[
            "10.0.0.3:1",
            "10.0.0.1:1",
            "[::1]:1",
            "10.0.0.2:1",
            "10.0.0.1:1",
        ]);
        let expected = ips(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[::1]:1"]);
        assert_eq!(in_order(shuffled), expected);
    }

    #[tokio::test]
    async fn a_name_that_is_not_found_is_asked_for_again_after_a_pause() {
        let mut addresses = Addresses {
            list: vec!["without a port".to_owned()],
            discovery: Discovery::Dns,
            turn: 0,
            found: 1,
        };
        let ended = addresses.next().await.expect_err("no address");
        assert!(matches!(ended, Ended::Resolve { .. }), "{ended}");
        assert_eq!(ended.pause(), Pause::Jitter);
    }

    #[test]
    fn pauses() {
        let stream = |code, message: &str, reached| Ended::Stream {
            status: Box::new(tonic::Status::new(code, message)),
            reached,
        };
        let check = |ended: Ended, expected: Pause, is_redirect: bool| {
            assert_eq!(ended.pause(), expected, "{ended}");
            assert_eq!(ended.is_redirect(), is_redirect, "{ended}");
        };
        let text = "node id=a is not a leader. Only the leader can serve requests";
        let redirect = stream(
            tonic::Code::FailedPrecondition,
            text,
            Reached::Nobody.or_server(true),
        );
        check(redirect, Pause::Around, true);
        let unavailable = |reached| stream(tonic::Code::Unavailable, "refused", reached);
        check(unavailable(Reached::Nobody), Pause::Jitter, false);
        check(unavailable(Reached::Server), Pause::Around, false);
        let over = stream(tonic::Code::Unknown, "EOF", Reached::Orders.or_server(true));
        check(over, Pause::None, false);
        let ended = |reached| Ended::Server { reached };
        check(ended(Reached::Server), Pause::Around, false);
        check(ended(Reached::Orders), Pause::None, false);
    }

    #[test]
    fn streams_without_an_order_are_opened_at_once_for_one_time_around() {
        let check = |addresses: usize, expected: &[usize]| {
            let breaths: Vec<usize> = (0..10).filter(|n| is_breath(*n, addresses)).collect();
            assert_eq!(breaths, expected, "{addresses}");
        };
        check(1, &[2, 3, 4, 5, 6, 7, 8, 9]);
        check(3, &[6, 9]);
    }
}
