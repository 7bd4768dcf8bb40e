//! Many hosts, each a stream of its own, and a board that knows when all of them have the same table.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::stream::{Order, Stream};
use super::wire::{self, Seen};

/// The longest any table may take; upstream needs half a minute for a crowd of a thousand.
const PATIENCE: Duration = Duration::from_secs(180);
/// One host in so many decodes every order in full.
const IN_FULL: usize = 50;
/// An order of as many bytes has a table.
const TABLE: usize = 1 << 10;
/// Pause of a host between two replicas that both do not serve.
const RETRY: Duration = Duration::from_millis(10);

/// Hosts of one type, dealt out to one or more namespaces.
#[derive(Debug)]
pub struct Crowd {
    ports: Arc<[u16]>,
    /// One per namespace.
    boards: Vec<Arc<Board>>,
    hosts: JoinSet<Result<()>>,
    /// By host, what restarts it.
    restarts: Vec<Arc<Notify>>,
}

#[derive(Debug, Default)]
struct Board {
    /// How many hosts the table shall have.
    target: AtomicUsize,
    /// How many hosts serve with such a table.
    settled: AtomicUsize,
    /// How many of them are waited for.
    awaited: AtomicUsize,
    /// Counts tables that are not waited for any more.
    era: AtomicUsize,
    changed: Notify,
    blocked_micros: AtomicU64,
    /// The first host answers nothing from now on.
    silent: AtomicBool,
    /// The last table that was read.
    table: Mutex<Option<(Vec<u8>, Seen)>>,
}

impl Board {
    /// From here on so many hosts have to get a table of as many anew.
    fn begin(&self, hosts: usize) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.settled.store(0, Ordering::Release);
        self.target.store(hosts, Ordering::Release);
        self.awaited.store(hosts, Ordering::Release);
    }

    /// What an order says. All hosts get the same table, so it is read once and compared with what the others get.
    fn read(&self, order: &Order) -> Option<Seen> {
        if order.bytes() < TABLE {
            return wire::scan(&order.to_vec());
        }
        let mut table = self.table.lock();
        match &*table {
            Some((bytes, seen)) if order.is(bytes) => Some(seen.clone()),
            _ => {
                let bytes = order.to_vec();
                let seen = wire::scan(&bytes)?;
                *table = Some((bytes, seen.clone()));
                Some(seen)
            }
        }
    }

    async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.settled.load(Ordering::Acquire) >= self.awaited.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

impl Crowd {
    /// Nobody yet; hosts will go round these ports.
    pub fn new(ports: Vec<u16>) -> Self {
        Self::spread(ports, 1)
    }

    /// The same for hosts of so many namespaces.
    pub fn spread(ports: Vec<u16>, namespaces: usize) -> Self {
        Self {
            ports: ports.into(),
            boards: (0..namespaces).map(|_| Arc::default()).collect(),
            hosts: JoinSet::new(),
            restarts: Vec::new(),
        }
    }

    /// More hosts come, all at once. Returns when all serve with a table that has all of their namespace.
    pub async fn join(&mut self, more: usize) -> Result<()> {
        self.join_every(more, Duration::ZERO).await
    }

    /// As [`Crowd::join`], one host after the other.
    pub async fn join_every(&mut self, more: usize, pause: Duration) -> Result<()> {
        let mut clock = (!pause.is_zero()).then(|| interval(pause));
        let first = self.restarts.len();
        self.restarts.extend((0..more).map(|_| Arc::default()));
        self.expect_return();
        for (number, restart) in self.restarts.iter().enumerate().skip(first) {
            let namespace = number % self.boards.len();
            let place = Place {
                number,
                namespace: format!("ns-{namespace}"),
                ports: Arc::clone(&self.ports),
                restart: Arc::clone(restart),
            };
            let board = self.boards.get(namespace).context("no namespace")?;
            if let Some(clock) = &mut clock {
                clock.tick().await;
            }
            self.hosts.spawn(run(place, Arc::clone(board)));
        }
        self.settled().await
    }

    /// From here on everybody has to get the table anew.
    pub fn expect_return(&self) {
        for (namespace, board) in self.boards.iter().enumerate() {
            board.begin(self.population(namespace));
        }
    }

    /// How many there are in a namespace, without the silent one, which is closed and out of the table.
    fn population(&self, namespace: usize) -> usize {
        let hosts = self.restarts.len() + self.boards.len() - 1 - namespace;
        let silent = self
            .boards
            .get(namespace)
            .is_some_and(|board| board.silent.load(Ordering::Acquire));
        hosts / self.boards.len() - usize::from(silent)
    }

    /// Restarts a host and returns how long it took until all of its namespace had all again.
    pub async fn restart(&mut self, number: usize) -> Result<Duration> {
        let namespace = number % self.boards.len();
        let board = self.boards.get(namespace).context("no namespace")?;
        board.begin(self.population(namespace));
        let began = Instant::now();
        self.restarts.get(number).context("no host")?.notify_one();
        self.settled().await?;
        Ok(began.elapsed())
    }

    /// Waits until all serve with a table that has all.
    pub async fn settled(&mut self) -> Result<()> {
        let settled = async {
            for board in &self.boards {
                board.settled().await;
            }
        };
        tokio::select! {
            settled = timeout(PATIENCE, settled) => settled.context("hosts do not get their table"),
            Some(ended) = self.hosts.join_next() => match ended? {
                Ok(()) => bail!("a host ended"),
                Err(error) => Err(error),
            },
        }
    }

    /// The first host answers nothing any more.
    pub fn silence_one(&self) {
        if let Some(board) = self.boards.first() {
            board.silent.store(true, Ordering::Release);
        }
    }

    /// The time all hosts together have been blocked.
    pub fn blocked(&self) -> Duration {
        let boards = self.boards.iter();
        let micros = boards.map(|board| board.blocked_micros.load(Ordering::Acquire));
        Duration::from_micros(micros.sum())
    }

    /// Counts it from zero.
    pub fn forget_blocked(&self) {
        for board in &self.boards {
            board.blocked_micros.store(0, Ordering::Release);
        }
    }
}

/// Who a host is, and where it goes.
struct Place {
    number: usize,
    namespace: String,
    ports: Arc<[u16]>,
    restart: Arc<Notify>,
}

async fn run(place: Place, board: Arc<Board>) -> Result<()> {
    let mut next = 0;
    loop {
        let ports = &place.ports;
        let port = ports.get(next % ports.len()).context("no replicas")?;
        next += 1;
        // Whatever ends a stream, the host comes back; unless it was closed for being silent.
        drop(serve(&place, *port, &board).await);
        if place.number == 0 && board.silent.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve(place: &Place, port: u16, board: &Board) -> Result<()> {
    let number = place.number;
    let app = format!("app-{number}");
    let host = Host {
        name: format!(
            "10.{}.{}.{}:50002",
            number / 65536,
            number / 256 % 256,
            number % 256
        ),
        id: app.clone(),
        namespace: place.namespace.clone(),
        entities: vec!["Counter".to_owned()],
        operation: HostOperation::Report.into(),
        ..Host::default()
    };
    let mut stream = Stream::open(port, &host).await?;
    let mut restarted = pin!(place.restart.notified());
    let mut hosts = 0;
    let mut settled_in = None;
    let mut blocked_since = None;
    loop {
        let order = tokio::select! {
            biased;
            order = stream.next() => order?,
            () = &mut restarted => bail!("the host is restarted"),
        };
        if number == 0 && board.silent.load(Ordering::Acquire) {
            continue;
        }
        let seen = board.read(&order).context("not an order")?;
        if number.is_multiple_of(IN_FULL) && wire::decode(&order.to_vec()).as_ref() != Some(&seen) {
            bail!("an order reads differently in full");
        }
        let Seen {
            operation,
            version,
            hosts: listed,
        } = seen;
        let answer = match operation.as_str() {
            "lock" => {
                let era = board.era.load(Ordering::Acquire);
                if settled_in.take() == Some(era) {
                    board.settled.fetch_sub(1, Ordering::AcqRel);
                }
                HostOperation::Lock
            }
            "update" => {
                hosts = listed;
                blocked_since = Some(Instant::now());
                HostOperation::Update
            }
            "unlock" => {
                if let Some(since) = blocked_since.take() {
                    let micros = u64::try_from(since.elapsed().as_micros())?;
                    board.blocked_micros.fetch_add(micros, Ordering::AcqRel);
                }
                if hosts == board.target.load(Ordering::Acquire) {
                    settled_in = Some(board.era.load(Ordering::Acquire));
                    board.settled.fetch_add(1, Ordering::AcqRel);
                    board.changed.notify_waiters();
                }
                HostOperation::Unlock
            }
            other => bail!("order {other:?}"),
        };
        stream.send(&Host {
            id: app.clone(),
            namespace: place.namespace.clone(),
            operation: answer.into(),
            version: Some(version),
            ..Host::default()
        })?;
    }
}
