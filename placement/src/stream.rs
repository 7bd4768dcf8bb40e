//! One stream of a sidecar: the reader of its messages and the two ends of its orders.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dapr_proto::dapr::proto::placement::v1::Host;
use dapr_security::{Identity, grpc};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
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

/// Opens the two ends. The token is cancelled as soon as either of them is dropped.
pub(crate) fn channel() -> (Outbox, Orders, CancellationToken) {
    let (sender, receiver) = mpsc::channel(UNREAD_ORDERS);
    let (end, ended) = oneshot::channel();
    let over = CancellationToken::new();
    let unread = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        sender,
        unread: Arc::clone(&unread),
        end,
        _over: over.clone().drop_guard(),
    };
    let orders = Orders {
        receiver,
        unread,
        ended: Some(ended),
        _over: over.clone().drop_guard(),
    };
    (outbox, orders, over)
}

/// The end that writes orders.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Bytes>,
    /// Bytes that are queued.
    unread: Arc<AtomicUsize>,
    end: oneshot::Sender<Status>,
    _over: DropGuard,
}

/// A stream did not read its orders.
#[derive(Debug)]
pub(crate) struct Full;

impl Outbox {
    /// Queues the frame of an order. One for a stream that has ended is dropped: its reader reports the end.
    pub(crate) fn send(&self, order: Bytes) -> Result<(), Full> {
        if self.sender.is_closed() {
            return Ok(());
        }
        // One writer: only the reader changes it meanwhile, and takes away.
        let unread = self.unread.load(Ordering::Relaxed);
        if unread > 0 && unread + order.len() > UNREAD_BYTES {
            return Err(Full);
        }
        self.unread.fetch_add(order.len(), Ordering::Relaxed);
        match self.sender.try_send(order) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Full),
        }
    }

    /// Ends the stream with a status. Orders that were not read are dropped.
    pub(crate) fn end(self, status: Status) {
        // Nobody listens any more when the sidecar has gone first.
        drop(self.end.send(status));
    }
}

/// The end that is the body of the response.
#[derive(Debug)]
pub(crate) struct Orders {
    receiver: mpsc::Receiver<Bytes>,
    unread: Arc<AtomicUsize>,
    ended: Option<oneshot::Receiver<Status>>,
    _over: DropGuard,
}

impl http_body::Body for Orders {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(ended) = &mut self.ended else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(status) = Pin::new(ended).poll(cx) {
            self.ended = None;
            let status =
                status.unwrap_or_else(|_| Status::unknown("stream was abandoned by the server"));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
        match ready!(self.receiver.poll_recv(cx)) {
            Some(order) => {
                self.unread.fetch_sub(order.len(), Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(order))))
            }
            // The other end is being dropped; what it said last arrives with the status.
            None => Poll::Pending,
        }
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
    pub(crate) over: CancellationToken,
}

impl Reader {
    pub(crate) async fn run(self, mut messages: Streaming<Host>, outbox: Outbox) {
        let first = match self.next(&mut messages).await {
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
            () = self.over.cancelled() => return Next::Over,
            status = self.term.ended() => return Next::Ended(status),
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
        assert!(!over.is_cancelled());
        outbox.end(Status::unknown("EOF"));
        assert!(over.is_cancelled());
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
        assert!(over.is_cancelled());
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
        assert_eq!(outbox.unread.load(Ordering::Relaxed), UNREAD_BYTES);
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
