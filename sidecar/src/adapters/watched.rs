//! A connection to placement that ends when placement falls silent, as it does behind a partition: what this sidecar
//! hosts has been given away by then.
//!
//! Nothing is sent to find out. Placement pings all its clients, and the original cuts off who pings it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Placement pings every 10 s at least, by default every 2 s.
const SILENCE: Duration = Duration::from_secs(15);
/// Pings that follow each other sooner are not those of a clock: peers also ping to measure a connection.
const REGULAR: Duration = Duration::from_millis(900);
/// Before each frame: length, type, flags and stream.
const HEADER: usize = 9;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A connection whose silence says something.
pub(super) struct Watched<T> {
    inner: T,
    frames: Frames,
    peer: Peer,
    silence: Pin<Box<Sleep>>,
}

/// What is known of the other side.
#[derive(Debug, Clone, Copy)]
enum Peer {
    /// A server greets who connects.
    Expected,
    /// It may be a proxy that keeps pings to itself, and then silence says nothing.
    Heard {
        ping: Option<Instant>,
    },
    Pings,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            frames: Frames::default(),
            peer: Peer::Expected,
            silence: Box::pin(tokio::time::sleep(SILENCE)),
        }
    }

    fn heard(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.silence.as_mut().reset(now + SILENCE);
        let ping = match self.peer {
            Peer::Expected => None,
            Peer::Heard { ping } => ping,
            Peer::Pings => return,
        };
        let is_regular = |ping| now.duration_since(ping) >= REGULAR;
        self.peer = match (self.frames.has_ping(bytes), ping) {
            (true, Some(ping)) if is_regular(ping) => Peer::Pings,
            (true, ping) => Peer::Heard {
                ping: ping.or(Some(now)),
            },
            (false, ping) => Peer::Heard { ping },
        };
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buffer) {
            this.heard(&buffer.filled()[before..]);
            return Poll::Ready(read);
        }
        match this.peer {
            Peer::Expected | Peer::Pings => {}
            Peer::Heard { .. } => return Poll::Pending,
        }
        ready!(this.silence.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing was heard for {SILENCE:?}"),
        )))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The frames of HTTP/2 that go by.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    known: usize,
    /// Bytes of the frame that are still to come.
    rest: usize,
}

impl Frames {
    /// Whether the head of a ping ends in these bytes.
    fn has_ping(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER - self.known).min(bytes.len());
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == HEADER {
                let [high, middle, low, kind, flags, ..] = self.header;
                self.known = 0;
                self.rest = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                found |= kind == PING && flags & ACK == 0;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let head = [0, 0, length, kind, flags, 0, 0, 0, 0];
        // A payload that reads like the head of a ping.
        let payload = [0, 0, 8, PING, 0, 0, 0, 0, 0];
        let payload = payload.iter().cycle().take(usize::from(length));
        head.iter().chain(payload).copied().collect()
    }

    /// Reads until the connection fails, for an hour at most.
    async fn read(mut watched: Watched<tokio::io::DuplexStream>) -> Option<io::ErrorKind> {
        let mut buffer = [0; 64];
        let failed = async {
            loop {
                if let Err(error) = watched.read(&mut buffer).await {
                    return error.kind();
                }
            }
        };
        let hour = Duration::from_secs(60 * 60);
        tokio::time::timeout(hour, failed).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_pings_and_falls_silent_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let reading = tokio::spawn(read(Watched::new(ours)));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let ping = frame(PING, 0, 8);
            theirs.write_all(&ping).await.expect("open");
        }
        let before = Instant::now();
        let end = reading.await.expect("no panic");
        assert_eq!(end, Some(io::ErrorKind::TimedOut));
        assert!(before.elapsed() >= SILENCE && before.elapsed() < SILENCE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_even_greet_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let before = Instant::now();
        let end = read(Watched::new(ours)).await;
        assert_eq!(end, Some(io::ErrorKind::TimedOut));
        assert!(before.elapsed() < SILENCE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_a_peer_that_does_not_ping_by_the_clock_says_nothing() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let reading = tokio::spawn(read(Watched::new(ours)));
        for frame in [
            frame(4, 0, 6),
            frame(PING, 0, 8),
            frame(PING, 0, 8),
            frame(PING, ACK, 8),
        ] {
            theirs.write_all(&frame).await.expect("open");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        theirs.write_all(&frame(0, 0, 20)).await.expect("open");
        assert_eq!(reading.await.expect("no panic"), None);
    }

    proptest! {
        #[test]
        fn pings_are_found_however_the_bytes_come(
            frames in proptest::collection::vec((0u8..10, 0u8..2, 0u8..40), 0..8),
            size in 1usize..30,
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, length)| frame(*kind, *flags, *length))
                .collect();
            let expected = frames.iter().filter(|(kind, flags, _)| *kind == PING && *flags == 0).count();
            let mut seen = Frames::default();
            // A piece of any size has one ping or none but for the small ones, whose heads are counted together.
            let found = bytes.chunks(size).filter(|piece| seen.has_ping(piece)).count();
            prop_assert!(found <= expected && (found > 0) == (expected > 0));
        }
    }
}
