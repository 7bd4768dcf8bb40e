//! Round trips, framing, and whatever else a peer may send.

use std::pin::Pin;

use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::{InvokeRequest, StreamPayload};
use dapr_proto::dapr::proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeRequestStream, InternalInvokeResponseStream,
    ListStringValue,
};
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::{Origin, Request, Response, Status};
use dapr_sidecar_core::rpc::{self, Code};
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn a_message_over_the_limit_is_told_as_callers_know_it() {
    let text = "Error, decoded message length too large: found 10 bytes, the limit is: 4 bytes";
    let status = from_tonic(&tonic::Status::out_of_range(text));
    assert_eq!(status.code, Code::ResourceExhausted);
    assert_eq!(
        status.message,
        "grpc: received message larger than max (10 vs. 4)"
    );
    let status = from_tonic(&tonic::Status::out_of_range("a page beyond the last"));
    assert_eq!(status.code, Code::OutOfRange);
}

fn frames(chunks: Vec<Vec<u8>>) -> Body {
    let frames = chunks
        .into_iter()
        .map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn request(body: Body) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.append("x-many", HeaderValue::from_static("1"));
    headers.append("x-many", HeaderValue::from_static("2"));
    Request {
        verb: Some(Method::PATCH),
        method: "a/b".to_owned(),
        query: "q=1".to_owned(),
        headers,
        type_url: String::new(),
        origin: Origin::Http,
        body,
    }
}

fn read(body: Body) -> Result<Bytes, String> {
    block_on(body.collect())
        .map(|collected| collected.to_bytes())
        .map_err(|error| error.to_string())
}

/// What the generated code of others reads of it.
fn told<H: codec::Head, M: Message + Default>(message: &Outgoing<H>) -> M {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, |_, _| {});
    M::decode(&*bytes).expect("a message")
}

/// What we read of a message of the generated code.
fn heard<M: Message + Default>(message: &impl Message) -> M {
    M::decode(&*message.encode_to_vec()).expect("a message")
}

fn send(request: Request) -> Vec<InternalInvokeRequestStream> {
    let (stream, _error) = request_stream(request);
    block_on(stream.map(|message| told(&message)).collect())
}

fn receive(messages: Vec<InternalInvokeRequestStream>) -> Result<Request, rpc::Status> {
    let mut messages = messages.iter().map(heard);
    let first = messages.next().expect("a leading message");
    request_from_stream(first, stream::iter(messages.map(Ok).collect::<Vec<_>>()))
}

#[test]
fn a_small_call_is_one_message() {
    let messages = send(request(body::full("hello")));
    assert_eq!(messages.len(), 1);
    let payload = messages[0].payload.as_ref().expect("joined");
    assert_eq!((payload.data.as_ref(), payload.seq), (b"hello".as_ref(), 0));
    let received = receive(messages).expect("well formed");
    assert_eq!(received.headers, request(body::empty()).headers);
    assert_eq!(
        (
            received.verb,
            received.method.as_str(),
            received.query.as_str()
        ),
        (Some(Method::PATCH), "a/b", "q=1")
    );
    assert_eq!(read(received.body).as_deref(), Ok(b"hello".as_ref()));
}

#[test]
fn the_end_of_a_body_of_known_length_comes_with_its_last_byte() {
    /// As a server has it: the end is known, and told only later.
    struct Announced(Option<Bytes>);

    impl http_body::Body for Announced {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.take() {
                Some(data) => std::task::Poll::Ready(Some(Ok(Frame::data(data)))),
                None => std::task::Poll::Pending,
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_none()
        }
    }

    let body = Announced(Some(Bytes::from_static(b"abc"))).boxed_unsync();
    let (mut stream, _error) = request_stream(request(body));
    let first = stream.next().now_or_never().flatten().expect("a message");
    assert_eq!(first.payload.expect("a payload").data, "abc");
    assert_eq!(
        stream.next().now_or_never(),
        Some(None),
        "the end waits for nothing"
    );
}

#[test]
fn the_callee_finds_who_calls() {
    let mut request = request(body::empty());
    let caller = http::HeaderValue::from_static("caller");
    request.headers.insert("dapr-caller-app-id", caller);
    let (leading, _) = internal_request(request);
    assert_eq!(leading.metadata["dapr-caller-app-id"].values, ["caller"]);
}

#[test]
fn large_frames_are_cut_and_small_ones_kept() {
    let sizes = |chunks: Vec<usize>| -> Vec<usize> {
        let chunks = chunks.into_iter().map(|size| vec![7; size]).collect();
        let messages = send(request(frames(chunks)));
        messages
            .iter()
            .filter_map(|message| message.payload.as_ref())
            .map(|payload| payload.data.len())
            .collect()
    };
    assert_eq!(sizes(vec![10, 20]), [10, 20]);
    assert_eq!(sizes(vec![70_000]), [32_768, 32_768, 4_464]);
    assert_eq!(sizes(vec![0, 1]), [1]);
    assert_eq!(sizes(vec![]), [0; 0]);
}

#[test]
fn payload_bytes_are_not_copied() {
    let bytes = Bytes::from(vec![1; 1000]);
    let (mut messages, _error) = request_stream(request(body::full(bytes.clone())));
    let first = block_on(messages.next()).expect("a message");
    let data = &first.payload.as_ref().expect("joined").data;
    assert_eq!(data.as_ptr(), bytes.as_ptr());
}

#[test]
fn the_length_named_is_the_bodys_size() {
    let mut sent = request(body::full("hello"));
    sent.headers
        .insert("content-length", HeaderValue::from_static("5"));
    let received = receive(send(sent)).expect("well formed");
    assert_eq!(http_body::Body::size_hint(&received.body).exact(), Some(5));
}

#[test]
fn framing_is_checked() {
    let payload = |seq| InternalInvokeRequestStream {
        request: None,
        payload: Some(StreamPayload {
            data: Bytes::from_static(b"x"),
            seq,
        }),
    };
    let check = |following: Vec<InternalInvokeRequestStream>, expected: &str| {
        let mut messages = send(request(body::full("a")));
        messages.extend(following);
        let received = receive(messages).expect("the leading message is well formed");
        assert_eq!(read(received.body), Err(expected.to_owned()));
    };
    check(
        vec![payload(5)],
        "invalid sequence number received: 5 (expected: 1)",
    );
    check(
        vec![payload(1), payload(1)],
        "invalid sequence number received: 1 (expected: 2)",
    );
    check(
        send(request(body::empty())),
        "request metadata found in non-leading chunk",
    );

    let refused = |first: InternalInvokeRequestStream| receive(vec![first]).expect_err("refused");
    let status = refused(InternalInvokeRequestStream::default());
    assert_eq!(
        status.to_string(),
        format!("rpc error: code = InvalidArgument desc = {NO_LEADING_REQUEST}")
    );
    let no_metadata = InternalInvokeRequest {
        message: Some(InvokeRequest::default()),
        ..Default::default()
    };
    let first = InternalInvokeRequestStream {
        request: Some(no_metadata),
        payload: None,
    };
    assert_eq!(refused(first).message, NO_LEADING_REQUEST);
    let status = request_from_unary(InternalInvokeRequest::default()).expect_err("no message");
    assert_eq!(
        status.message,
        "parsing InternalInvokeRequest error: field Message is nil"
    );
}

#[test]
fn a_failed_body_stops_the_stream_and_is_told() {
    let failing = stream::iter([
        Ok(Frame::data(Bytes::from_static(b"a"))),
        Err("stream too large".into()),
    ]);
    let (mut stream, mut error) = request_stream(request(StreamBody::new(failing).boxed_unsync()));
    assert!(block_on(stream.next()).is_some());
    // No end: the callee must not take what it has for the whole.
    assert!(futures::FutureExt::now_or_never(stream.next()).is_none());
    assert_eq!(
        error.try_recv().expect("told").to_string(),
        "stream too large"
    );
    assert!(futures::FutureExt::now_or_never(stream.next()).is_none());
}

#[test]
fn unary_and_streaming_agree() {
    let message = block_on(buffered_request(request(body::full("hello")))).expect("reads");
    let received = request_from_unary(message).expect("well formed");
    assert_eq!(received.headers, request(body::empty()).headers);
    assert_eq!(read(received.body).as_deref(), Ok(b"hello".as_ref()));
}

#[test]
fn grpc_callers_are_told_apart() {
    let mut sent = request(body::empty());
    sent.origin = Origin::Grpc;
    sent.verb = None;
    sent.type_url = "type.googleapis.com/x".to_owned();
    let received = receive(send(sent)).expect("well formed");
    assert_eq!((received.origin, received.verb), (Origin::Grpc, None));
    assert_eq!(received.type_url, "type.googleapis.com/x");
    assert_eq!(received.headers["content-type"], "text/plain");
}

#[test]
fn verbs_have_numbers() {
    for name in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ] {
        let method = Method::from_bytes(name.as_bytes()).expect("a verb");
        assert_eq!(verb(verb_number(Some(&method))), Some(method));
    }
    let purge = Method::from_bytes(b"PURGE").expect("a verb");
    assert_eq!(verb(verb_number(Some(&purge))), Some(Method::POST));
    let none = Method::from_bytes(b"NONE").expect("a verb");
    assert_eq!(verb(verb_number(Some(&none))), Some(Method::POST));
    assert_eq!(verb(verb_number(None)), None);
    assert_eq!(verb(77), None);
}

fn response(status: Status, body: Body) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_static("x-a"),
        HeaderValue::from_static("1"),
    );
    Response {
        status,
        headers,
        trailers: HeaderMap::new(),
        type_url: String::new(),
        body,
        is_untouched: false,
    }
}

fn answer(messages: Vec<InternalInvokeResponseStream>) -> Result<Response, rpc::Status> {
    let mut messages = messages.iter().map(heard);
    let first = messages.next().unwrap_or_default();
    response_from_stream(first, stream::iter(messages.map(Ok).collect::<Vec<_>>()))
}

#[test]
fn answers_come_back_as_they_went() {
    let denied = rpc::Status {
        code: Code::PermissionDenied,
        message: "no".to_owned(),
        details: vec![rpc::Detail {
            type_url: "t".to_owned(),
            value: Bytes::from_static(b"v"),
        }],
    };
    for status in [
        Status::Http(StatusCode::IM_A_TEAPOT),
        Status::Grpc(denied),
        Status::Grpc(rpc::Status::new(Code::Ok, "")),
    ] {
        let sent = response(status.clone(), frames(vec![vec![1], vec![2]]));
        let messages = response_stream(sent).map(|message| told(&message.expect("no error")));
        let messages = block_on(messages.collect::<Vec<_>>());
        assert_eq!(messages.len(), 2);
        let received = answer(messages).expect("well formed");
        assert_eq!(
            (received.status, received.headers["x-a"].as_bytes()),
            (status, b"1".as_ref())
        );
        assert_eq!(read(received.body).as_deref(), Ok([1, 2].as_ref()));
    }
    let status = answer(Vec::new()).expect_err("empty");
    assert_eq!(
        status.message,
        "response does not contain the required fields in the leading chunk"
    );
}

#[test]
fn a_slow_answer_sends_its_head_first() {
    let (sender, body) =
        http_body_util::channel::Channel::<Bytes, std::convert::Infallible>::new(1);
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let mut stream = response_stream(response(Status::Http(StatusCode::OK), body));
    let first = block_on(stream.next())
        .expect("the head")
        .expect("no error");
    assert!(first.head.is_some() && first.payload.is_none());
    drop(sender);
}

#[test]
fn actor_messages_round_trip() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("foo-bar", HeaderValue::from_static("1"));
    let mut spelling = dapr_sidecar_core::actors::Spelling::default();
    spelling.keep("foo-BAR");
    let call = dapr_sidecar_core::actors::Call {
        actor_type: "T".to_owned(),
        actor_id: "1".to_owned(),
        method: "m".to_owned(),
        query: "q".to_owned(),
        headers,
        spelling,
        body: Bytes::from_static(b"{}"),
    };
    let sent = internal_actor_request(call.clone());
    assert_eq!(sent.metadata["foo-BAR"].values, ["1"]);
    let received = actor_call(sent).expect("well formed");
    assert_eq!(
        (
            received.actor_type,
            received.method,
            received.query,
            received.body
        ),
        (call.actor_type, call.method, call.query, call.body)
    );
    assert_eq!(received.headers, call.headers);
    assert_eq!(received.spelling, call.spelling);
    let status = actor_call(InternalInvokeRequest::default()).expect_err("empty");
    assert_eq!(status.code, Code::InvalidArgument);
    let reminder = dapr_sidecar_core::peer::ReminderCall {
        actor_type: "T".to_owned(),
        actor_id: "1".to_owned(),
        name: "n".to_owned(),
        data: Some(("t".to_owned(), Bytes::from_static(b"v"))),
        due_time: "1s".to_owned(),
        period: "2s".to_owned(),
        registered_time: Some(std::time::UNIX_EPOCH),
        expiration_time: None,
        is_timer: true,
        skip_lock: false,
    };
    assert_eq!(reminder_call(internal_reminder(reminder.clone())), reminder);
}

fn any_payload() -> impl Strategy<Value = Option<StreamPayload>> {
    let payload =
        (proptest::collection::vec(any::<u8>(), 0..4), 0u64..4).prop_map(|(data, seq)| {
            StreamPayload {
                data: data.into(),
                seq,
            }
        });
    proptest::option::of(payload)
}

fn any_request() -> impl Strategy<Value = Option<InternalInvokeRequest>> {
    let request = (
        any::<bool>(),
        any::<i32>(),
        proptest::collection::hash_map(".{0,6}", ".{0,6}", 0..3),
    )
        .prop_map(|(message, ver, metadata)| InternalInvokeRequest {
            ver,
            metadata: metadata
                .into_iter()
                .map(|(key, value)| {
                    (
                        key,
                        ListStringValue {
                            values: vec![value],
                        },
                    )
                })
                .collect(),
            message: message.then(InvokeRequest::default),
            actor: None,
        });
    proptest::option::of(request)
}

proptest! {
    #[test]
    fn bodies_survive(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6)) {
        let whole: Vec<u8> = chunks.concat();
        let received = receive(send(request(frames(chunks)))).expect("well formed");
        prop_assert_eq!(read(received.body).expect("reads"), whole);
    }

    #[test]
    fn arbitrary_frames_never_panic(messages in proptest::collection::vec((any_request(), any_payload()), 1..5)) {
        let messages = messages
            .into_iter()
            .map(|(request, payload)| InternalInvokeRequestStream { request, payload })
            .collect();
        if let Ok(request) = receive(messages) {
            drop(read(request.body));
        }
    }

    #[test]
    fn any_status_has_a_meaning(code in any::<i32>(), message in ".{0,10}") {
        let status = dapr_proto::dapr::proto::internals::v1::Status { code, message, details: Vec::new() };
        let back = internal_status(status_from(status));
        prop_assert!(code < 100 || back.code >= 100);
    }
}

/// The streams are sent by tasks of tonic, so they must not be bound to one thread.
#[test]
fn streams_can_be_sent() {
    fn check<T: Send + 'static>() {}
    check::<RequestStream>();
    check::<ResponseStream>();
    check::<Pin<Box<Body>>>();
}

/// A stream of answers that ends when told to, and tells whether its end was read.
struct Ending {
    messages: std::vec::IntoIter<IncomingResponse>,
    may_end: tokio::sync::oneshot::Receiver<()>,
    was_read: Option<tokio::sync::oneshot::Sender<()>>,
}

impl futures::Stream for Ending {
    type Item = Result<IncomingResponse, tonic::Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::Poll;
        if let Some(message) = self.messages.next() {
            return Poll::Ready(Some(Ok(message)));
        }
        std::task::ready!(Pin::new(&mut self.may_end).poll(cx)).expect("told to end");
        if let Some(was_read) = self.was_read.take() {
            was_read.send(()).expect("somebody waits");
        }
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn a_reader_that_stops_after_the_last_byte_does_not_cut_the_stream() {
    let mut headers = HeaderMap::new();
    headers.insert("content-length", HeaderValue::from_static("4"));
    let response = Response {
        status: Status::Http(StatusCode::OK),
        headers,
        trailers: HeaderMap::new(),
        type_url: String::new(),
        body: frames(vec![b"ab".to_vec(), b"cd".to_vec()]),
        is_untouched: false,
    };
    let sent = |message| told::<_, InternalInvokeResponseStream>(&message);
    let mut messages: Vec<IncomingResponse> = response_stream(response)
        .map(|message| heard(&sent(message.expect("a message"))))
        .collect()
        .await;
    let first = messages.remove(0);
    let (end, may_end) = tokio::sync::oneshot::channel();
    let (was_read, read) = tokio::sync::oneshot::channel();
    let rest = Ending {
        messages: messages.into_iter(),
        may_end,
        was_read: Some(was_read),
    };
    let mut response = response_from_stream(first, rest).expect("an answer");
    let mut bytes = Vec::new();
    while bytes.len() < 4 {
        let frame = response.body.frame().await.expect("more").expect("data");
        bytes.extend(frame.into_data().expect("data"));
    }
    drop(response);
    end.send(()).expect("the stream is still there");
    read.await.expect("the end was read, not cut off");
}
