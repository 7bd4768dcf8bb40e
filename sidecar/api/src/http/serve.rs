//! The HTTP servers: connections, their limits, and a stop that lets requests in flight finish.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use async_trait::async_trait;
use dapr_kit::connection::{self, Limits, Received};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{AnswerBody, public};
use crate::services::Core;

/// How long a client may take to send its request head. Connections are kept for as long as the client keeps them.
const LIMITS: Limits = Limits {
    head: Duration::from_secs(10),
    idle: None,
};
/// The pause after an accept that failed for lack of file descriptors, which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// hyper's own bounds stand above ours, which is told with upstream's text. Its buffer also holds pieces of
/// bodies, so a tight one would cut them small.
const HEAD_SLACK: usize = 64 << 10;

/// Where connections come from.
#[async_trait]
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    async fn accept(&mut self) -> io::Result<Self::Io>;
}

#[async_trait]
impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[async_trait]
impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// Serves the HTTP API until `token` is cancelled, then returns once requests in flight have ended. It sets
/// no deadline for that: dropping the future closes what is left.
pub async fn serve<L: Listener>(core: Arc<Core>, listener: L, token: CancellationToken) {
    let builder = builder(&core, core.settings.h2c);
    let answer = move |request| super::handle(Arc::clone(&core), request);
    run(listener, builder, answer, token).await;
}

/// Serves the public port, see [`serve`].
pub async fn serve_public<L: Listener>(core: Arc<Core>, listener: L, token: CancellationToken) {
    let builder = builder(&core, true);
    let answer = move |request| public::handle(Arc::clone(&core), request);
    run(listener, builder, answer, token).await;
}

fn builder(core: &Core, h2c: bool) -> Builder<TokioExecutor> {
    let head = core.settings.max_header_bytes.saturating_add(HEAD_SLACK);
    let mut builder = Builder::new(TokioExecutor::new());
    if !h2c {
        builder = builder.http1_only();
    }
    builder.http1().max_buf_size(head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .max_concurrent_streams(None);
    builder
}

async fn run<L, A, F>(
    mut listener: L,
    builder: Builder<TokioExecutor>,
    answer: A,
    token: CancellationToken,
) where
    L: Listener,
    A: Fn(Request<Received<Incoming>>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let builder = Arc::new(builder);
    let mut connections = JoinSet::new();
    while let Some(accepted) = token.run_until_cancelled(listener.accept()).await {
        while let Some(ended) = connections.try_join_next() {
            log_panic(ended);
        }
        match accepted {
            Ok(io) => {
                let (builder, answer) = (Arc::clone(&builder), answer.clone());
                connections.spawn(connection(io, builder, answer, token.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of an HTTP connection failed");
    }
}

async fn connection<I, A, F>(
    io: I,
    builder: Arc<Builder<TokioExecutor>>,
    answer: A,
    token: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Received<Incoming>>) -> F,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let (io, exchanges) = connection::watch(io, LIMITS);
    let service = service_fn(|request| {
        let answered = answer(exchanges.request(request));
        let exchanges = exchanges.clone();
        async move { Ok::<_, Infallible>(exchanges.response(answered.await)) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
