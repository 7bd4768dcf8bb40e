//! Connections to an application that speaks plain HTTP/1.1: kept while idle, the newest used first.
//!
//! A call takes a connection for itself and gives it back at the end of the answer's body. Nothing is spawned per call,
//! and no address, host or scheme is parsed or written per call; that is what a general client would spend most on here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dapr_sidecar_core::body::{Body, BoxError};
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

/// Connections kept open while idle.
const IDLE_CONNECTIONS: usize = 64;
/// A connection that was idle for longer is not used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long after an answer the rest of its request may take to leave, before its connection is given up.
const SETTLING: Duration = Duration::from_secs(1);

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No connection.
    #[error("no connection to the application")]
    Dial(#[source] io::Error),
    /// The connection ended, or what came on it was no HTTP.
    #[error("the application did not answer")]
    Exchange(#[source] hyper::Error),
}

impl Error {
    /// Whether nothing was sent.
    pub(super) fn is_dial(&self) -> bool {
        matches!(self, Self::Dial(_))
    }
}

/// See the module.
pub(super) struct Connections {
    host: String,
    port: u16,
    /// `host:port`, as requests name it.
    authority: HeaderValue,
    idle: Arc<Idle>,
}

/// Oldest first.
#[derive(Default)]
struct Idle(Mutex<Vec<(Instant, Sender)>>);

type Sender = http1::SendRequest<Body>;

impl Connections {
    /// Connections to `port` of `host`, an IPv6 address in brackets; nothing is connected yet.
    pub(super) fn new(host: &str, port: u16) -> Result<Self, header::InvalidHeaderValue> {
        // As clients write it: the default port goes without saying.
        let authority = if port == 80 {
            HeaderValue::from_str(host)
        } else {
            HeaderValue::try_from(format!("{host}:{port}"))
        };
        Ok(Self {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port,
            authority: authority?,
            idle: Arc::default(),
        })
    }

    /// Sends a request whose URI is path and query alone. A connection the application closed while it was idle costs
    /// nothing but another connection: the request goes out on the next one as long as none of it was sent.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        request
            .headers_mut()
            .insert(header::HOST, self.authority.clone());
        while let Some(mut sender) = self.idle.take() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(response, sender)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Error::Exchange(failed.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(Error::Exchange)?;
        Ok(self.answer(response, sender))
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(Error::Dial)?;
        stream.set_nodelay(true).map_err(Error::Dial)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Exchange)?;
        // Ends with its sender, or when the application closes; its error reaches the call in flight.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(target: "dapr.runtime", %error, "a connection to the application ended");
            }
        });
        Ok(sender)
    }

    fn answer(&self, response: Response<Incoming>, sender: Sender) -> Response<Body> {
        response.map(|body| {
            Answered {
                body,
                lent: Some((sender, Arc::clone(&self.idle))),
            }
            .boxed_unsync()
        })
    }
}

impl Idle {
    /// The newest that can send at once. An application may answer before it has read the request, and read no further:
    /// a connection that is still not free after a moment stays so, and is closed.
    fn take(&self) -> Option<Sender> {
        let mut idle = self.0.lock();
        let (since, sender) = idle.last()?;
        let is_usable = since.elapsed() <= IDLE_TIMEOUT && sender.is_ready();
        if !is_usable {
            idle.retain(|(since, sender)| {
                let unused = since.elapsed();
                unused <= SETTLING || (unused <= IDLE_TIMEOUT && sender.is_ready())
            });
        }
        let newest = idle.iter().rposition(|(_, sender)| sender.is_ready())?;
        Some(idle.remove(newest).1)
    }

    fn put(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut idle = self.0.lock();
        idle.retain(|(since, sender)| {
            !sender.is_closed() && now.duration_since(*since) <= IDLE_TIMEOUT
        });
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((now, sender));
        }
    }
}

/// The body of an answer, which gives its connection back at its end. One that is not read to its end closes it.
struct Answered {
    body: Incoming,
    lent: Option<(Sender, Arc<Idle>)>,
}

impl Answered {
    fn give_back(&mut self) {
        if let Some((sender, idle)) = self.lent.take() {
            idle.put(sender);
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        if http_body::Body::is_end_stream(&self.body) {
            self.give_back();
        }
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.give_back(),
            // What failed is not used again.
            Some(Err(_)) => self.lent = None,
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use dapr_sidecar_core::body;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// What an application does on one connection: it answers so many requests, then closes.
    async fn application(
        answers: usize,
    ) -> (Connections, mpsc::UnboundedReceiver<(usize, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (seen, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else {
                    return;
                };
                let seen = seen.clone();
                tokio::spawn(async move {
                    for _ in 0..answers {
                        let mut request = Vec::new();
                        while !request.ends_with(b"\r\n\r\n") {
                            let Ok(byte) = stream.read_u8().await else {
                                return;
                            };
                            request.push(byte);
                        }
                        let text = String::from_utf8_lossy(&request).into_owned();
                        if seen.send((connection, text)).is_err() {
                            return;
                        }
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let connections = Connections::new("127.0.0.1", port).expect("an address");
        (connections, requests)
    }

    fn get(path: &'static str) -> Request<Body> {
        let mut request = Request::new(body::empty());
        *request.uri_mut() = http::Uri::from_static(path);
        request
    }

    async fn read(response: Response<Body>) -> Bytes {
        body::collect(response.into_body(), 10).await.expect("read")
    }

    #[tokio::test]
    async fn a_connection_serves_one_call_after_the_other() {
        let (connections, mut requests) = application(usize::MAX).await;
        for _ in 0..3 {
            let response = connections.send(get("/a?b=c")).await.expect("answered");
            assert_eq!(read(response).await, "ok");
            let (connection, request) = requests.recv().await.expect("a request");
            assert_eq!(connection, 0);
            let host = connections.authority.to_str().expect("text");
            assert_eq!(
                request,
                format!("GET /a?b=c HTTP/1.1\r\nhost: {host}\r\n\r\n")
            );
        }
    }

    #[tokio::test]
    async fn calls_at_once_have_connections_of_their_own() {
        let (connections, mut requests) = application(usize::MAX).await;
        let first = connections.send(get("/1")).await.expect("answered");
        let second = connections.send(get("/2")).await.expect("answered");
        assert_eq!(
            (read(first).await, read(second).await),
            ("ok".into(), "ok".into())
        );
        let (one, two) = (requests.recv().await, requests.recv().await);
        assert_ne!(one.expect("a request").0, two.expect("a request").0);
        assert_eq!(connections.idle.0.lock().len(), 2);
    }

    #[tokio::test]
    async fn a_connection_closed_while_idle_costs_no_call() {
        let (connections, mut requests) = application(1).await;
        for expected in 0..5 {
            let response = connections.send(get("/")).await.expect("answered");
            assert_eq!(read(response).await, "ok");
            assert_eq!(requests.recv().await.expect("a request").0, expected);
            let closed = async {
                while !connections
                    .idle
                    .0
                    .lock()
                    .iter()
                    .all(|(_, sender)| sender.is_closed())
                {
                    tokio::task::yield_now().await;
                }
            };
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, closed).await.expect("closed");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_closes_its_connection() {
        let (connections, mut requests) = application(usize::MAX).await;
        drop(connections.send(get("/")).await.expect("answered"));
        let response = connections.send(get("/")).await.expect("answered");
        read(response).await;
        let (one, two) = (requests.recv().await, requests.recv().await);
        assert_eq!(one.expect("a request").0, 0);
        assert_eq!(two.expect("a request").0, 1);
    }

    /// The application answers before it has read the request, and reads no further: its connection is of no more use,
    /// and the next call does not wait for it.
    #[tokio::test]
    async fn an_early_answer_does_not_hold_up_the_next_call() {
        let (connections, mut requests) = application(usize::MAX).await;
        let endless = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, BoxError>,
        >());
        let mut upload = Request::new(endless.boxed_unsync());
        *upload.uri_mut() = http::Uri::from_static("/upload");
        *upload.method_mut() = http::Method::POST;
        read(connections.send(upload).await.expect("answered")).await;
        let limit = Duration::from_secs(20);
        let next = tokio::time::timeout(limit, connections.send(get("/next"))).await;
        read(next.expect("not held up").expect("answered")).await;
        let (one, two) = (requests.recv().await, requests.recv().await);
        assert_eq!(one.expect("a request").0, 0);
        assert_eq!(two.expect("a request").0, 1);
    }

    #[tokio::test]
    async fn an_application_that_is_not_there_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let connections = Connections::new("127.0.0.1", port).expect("an address");
        match connections.send(get("/")).await {
            Err(Error::Dial(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
            other => panic!("{:?}", other.map(|response| response.status())),
        }
    }
}
