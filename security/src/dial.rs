//! Connections that are not lost with their first packet.
//!
//! The address of a Service of a cluster leads nowhere until the node knows the Service, and what was sent there before
//! goes on to be sent nowhere: the kernel remembers it for minutes. An attempt that nobody answers gets company, ever more
//! seldom, instead of being waited for.

use std::io;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// When another attempt is made, and then after twice as long each time.
const AGAIN: Duration = Duration::from_millis(250);
/// How many there are at most.
const MOST: usize = 5;

/// Connects. The first attempt that ends decides, whether it is answered or refused.
pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    first(|| TcpStream::connect((host, port))).await
}

async fn first<T, F>(attempt: impl Fn() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut attempts = FuturesUnordered::from_iter([attempt()]);
    let mut pause = AGAIN;
    loop {
        tokio::select! {
            Some(ended) = attempts.next() => return ended,
            () = sleep(pause), if attempts.len() < MOST => {
                attempts.push(attempt());
                pause *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// The attempt with number `ends` ends with `result` after a millisecond, all others never.
    async fn check(ends: u32, result: Result<(), io::ErrorKind>, expected: Duration) {
        let made = AtomicU32::new(0);
        let started = Instant::now();
        let ended = first(|| {
            let number = made.fetch_add(1, Ordering::Relaxed);
            async move {
                if number == ends {
                    sleep(Duration::from_millis(1)).await;
                    return result.map_err(io::Error::from);
                }
                std::future::pending().await
            }
        });
        assert_eq!(ended.await.map_err(|error| error.kind()), result);
        assert_eq!(started.elapsed(), expected + Duration::from_millis(1));
        assert_eq!(made.load(Ordering::Relaxed), ends + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_answers_is_tried_beside() {
        check(0, Ok(()), Duration::ZERO).await;
        check(1, Ok(()), Duration::from_millis(250)).await;
        check(3, Ok(()), Duration::from_millis(1750)).await;
        let refused = Err(io::ErrorKind::ConnectionRefused);
        check(0, refused, Duration::ZERO).await;
        check(2, refused, Duration::from_millis(750)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_not_ever_more() {
        let made = AtomicU32::new(0);
        let never = first(|| {
            made.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<io::Result<()>>()
        });
        let waited = tokio::time::timeout(Duration::from_secs(3600), never).await;
        assert!(waited.is_err());
        assert_eq!(made.load(Ordering::Relaxed), 5);
    }
}
