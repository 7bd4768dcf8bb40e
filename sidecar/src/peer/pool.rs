//! One HTTP/2 connection per sidecar called, dialled when first needed and dropped when it fails.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dapr_security::{Expect, Security, gather};
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::peer::Target;
use dapr_sidecar_core::rpc::{Code, Status};
use http_body_util::BodyExt as _;
use http_body_util::combinators::MapErr;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::time::timeout;
use tower::{Service, ServiceExt as _};

use super::executor::Flushing;

/// A dial that takes longer has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to reach an app that may have moved: a pod that is gone does not answer at all, and others wait to be called.
pub(super) const REACH: Duration = Duration::from_secs(3);
/// Between pings on a connection, with or without streams.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A ping unanswered for longer ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes a peer may send ahead on one stream and on one connection: large enough that a body within the default
/// limit never waits for a window update on a local network.
const WINDOW: u32 = 1 << 20;

/// Connections to other sidecars, by whom and where.
pub struct Pool {
    security: Security,
    slots: Arc<Slots>,
}

type Slots = RwLock<HashMap<Target, Arc<Slot>>>;

#[derive(Default)]
struct Slot {
    current: ArcSwapOption<Connection>,
    /// Held while dialling, so that concurrent calls share one dial.
    dialling: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("targets", &self.slots.read().len())
            .finish()
    }
}

impl Pool {
    /// An empty pool; connections use the current identity of `security`.
    pub fn new(security: Security) -> Self {
        Self {
            security,
            slots: Arc::default(),
        }
    }

    /// The connection to `target`, dialled if there is none.
    pub async fn connection(self: &Arc<Self>, target: &Target) -> Result<Connection, Status> {
        let slot = self.slot(target);
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        let _turn = slot.dialling.lock().await;
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        let connection = self.dial(target, &slot).await?;
        slot.current.store(Some(Arc::new(connection.clone())));
        Ok(connection)
    }

    /// Drops the connection to `target`: calls in flight on it go on, new ones dial.
    pub fn discard(&self, target: &Target) {
        self.slots.write().remove(target);
    }

    fn slot(&self, target: &Target) -> Arc<Slot> {
        if let Some(slot) = self.slots.read().get(target) {
            return Arc::clone(slot);
        }
        Arc::clone(self.slots.write().entry(target.clone()).or_default())
    }

    async fn dial(
        self: &Arc<Self>,
        target: &Target,
        slot: &Arc<Slot>,
    ) -> Result<Connection, Status> {
        let uri: http::Uri = format!("http://{}", target.address)
            .parse()
            .map_err(|error| {
                unavailable(&format!("Error while dialing: {}: {error}", target.address))
            })?;
        let expect = if self.security.is_mtls() {
            Expect::Path {
                namespace: target.namespace.clone(),
                app_id: target.app_id.clone(),
            }
        } else {
            Expect::Plaintext
        };
        let handshake = async {
            let stream = self
                .security
                .connector(expect)
                .oneshot(uri.clone())
                .await
                .map_err(|error| unavailable(&dial_text(&target.address, &error)))?;
            let (stream, flusher) = gather(stream.into_inner());
            http2::Builder::new(Flushing(flusher))
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| unavailable(&error.to_string()))
        };
        let (sender, connection) = timeout(DIAL_TIMEOUT, handshake).await.map_err(|_| {
            unavailable(&format!(
                "Error while dialing: dial tcp {}: i/o timeout",
                target.address
            ))
        })??;
        let line = Arc::new(Line {
            pool: Arc::downgrade(self),
            target: target.clone(),
            origin: uri,
        });
        let (slots, slot) = (Arc::downgrade(&self.slots), Arc::downgrade(slot));
        let target = target.clone();
        // Ends when the peer closes or all senders are gone; its error reaches the calls in flight.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(target: "dapr.runtime", %error, "a connection to another sidecar ended");
            }
            // Pods come and go under ever new addresses: what is left of them must not stay for ever.
            if let (Some(slots), Some(slot)) = (slots.upgrade(), slot.upgrade()) {
                forget(&slots, &target, &slot);
            }
        });
        Ok(Connection { sender, line })
    }

    /// Another connection in place of one that takes no more requests.
    async fn replace(self: &Arc<Self>, closing: &Arc<Line>) -> Result<Connection, Status> {
        let slot = self.slot(&closing.target);
        let is_current = |current: &Connection| Arc::ptr_eq(&current.line, closing);
        let current = slot.current.load();
        if current.as_ref().is_some_and(|current| is_current(current)) {
            // What somebody else has put there meanwhile stays.
            slot.current.compare_and_swap(&*current, None);
        }
        drop(current);
        self.connection(&closing.target).await
    }
}

/// Removes a slot without a connection that nobody dials at the moment.
fn forget(slots: &Slots, target: &Target, slot: &Arc<Slot>) {
    let mut slots = slots.write();
    let is_current = slots
        .get(target)
        .is_some_and(|current| Arc::ptr_eq(current, slot));
    if is_current && slot.usable().is_none() && slot.dialling.try_lock().is_ok() {
        slots.remove(target);
    }
}

impl Slot {
    fn usable(&self) -> Option<Connection> {
        let current = self.current.load();
        current
            .as_ref()
            .filter(|connection| !connection.sender.is_closed())
            .map(|connection| Connection::clone(connection))
    }
}

/// The text Go's gRPC has for a failed dial, which upstream's callers see.
fn dial_text(address: &str, error: &dapr_security::connector::Error) -> String {
    use dapr_security::connector::Error;
    match error {
        Error::Dial { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!(
                "transport: Error while dialing: dial tcp {address}: connect: connection refused"
            )
        }
        Error::Dial { source, .. } => {
            format!("transport: Error while dialing: dial tcp {address}: {source}")
        }
        other => format!("transport: {other}"),
    }
}

fn unavailable(text: &str) -> Status {
    Status::new(
        Code::Unavailable,
        format!("connection error: desc = {text:?}"),
    )
}

/// A connection to another sidecar, as a service for gRPC clients and for frames forwarded as they are.
#[derive(Clone)]
pub struct Connection {
    sender: http2::SendRequest<tonic::body::Body>,
    line: Arc<Line>,
}

/// Where a connection leads. There is one per connection, so that it tells them apart.
struct Line {
    pool: Weak<Pool>,
    target: Target,
    origin: http::Uri,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.line.origin)
    }
}

impl Connection {
    /// What requests on this connection are addressed to.
    pub fn origin(&self) -> &http::Uri {
        &self.line.origin
    }
}

/// An answer on a connection, whose body tells as well how the connection ended.
type Answer = http::Response<MapErr<Incoming, fn(hyper::Error) -> BoxError>>;

fn answer(response: http::Response<Incoming>) -> Answer {
    response.map(|body| body.map_err(interrupted as fn(hyper::Error) -> BoxError))
}

impl Service<http::Request<tonic::body::Body>> for Connection {
    type Response = Answer;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A connection that has closed gives the request back, which then takes another one.
        Poll::Ready(Ok(()))
    }

    /// A request of which nothing is on the wire when the connection closes is sent on another one.
    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let sent = self.sender.try_send_request(request);
        let line = Arc::clone(&self.line);
        Box::pin(async move {
            match sent.await {
                Ok(response) => Ok(answer(response)),
                Err(mut error) => match error.take_message() {
                    Some(request) => line.send_again(request).await,
                    None => Err(failed(error.into_error())),
                },
            }
        })
    }
}

impl Line {
    async fn send_again(
        self: Arc<Self>,
        request: http::Request<tonic::body::Body>,
    ) -> Result<Answer, BoxError> {
        let closing = || untouched("transport is closing".to_owned());
        let pool = self.pool.upgrade().ok_or_else(closing)?;
        let fresh = timeout(REACH, pool.replace(&self)).await;
        let fresh = fresh.map_err(|_| closing())?.map_err(|status| {
            // As a dial before the call says it.
            untouched(status.message)
        })?;
        let mut sender = fresh.sender;
        let sent = sender.try_send_request(request).await;
        sent.map(answer).map_err(|mut error| {
            if error.take_message().is_some() {
                return closing();
            }
            failed(error.into_error())
        })
    }
}

/// Says of an error that the other side has not begun with the request.
#[derive(Debug, thiserror::Error)]
#[error("nothing was done with the request")]
struct Untouched;

fn untouched(text: String) -> BoxError {
    let mut status = tonic::Status::unavailable(text);
    status.set_source(Arc::new(Untouched));
    status.into()
}

/// Whether the other side has certainly not begun with the request that ended so.
pub(super) fn is_untouched(status: &tonic::Status) -> bool {
    use std::error::Error as _;
    status
        .source()
        .is_some_and(|source| source.is::<Untouched>())
}

/// An error as gRPC tells it. A connection that breaks or closes is `UNAVAILABLE`, as with upstream's peers; all
/// else keeps what the protocol says about it.
fn failed(error: hyper::Error) -> BoxError {
    use std::error::Error as _;
    // RFC 9113, 6.8 and 8.7: a stream above the last one that the other side names when it closes, and one that it
    // refuses, were not begun with. Streams below end with the connection, which is another error.
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<h2::Error>());
    let is_refused = cause.is_some_and(|cause| {
        let closes = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        let refuses = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (closes || refuses)
    });
    if is_refused {
        return untouched(broken(&error));
    }
    interrupted(error)
}

/// The same once the other side has begun to answer, so that it certainly had the request.
fn interrupted(error: hyper::Error) -> BoxError {
    if is_broken(&error) {
        tonic::Status::unavailable(broken(&error)).into()
    } else {
        error.into()
    }
}

/// Whether the connection has ended, and not only the stream on it.
fn is_broken(error: &hyper::Error) -> bool {
    if error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || error.is_timeout()
    {
        return true;
    }
    // hyper hands out what went wrong below HTTP/2 as an I/O error, but keeps it inside of that of HTTP/2 when a body
    // ends by it.
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let is_end = |error: &h2::Error| error.is_io() || error.is_go_away();
        if error.is::<std::io::Error>() || error.downcast_ref().is_some_and(is_end) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn broken(error: &hyper::Error) -> String {
    let text = dapr_kit::process::chain(error);
    format!("error reading from server: {text}")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http_body_util::{Empty, StreamBody};
    use hyper::body::Frame;
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    use super::*;

    /// Serves connections one after the other; the first of them closes before its first request.
    async fn serve(listener: TcpListener) {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = service_fn(|_| async {
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            });
            let connection = server::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            if number == 0 {
                connection.as_mut().graceful_shutdown();
            }
            // The client leaves at the end of the test.
            drop(connection.await);
        }
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_closes_takes_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = Target {
            app_id: "orders".to_owned(),
            namespace: "default".to_owned(),
            address: listener.local_addr().expect("an address").to_string(),
        };
        let server = tokio::spawn(serve(listener));
        let pool = Arc::new(Pool::new(Security::insecure()));
        let mut closing = pool.connection(&target).await.expect("it is dialled");
        while !closing.sender.is_closed() {
            tokio::task::yield_now().await;
        }
        let request = http::Request::post(closing.origin().clone())
            .body(tonic::body::Body::empty())
            .expect("a request");
        let answer = closing.call(request).await.expect("an answer");
        assert_eq!(answer.status(), http::StatusCode::OK);
        let current = pool.connection(&target).await.expect("it is there");
        assert!(!Arc::ptr_eq(&current.line, &closing.line));
        server.abort();
    }

    /// How a connection ends.
    #[derive(Debug, Clone, Copy)]
    enum End {
        Reset,
        Closed,
    }

    /// Takes one connection, begins to answer what comes on it, and ends it when told.
    async fn begin(listener: TcpListener, end: End, told: Arc<Notify>) {
        let (stream, _) = listener.accept().await.expect("a connection");
        if matches!(end, End::Reset) {
            stream.set_zero_linger().expect("an option of sockets");
        }
        let service = service_fn(|_| async {
            let first = stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::new())) });
            let body = StreamBody::new(first.chain(stream::pending()));
            Ok::<_, Infallible>(http::Response::new(body))
        });
        let connection = server::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = connection => panic!("the client stays"),
            () = told.notified() => {}
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_within_an_answer_is_unavailable() {
        for end in [End::Reset, End::Closed] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let target = Target {
                app_id: "orders".to_owned(),
                namespace: "default".to_owned(),
                address: listener.local_addr().expect("an address").to_string(),
            };
            let told = Arc::new(Notify::new());
            let server = tokio::spawn(begin(listener, end, Arc::clone(&told)));
            let pool = Arc::new(Pool::new(Security::insecure()));
            let mut connection = pool.connection(&target).await.expect("it is dialled");
            let request = http::Request::post(connection.origin().clone())
                .body(tonic::body::Body::empty())
                .expect("a request");
            let answer = connection.call(request).await.expect("it begins");
            told.notify_one();
            let error = answer.into_body().collect().await.expect_err("no end");
            let status = error.downcast::<tonic::Status>().expect("a status");
            assert_eq!(status.code(), tonic::Code::Unavailable, "{end:?}: {status}");
            assert!(!is_untouched(&status), "{end:?}");
            server.await.expect("no panic");
        }
    }
}
