//! Many hosts, each a stream of its own, and a board that knows when all of them have the same table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};
use http::uri::PathAndQuery;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Endpoint;

use super::wire::{self, Raw, Seen};

/// The longest any table may take; upstream needs half a minute for a crowd of a thousand.
const PATIENCE: Duration = Duration::from_secs(180);
/// One host in so many decodes every order in full.
const IN_FULL: usize = 50;
/// Pause of a host between two replicas that both do not serve.
const RETRY: Duration = Duration::from_millis(10);
const REPORT_DAPR_STATUS: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";

/// Hosts of one type.
#[derive(Debug)]
pub struct Crowd {
    ports: Arc<[u16]>,
    board: Arc<Board>,
    hosts: JoinSet<Result<()>>,
    count: usize,
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
}

impl Crowd {
    /// Nobody yet; hosts will go round these ports.
    pub fn new(ports: Vec<u16>) -> Self {
        Self {
            ports: ports.into(),
            board: Arc::default(),
            hosts: JoinSet::new(),
            count: 0,
        }
    }

    /// More hosts come, all at once. Returns when all serve with a table that has all.
    pub async fn join(&mut self, more: usize) -> Result<()> {
        let first = self.count;
        self.count += more;
        self.begin();
        for number in first..self.count {
            self.hosts.spawn(run(
                number,
                Arc::clone(&self.ports),
                Arc::clone(&self.board),
            ));
        }
        self.settled().await
    }

    /// From here on everybody has to get the table anew.
    pub fn expect_return(&self) {
        self.begin();
    }

    fn begin(&self) {
        let silent = usize::from(self.board.silent.load(Ordering::Acquire));
        self.board.era.fetch_add(1, Ordering::AcqRel);
        self.board.settled.store(0, Ordering::Release);
        // The silent one is closed, and out of the table.
        self.board
            .target
            .store(self.count - silent, Ordering::Release);
        self.board
            .awaited
            .store(self.count - silent, Ordering::Release);
    }

    /// Waits until all serve with a table that has all.
    pub async fn settled(&mut self) -> Result<()> {
        let board = Arc::clone(&self.board);
        let settled = async {
            loop {
                let changed = board.changed.notified();
                if board.settled.load(Ordering::Acquire) >= board.awaited.load(Ordering::Acquire) {
                    return;
                }
                changed.await;
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
        self.board.silent.store(true, Ordering::Release);
    }

    /// The time all hosts together have been blocked.
    pub fn blocked(&self) -> Duration {
        Duration::from_micros(self.board.blocked_micros.load(Ordering::Acquire))
    }

    /// Counts it from zero.
    pub fn forget_blocked(&self) {
        self.board.blocked_micros.store(0, Ordering::Release);
    }
}

async fn run(number: usize, ports: Arc<[u16]>, board: Arc<Board>) -> Result<()> {
    let mut next = 0;
    loop {
        let port = ports.get(next % ports.len()).context("no replicas")?;
        next += 1;
        // Whatever ends a stream, the host comes back; unless it was closed for being silent.
        drop(serve(number, *port, &board).await);
        if number == 0 && board.silent.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve(number: usize, port: u16, board: &Board) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .connect()
        .await?;
    let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    client.ready().await?;
    let (answers, queue) = mpsc::channel(16);
    let app = format!("app-{number}");
    answers
        .send(Host {
            name: format!(
                "10.{}.{}.{}:50002",
                number / 65536,
                number / 256 % 256,
                number % 256
            ),
            id: app.clone(),
            namespace: "default".to_owned(),
            entities: vec!["Counter".to_owned()],
            operation: HostOperation::Report.into(),
            ..Host::default()
        })
        .await?;
    let request = tonic::Request::new(ReceiverStream::new(queue));
    let path = PathAndQuery::from_static(REPORT_DAPR_STATUS);
    let mut orders = client.streaming(request, path, Raw).await?.into_inner();
    let mut hosts = 0;
    let mut settled_in = None;
    let mut blocked_since = None;
    while let Some(order) = orders.message().await? {
        if number == 0 && board.silent.load(Ordering::Acquire) {
            continue;
        }
        let seen = wire::scan(&order).context("not an order")?;
        if number.is_multiple_of(IN_FULL) && wire::decode(&order).as_ref() != Some(&seen) {
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
        answers
            .send(Host {
                id: app.clone(),
                namespace: "default".to_owned(),
                operation: answer.into(),
                version: Some(version),
                ..Host::default()
            })
            .await?;
    }
    bail!("the stream ended without a status")
}
