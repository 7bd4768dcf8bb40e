//! The accept loop: TLS handshakes beside each other, HTTP/2 at once, the peer's identity on every request, and a drain.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::acceptor::{Accepted, Acceptor, Protocol};
use crate::identity::Identity;
use crate::stream::gathered::{Flusher, gather};

mod activity;
mod handshakes;

use activity::{Activity, Tracked};
use handshakes::{Handshakes, Slot};

/// Any error, as bodies report them.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Pause after an accept that failed for lack of file descriptors or memory, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the HTTP/1.1 library can do with for a head, and what it allows by itself.
const SMALLEST_HEAD: usize = 8 * 1024;
const LARGEST_HEAD: usize = 408 * 1024;

/// How long a connection without requests may take to say goodbye.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Who sent a request; in the extensions of every request that comes through [`serve`].
#[derive(Clone, Debug)]
pub struct Peer {
    /// Identity from the client certificate; none without TLS, without a certificate, or if its id is not one of Dapr.
    pub identity: Option<Arc<Identity>>,
    /// Where the connection comes from.
    pub remote: SocketAddr,
}

/// Limits of a server. The default is what a gRPC server of upstream has without any setting.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Pause between HTTP/2 pings; none sends no pings.
    pub keepalive_interval: Option<Duration>,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// Streams a client may have open on one connection; none is no limit.
    pub max_concurrent_streams: Option<u32>,
    /// Bytes of header fields of one request; over HTTP/1.1 of its whole head, at least 8 KiB and at most 408 KiB.
    pub max_header_list_size: u32,
    /// A connection without requests for this long is closed; none keeps it.
    pub max_connection_idle: Option<Duration>,
    /// A connection that has had requests running for this long without a pause is told to go away, and closed after
    /// the same time again: clients that do not take their answers hold no memory for good. None waits for them.
    pub max_connection_busy: Option<Duration>,
    /// How long a client may take to send the head of a request: of each over HTTP/1, of a connection's first over
    /// HTTP/2. None is half a minute over HTTP/1 and no limit over HTTP/2, whose clients dial before they have a call.
    pub header_timeout: Option<Duration>,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// TLS handshakes in flight; one more ends the oldest of them.
    pub max_handshakes: usize,
    /// Connections open at once; further ones wait in the kernel's queue until one ends. None is no limit.
    pub max_connections: Option<usize>,
    /// Whether answers over HTTP/2 say when they were given. A gRPC server's do not: its headers are its caller's data.
    pub date: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            keepalive_interval: Some(Duration::from_secs(2 * 60 * 60)),
            keepalive_timeout: Duration::from_secs(20),
            max_concurrent_streams: None,
            max_header_list_size: 1 << 20,
            max_connection_idle: None,
            max_connection_busy: None,
            header_timeout: None,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1024,
            max_connections: None,
            date: false,
        }
    }
}

/// What a server answers with: an `axum::Router`, or a service of one's own. Each request gets a clone of it.
pub trait Routes<B>:
    Service<
        Request<Incoming>,
        Response = Response<B>,
        Error = Infallible,
        Future: Future<Output = Result<Response<B>, Infallible>> + Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Routes<B> for S where
    S: Service<
            Request<Incoming>,
            Response = Response<B>,
            Error = Infallible,
            Future: Future<Output = Result<Response<B>, Infallible>> + Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves `routes` until `shutdown`, then tells clients to go away and returns once every request in flight has ended.
/// It sets no deadline for that but [`ServerOptions::max_connection_busy`]: dropping the future closes what is left. A bad
/// client never stops the loop.
pub async fn serve<S, B>(
    listener: TcpListener,
    acceptor: Acceptor,
    routes: S,
    options: ServerOptions,
    shutdown: CancellationToken,
) where
    S: Routes<B>,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let mut handshakes = Handshakes::new(options.max_handshakes);
    let limit = options.max_connections.unwrap_or(usize::MAX).max(1);
    let server = Arc::new(Server {
        acceptor,
        routes,
        options,
        shutdown: shutdown.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            (stream, remote) = accept(&listener), if connections.len() < limit => {
                let slot = handshakes.admit();
                connections.spawn(Arc::clone(&server).connection(slot, stream, remote));
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
        tracing::error!(%error, "A connection's task failed");
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "Cannot accept connections, waiting");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

struct Server<S> {
    acceptor: Acceptor,
    routes: S,
    options: ServerOptions,
    shutdown: CancellationToken,
}

impl<S> Server<S> {
    async fn connection<B>(self: Arc<Self>, slot: Slot, stream: TcpStream, remote: SocketAddr)
    where
        S: Routes<B>,
        B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
    {
        let accepted = self.handshake(slot, stream, remote).await;
        let Some(Accepted {
            stream,
            identity,
            protocol,
        }) = accepted
        else {
            return;
        };
        let activity = Activity::new();
        let service = service(
            self.routes.clone(),
            Peer { identity, remote },
            Arc::clone(&activity),
        );
        let (io, flusher) = gather(stream);
        let io = TokioIo::new(io);
        match protocol {
            Protocol::Http2 => {
                let connection = pin!(self.http2().serve_connection(io, service));
                self.drive(connection, &flusher, &activity, remote).await;
            }
            Protocol::Http1 => {
                let connection = pin!(self.http1().serve_connection(io, service));
                self.drive(connection, &flusher, &activity, remote).await;
            }
            Protocol::Unsaid => {
                let builder = self.either();
                let connection = pin!(builder.serve_connection(io, service));
                self.drive(connection, &flusher, &activity, remote).await;
            }
        }
    }

    async fn handshake(
        &self,
        slot: Slot,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Option<Accepted> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%remote, %error, "Connection ended before it began");
            return None;
        }
        let handshake = timeout(self.options.handshake_timeout, self.acceptor.accept(stream));
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            () = slot.evicted() => {
                tracing::debug!(%remote, "TLS handshake made room for a newer one");
                None
            }
            result = handshake => match result {
                Ok(Ok(accepted)) => Some(accepted),
                Ok(Err(error)) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::debug!(%remote, %error, cause, "Connection refused");
                    None
                }
                Err(_) => {
                    tracing::debug!(%remote, "TLS handshake took too long");
                    None
                }
            },
        }
    }

    fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).max_buf_size(self.head());
        if let Some(limit) = self.options.header_timeout {
            builder.header_read_timeout(limit);
        }
        builder
    }

    fn head(&self) -> usize {
        let limit = usize::try_from(self.options.max_header_list_size).unwrap_or(usize::MAX);
        limit.clamp(SMALLEST_HEAD, LARGEST_HEAD)
    }

    /// Whichever protocol the client begins with.
    fn either(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .max_buf_size(self.head());
        if let Some(limit) = self.options.header_timeout {
            builder.http1().header_read_timeout(limit);
        }
        builder
            .http2()
            .timer(TokioTimer::new())
            .auto_date_header(self.options.date)
            .keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .max_concurrent_streams(self.options.max_concurrent_streams)
            .max_header_list_size(self.options.max_header_list_size);
        builder
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(self.options.date)
            .keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .max_concurrent_streams(self.options.max_concurrent_streams)
            .max_header_list_size(self.options.max_header_list_size);
        builder
    }

    async fn drive<C, T>(
        &self,
        mut connection: Pin<&mut C>,
        flusher: &Flusher<T>,
        activity: &Activity,
        remote: SocketAddr,
    ) where
        C: GracefulConnection<Error: Display>,
        T: AsyncWrite + Unpin,
    {
        // Asked only when one of them has something to say: each looks at what all connections share, and a connection is
        // polled for every message.
        let mut ends = FuturesUnordered::from_iter([async {
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = activity.idle_for(self.options.max_connection_idle) => {}
                () = activity.silent_for(self.options.header_timeout) => {}
                () = activity.busy_for(self.options.max_connection_busy) => {}
            }
        }]);
        tokio::select! {
            biased;
            result = flusher.drive(connection.as_mut()) => return log_end(result, remote),
            _ = ends.next() => {}
        }
        drop(ends);
        connection.as_mut().graceful_shutdown();
        // A live client answers at once; a dead one, or one that never spoke, must not keep the connection.
        activity.touch();
        tokio::select! {
            result = flusher.drive(connection.as_mut()) => log_end(result, remote),
            () = activity.idle_for(Some(CLOSE_GRACE)) => {}
            () = activity.busy_for(self.options.max_connection_busy) => {
                tracing::debug!(%remote, "Connection closed: its requests do not end");
            }
        }
    }
}

fn log_end<E: Display>(result: Result<(), E>, remote: SocketAddr) {
    if let Err(error) = result {
        tracing::debug!(%remote, %error, "Connection ended");
    }
}

fn service<S, B>(
    routes: S,
    peer: Peer,
    activity: Arc<Activity>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<Tracked<B>>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Tracked<B>>, Infallible>> + Send + use<S, B>,
>
where
    S: Routes<B>,
    B: Body + Unpin,
{
    service_fn(move |mut request: Request<Incoming>| {
        let guard = activity.begin();
        request.extensions_mut().insert(peer.clone());
        let response = routes.clone().call(request);
        async move {
            let response = response.await?;
            Ok(response.map(|body| Tracked::new(body, guard)))
        }
    })
}
