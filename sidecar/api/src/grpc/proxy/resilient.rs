//! A forwarded call under the policies of its target.
//!
//! Nobody here knows the services that are called. So a call counts as unary, and its policies wrap all of it, unless its
//! metadata says that it is a stream: then they wrap its opening alone.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dapr_components_core::metadata::is_truthy;
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::{Location, Recorded};
use dapr_sidecar_core::resiliency::{Class, Classify, Failed, Policy};
use dapr_sidecar_core::rpc::{self, Code};
use futures::StreamExt as _;
use http::header::{HeaderMap, HeaderName};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::grpc::body::code;
use crate::services::Core;
use crate::wire;

/// Marks a call as a stream.
const STREAM: HeaderName = HeaderName::from_static("dapr-stream");
/// Most bytes of a request that are kept for another attempt: the largest message by gRPC's own default.
const MAX_REPLAY: usize = 4 << 20;
/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Calls of one target.
pub(super) struct Calls<'a> {
    pub(super) core: &'a Core,
    /// As the caller wrote it.
    pub(super) target: &'a str,
    pub(super) policy: Policy,
}

impl Calls<'_> {
    /// Forwards a call; `location` is where the target lives as far as is known.
    pub(super) async fn forward(
        &self,
        location: Location,
        request: Request<Body>,
    ) -> Result<Response<Body>, rpc::Status> {
        if is_stream(request.headers()) {
            let mut known = Some(location);
            let open = || self.open(known.take());
            let opened = self.policy.run(open).await;
            let location = opened.map_err(|failed| told(failed, |failure| failure.status))?;
            return self.core.proxy.forward(location, request).await;
        }
        let answer = if self.policy.retries() {
            self.repeat(location, request).await
        } else {
            let call = self.attempt(Some(location), request, None);
            self.policy.run_once(call).await
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(Failed::Operation(Failure {
                answer: Some(answer),
                ..
            })) => Ok(*answer),
            Err(failed) => Err(told(failed, |failure| failure.status)),
        }
    }

    /// Makes sure that the target can be called, and says where.
    async fn open(&self, known: Option<Location>) -> Result<Location, Failure> {
        let location = self.locate(known).await?;
        let reached = self.core.proxy.reach(&location).await;
        reached.map_err(|status| self.lost(&location, status))?;
        Ok(location)
    }

    /// Forwards a call, again if need be. Its first message is kept, and there must not be another.
    async fn repeat(
        &self,
        location: Location,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failed<Failure>> {
        let (parts, source) = request.into_parts();
        let second = CancellationToken::new();
        let source = OneMessage {
            inner: source,
            message: Message::default(),
            second: second.clone(),
        };
        let body = Recorded::new(source.boxed_unsync(), MAX_REPLAY);
        let mut known = Some(location);
        let attempt = || {
            let request = Request::from_parts(parts.clone(), body.attempt());
            let (known, body, second) = (known.take(), &body, &second);
            async move {
                if !body.is_complete() {
                    // An attempt that ran into its timeout has read more than is kept.
                    return Err(Failure::last(timed_out()));
                }
                let answer = self.attempt(known, request, Some(second)).await;
                answer.map_err(|failure| Failure {
                    is_last: failure.is_last || !body.is_complete(),
                    ..failure
                })
            }
        };
        self.policy.run(attempt).await
    }

    /// One attempt. It has succeeded when the first of an answer is there: that is on its way to the caller then.
    async fn attempt(
        &self,
        known: Option<Location>,
        request: Request<Body>,
        second: Option<&CancellationToken>,
    ) -> Result<Response<Body>, Failure> {
        let deadline = self
            .policy
            .timeout()
            .map(|timeout| Instant::now() + timeout);
        let call = async {
            let location = self.locate(known).await?;
            let answer = self.core.proxy.forward(location.clone(), request).await;
            let answer = answer.map_err(|status| self.lost(&location, status))?;
            judge(answer).await
        };
        let answer = match second {
            None => call.await?,
            Some(second) => tokio::select! {
                biased;
                answer = call => answer?,
                () = second.cancelled() => return Err(Failure::last(not_unary())),
            },
        };
        Ok(answer.map(|inner| {
            let guarded = Guarded {
                inner,
                deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
                second: second.map(|second| Box::pin(second.clone().cancelled_owned())),
            };
            guarded.boxed_unsync()
        }))
    }

    async fn locate(&self, known: Option<Location>) -> Result<Location, Failure> {
        if let Some(location) = known {
            return Ok(location);
        }
        let location = self.core.invoker.locate(self.target).await;
        location.map_err(|error| rpc::Status::new(Code::Unknown, error.to_string()).into())
    }

    /// A call that did not get through; one that lost its sidecar looks for it anew.
    fn lost(&self, location: &Location, status: rpc::Status) -> Failure {
        if let Location::Remote(peer) = location
            && matches!(status.code, Code::Unavailable | Code::Unauthenticated)
        {
            self.core.invoker.unreachable(peer);
        }
        status.into()
    }
}

pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let mark = headers.get(STREAM).and_then(|mark| mark.to_str().ok());
    mark.is_some_and(is_truthy)
}

/// How an attempt failed.
struct Failure {
    status: rpc::Status,
    /// The answer the status comes from; the caller gets it if it is the last.
    answer: Option<Box<Response<Body>>>,
    is_last: bool,
}

impl Failure {
    fn last(status: rpc::Status) -> Self {
        Self {
            is_last: true,
            ..Self::from(status)
        }
    }
}

impl From<rpc::Status> for Failure {
    fn from(status: rpc::Status) -> Self {
        Self {
            status,
            answer: None,
            is_last: false,
        }
    }
}

impl Classify for Failure {
    fn class(&self) -> Class {
        if self.is_last {
            Class::Permanent
        } else {
            Class::Code(self.status.code as i32)
        }
    }
}

/// What the caller is told of a failure.
fn told<E>(failed: Failed<E>, status: impl FnOnce(E) -> rpc::Status) -> rpc::Status {
    match failed {
        Failed::Operation(error) => status(error),
        Failed::Timeout => timed_out(),
        Failed::Rejected(rejected) => rpc::Status::new(Code::Unknown, rejected.to_string()),
    }
}

fn timed_out() -> rpc::Status {
    rpc::Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

fn not_unary() -> rpc::Status {
    let text = "cannot use resiliency policies with retries on streaming RPCs";
    rpc::Status::new(Code::FailedPrecondition, text)
}

/// Reads an answer until it is clear whether it is one: a status alone may be an error, after a message it comes too late.
async fn judge(answer: Response<Body>) -> Result<Response<Body>, Failure> {
    if let Some(code) = code(answer.headers()) {
        return judged(answer, code);
    }
    let (parts, mut rest) = answer.into_parts();
    let first = loop {
        match rest.frame().await {
            None => return Ok(Response::from_parts(parts, body::empty())),
            Some(Err(error)) => return Err(broken(error).into()),
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            Some(Ok(frame)) => break frame,
        }
    };
    let ended = first.trailers_ref().and_then(code);
    let first = futures::stream::once(std::future::ready(Ok(first)));
    let body = StreamBody::new(first.chain(BodyStream::new(rest))).boxed_unsync();
    let answer = Response::from_parts(parts, body);
    match ended {
        Some(code) => judged(answer, code),
        None => Ok(answer),
    }
}

fn judged(answer: Response<Body>, code: Code) -> Result<Response<Body>, Failure> {
    if code == Code::Ok {
        return Ok(answer);
    }
    Err(Failure {
        status: rpc::Status::new(code, ""),
        answer: Some(Box::new(answer)),
        is_last: false,
    })
}

fn broken(error: BoxError) -> rpc::Status {
    match error.downcast::<tonic::Status>() {
        Ok(status) => wire::from_tonic(&status),
        Err(error) => rpc::Status::new(Code::Unavailable, error.to_string()),
    }
}

/// How much of the first message of a request has passed.
#[derive(Default)]
struct Message {
    prefix: [u8; PREFIX],
    prefixed: usize,
    left: usize,
}

impl Message {
    /// Takes note of bytes; whether they reach into another message.
    fn is_left_by(&mut self, mut bytes: &[u8]) -> bool {
        if self.prefixed < PREFIX {
            let (prefix, rest) = bytes.split_at(bytes.len().min(PREFIX - self.prefixed));
            self.prefix[self.prefixed..self.prefixed + prefix.len()].copy_from_slice(prefix);
            self.prefixed += prefix.len();
            bytes = rest;
            if self.prefixed < PREFIX {
                return false;
            }
            let [_, length @ ..] = self.prefix;
            self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        }
        let own = self.left.min(bytes.len());
        self.left -= own;
        bytes.len() > own
    }
}

/// A request that stops where its second message begins, and says so.
struct OneMessage {
    inner: Body,
    message: Message,
    second: CancellationToken,
}

impl http_body::Body for OneMessage {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.second.is_cancelled() {
            // The call is given up elsewhere; an end here would make it look complete.
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref(),
            Some(Err(_)) | None => None,
        };
        if data.is_some_and(|data| self.message.is_left_by(data)) {
            self.second.cancel();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }
}

/// The rest of an answer, which still has to come in time, and ends with the request's second message.
struct Guarded {
    inner: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    second: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Guarded {
    /// Ends the answer with a status of our own.
    fn end(&mut self, status: rpc::Status) -> Frame<Bytes> {
        self.inner = body::empty();
        (self.deadline, self.second) = (None, None);
        let mut trailers = HeaderMap::new();
        // Our texts fit into headers.
        drop(wire::to_tonic(status).add_header(&mut trailers));
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let deadline = self.deadline.as_mut();
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Some(Ok(self.end(timed_out()))));
        }
        let second = self.second.as_mut();
        if second.is_some_and(|second| second.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Some(Ok(self.end(not_unary()))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_message_is_seen_however_frames_are_cut() {
        let one = [0, 0, 0, 0, 2, b'h', b'i'];
        let two = [&one[..], &one].concat();
        for size in 1..=two.len() {
            let mut message = Message::default();
            let mut passed = 0;
            for frame in two.chunks(size) {
                if message.is_left_by(frame) {
                    break;
                }
                passed += frame.len();
            }
            // Nothing of the second message has passed.
            assert_eq!(passed, one.len() / size * size, "{size}");
        }
        let mut empty = Message::default();
        assert!(!empty.is_left_by(&[0; PREFIX]));
        assert!(empty.is_left_by(&[0]));
    }

    #[test]
    fn streams_are_marked() {
        let marked = |mark: &'static str| {
            let mark = http::HeaderValue::from_static(mark);
            is_stream(&HeaderMap::from_iter([(STREAM, mark)]))
        };
        assert!(marked("true") && marked("1") && marked(" Yes "));
        assert!(!marked("false") && !marked("") && !is_stream(&HeaderMap::new()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_one_message_or_more(frames: Vec<Vec<u8>>) {
            let mut message = Message::default();
            let mut passed = Vec::new();
            let mut is_left = false;
            for frame in &frames {
                is_left = message.is_left_by(frame);
                if is_left {
                    break;
                }
                passed.extend_from_slice(frame);
            }
            let length = |bytes: &[u8]| match bytes {
                [_, a, b, c, d, ..] => PREFIX + u32::from_be_bytes([*a, *b, *c, *d]) as usize,
                _ => usize::MAX,
            };
            let all = frames.concat();
            assert!(passed.len() <= length(&all));
            assert_eq!(is_left, all.len() > length(&all));
        }
    }
}
