//! Streams of payloads: a body cut into numbered chunks, and numbered chunks read as a body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::StreamPayload;
use dapr_sidecar_core::body::{Body, BoxError};
use dapr_sidecar_core::invoke::{Request, Response};
use dapr_sidecar_core::rpc::{self, Code};
use futures::{Stream, StreamExt as _};
use http_body::{Body as _, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::codec::{IncomingRequest, IncomingResponse, Outgoing, RequestHead, ResponseHead};
use super::request::request_head;
use super::response::response_head;

/// Longest payload sent. Frames that are shorter are sent as they come; longer ones are cut so that a
/// message stays far below the size limit of the receiver. Receivers take any size.
const MAX_PAYLOAD: usize = 32 * 1024;

/// A body as numbered payloads.
struct Source {
    body: Body,
    /// Rest of a frame that was longer than one payload.
    rest: Bytes,
    seq: u64,
    ended: bool,
}

impl Source {
    fn new(body: Body) -> Self {
        Self {
            ended: body.is_end_stream(),
            body,
            rest: Bytes::new(),
            seq: 0,
        }
    }

    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<StreamPayload, BoxError>>> {
        while self.rest.is_empty() {
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // Trailers have no place in a payload: those of applications travel in the message.
                Some(Ok(frame)) => {
                    self.rest = frame.into_data().unwrap_or_default();
                    // A body that knows its length ends with its last byte, and its end travels with that.
                    self.ended = self.body.is_end_stream();
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.ended = true,
            }
        }
        let length = self.rest.len().min(MAX_PAYLOAD);
        let seq = self.seq;
        self.seq += 1;
        Poll::Ready(Some(Ok(StreamPayload {
            data: self.rest.split_to(length),
            seq,
        })))
    }
}

/// Tells that the body of a request could not be read, so that its call must be given up.
pub type SourceError = oneshot::Receiver<BoxError>;

/// What a streaming call sends: the leading message, with the first payload if it is there already, then
/// the other payloads.
///
/// A gRPC request stream cannot fail. When the body does, the stream stops without an end and the receiver
/// returned beside it gets the error: wait for it beside the call, and drop the call.
pub fn request_stream(request: Request) -> (RequestStream, SourceError) {
    let (head, body) = request_head(request);
    let (failed, error) = oneshot::channel();
    let stream = RequestStream {
        head: Some(head),
        source: Source::new(body),
        failed: Some(failed),
    };
    (stream, error)
}

/// See [`request_stream`].
pub struct RequestStream {
    head: Option<RequestHead>,
    source: Source,
    failed: Option<oneshot::Sender<BoxError>>,
}

impl std::fmt::Debug for RequestStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestStream").finish_non_exhaustive()
    }
}

impl Stream for RequestStream {
    type Item = Outgoing<RequestHead>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let payload = match self.source.poll_payload(cx) {
            Poll::Ready(Some(Ok(payload))) => Some(payload),
            Poll::Ready(Some(Err(error))) => {
                if let Some(failed) = self.failed.take() {
                    // Nobody listens when the call was dropped first.
                    drop(failed.send(error));
                }
                return Poll::Pending;
            }
            // After an error the end must not be told: the callee would take the body for complete.
            Poll::Ready(None) if self.failed.is_none() => return Poll::Pending,
            Poll::Ready(None) if self.head.is_none() => return Poll::Ready(None),
            Poll::Pending if self.head.is_none() => return Poll::Pending,
            Poll::Ready(None) | Poll::Pending => None,
        };
        let head = self.head.take();
        Poll::Ready(Some(Outgoing { head, payload }))
    }
}

/// What a streaming call answers: the leading message, with the first payload if it is there already, then
/// the other payloads.
pub fn response_stream(response: Response) -> ResponseStream {
    let (head, body) = response_head(response);
    ResponseStream {
        head: Some(head),
        source: Source::new(body),
    }
}

/// See [`response_stream`].
pub struct ResponseStream {
    head: Option<ResponseHead>,
    source: Source,
}

impl std::fmt::Debug for ResponseStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseStream").finish_non_exhaustive()
    }
}

impl Stream for ResponseStream {
    type Item = Result<Outgoing<ResponseHead>, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let payload = match self.source.poll_payload(cx) {
            Poll::Ready(Some(Ok(payload))) => Some(payload),
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(Some(Err(tonic::Status::internal(error.to_string()))));
            }
            Poll::Ready(None) if self.head.is_none() => return Poll::Ready(None),
            Poll::Pending if self.head.is_none() => return Poll::Pending,
            Poll::Ready(None) | Poll::Pending => None,
        };
        let head = self.head.take();
        Poll::Ready(Some(Ok(Outgoing { head, payload })))
    }
}

/// How long the end of a stream may come after its last byte.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A message that follows the leading one.
pub(super) trait Following {
    /// Its payload, or what is wrong with it.
    fn payload(self) -> Result<Option<StreamPayload>, &'static str>;
}

impl Following for IncomingRequest {
    fn payload(self) -> Result<Option<StreamPayload>, &'static str> {
        match self.request {
            None => Ok(self.payload),
            Some(_) => Err("request metadata found in non-leading chunk"),
        }
    }
}

impl Following for IncomingResponse {
    fn payload(self) -> Result<Option<StreamPayload>, &'static str> {
        match self.response {
            None => Ok(self.payload),
            Some(_) => Err("response metadata found in non-leading chunk"),
        }
    }
}

/// A stream of messages read as a body.
///
/// A reader that knows the length stops after the last byte, before the stream has told its end. Dropping
/// the stream there would reset it, on every call, and HTTP/2 takes a peer with many resets for an attack.
/// So the end is read ahead where it has come already, and read by a task of its own where it has not.
pub(super) struct Payloads<S: Stream + Send + Unpin + 'static> {
    /// Data found in the leading message itself.
    data: Bytes,
    first: Option<StreamPayload>,
    /// Taken only by the drop.
    rest: Option<S>,
    next_seq: u64,
    /// Bytes to come, when the sender named the length.
    remaining: Option<u64>,
    ended: bool,
}

impl<S: Stream + Send + Unpin + 'static> Payloads<S> {
    pub(super) fn new(
        data: Bytes,
        first: Option<StreamPayload>,
        rest: S,
        length: Option<u64>,
    ) -> Self {
        Self {
            data,
            first,
            rest: Some(rest),
            next_seq: 0,
            remaining: length,
            ended: false,
        }
    }

    fn take(&mut self, payload: StreamPayload) -> Result<Bytes, rpc::Status> {
        if payload.seq != self.next_seq {
            let text = format!(
                "invalid sequence number received: {} (expected: {})",
                payload.seq, self.next_seq
            );
            return Err(rpc::Status::new(Code::Internal, text));
        }
        self.next_seq += 1;
        Ok(payload.data)
    }

    /// Counts a frame; one that exceeds the length named makes the length void.
    fn frame(&mut self, data: Bytes) -> Frame<Bytes> {
        self.remaining = self
            .remaining
            .and_then(|left| left.checked_sub(data.len() as u64));
        Frame::data(data)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_complete(&self) -> bool {
        self.remaining == Some(0) && self.data.is_empty() && self.first.is_none()
    }

    fn fail(&mut self, error: BoxError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended = true;
        Poll::Ready(Some(Err(error)))
    }
}

impl<S, M> Payloads<S>
where
    S: Stream<Item = Result<M, tonic::Status>> + Send + Unpin + 'static,
    M: Following,
{
    /// Takes note of the end if it is there. What comes instead of it is kept, so that a sender who named
    /// too small a length is still heard.
    fn read_end(&mut self, cx: &mut Context<'_>) {
        match self.poll_rest(cx) {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Ok(message))) => {
                if let Ok(Some(payload)) = message.payload() {
                    self.remaining = None;
                    self.first = Some(payload);
                }
            }
            // The body is complete; an error after it changes nothing.
            Poll::Ready(Some(Err(_))) => self.ended = true,
            Poll::Pending => {}
        }
    }
}

impl<S: Stream + Send + Unpin + 'static> Drop for Payloads<S> {
    fn drop(&mut self) {
        if self.ended || !self.is_complete() {
            return;
        }
        if let (Some(mut rest), Ok(runtime)) = (self.rest.take(), Handle::try_current()) {
            // Nobody owns this task: it ends with the stream, or soon after.
            runtime.spawn(tokio::time::timeout(END_PATIENCE, async move {
                while rest.next().await.is_some() {}
            }));
        }
    }
}

impl<S, M> http_body::Body for Payloads<S>
where
    S: Stream<Item = Result<M, tonic::Status>> + Send + Unpin + 'static,
    M: Following,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if !this.data.is_empty() {
            let data = std::mem::take(&mut this.data);
            return Poll::Ready(Some(Ok(this.frame(data))));
        }
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            let payload = match this.first.take() {
                Some(first) => Some(first),
                None => match ready!(this.poll_rest(cx)) {
                    Some(Ok(message)) => match message.payload() {
                        Ok(payload) => payload,
                        Err(text) => return this.fail(text.into()),
                    },
                    Some(Err(status)) => {
                        let status = super::from_tonic(&status);
                        return this.fail(status.into());
                    }
                    None => {
                        this.ended = true;
                        return Poll::Ready(None);
                    }
                },
            };
            let Some(payload) = payload else { continue };
            match this.take(payload) {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    let frame = this.frame(data);
                    if this.is_complete() {
                        this.read_end(cx);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Err(status) => return this.fail(status.message.into()),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}
