//! Clients of the floor's rounds: plain sockets that answer each order with as many bytes as a sidecar does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ANSWER, BARE_ORDER};

/// The longest anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read at once.
const CHUNK: usize = 16 << 10;

/// Clients that are connected.
#[derive(Debug)]
pub(super) struct Rounds {
    orders: SocketAddr,
    table: u32,
    count: usize,
    clients: JoinSet<Result<()>>,
    seen: mpsc::UnboundedReceiver<()>,
    blocked_nanos: Arc<AtomicU64>,
}

impl Rounds {
    /// So many clients connect, who will get a table of so many bytes.
    pub(super) async fn begin(port: u16, orders: u16, count: usize, table: u32) -> Result<Self> {
        let (tell, seen) = mpsc::unbounded_channel();
        let mut rounds = Self {
            orders: SocketAddr::from((Ipv4Addr::LOCALHOST, orders)),
            table,
            count,
            clients: JoinSet::new(),
            seen,
            blocked_nanos: Arc::default(),
        };
        for _ in 0..count {
            let (tell, blocked) = (tell.clone(), Arc::clone(&rounds.blocked_nanos));
            rounds
                .clients
                .spawn(client(port, usize::try_from(table)?, tell, blocked));
        }
        rounds.all_have_seen().await?;
        Ok(rounds)
    }

    /// A round, and how long it took until the last client was unlocked.
    pub(super) async fn round(&mut self) -> Result<Duration> {
        let ordered = Instant::now();
        let mut order = TcpStream::connect(self.orders).await?;
        order.write_all(&self.table.to_be_bytes()).await?;
        self.all_have_seen().await?;
        Ok(ordered.elapsed())
    }

    /// The time all clients together have been blocked.
    pub(super) fn blocked(&self) -> Duration {
        Duration::from_nanos(self.blocked_nanos.load(Ordering::Acquire))
    }

    /// Counts it from zero.
    pub(super) fn forget_blocked(&self) {
        self.blocked_nanos.store(0, Ordering::Release);
    }

    async fn all_have_seen(&mut self) -> Result<()> {
        let seen = async {
            for _ in 0..self.count {
                self.seen.recv().await.context("nobody is left")?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            seen = timeout(PATIENCE, seen) => seen.context("not all have it")?,
            Some(ended) = self.clients.join_next() => match ended? {
                Ok(()) => bail!("a client ended"),
                Err(error) => Err(error),
            },
        }
    }
}

async fn client(
    port: u16,
    table: usize,
    tell: mpsc::UnboundedSender<()>,
    blocked: Arc<AtomicU64>,
) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    tell.send(())?;
    let mut chunk = vec![0; CHUNK];
    loop {
        receive(&mut stream, BARE_ORDER, &mut chunk).await?;
        stream.write_all(&[b'x'; ANSWER]).await?;
        receive(&mut stream, table, &mut chunk).await?;
        let since = Instant::now();
        stream.write_all(&[b'x'; ANSWER]).await?;
        receive(&mut stream, BARE_ORDER, &mut chunk).await?;
        let nanos = u64::try_from(since.elapsed().as_nanos())?;
        blocked.fetch_add(nanos, Ordering::AcqRel);
        tell.send(())?;
        stream.write_all(&[b'x'; ANSWER]).await?;
    }
}

/// Reads so many bytes, of which none is looked at.
async fn receive(stream: &mut TcpStream, mut bytes: usize, chunk: &mut [u8]) -> Result<()> {
    while bytes > 0 {
        let most = bytes.min(chunk.len());
        let room = chunk.get_mut(..most).context("no room")?;
        let read = stream.read(room).await?;
        ensure!(read > 0, "the server ended");
        bytes -= read;
    }
    Ok(())
}
