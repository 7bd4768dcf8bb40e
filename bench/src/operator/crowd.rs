//! Many sidecars, each a connection with one stream of its own, and a board that knows when all have seen a change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use dapr_proto::dapr::proto::operator::v1::{ComponentUpdateEvent, ComponentUpdateRequest};
use dapr_security::{Expect, Security, SpiffeId};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::codegen::Service as _;

use super::server::{NAMESPACE_OF_APPS, OPERATOR, version};

const METHOD: &str = "http://operator/dapr.proto.operator.v1.Operator/ComponentUpdate";
/// Compression flag and length before each gRPC message.
const PREFIX: usize = 5;
/// The longest anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Handshakes at the same time: sidecars of a cluster do not all start in one moment, and this program has one core.
const HANDSHAKES: usize = 64;

/// Sidecars of one app.
#[derive(Debug)]
pub struct Crowd {
    address: SocketAddr,
    identity: Security,
    board: Arc<Board>,
    sidecars: JoinSet<Result<()>>,
    count: usize,
}

#[derive(Debug)]
struct Board {
    /// The number of the last change.
    change: AtomicUsize,
    /// How many sidecars have it.
    arrived: AtomicUsize,
    /// How many have asked for their streams.
    asked: AtomicUsize,
    changed: Notify,
    handshakes: Semaphore,
}

impl Crowd {
    /// Nobody yet; all will have one identity.
    pub fn new(address: SocketAddr, identity: Security) -> Self {
        Self {
            address,
            identity,
            board: Arc::new(Board {
                change: AtomicUsize::new(0),
                arrived: AtomicUsize::new(0),
                asked: AtomicUsize::new(0),
                changed: Notify::new(),
                handshakes: Semaphore::new(HANDSHAKES),
            }),
            sidecars: JoinSet::new(),
            count: 0,
        }
    }

    /// More sidecars come. Returns when all have asked for their streams, which are open when a change has come to all.
    pub async fn join(&mut self, more: usize) -> Result<()> {
        for _ in 0..more {
            let (identity, board) = (self.identity.clone(), Arc::clone(&self.board));
            self.sidecars.spawn(run(self.address, identity, board));
        }
        self.count += more;
        let count = self.count;
        self.until(|board| board.asked.load(Ordering::Acquire) == count)
            .await
    }

    /// The number of the change that all have to see next.
    pub fn expect(&mut self) -> usize {
        self.board.arrived.store(0, Ordering::Release);
        self.board.change.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Waits until all have seen the change; when the last one had.
    pub async fn settled(&mut self) -> Result<Instant> {
        let count = self.count;
        self.until(|board| board.arrived.load(Ordering::Acquire) == count)
            .await?;
        Ok(Instant::now())
    }

    async fn until(&mut self, is_so: impl Fn(&Board) -> bool) -> Result<()> {
        let board = Arc::clone(&self.board);
        let wait = async {
            loop {
                let changed = board.changed.notified();
                if is_so(&board) {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            waited = timeout(PATIENCE, wait) => waited.with_context(|| format!(
                "of {} sidecars {} have asked, and {} have seen the change",
                self.count,
                self.board.asked.load(Ordering::Acquire),
                self.board.arrived.load(Ordering::Acquire),
            )),
            Some(ended) = self.sidecars.join_next() => match ended? {
                Ok(()) => bail!("a stream ended"),
                Err(error) => Err(error),
            },
        }
    }
}

impl Board {
    /// A sidecar was told this. The last one wakes who waits.
    fn told(&self, event: &ComponentUpdateEvent) {
        let expected = version(self.change.load(Ordering::Acquire));
        let mut windows = event.component.windows(expected.len());
        if windows.any(|window| window == expected.as_bytes()) {
            self.arrived.fetch_add(1, Ordering::AcqRel);
            self.changed.notify_waiters();
        }
    }
}

async fn run(address: SocketAddr, identity: Security, board: Arc<Board>) -> Result<()> {
    let slot = board.handshakes.acquire().await?;
    let mut connector = identity.connector(Expect::Id(SpiffeId::new(OPERATOR)?));
    let io = connector.call(format!("http://{address}").parse()?).await?;
    let (mut sender, connection) = h2::client::handshake(TokioIo::into_inner(io)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let head = http::Request::post(METHOD)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let request = ComponentUpdateRequest {
        namespace: NAMESPACE_OF_APPS.to_owned(),
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len())?);
    request.encode(&mut frame)?;
    let (answer, mut body) = sender.send_request(head, false)?;
    body.send_data(frame.freeze(), true)?;
    drop(slot);
    board.asked.fetch_add(1, Ordering::AcqRel);
    board.changed.notify_waiters();
    // The original answers with the first change only.
    let answer = answer.await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    ensure!(
        answer.headers().get("grpc-status").is_none(),
        "refused: {:?}",
        answer.headers()
    );
    let mut body = answer.into_body();
    let mut waiting = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk: Bytes = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        waiting.extend_from_slice(&chunk);
        while let Some(event) = message(&mut waiting)? {
            board.told(&event);
        }
    }
    let trailers = body.trailers().await?;
    bail!("a stream ended: {trailers:?}")
}

/// The first message of what has come, if it is there whole.
fn message(waiting: &mut BytesMut) -> Result<Option<ComponentUpdateEvent>> {
    let mut head = waiting.as_ref();
    if head.len() < PREFIX {
        return Ok(None);
    }
    ensure!(head.get_u8() == 0, "a message is compressed");
    let length = head.get_u32() as usize;
    if head.len() < length {
        return Ok(None);
    }
    let mut message = waiting.split_to(PREFIX + length);
    message.advance(PREFIX);
    Ok(Some(ComponentUpdateEvent::decode(message)?))
}
