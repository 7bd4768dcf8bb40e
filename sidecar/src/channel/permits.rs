//! `--app-max-concurrency`: a permit per call, held until the answer's body has been read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use dapr_sidecar_core::body::{Body, BoxError};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most calls at once; `None` is unlimited.
#[derive(Debug, Clone, Default)]
pub(super) struct Permits(Option<Arc<Semaphore>>);

impl Permits {
    /// At most `limit` calls at once; 0 is unlimited.
    pub(super) fn new(limit: usize) -> Self {
        Self((limit > 0).then(|| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))))
    }

    /// Waits for a free place.
    pub(super) async fn acquire(&self) -> Permit {
        match &self.0 {
            // The semaphore is never closed, so the error arm cannot be reached; no permit is the safe reading.
            Some(semaphore) => Permit(Arc::clone(semaphore).acquire_owned().await.ok()),
            None => Permit(None),
        }
    }
}

/// One place, given back on drop.
#[derive(Debug)]
pub(super) struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Ties the place to `body`.
    pub(super) fn hold(self, body: Body) -> Body {
        match self.0 {
            Some(permit) => Held {
                body,
                _permit: permit,
            }
            .boxed_unsync(),
            None => body,
        }
    }
}

struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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

    use super::*;

    #[tokio::test]
    async fn a_place_is_free_again_when_the_body_is_gone() {
        let permits = Permits::new(1);
        let body = permits.acquire().await.hold(body::full("x"));
        assert_eq!(permits.0.as_ref().map(|s| s.available_permits()), Some(0));
        drop(body);
        assert_eq!(permits.0.as_ref().map(|s| s.available_permits()), Some(1));
    }
}
