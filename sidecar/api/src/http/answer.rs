//! The body of an answer: measures and logs the request once the answer has gone out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use dapr_sidecar_core::body::{Body, BoxError};
use http::{HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};

use super::limit::Read;
use crate::log;
use crate::metrics::HttpCall;
use crate::services::Core;

/// What is said about a request when it is done.
pub(super) struct Record {
    pub(super) started: Instant,
    pub(super) status: StatusCode,
    pub(super) method: Method,
    pub(super) path: String,
    /// Name of the operation.
    pub(super) name: &'static str,
    /// What the operation addressed, for obfuscated logs.
    pub(super) target: Option<String>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) read: Read,
    /// What stands before the log in upstream's order answers without it.
    pub(super) is_logged: bool,
    pub(super) core: Arc<Core>,
}

/// The body of an answer of the HTTP API.
pub struct AnswerBody {
    inner: Body,
    written: u64,
    record: Option<Record>,
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl AnswerBody {
    pub(super) fn new(inner: Body, record: Record) -> Self {
        let silent = record.core.metrics.is_none() && record.core.settings.api_logging.is_none();
        Self {
            inner,
            written: 0,
            record: (!silent).then_some(record),
        }
    }

    /// A body that nothing is said about.
    pub(super) fn plain(inner: Body) -> Self {
        Self {
            inner,
            written: 0,
            record: None,
        }
    }
}

impl Record {
    fn write(self, written: u64) {
        let elapsed = self.started.elapsed();
        if let Some(metrics) = &self.core.metrics {
            metrics.http_server(&HttpCall {
                method: &self.method,
                path: &self.path,
                status: self.status,
                request_bytes: self.read.bytes(),
                response_bytes: written,
                elapsed,
            });
        }
        if let Some(logging) = self.core.settings.api_logging.filter(|_| self.is_logged) {
            log::http(
                logging,
                &log::HttpLine {
                    method: &self.method,
                    path: &self.path,
                    name: self.name,
                    target: self.target.as_deref(),
                    user_agent: self.user_agent.as_ref(),
                    status: self.status,
                    size: written,
                    elapsed,
                },
            );
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.write(self.written);
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.written += frame.data_ref().map_or(0, |data| data.len() as u64);
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
