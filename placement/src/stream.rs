//! One stream of a sidecar: the reader of its messages and the two ends of its orders.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use dapr_proto::dapr::proto::placement::v1::Host;
use dapr_security::{Identity, grpc};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::admission::{self, Refusal};
use crate::dissemination::StreamId;
use crate::namespace::Message;
use crate::table::TABLE_LIMIT;
use crate::term::Term;

/// Orders that wait for a stream to read them. A round needs three; bursts of reports abandon rounds and add one
/// `lock` each, for a namespace of a thousand sidecars that all report anew within one turn of the socket.
const UNREAD_ORDERS: usize = 1024;
/// The bytes they may have together. All streams share an order, but one that never reads would keep tables that
/// nobody else has any more; four of the largest are a dozen of those that thousands of hosts make.
const UNREAD_BYTES: usize = 4 * TABLE_LIMIT;
/// Orders a stream keeps room for when it has read all.
const KEPT_ORDERS: usize = 4;

/// Opens the two ends, and what tells that either of them is gone.
pub(crate) fn channel() -> (Outbox, Orders, Over) {
    let shared = Arc::<Shared>::default();
    let outbox = Outbox(Arc::clone(&shared));
    let orders = Orders(Arc::clone(&shared));
    (outbox, orders, Over(shared))
}

/// What the ends of a stream share. It is one piece, because there are ten thousand of them.
#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<Bytes>,
    /// The bytes they have together.
    unread: usize,
    end: End,
    /// One of the ends was dropped.
    is_over: bool,
    /// Who sends the orders, and waits for the next one.
    body: Option<Waker>,
    /// Who waits until it is over.
    reader: Option<Waker>,
}

#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    /// To be told.
    With(Status),
    Told,
}

impl State {
    /// Says that one of the ends is dropped. The wakers are for after the lock.
    fn is_dropped(&mut self) -> [Option<Waker>; 2] {
        self.is_over = true;
        self.orders = VecDeque::new();
        self.unread = 0;
        [self.body.take(), self.reader.take()]
    }
}

fn wake(waiting: impl IntoIterator<Item = Option<Waker>>) {
    waiting.into_iter().flatten().for_each(Waker::wake);
}

/// Keeps who is to be woken; most often it is the same one again.
fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// The end that writes orders.
#[derive(Debug)]
pub(crate) struct Outbox(Arc<Shared>);

/// A stream did not read its orders.
#[derive(Debug)]
pub(crate) struct Full;

impl Outbox {
    /// Queues the frame of an order. One for a stream that has ended is dropped: its reader reports the end.
    pub(crate) fn send(&self, order: Bytes) -> Result<(), Full> {
        let mut state = self.0.0.lock();
        if state.is_over {
            return Ok(());
        }
        let bytes = state.unread + order.len();
        if state.orders.len() == UNREAD_ORDERS || (state.unread > 0 && bytes > UNREAD_BYTES) {
            return Err(Full);
        }
        state.unread = bytes;
        state.orders.push_back(order);
        let body = state.body.take();
        drop(state);
        wake([body]);
        Ok(())
    }

    /// Ends the stream with a status. Orders that were not read are dropped.
    pub(crate) fn end(self, status: Status) {
        self.0.0.lock().end = End::With(status);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        if matches!(state.end, End::Open) {
            let status = Status::unknown("stream was abandoned by the server");
            state.end = End::With(status);
        }
        let waiting = state.is_dropped();
        drop(state);
        wake(waiting);
    }
}

/// The end that is the body of the response.
#[derive(Debug)]
pub(crate) struct Orders(Arc<Shared>);

impl http_body::Body for Orders {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = self.0.0.lock();
        match &state.end {
            End::Open => {}
            End::With(status) => {
                let frame = Frame::trailers(trailers(status));
                state.end = End::Told;
                return Poll::Ready(Some(Ok(frame)));
            }
            End::Told => return Poll::Ready(None),
        }
        let Some(order) = state.orders.pop_front() else {
            wait(&mut state.body, cx);
            return Poll::Pending;
        };
        state.unread -= order.len();
        if state.orders.is_empty() && state.orders.capacity() > KEPT_ORDERS {
            state.orders = VecDeque::new();
        }
        Poll::Ready(Some(Ok(Frame::data(order))))
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let waiting = self.0.0.lock().is_dropped();
        wake(waiting);
    }
}

/// Tells when a stream is over, to one who waits.
#[derive(Debug)]
pub(crate) struct Over(Arc<Shared>);

impl Over {
    /// Waits until one of the ends is gone.
    async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.0.0.lock();
            if state.is_over {
                return Poll::Ready(());
            }
            wait(&mut state.reader, cx);
            Poll::Pending
        })
        .await;
    }
}

/// A status as the end of a response.
fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only a text that is no header value fails, and tonic encodes texts.
        trailers.insert("grpc-status", HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

/// Reads the messages of one stream and hands them to their namespace.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) stream: StreamId,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) term: Arc<Term>,
    pub(crate) over: Over,
}

impl Reader {
    pub(crate) async fn run(self, mut messages: Streaming<Host>, outbox: Outbox) {
        // Once the namespace has the stream it ends it with the term, too; a thousand that all wait for the same token
        // would be in each other's way with every message.
        let first = tokio::select! {
            biased;
            status = self.term.ended() => Next::Ended(status),
            first = self.next(&mut messages) => first,
        };
        let first = match first {
            Next::Message(host) => host,
            Next::Ended(status) => return outbox.end(status),
            Next::Over => return,
        };
        let name = first.namespace.clone();
        let _connected = self
            .term
            .metrics()
            .connected(&name, !first.entities.is_empty());
        let namespace = self.term.namespace(&name);
        let connected = Message::Connected {
            stream: self.stream,
            host: first,
            outbox,
        };
        if let Err(mpsc::error::SendError(Message::Connected { outbox, .. })) =
            namespace.send(connected).await
        {
            return outbox.end(self.term.ended().await);
        }
        let mut visited = HashMap::new();
        loop {
            let message = match self.next(&mut messages).await {
                Next::Message(host) if host.namespace == name => Message::Report {
                    stream: self.stream,
                    host,
                },
                Next::Message(host) => {
                    self.visit(host, &mut visited).await;
                    continue;
                }
                Next::Ended(status) => Message::Ended {
                    stream: self.stream,
                    status,
                },
                Next::Over => Message::Ended {
                    stream: self.stream,
                    status: Status::cancelled("stream is over"),
                },
            };
            let last = matches!(message, Message::Ended { .. });
            // The namespace ends before its streams only together with the term, and has told them why.
            if namespace.send(message).await.is_err() || last {
                break;
            }
        }
        for other in visited.into_values() {
            self.leave(&other).await;
        }
    }

    /// Hands a message to the namespace it names, which is not that of the stream; one without streams does not get it.
    /// Only without TLS is there such a message.
    async fn visit(&self, host: Host, visited: &mut HashMap<String, mpsc::WeakSender<Message>>) {
        let name = host.namespace.clone();
        let Some(namespace) = self.term.existing(&name) else {
            tracing::debug!(stream = self.stream.0, namespace = %name, "Dropping a message for a namespace without streams");
            return;
        };
        let message = Message::Visit {
            stream: self.stream,
            host,
        };
        // A namespace that ends with the term needs nothing any more.
        if namespace.send(message).await.is_ok() {
            visited.insert(name, namespace.downgrade());
        }
    }

    /// What the stream has reported in another namespace goes with it.
    async fn leave(&self, other: &mpsc::WeakSender<Message>) {
        let ended = Message::Ended {
            stream: self.stream,
            status: Status::cancelled("stream is over"),
        };
        if let Some(namespace) = other.upgrade() {
            // As above.
            drop(namespace.send(ended).await);
        }
    }

    async fn next(&self, messages: &mut Streaming<Host>) -> Next {
        let message = tokio::select! {
            biased;
            () = self.over.wait() => return Next::Over,
            message = messages.message() => message,
        };
        match message {
            Ok(Some(host)) => match admission::check(&host, self.identity.as_deref()) {
                Ok(()) => Next::Message(host),
                Err(refusal) => Next::Ended(refused(&refusal)),
            },
            Ok(None) => Next::Ended(Status::unknown("EOF")),
            Err(status) => Next::Ended(grpc::unreadable(status)),
        }
    }
}

enum Next {
    Message(Host),
    /// The sidecar or the term ended the stream.
    Ended(Status),
    /// One of the ends was dropped.
    Over,
}

fn refused(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::VersionWithoutOperation | Refusal::Missing => Status::invalid_argument(text),
        Refusal::Share { .. } => Status::resource_exhausted(text),
        Refusal::AppId { .. } | Refusal::Namespace { .. } | Refusal::InternalType { .. } => {
            Status::permission_denied(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    impl Over {
        fn is_over(&self) -> bool {
            self.0.0.lock().is_over
        }
    }

    /// The code and the text the orders end with.
    async fn status(orders: &mut Orders) -> (String, String) {
        let frame = orders
            .frame()
            .await
            .expect("a status")
            .expect("never fails");
        let trailers = frame.into_trailers().expect("trailers");
        let text = |name| {
            trailers
                .get(name)
                .map_or("", |value: &HeaderValue| value.to_str().expect("ASCII"))
        };
        (
            text("grpc-status").to_owned(),
            text("grpc-message").to_owned(),
        )
    }

    #[tokio::test]
    async fn orders_arrive_and_the_status_ends_them() {
        let (outbox, mut orders, over) = channel();
        outbox.send(Bytes::from_static(b"one")).expect("room");
        let frame = orders.frame().await.expect("open").expect("never fails");
        assert_eq!(frame.into_data().expect("an order"), "one");
        assert!(!over.is_over());
        outbox.end(Status::unknown("EOF"));
        assert!(over.is_over());
        let expected = ("2".to_owned(), "EOF".to_owned());
        assert_eq!(status(&mut orders).await, expected);
        assert!(orders.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_abandoned_outbox_is_a_status_too() {
        let (outbox, mut orders, _) = channel();
        drop(outbox);
        assert_eq!(status(&mut orders).await.0, "2");
    }

    #[tokio::test]
    async fn unread_orders_are_bounded() {
        let (outbox, orders, over) = channel();
        for _ in 0..UNREAD_ORDERS {
            outbox.send(Bytes::new()).expect("room");
        }
        assert!(outbox.send(Bytes::new()).is_err());
        drop(orders);
        assert!(over.is_over());
        assert!(
            outbox.send(Bytes::new()).is_ok(),
            "a stream that has gone is not full"
        );
    }

    #[tokio::test]
    async fn unread_tables_are_bounded_in_bytes() {
        let (outbox, mut orders, _) = channel();
        let table = || Bytes::from(vec![0; TABLE_LIMIT]);
        for _ in 0..4 {
            outbox.send(table()).expect("room");
        }
        assert!(outbox.send(table()).is_err());
        assert!(outbox.send(Bytes::from_static(b"lock")).is_err());
        assert_eq!(outbox.0.0.lock().unread, UNREAD_BYTES);
        // What was read is not held any more.
        drop(orders.frame().await.expect("open").expect("never fails"));
        outbox.send(table()).expect("room");
        assert!(outbox.send(table()).is_err());
    }

    #[tokio::test]
    async fn one_order_is_never_too_large() {
        let (outbox, _orders, _) = channel();
        outbox
            .send(Bytes::from(vec![0; UNREAD_BYTES + 1]))
            .expect("room");
        assert!(outbox.send(Bytes::from_static(b"x")).is_err());
    }
}
