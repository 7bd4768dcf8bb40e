//! Writes gathered into one: whatever a connection writes while its task is polled leaves in one TLS record and one
//! system call when the poll ends.
//!
//! HTTP/2 flushes after every larger DATA frame, so a small call would otherwise cost two records, and the peer would
//! wake up for each. Nothing waits for a timer: what is written in a poll leaves with that poll, if the one that
//! drives the connection uses [`Flusher::drive`].

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are written although the poll has not ended.
const LIMIT: usize = 64 << 10;
/// The most that is kept allocated between polls, in bytes.
const KEPT: usize = 4 << 10;
/// The least that is kept, in bytes: there may be ten thousand connections that seldom say a few words.
const LEAST: usize = 256;

/// Makes a connection gather its writes. Every task that polls the connection must be driven by the [`Flusher`].
pub fn gather<T>(io: T) -> (Gathered<T>, Flusher<T>) {
    let shared = Arc::new(Mutex::new(Gatherer {
        io,
        buffer: Vec::new(),
        written: 0,
        usual: 0,
        touched: false,
        failed: None,
    }));
    (Gathered(Arc::clone(&shared)), Flusher(shared))
}

/// The connection, for the HTTP implementation.
#[derive(Debug)]
pub struct Gathered<T>(Arc<Mutex<Gatherer<T>>>);

/// Sends what was gathered.
#[derive(Debug)]
pub struct Flusher<T>(Arc<Mutex<Gatherer<T>>>);

impl<T> Clone for Flusher<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Gatherer<T> {
    io: T,
    buffer: Vec<u8>,
    /// How much of the buffer has been written.
    written: usize,
    /// The longest of the last writes in bytes; slowly forgotten, so that a short one between long ones costs nothing.
    usual: usize,
    /// Whether something was written or flushed since the last settling.
    touched: bool,
    /// Why writing failed, for the next one who writes.
    failed: Option<io::Error>,
}

impl<T: AsyncWrite + Unpin> Flusher<T> {
    /// Polls `future` to its end; what it wrote in a poll is sent at the end of that poll.
    pub fn drive<'f, F: Future>(
        &'f self,
        mut future: Pin<&'f mut F>,
    ) -> impl Future<Output = F::Output> + use<'f, F, T> {
        poll_fn(move |cx| {
            let polled = future.as_mut().poll(cx);
            self.0.lock().settle(cx);
            polled
        })
    }
}

impl<T: AsyncWrite + Unpin> Gatherer<T> {
    /// Sends what is there, unless others wrote it: its waker would be lost with this task.
    fn settle(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.touched) {
            return;
        }
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            self.failed = Some(error);
            // The connection has to be told, and it asks only when it is polled.
            cx.waker().wake_by_ref();
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let written =
                ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        if self.written > 0 {
            self.usual = self.written.max(self.usual - self.usual.div_ceil(16));
        }
        self.written = 0;
        self.buffer.clear();
        let kept = (2 * self.usual).clamp(LEAST, KEPT);
        if self.buffer.capacity() > 2 * kept {
            self.buffer.shrink_to(kept);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Makes sure that there is room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.touched = true;
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.buffer.len() < LIMIT {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut gatherer = self.0.lock();
        ready!(gatherer.poll_room(cx))?;
        gatherer.buffer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gatherer = self.0.lock();
        ready!(gatherer.poll_room(cx))?;
        for buf in bufs {
            gatherer.buffer.extend_from_slice(buf);
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Says that all is well: the flush comes when the poll ends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gatherer = self.0.lock();
        gatherer.touched = true;
        match gatherer.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gatherer = self.0.lock();
        ready!(gatherer.poll_drain(cx))?;
        Pin::new(&mut gatherer.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Counts the writes that reach the connection.
    struct Counting {
        io: DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
            self.writes.lock().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_one_poll_writes_leaves_in_one_write() {
        let (io, mut peer) = duplex(1 << 10);
        let writes = Arc::default();
        let (mut gathered, flusher) = gather(Counting {
            io,
            writes: Arc::clone(&writes),
        });
        let talk = pin!(async {
            gathered.write_all(b"ab").await?;
            gathered.flush().await?;
            gathered.write_all(b"cd").await?;
            gathered.flush().await?;
            tokio::task::yield_now().await;
            gathered.write_all(b"e").await
        });
        flusher.drive(talk).await.expect("written");
        let mut read = [0; 5];
        peer.read_exact(&mut read).await.expect("read");
        assert_eq!((&read, &**writes.lock()), (b"abcde", &[4, 1][..]));
    }

    #[tokio::test]
    async fn a_slow_reader_slows_the_writer_and_gets_everything() {
        const SIZE: usize = 1 << 20;
        let (io, mut peer) = duplex(1 << 10);
        let (mut gathered, flusher) = gather(io);
        let sent: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            let talk = pin!(async {
                for piece in sent.chunks(10_000) {
                    gathered.write_all(piece).await?;
                    assert!(gathered.0.lock().buffer.len() < LIMIT + 10_000);
                }
                gathered.shutdown().await
            });
            flusher.drive(talk).await
        });
        let mut read = Vec::new();
        let reading = peer.read_to_end(&mut read);
        tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .expect("in time")
            .expect("read");
        assert!(read == expected);
        writing.await.expect("no panic").expect("written");
    }

    #[tokio::test]
    async fn room_is_kept_as_long_as_it_is_used() {
        let (io, peer) = duplex(1 << 20);
        let (mut gathered, flusher) = gather(io);
        let capacity = |gathered: &Gathered<_>| gathered.0.lock().buffer.capacity();
        let mut write = async |length: usize| {
            let sent = vec![0; length];
            let talk = pin!(gathered.write_all(&sent));
            flusher.drive(talk).await.expect("written");
            capacity(&gathered)
        };
        assert!(write(100_000).await <= 2 * KEPT, "once in a while");
        for _ in 0..10 {
            let room = write(3_000).await;
            assert!(room >= 3_000, "{room}");
            assert_eq!(write(10).await, room, "a word between long ones");
        }
        for _ in 0..100 {
            write(10).await;
        }
        assert!(write(10).await <= 2 * LEAST);
        drop(peer);
    }

    #[tokio::test]
    async fn a_broken_connection_is_told_to_the_writer() {
        let (io, peer) = duplex(1 << 10);
        drop(peer);
        let (mut gathered, flusher) = gather(io);
        let talk = pin!(async {
            gathered.write_all(b"ab").await.expect("gathered");
            tokio::task::yield_now().await;
            gathered.flush().await
        });
        let error = flusher.drive(talk).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
