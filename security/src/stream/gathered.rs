//! Writes gathered into one: whatever a connection writes while its task is polled leaves in one TLS record and one
//! system call when the poll ends.
//!
//! HTTP/2 flushes after every larger DATA frame, so a small call would otherwise cost two records, and the peer would
//! wake up for each. Nothing waits for a timer: what is written in a poll leaves with that poll, if the one that
//! drives the connection uses [`Flusher::drive`], and with the next one, which comes at once, if it uses
//! [`Flusher::drive_by_twos`].

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are written although the poll has not ended.
const LIMIT: usize = 64 << 10;
/// Bytes copied at once. For more than 4 kB the C library (glibc before 2.39) takes an instruction that AMD's Zen 3 and 4
/// carry out at a tenth of the pace, unless both ends lie alike: 2 and 31 GB/s were measured, and tables are 70 kB.
const PIECE: usize = 2 << 10;
/// The longest room that is lent out again, in bytes: what a poll gathers, and a frame that came when there was little left.
const LENT: usize = 4 * LIMIT;

thread_local! {
    /// Room that whoever gathers something borrows until it is written, which is most often the end of the poll. So ten thousand
    /// connections that seldom say a few words keep none, and a table that goes to a thousand of them finds it warm and grown.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes a connection gather its writes. Every task that polls the connection must be driven by the [`Flusher`].
pub fn gather<T>(io: T) -> (Gathered<T>, Flusher<T>) {
    let shared = Arc::new(Mutex::new(Gatherer {
        io,
        buffer: Vec::new(),
        written: 0,
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
    /// Without any room while nothing is to be written.
    buffer: Vec<u8>,
    /// How much of the buffer has been written.
    written: usize,
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

    /// As [`Flusher::drive`], but what a poll wrote is sent after one more, behind the tasks that are ready already: for a
    /// client, whose request is written in two polls with another task between them.
    pub fn drive_by_twos<'f, F: Future>(
        &'f self,
        mut future: Pin<&'f mut F>,
    ) -> impl Future<Output = F::Output> + use<'f, F, T> {
        // Whether the poll before this one wrote, and nothing was sent.
        let mut waits = false;
        poll_fn(move |cx| {
            let polled = future.as_mut().poll(cx);
            let mut gatherer = self.0.lock();
            if !waits && polled.is_pending() && gatherer.put_off() {
                waits = true;
                cx.waker().wake_by_ref();
                return polled;
            }
            gatherer.touched |= mem::take(&mut waits);
            gatherer.settle(cx);
            polled
        })
    }
}

impl<T: AsyncWrite + Unpin> Gatherer<T> {
    /// Whether this poll left something to send, which whoever asks sends later.
    fn put_off(&mut self) -> bool {
        self.written < self.buffer.len() && mem::take(&mut self.touched)
    }

    /// Sends what is there, unless others wrote it: its waker would be lost with this task.
    fn settle(&mut self, cx: &mut Context<'_>) {
        if !mem::take(&mut self.touched) {
            return;
        }
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.failed = Some(error);
                // The connection has to be told, and it asks only when it is polled.
                cx.waker().wake_by_ref();
            }
            Poll::Pending => self.wait(),
        }
    }

    /// Keeps what the peer has no room for yet, and no more: it may read slowly, or never.
    fn wait(&mut self) {
        let rest = &self.buffer[self.written..];
        if self.buffer.capacity() > 2 * rest.len() {
            let rest = rest.to_vec();
            lend(mem::replace(&mut self.buffer, rest));
            self.written = 0;
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
        self.written = 0;
        lend(mem::take(&mut self.buffer));
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() == 0 {
            self.buffer = ROOM.take();
        }
        self.buffer.reserve(bytes.len());
        for piece in bytes.chunks(PIECE) {
            self.buffer.extend_from_slice(piece);
        }
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

/// Leaves room for the next one on this thread.
fn lend(mut room: Vec<u8>) {
    room.clear();
    let held = ROOM.with_borrow(Vec::capacity);
    if (held..=LENT).contains(&room.capacity()) {
        ROOM.set(room);
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
        gatherer.push(buf);
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
            gatherer.push(buf);
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
    use tokio_util::io::InspectWriter;

    use super::*;

    type Lengths = Arc<Mutex<Vec<usize>>>;

    /// A connection that keeps the lengths of the writes that reach it.
    fn counting(
        io: DuplexStream,
        writes: &Lengths,
    ) -> InspectWriter<DuplexStream, impl FnMut(&[u8]) + use<>> {
        let writes = Arc::clone(writes);
        InspectWriter::new(io, move |bytes: &[u8]| writes.lock().push(bytes.len()))
    }

    #[tokio::test]
    async fn what_one_poll_writes_leaves_in_one_write() {
        let (io, mut peer) = duplex(1 << 10);
        let writes = Lengths::default();
        let (mut gathered, flusher) = gather(counting(io, &writes));
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
    async fn what_two_polls_write_leaves_in_one_write() {
        let (io, mut peer) = duplex(1 << 10);
        let writes = Lengths::default();
        let (mut gathered, flusher) = gather(counting(io, &writes));
        let mut other = pin!(std::future::pending::<()>());
        let mut talk = pin!(async {
            gathered.write_all(b"ab").await?;
            tokio::task::yield_now().await;
            gathered.write_all(b"cd").await?;
            tokio::task::yield_now().await;
            gathered.write_all(b"e").await?;
            std::future::pending().await
        });
        let mut talk = pin!(flusher.drive_by_twos(talk.as_mut()));
        let mut other = pin!(flusher.drive_by_twos(other.as_mut()));
        for expected in [&[][..], &[4], &[4], &[4, 1], &[4, 1]] {
            let polled: Poll<io::Result<()>> = futures::poll!(talk.as_mut());
            assert!(polled.is_pending());
            // A task beside it that wrote nothing sends nothing: its waker would not be the right one.
            assert!(futures::poll!(other.as_mut()).is_pending());
            assert_eq!(**writes.lock(), *expected);
        }
        let mut read = [0; 5];
        peer.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"abcde");
    }

    /// Nobody polls again what has ended, and a poll that wrote asks for the next one itself.
    #[tokio::test]
    async fn what_was_put_off_is_sent_without_anybodys_help() {
        let (io, mut peer) = duplex(1 << 10);
        let (mut gathered, flusher) = gather(io);
        let talk = tokio::spawn(async move {
            let talk = pin!(async {
                gathered.write_all(b"ab").await?;
                std::future::pending::<io::Result<()>>().await
            });
            flusher.drive_by_twos(talk).await
        });
        let mut read = [0; 2];
        let reading = peer.read_exact(&mut read);
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, reading)
            .await
            .expect("in time")
            .expect("read");
        talk.abort();

        let (io, mut peer) = duplex(1 << 10);
        let (mut gathered, flusher) = gather(io);
        let talk = pin!(gathered.write_all(b"cd"));
        flusher.drive_by_twos(talk).await.expect("written");
        peer.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"cd");
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

    /// A reader that has not read yet keeps what is written for it; others borrow meanwhile, and nobody gets another's words.
    #[tokio::test]
    async fn writes_borrow_room_and_give_it_back() {
        let (io, mut slow) = duplex(1 << 10);
        let (mut waiting, flusher) = gather(io);
        let writing = tokio::spawn(async move {
            let talk = pin!(async {
                waiting.write_all(&[1; 50_000]).await?;
                tokio::task::yield_now().await;
                {
                    let gatherer = waiting.0.lock();
                    let unread = gatherer.buffer.len() - gatherer.written;
                    assert_eq!(unread, 50_000 - (1 << 10));
                }
                waiting.shutdown().await
            });
            flusher.drive(talk).await
        });
        tokio::task::yield_now().await;
        for word in 2..10 {
            let (io, mut peer) = duplex(1 << 20);
            let (mut gathered, flusher) = gather(io);
            let talk = pin!(async {
                gathered.write_all(&[word; 10]).await?;
                gathered.write_all(&[word; 60_000]).await
            });
            flusher.drive(talk).await.expect("written");
            assert_eq!(gathered.0.lock().buffer.capacity(), 0);
            let room = ROOM.with_borrow(|room| (room.len(), room.capacity()));
            assert_eq!(room.0, 0);
            assert!((60_010..=LENT).contains(&room.1), "{room:?}");
            let talk = pin!(gathered.write_all(b"a word"));
            flusher.drive(talk).await.expect("written");
            assert_eq!(ROOM.with_borrow(Vec::capacity), room.1);
            let mut read = vec![0; 60_010];
            peer.read_exact(&mut read).await.expect("read");
            assert!(read.iter().all(|byte| *byte == word));
        }
        let mut read = Vec::new();
        slow.read_to_end(&mut read).await.expect("read");
        assert_eq!(read, vec![1; 50_000]);
        writing.await.expect("no panic").expect("written");
    }

    #[tokio::test]
    async fn who_waits_for_a_reader_keeps_what_is_unread_alone() {
        ROOM.set(Vec::with_capacity(LENT));
        let (io, mut peer) = duplex(10);
        let (mut gathered, flusher) = gather(io);
        let mut talk = pin!(async {
            gathered.write_all(&[1; 100]).await?;
            tokio::task::yield_now().await;
            gathered.shutdown().await
        });
        let mut talk = pin!(flusher.drive(talk.as_mut()));
        assert!(futures::poll!(talk.as_mut()).is_pending());
        assert_eq!(flusher.0.lock().buffer, [1; 90]);
        assert!(flusher.0.lock().buffer.capacity() < 200);
        assert_eq!(ROOM.with_borrow(Vec::capacity), LENT);
        let mut read = Vec::new();
        let (written, read_all) = tokio::join!(talk, peer.read_to_end(&mut read));
        written.expect("written");
        read_all.expect("read");
        assert_eq!(read, [1; 100]);
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
