//! An answer that holds its share of the memory until it has left, so that clients that do not take their answers cannot
//! make the process hold them all.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes that are handed out at a time: what is handed out waits elsewhere, where it is not counted.
const PART: usize = 16 << 10;

/// The rest of the answer.
#[derive(Debug)]
pub(super) struct Held {
    rest: Bytes,
    _permits: OwnedSemaphorePermit,
}

impl Held {
    pub(super) fn new(answer: Vec<u8>, permits: OwnedSemaphorePermit) -> Self {
        Self {
            rest: answer.into(),
            _permits: permits,
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rest = &mut self.get_mut().rest;
        if rest.is_empty() {
            return Poll::Ready(None);
        }
        let part = rest.split_to(rest.len().min(PART));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn the_share_is_given_back_with_the_last_part() {
        let all = Arc::new(Semaphore::new(1));
        let permits = Arc::clone(&all).acquire_owned().await.unwrap();
        let answer = vec![7; 2 * PART + 1];
        let mut held = Held::new(answer.clone(), permits);
        assert_eq!(held.size_hint().exact(), Some(answer.len() as u64));
        let mut said = Vec::new();
        while let Some(frame) = held.frame().await {
            assert_eq!(all.available_permits(), 0);
            let part = frame.unwrap().into_data().unwrap();
            assert!(part.len() <= PART);
            said.extend_from_slice(&part);
        }
        assert!(said == answer && held.is_end_stream());
        drop(held);
        assert_eq!(all.available_permits(), 1);
    }
}
