//! The caller's metrics of a forwarded call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use dapr_sidecar_core::body::{Body, BoxError};
use dapr_sidecar_core::metrics::InvokeMetrics as _;
use dapr_sidecar_core::rpc::{self, Code};
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::grpc::body::code;
use crate::metrics::ApiMetrics;

/// A call that is under way; its answer is counted when it is over, or dropped.
pub(super) struct Sent {
    metrics: Arc<ApiMetrics>,
    target: String,
    started: Instant,
    /// Of the answer so far; a call that is dropped before its end has a caller that has gone.
    code: Code,
}

impl Sent {
    /// Counts a call that leaves. Of what is marked as a stream no answer is counted: it may never end.
    pub(super) fn begin(metrics: Arc<ApiMetrics>, target: &str, streaming: bool) -> Option<Self> {
        metrics.request_sent(target, streaming);
        (!streaming).then(|| Self {
            metrics,
            target: target.to_owned(),
            started: Instant::now(),
            code: Code::Cancelled,
        })
    }

    /// Watches the answer up to its end.
    pub(super) fn watch(
        mut self,
        answer: Result<Response<Body>, rpc::Status>,
    ) -> Result<Response<Body>, rpc::Status> {
        match answer {
            Ok(answer) => {
                self.code = code(answer.headers()).unwrap_or(self.code);
                Ok(answer.map(|inner| Watched { inner, sent: self }.boxed_unsync()))
            }
            Err(status) => {
                self.code = status.code;
                Err(status)
            }
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.metrics
            .response_received(&self.target, self.code as i32, false, elapsed);
    }
}

struct Watched {
    inner: Body,
    sent: Sent,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    self.sent.code = code;
                }
            }
            Some(Err(_)) => self.sent.code = Code::Unavailable,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
