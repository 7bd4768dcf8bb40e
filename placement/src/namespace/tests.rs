//! What the others wait for when one falls silent, on a paused clock: what takes time here was waited for.

use std::collections::BTreeMap;

use dapr_proto::dapr::proto::placement::v1::{HostOperation, PlacementOrder};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prost::Message as _;
use tokio_util::task::TaskTracker;

use super::*;
use crate::metrics::Metrics;
use crate::stream::{self, Orders};
use crate::term::Lead;

const TIMEOUT: Duration = Duration::from_secs(8);
const FEW: u64 = 100;

/// What one does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// It answers nothing any more.
    Silent,
    /// It answers `lock` and nothing after it.
    LocksOnly,
}

#[derive(Debug, Default)]
struct Board {
    /// The version each stream serves with.
    unlocked: BTreeMap<u64, u64>,
    /// For how long each stream held back calls for the types that changed.
    blocked: BTreeMap<u64, Duration>,
    moods: BTreeMap<u64, Mood>,
    ended: Vec<u64>,
}

struct Crowd {
    term: Arc<Term>,
    namespace: mpsc::Sender<Message>,
    board: Arc<Mutex<Board>>,
    sidecars: TaskTracker,
    last: u64,
}

fn host(stream: u64, entity: &str) -> Host {
    Host {
        name: format!("h{stream}:1"),
        id: format!("app-{stream}"),
        namespace: "n".to_owned(),
        entities: vec![entity.to_owned()],
        operation: HostOperation::Report.into(),
        ..Host::default()
    }
}

/// Obeys the orders of one stream until it ends.
async fn obey(
    number: u64,
    mut orders: Orders,
    namespace: mpsc::Sender<Message>,
    board: Arc<Mutex<Board>>,
) {
    let mut since = Instant::now();
    while let Some(Ok(frame)) = orders.frame().await {
        let Ok(frame) = frame.into_data() else { break };
        let order = PlacementOrder::decode(&frame[5..]).expect("orders decode");
        let mood = board.lock().moods.get(&number).copied();
        let operation = match (mood.unwrap_or(Mood::Well), order.operation.as_str()) {
            (Mood::Silent, _) | (Mood::LocksOnly, "update" | "unlock") => continue,
            (_, "lock") => HostOperation::Lock,
            (_, "update") => {
                since = Instant::now();
                HostOperation::Update
            }
            _ => {
                let mut board = board.lock();
                *board.blocked.entry(number).or_default() += since.elapsed();
                board.unlocked.insert(number, order.version);
                HostOperation::Unlock
            }
        };
        let answer = Host {
            operation: operation.into(),
            version: Some(order.version),
            entities: Vec::new(),
            ..host(number, "")
        };
        let stream = StreamId(number);
        let answer = Message::Report {
            stream,
            host: answer,
        };
        if namespace.send(answer).await.is_err() {
            break;
        }
    }
    board.lock().ended.push(number);
}

impl Crowd {
    fn start() -> Self {
        let settings = Settings {
            replication_factor: 100,
            timeout: TIMEOUT,
            window: Duration::ZERO,
            lease: Duration::from_secs(5),
            shown: false,
        };
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("names are valid");
        let term = Term::start(settings, metrics, TaskTracker::new(), &Lead::alone());
        Self::of(term, "n")
    }

    fn of(term: Arc<Term>, namespace: &str) -> Self {
        Self {
            namespace: term.namespace(namespace),
            term,
            board: Arc::default(),
            sidecars: TaskTracker::new(),
            last: 0,
        }
    }

    /// Another namespace of the same term.
    fn beside(&self, namespace: &str) -> Self {
        Self::of(Arc::clone(&self.term), namespace)
    }

    async fn join(&mut self, entity: &str) -> u64 {
        self.last += 1;
        let number = self.last;
        let (outbox, orders, _) = stream::channel();
        let stream = StreamId(number);
        let host = host(number, entity);
        let connected = Message::Connected {
            stream,
            host,
            outbox,
        };
        self.namespace.send(connected).await.expect("it lives");
        let (namespace, board) = (self.namespace.clone(), Arc::clone(&self.board));
        self.sidecars.spawn(obey(number, orders, namespace, board));
        number
    }

    /// A hundred hosts of nine types, and one that will fall silent.
    async fn with(mood: Mood, entity: &str) -> (Self, u64) {
        let mut crowd = Self::start();
        for number in 1..FEW {
            crowd.join(&format!("t{}", number % 9)).await;
        }
        let silent = crowd.join(entity).await;
        crowd.settled(None).await;
        let mut board = crowd.board.lock();
        board.moods.insert(silent, mood);
        board.blocked.clear();
        drop(board);
        (crowd, silent)
    }

    /// Waits until all but one serve with one version, which the last one does too.
    async fn settled(&self, but: Option<u64>) -> Duration {
        let began = Instant::now();
        let is_settled = || {
            let board = self.board.lock();
            let mut waited_for = (1..=self.last).filter(|number| Some(*number) != but);
            let version = board.unlocked.get(&self.last);
            version.is_some() && waited_for.all(|number| board.unlocked.get(&number) == version)
        };
        while !is_settled() {
            assert!(began.elapsed() < 3 * TIMEOUT, "all serve in time");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }

    /// All fall silent.
    fn silence(&self) {
        let mut board = self.board.lock();
        for number in 1..=self.last {
            board.moods.insert(number, Mood::Silent);
        }
    }

    /// The longest any was blocked since the beginning.
    fn blocked(&self) -> Duration {
        let board = self.board.lock();
        board.blocked.values().max().copied().unwrap_or_default()
    }
}

/// What the test itself takes to look.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn a_silent_bystander_blocks_nobody() {
    let (mut crowd, silent) = Crowd::with(Mood::Silent, "s").await;
    let fell_silent = Instant::now();
    crowd.join("t0").await;
    assert!(crowd.settled(Some(silent)).await <= PATIENCE + LOOK);
    // It is not waited for a second time.
    crowd.join("t1").await;
    assert!(crowd.settled(Some(silent)).await <= LOOK);
    // Its time is that of a round, like before.
    let gone = async || {
        while crowd.board.lock().ended.is_empty() {
            assert!(fell_silent.elapsed() < 2 * TIMEOUT, "it is closed in time");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    gone().await;
    assert!(fell_silent.elapsed() >= TIMEOUT);
    assert_eq!(crowd.board.lock().ended, [silent]);
    assert!(crowd.settled(Some(silent)).await <= LOOK);
    assert_eq!(crowd.blocked(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_of_the_type_keeps_newcomers_out_and_blocks_nobody() {
    // Nobody can say whether its actors still run, so its types cannot move before it is closed.
    let (mut crowd, silent) = Crowd::with(Mood::Silent, "t0").await;
    crowd.join("t0").await;
    let took = crowd.settled(Some(silent)).await;
    assert!(took >= TIMEOUT && took <= TIMEOUT + LOOK, "{took:?}");
    assert_eq!(crowd.blocked(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_bystander_that_falls_silent_in_a_round_blocks_for_a_moment() {
    let (mut crowd, silent) = Crowd::with(Mood::LocksOnly, "s").await;
    crowd.join("t0").await;
    assert!(crowd.settled(Some(silent)).await <= PATIENCE + LOOK);
    assert!(crowd.blocked() <= PATIENCE + LOOK);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_hosts_are_all_silent_delays_no_other() {
    let (mut slow, _) = Crowd::with(Mood::Silent, "s").await;
    slow.silence();
    let fell_silent = Instant::now();
    slow.join("t0").await;
    let mut other = slow.beside("m");
    while fell_silent.elapsed() < TIMEOUT / 2 {
        other.join("t0").await;
        let took = other.settled(None).await;
        assert!(took <= LOOK, "{took:?}");
        tokio::time::sleep(TIMEOUT / 40).await;
    }
    assert_eq!(other.blocked(), Duration::ZERO);
    let is_in = slow.board.lock().unlocked.contains_key(&slow.last);
    assert!(!is_in, "the slow one is in its round all the time");
}
