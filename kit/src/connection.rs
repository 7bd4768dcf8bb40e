//! A server's connection, seen from below HTTP/1: how long the head of a request may take, and an end that loses no
//! answer.
//!
//! hyper has a timer for heads, too, but it runs while a client keeps a connection for later, and cuts it. And hyper
//! closes at once when it answered before it had read the whole body: the bytes that still come make the kernel reset
//! the connection, and the client may never see why. HTTP/2 has frames for both, its connections are left alone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long bytes are still taken after an early answer, as Go does to avoid the reset.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes thrown away at a time meanwhile.
const DISCARD: usize = 8 << 10;
/// What an HTTP/2 connection begins with, as far as no HTTP/1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request's head: from the beginning of the connection, or from the first byte of a later request.
    pub head: Duration,
    /// Between two requests; `None` is for ever.
    pub idle: Option<Duration>,
}

/// Watches the connection `io`: serve the first, and pass every request and its response through the second.
pub fn watch<I>(io: I, limits: Limits) -> (Watched<I>, Exchanges) {
    let state = Arc::<State>::default();
    let exchanges = Exchanges {
        state: Arc::clone(&state),
    };
    let watched = Watched {
        io,
        limits,
        state,
        first: First::Begun(0),
        requests: 0,
        has_begun: false,
        timer: None,
        armed: None,
        end: End::Open,
    };
    (watched, exchanges)
}

/// What the connection learns of its requests. Those of HTTP/1 follow each other, so nothing here is contended.
#[derive(Debug, Default)]
struct State {
    /// Requests whose heads were read, and those of them that are answered.
    requests: AtomicUsize,
    answers: AtomicUsize,
    /// Somebody may still read the body of the last request.
    is_reading: AtomicBool,
    /// It was given up before its end.
    is_unread: AtomicBool,
    is_http2: AtomicBool,
}

/// Tells a [`Watched`] connection of its requests. Clones share one state.
#[derive(Clone, Debug)]
pub struct Exchanges {
    state: Arc<State>,
}

impl Exchanges {
    fn of_http1(&self) -> Option<Arc<State>> {
        let is_http2 = self.state.is_http2.load(Ordering::Relaxed);
        (!is_http2).then(|| Arc::clone(&self.state))
    }

    /// A request whose head is there. Each needs its [`response`](Self::response).
    pub fn request<B: Body>(&self, request: Request<B>) -> Request<Received<B>> {
        let has_body = !request.body().is_end_stream();
        let state = self.of_http1();
        if let Some(state) = &state {
            state.is_unread.store(false, Ordering::Relaxed);
            state.is_reading.store(has_body, Ordering::Relaxed);
            state.requests.fetch_add(1, Ordering::Relaxed);
        }
        request.map(|body| Received {
            body,
            state: state.filter(|_| has_body),
        })
    }

    /// The response to it.
    pub fn response<B>(&self, response: Response<B>) -> Response<Answered<B>> {
        response.map(|body| Answered {
            body,
            state: self.of_http1(),
        })
    }
}

/// The body of a request.
#[derive(Debug)]
pub struct Received<B: Body> {
    body: B,
    /// Who is to know how it ends; `None` once it has.
    state: Option<Arc<State>>,
}

impl<B: Body> Drop for Received<B> {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            let is_unread = !self.body.is_end_stream();
            state.is_unread.store(is_unread, Ordering::Relaxed);
            state.is_reading.store(false, Ordering::Relaxed);
        }
    }
}

impl<B: Body + Unpin> Body for Received<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none()
            && let Some(state) = self.state.take()
        {
            state.is_reading.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response. The server drops it when all of it is on its way.
#[derive(Debug)]
pub struct Answered<B> {
    body: B,
    state: Option<Arc<State>>,
}

impl<B> Drop for Answered<B> {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            state.answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that is watched.
#[derive(Debug)]
pub struct Watched<I> {
    io: I,
    limits: Limits,
    state: Arc<State>,
    first: First,
    /// Requests known when the bytes behind `has_begun` came.
    requests: usize,
    /// Bytes of the next request are there.
    has_begun: bool,
    /// Made with the first wait; most requests come in one piece and need none.
    timer: Option<Pin<Box<Sleep>>>,
    armed: Option<Wait>,
    end: End,
}

/// What is known of the first bytes.
#[derive(Debug)]
enum First {
    /// So many of them agree with [`PREFACE`].
    Begun(usize),
    Known,
}

/// What a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Head,
    Next,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The client has sent its last.
    Theirs,
    /// Both sides, but what the client still sends is thrown away for a while.
    Lingering,
}

impl<I> Watched<I> {
    fn note(&mut self, bytes: &[u8]) {
        if let First::Begun(known) = self.first {
            let rest = &PREFACE[known..];
            let length = rest.len().min(bytes.len());
            self.first = if rest[..length] != bytes[..length] {
                First::Known
            } else if length == rest.len() {
                self.state.is_http2.store(true, Ordering::Relaxed);
                First::Known
            } else {
                First::Begun(known + length)
            };
        }
        // What follows an early answer may be what is left of the body.
        let is_body = self.is_busy() || self.state.is_unread.load(Ordering::Relaxed);
        self.has_begun |= !is_body;
    }

    /// Whether a request is answered, or its body read; forgets what belonged to its head.
    fn is_busy(&mut self) -> bool {
        let requests = self.state.requests.load(Ordering::Relaxed);
        if requests != self.requests {
            self.requests = requests;
            self.has_begun = false;
            self.armed = None;
        }
        requests != self.state.answers.load(Ordering::Relaxed)
            || self.state.is_reading.load(Ordering::Relaxed)
    }

    /// What the client is waited for, and how long at most.
    fn wait(&mut self) -> Option<(Wait, Duration)> {
        if self.is_busy() || self.state.is_http2.load(Ordering::Relaxed) {
            return None;
        }
        if self.has_begun || self.requests == 0 {
            return Some((Wait::Head, self.limits.head));
        }
        self.limits.idle.map(|limit| (Wait::Next, limit))
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((wait, limit)) = self.wait() else {
            return false;
        };
        if self.armed != Some(wait) {
            self.armed = Some(wait);
            self.arm(limit);
        }
        self.poll_timer(cx).is_ready()
    }

    fn arm(&mut self, limit: Duration) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(Instant::now() + limit),
            None => self.timer = Some(Box::pin(sleep(limit))),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buffer) else {
            if self.is_late(cx) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        };
        read?;
        match &buffer.filled()[before..] {
            [] if buffer.remaining() > 0 => self.end = End::Theirs,
            bytes => self.note(bytes),
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // With the last of an answer begins the wait for the next request, and hyper does not read once more. The timer
        // has to wake it; that it is late is told by the read.
        if self.limits.idle.is_some() {
            self.is_late(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Closes this side. After an early answer it is done when the client has closed its own, or after a moment: until
    /// then what it sends is thrown away, however much.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end != End::Lingering {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            let is_unread = self.state.is_unread.load(Ordering::Relaxed);
            if !is_unread || self.end == End::Theirs {
                return Poll::Ready(Ok(()));
            }
            self.end = End::Lingering;
            self.arm(LINGER);
        }
        if self.poll_timer(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; DISCARD];
        loop {
            let mut discarded = ReadBuf::new(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut discarded) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !discarded.filled().is_empty() => {}
                // The client is done; that it broke off is no longer our concern.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: None,
    };
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

    /// Answers `early` without its body, and everything else once its body was read.
    async fn serve<I>(io: I, limits: Limits) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, exchanges) = watch(io, limits);
        let service = service_fn(move |request: Request<Incoming>| {
            let exchanges = exchanges.clone();
            async move {
                let request = exchanges.request(request);
                if request.uri().path() != "/early" {
                    request.collect().await.expect("a body");
                }
                let response = Response::new(Full::new(Bytes::from_static(b"done")));
                Ok::<_, Infallible>(exchanges.response(response))
            }
        });
        http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .await
    }

    fn start(limits: Limits) -> (DuplexStream, JoinHandle<hyper::Result<()>>) {
        let (client, server) = duplex(1 << 16);
        (client, tokio::spawn(serve(server, limits)))
    }

    async fn answer(client: &mut DuplexStream) {
        let mut text = Vec::new();
        while !text.ends_with(b"done") {
            let read = client.read_buf(&mut text).await.expect("open");
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&text));
        }
    }

    /// Lets everybody do what can be done now.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn wait(seconds: u64) {
        settle().await;
        tokio::time::advance(Duration::from_secs(seconds)).await;
        settle().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_kept_for_later_stays() {
        let (mut client, _server) = start(LIMITS);
        for body in ["", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"] {
            let request = if body.is_empty() {
                String::from_utf8_lossy(GET).into_owned()
            } else {
                format!("POST / HTTP/1.1\r\nhost: test\r\n{body}\r\n")
            };
            client.write_all(request.as_bytes()).await.expect("written");
            answer(&mut client).await;
            wait(3600).await;
        }
        client.write_all(GET).await.expect("still open");
        answer(&mut client).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_and_no_more() {
        for sent in [&b""[..], b"GET / HT", b"PRI"] {
            let (mut client, server) = start(LIMITS);
            client.write_all(sent).await.expect("written");
            wait(9).await;
            assert!(!server.is_finished(), "{sent:?}");
            wait(2).await;
            assert!(server.is_finished(), "{sent:?}");
        }
        let (mut client, server) = start(LIMITS);
        client.write_all(GET).await.expect("written");
        answer(&mut client).await;
        wait(60).await;
        client.write_all(&GET[..9]).await.expect("written");
        wait(9).await;
        assert!(!server.is_finished());
        wait(2).await;
        assert!(server.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_has_all_the_time() {
        let (mut client, _server) = start(LIMITS);
        let head = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\n";
        client.write_all(head).await.expect("written");
        for _ in 0..4 {
            wait(60).await;
            client.write_all(b"x").await.expect("still open");
        }
        answer(&mut client).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_it_has_idle_connections_cut() {
        let limits = Limits {
            idle: Some(Duration::from_secs(60)),
            ..LIMITS
        };
        let (mut client, server) = start(limits);
        for _ in 0..3 {
            client.write_all(GET).await.expect("open");
            answer(&mut client).await;
            wait(59).await;
        }
        assert!(!server.is_finished());
        wait(2).await;
        assert!(server.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_left_alone() {
        let (mut client, server) = duplex(1 << 16);
        let (mut watched, _exchanges) = watch(server, LIMITS);
        let reading = tokio::spawn(async move { watched.read_to_end(&mut Vec::new()).await });
        for piece in [&b"PR"[..], b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            client.write_all(piece).await.expect("written");
            wait(1).await;
        }
        wait(3600).await;
        assert!(!reading.is_finished());
    }

    #[tokio::test]
    async fn an_early_answer_reaches_a_client_that_still_sends() {
        const LENGTH: usize = 16 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound"))
            .await
            .expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        let server = tokio::spawn(serve(server, LIMITS));
        let head =
            format!("POST /early HTTP/1.1\r\nhost: test\r\ncontent-length: {LENGTH}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("written");
        client.write_all(&vec![0; LENGTH]).await.expect("taken");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("no reset");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\ndone"), "{text}");
        drop(client);
        server.await.expect("no panic").expect("a clean end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_left_after_a_moment() {
        let (mut client, server) = start(LIMITS);
        let head = b"POST /early HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n";
        client.write_all(head).await.expect("written");
        answer(&mut client).await;
        client.write_all(b"x").await.expect("thrown away");
        settle().await;
        assert!(!server.is_finished());
        wait(1).await;
        assert!(server.is_finished());
    }
}
