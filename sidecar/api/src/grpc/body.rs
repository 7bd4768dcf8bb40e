//! Bodies of gRPC calls: counted on the way in, measured and logged when the answer has gone out.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use dapr_security::grpc;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::rpc::Code;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use percent_encoding::percent_decode_str;

use crate::log;
use crate::metrics::GrpcCall;
use crate::services::Core;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Bytes before each message; sizes of calls do not include them.
const PREFIX: u64 = 5;

/// A request body, counted when somebody wants to know.
pub(super) struct Counted<B> {
    inner: B,
    count: Option<Arc<AtomicU64>>,
}

pub(super) fn counted<B>(
    request: Request<B>,
    count: bool,
) -> (Request<Counted<B>>, Option<Arc<AtomicU64>>) {
    let count = count.then(Arc::<AtomicU64>::default);
    let counter = count.clone();
    let request = request.map(|inner| Counted { inner, count });
    (request, counter)
}

impl<B> http_body::Body for Counted<B>
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
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let (Some(count), Some(Ok(frame))) = (&self.count, &frame) {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            count.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Whether upstream measures calls of this method: its own unary ones, and what it forwards.
pub(super) fn is_measured(path: &str, proxied: bool) -> bool {
    const STREAMS: [&str; 6] = [
        "SubscribeTopicEventsAlpha1",
        "SubscribeActorEventsAlpha1",
        "SubscribeConfiguration",
        "SubscribeConfigurationAlpha1",
        "EncryptAlpha1",
        "DecryptAlpha1",
    ];
    if proxied {
        return true;
    }
    let name = path.strip_prefix(super::method::SERVICE);
    name.is_some_and(|name| !STREAMS.contains(&name))
}

/// What is said about a call when it is done.
pub(super) struct Record {
    pub(super) started: Instant,
    pub(super) received: Option<Arc<AtomicU64>>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) measured: bool,
    pub(super) path: String,
    pub(super) core: Arc<Core>,
}

/// The body of an answer of the gRPC API.
pub struct GrpcBody {
    inner: tonic::body::Body,
    sent: u64,
    code: Option<Code>,
    record: Option<Record>,
}

impl std::fmt::Debug for GrpcBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcBody").finish_non_exhaustive()
    }
}

impl GrpcBody {
    pub(super) fn wrap(response: Response<tonic::body::Body>, record: Record) -> Response<Self> {
        let (mut parts, inner) = response.into_parts();
        rewrite_size_error(&mut parts.headers);
        let silent = record.core.settings.api_logging.is_none()
            && (record.core.metrics.is_none() || !record.measured);
        let body = Self {
            inner,
            sent: 0,
            code: code(&parts.headers),
            record: (!silent).then_some(record),
        };
        Response::from_parts(parts, body)
    }
}

/// The status in headers or trailers.
pub(super) fn code(headers: &HeaderMap) -> Option<Code> {
    let number = headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    Some(Code::from_i32(number))
}

impl Record {
    fn write(self, code: Code, sent: u64) {
        let elapsed = self.started.elapsed();
        if let Some(metrics) = self.core.metrics.as_ref().filter(|_| self.measured) {
            let received = self
                .received
                .map_or(0, |count| count.load(Ordering::Relaxed));
            metrics.grpc_server(&GrpcCall {
                method: &self.path,
                code,
                received: received.saturating_sub(PREFIX),
                sent: sent.saturating_sub(PREFIX),
                elapsed,
            });
        }
        if self.core.settings.api_logging.is_some() {
            log::grpc(&self.path, code, self.user_agent.as_ref(), elapsed);
        }
    }
}

impl Drop for GrpcBody {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            // A body dropped before its trailers belongs to a caller that has gone.
            record.write(self.code.unwrap_or(Code::Cancelled), self.sent);
        }
    }
}

impl http_body::Body for GrpcBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame {
            if let Some(data) = frame.data_ref() {
                self.sent += data.len() as u64;
            } else if let Some(trailers) = frame.trailers_mut() {
                rewrite_size_error(trailers);
                self.code = code(trailers);
            }
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

/// A message over the limit is told with another code and text by tonic than by the Go runtime that callers
/// know; this makes it Go's.
fn rewrite_size_error(headers: &mut HeaderMap) {
    if headers.get(GRPC_STATUS).is_none_or(|code| code != "11") {
        return;
    }
    let text = headers
        .get(GRPC_MESSAGE)
        .and_then(|message| message.to_str().ok())
        .and_then(|message| grpc::size_error(&percent_decode_str(message).decode_utf8_lossy()));
    if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(GRPC_STATUS, HeaderValue::from_static("8"));
        headers.insert(GRPC_MESSAGE, value);
    }
}
