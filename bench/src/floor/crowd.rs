//! Clients of the floor: many with a stream each, and when the last has a message; and those that come anew each time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::MESSAGE;
use super::identity::Identity;

/// Handshakes at the same time.
const HANDSHAKES: usize = 64;
/// The longest anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Clients that have their streams.
#[derive(Debug)]
pub(super) struct Crowd {
    address: SocketAddr,
    orders: SocketAddr,
    tls: Arc<ClientConfig>,
    handshakes: Arc<Semaphore>,
    seen: (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>),
    clients: JoinSet<Result<()>>,
    count: usize,
}

impl Crowd {
    /// Nobody yet.
    pub(super) fn new(port: u16, orders: u16, identity: &Identity) -> Result<Self> {
        Ok(Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            orders: SocketAddr::from((Ipv4Addr::LOCALHOST, orders)),
            tls: identity.client()?,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            seen: mpsc::unbounded_channel(),
            clients: JoinSet::new(),
            count: 0,
        })
    }

    /// More clients come; returns when all have their streams.
    pub(super) async fn join(&mut self, more: usize) -> Result<()> {
        for _ in 0..more {
            let (address, tls) = (self.address, TlsConnector::from(Arc::clone(&self.tls)));
            let (handshakes, seen) = (Arc::clone(&self.handshakes), self.seen.0.clone());
            self.clients.spawn(async move {
                let slot = handshakes.acquire().await?;
                let (mut sender, _connection) = dial(address, &tls).await?;
                let request = http::Request::post("http://floor/stream").body(())?;
                let (answer, _) = sender.send_request(request, true)?;
                let answer = answer.await?;
                drop(slot);
                seen.send(())?;
                listen(answer.into_body(), &seen).await
            });
        }
        self.count += more;
        self.all_have_seen(more).await.map(drop)
    }

    /// Has a message sent to all, and waits until the last has it.
    pub(super) async fn message(&mut self) -> Result<Duration> {
        let ordered = Instant::now();
        drop(TcpStream::connect(self.orders).await?);
        let last = self.all_have_seen(self.count).await?;
        Ok(last.saturating_duration_since(ordered))
    }

    async fn all_have_seen(&mut self, count: usize) -> Result<Instant> {
        let seen = async {
            for _ in 0..count {
                self.seen.1.recv().await.context("nobody is left")?;
            }
            anyhow::Ok(Instant::now())
        };
        tokio::select! {
            seen = timeout(PATIENCE, seen) => seen.context("not all have it")?,
            Some(ended) = self.clients.join_next() => match ended? {
                Ok(()) => bail!("a stream ended"),
                Err(error) => Err(error),
            },
        }
    }
}

/// Clients that ask `floor answers` again and again for `duration`, each time on a new connection: how often.
pub(super) async fn ask(
    port: u16,
    identity: &Identity,
    clients: usize,
    duration: Duration,
) -> Result<u64> {
    let end = Instant::now() + duration;
    let tls = identity.client()?;
    let mut all: JoinSet<Result<u64>> = JoinSet::new();
    for _ in 0..clients {
        let tls = TlsConnector::from(Arc::clone(&tls));
        all.spawn(async move {
            let mut asked = 0;
            while Instant::now() < end {
                ask_once(port, &tls).await?;
                asked += 1;
            }
            Ok(asked)
        });
    }
    let mut asked = 0;
    while let Some(client) = all.join_next().await {
        asked += client??;
    }
    Ok(asked)
}

/// A new connection, and the task that drives it, which ends with what is returned.
async fn dial(
    address: SocketAddr,
    tls: &TlsConnector,
) -> Result<(SendRequest<Bytes>, JoinSet<Result<(), h2::Error>>)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(Identity::name()?, stream).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    Ok((sender, tasks))
}

async fn ask_once(port: u16, tls: &TlsConnector) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (mut sender, _connection) = dial(address, tls).await?;
    let request = http::Request::post("http://floor/answer").body(())?;
    let (answer, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::from_static(&[b'x'; MESSAGE]), true)?;
    let mut body = answer.await?.into_body();
    let mut read = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        read += chunk.len();
    }
    ensure!(read == MESSAGE, "an answer of {read} bytes");
    Ok(())
}

async fn listen(mut body: h2::RecvStream, seen: &mpsc::UnboundedSender<()>) -> Result<()> {
    let mut waiting = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        waiting += chunk.len();
        ensure!(waiting <= MESSAGE, "a message came twice");
        if waiting == MESSAGE {
            waiting = 0;
            seen.send(())?;
        }
    }
    Ok(())
}
