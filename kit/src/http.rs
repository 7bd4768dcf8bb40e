//! The small HTTP/1.1 server behind the health and metrics ports.
//!
//! These ports take no bodies and answer from memory, so one pure function from head to response is enough.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection::{self, Limits};
use crate::shutdown;

mod path;

pub(crate) use path::redirect;

/// How long a client may take to send its request head, and keep a connection for its next one: scrapers come every
/// few minutes at the slowest, and those that never come again must not take all of the [`CONNECTIONS`].
const LIMITS: Limits = Limits {
    head: Duration::from_secs(10),
    idle: Some(Duration::from_secs(300)),
};
/// How long requests in flight may take once the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Connections at a time: probes and scrapers need a handful, and a flood must not eat the file descriptors
/// of the real servers.
const CONNECTIONS: usize = 256;
/// The pause after a failed accept, which out of file descriptors would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the token is cancelled, then finishes what is in flight within 5 s.
pub(crate) async fn serve<R>(listener: TcpListener, respond: R, token: CancellationToken)
where
    R: Fn(&Request<()>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let respond = move |request: Request<()>| ready(respond(&request));
    serve_with(listener, respond, token).await;
}

/// As [`serve`], with answers that may take a moment.
pub(crate) async fn serve_with<R, F>(listener: TcpListener, respond: R, token: CancellationToken)
where
    R: Fn(Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let respond = Arc::new(respond);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(stream) = token.run_until_cancelled(accept(&listener, &slots)).await {
        while connections.try_join_next().is_some() {}
        let Some((stream, slot)) = stream else {
            continue;
        };
        let (respond, token) = (respond.clone(), token.clone());
        connections.spawn(async move {
            serve_connection(stream, respond, token).await;
            drop(slot);
        });
    }
    drop(listener);
    if let Err(error) = shutdown::drain_set(&mut connections, DRAIN_LIMIT).await {
        tracing::debug!(%error, "connections were cut");
    }
}

/// The next connection and its slot; `None` after an accept that failed.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            tracing::debug!(%error, "failed to accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn serve_connection<R, F>(stream: TcpStream, respond: Arc<R>, token: CancellationToken)
where
    R: Fn(Request<()>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let (stream, exchanges) = connection::watch(stream, LIMITS);
    let service = service_fn(move |request: Request<Incoming>| {
        let exchanges = exchanges.clone();
        // These ports take no bodies.
        let (parts, body) = exchanges.request(request).into_parts();
        drop(body);
        let response = respond(Request::from_parts(parts, ()));
        async move { Ok::<_, Infallible>(exchanges.response(response.await)) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

pub(crate) fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

pub(crate) fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
pub(crate) mod testing {
    use std::future::Future;
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    /// A server under test on a free port.
    pub(crate) struct Server {
        pub(crate) address: SocketAddr,
        token: CancellationToken,
        task: JoinHandle<()>,
    }

    impl Server {
        pub(crate) async fn start<F, T>(serve: F) -> Self
        where
            F: FnOnce(TcpListener, CancellationToken) -> T,
            T: Future<Output = ()> + Send + 'static,
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let token = CancellationToken::new();
            let task = tokio::spawn(serve(listener, token.clone()));
            Self {
                address,
                token,
                task,
            }
        }

        /// Status and body of one request.
        pub(crate) async fn request(&self, method: &str, path: &str) -> (u16, String) {
            let text = self.raw(method, path).await;
            let status = text
                .split(' ')
                .nth(1)
                .and_then(|code| code.parse().ok())
                .expect("a status");
            (
                status,
                text.split_once("\r\n\r\n").expect("a head").1.to_owned(),
            )
        }

        /// The whole response of one request.
        pub(crate) async fn raw(&self, method: &str, path: &str) -> String {
            self.raw_as("test", method, path).await
        }

        /// The same, for a client of this name.
        pub(crate) async fn raw_as(&self, agent: &str, method: &str, path: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.expect("connects");
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: test\r\nuser-agent: {agent}\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("written");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("read");
            text
        }

        pub(crate) async fn stop(self) {
            self.token.cancel();
            self.task.await.expect("no panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn idle_connections_do_not_hold_up_the_stop() {
        let server =
            testing::Server::start(|listener, token| serve(listener, |_| not_found(), token)).await;
        let mut idle = TcpStream::connect(server.address).await.expect("connects");
        idle.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            .await
            .expect("written");
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 404");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_scraper_keeps_its_connection() {
        let server =
            testing::Server::start(|listener, token| serve(listener, |_| not_found(), token)).await;
        let mut scraper = TcpStream::connect(server.address).await.expect("connects");
        for _ in 0..3 {
            scraper
                .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
                .await
                .expect("open");
            let mut answer = Vec::new();
            while !answer.ends_with(b"page not found\n") {
                let read = scraper.read_buf(&mut answer).await.expect("an answer");
                assert_ne!(read, 0, "closed");
            }
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(60)).await;
            tokio::time::resume();
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn half_a_request_is_cut_at_the_deadline() {
        let server =
            testing::Server::start(|listener, token| serve(listener, |_| not_found(), token)).await;
        let mut slow = TcpStream::connect(server.address).await.expect("connects");
        slow.write_all(b"GET / HT").await.expect("written");
        // A second, whole request proves that the server has taken the first connection.
        server.request("GET", "/").await;
        tokio::time::pause();
        server.stop().await;
        let mut rest = Vec::new();
        // Closed or reset, but without an answer.
        drop(slow.read_to_end(&mut rest).await);
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{rest:?}");
    }
}
