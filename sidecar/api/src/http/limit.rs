//! The limit on bodies, and how much of one was read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dapr_sidecar_core::body::{self, Body, BoxError};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

/// What callers read when a body is too long.
pub(crate) const TOO_LARGE: &str = "stream too large";

/// Bytes of a request body.
#[derive(Debug)]
pub(super) enum Read {
    /// As announced.
    Announced(u64),
    /// Counted while it is read.
    Counted(Arc<AtomicU64>),
}

impl Read {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Announced(length) => *length,
            Self::Counted(count) => count.load(Ordering::Relaxed),
        }
    }
}

/// The body with its limit; 0 is none. One without announced length is counted when `count` asks for it.
pub(super) fn limited<B>(body: B, limit: usize, count: bool) -> (Body, Read)
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return (body::empty(), Read::Announced(0));
    }
    let exact = body.size_hint().exact();
    let counter = (count && exact.is_none()).then(Arc::<AtomicU64>::default);
    let read = match &counter {
        Some(counter) => Read::Counted(Arc::clone(counter)),
        None => Read::Announced(exact.unwrap_or_default()),
    };
    let left = if limit == 0 { u64::MAX } else { limit as u64 };
    let limited = Limited {
        inner: body,
        left,
        counter,
    };
    (limited.boxed_unsync(), read)
}

struct Limited<B> {
    inner: B,
    left: u64,
    counter: Option<Arc<AtomicU64>>,
}

impl<B> http_body::Body for Limited<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = self.left.checked_sub(length) else {
            return Poll::Ready(Some(Err(TOO_LARGE.into())));
        };
        self.left = left;
        if let Some(counter) = &self.counter {
            counter.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
