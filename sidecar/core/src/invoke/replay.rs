//! A request that can be sent again: frames of its body are kept as they pass, the first attempt waits for
//! nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;

use super::{Origin, Request};
use crate::body::{self, Body, BoxError};

/// A request with its body on record.
pub(crate) struct Replay {
    verb: Option<Method>,
    method: String,
    query: String,
    headers: HeaderMap,
    type_url: String,
    origin: Origin,
    body: Recorded,
}

/// Whether a body is short enough to be kept, and its length is known in advance.
pub(crate) fn is_replayable(body: &Body, limit: usize) -> bool {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    body.size_hint()
        .exact()
        .is_some_and(|length| length <= limit)
}

impl Replay {
    /// Puts `request` on record; its body must be replayable.
    pub(crate) fn new(request: Request) -> Self {
        Self {
            verb: request.verb,
            method: request.method,
            query: request.query,
            headers: request.headers,
            type_url: request.type_url,
            origin: request.origin,
            body: Recorded::new(request.body),
        }
    }

    /// The request once more.
    pub(crate) fn attempt(&self) -> Request {
        Request {
            verb: self.verb.clone(),
            method: self.method.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            type_url: self.type_url.clone(),
            origin: self.origin,
            body: self.body.attempt(),
        }
    }
}

enum Recorded {
    Empty,
    Tape { tape: Arc<Mutex<Tape>>, length: u64 },
}

/// What has come out of a body so far, and the body itself.
struct Tape {
    frames: Vec<Bytes>,
    source: Body,
    ended: bool,
}

impl Recorded {
    fn new(source: Body) -> Self {
        match source.size_hint().exact() {
            Some(0) => Self::Empty,
            length => Self::Tape {
                tape: Arc::new(Mutex::new(Tape {
                    frames: Vec::new(),
                    source,
                    ended: false,
                })),
                length: length.unwrap_or_default(),
            },
        }
    }

    fn attempt(&self) -> Body {
        match self {
            Self::Empty => body::empty(),
            Self::Tape { tape, length } => Player {
                tape: Arc::clone(tape),
                next: 0,
                remaining: *length,
            }
            .boxed_unsync(),
        }
    }
}

/// Plays a tape from its start, and goes on with the source where the tape ends.
struct Player {
    tape: Arc<Mutex<Tape>>,
    next: usize,
    remaining: u64,
}

impl http_body::Body for Player {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let tape = Arc::clone(&self.tape);
        let mut tape = tape.lock();
        if let Some(bytes) = tape.frames.get(self.next) {
            let bytes = bytes.clone();
            return Poll::Ready(Some(Ok(self.play(bytes))));
        }
        loop {
            if tape.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut tape.source).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => tape.ended = true,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                // Trailers of a request mean nothing to an application.
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        tape.frames.push(bytes.clone());
                        return Poll::Ready(Some(Ok(self.play(bytes))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

impl Player {
    fn play(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.next += 1;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.remaining = self.remaining.saturating_sub(length);
        Frame::data(bytes)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn request(body: Body) -> Request {
        Request {
            verb: Some(Method::POST),
            method: "orders".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            type_url: String::new(),
            origin: Origin::Http,
            body,
        }
    }

    async fn read(body: Body) -> Bytes {
        body.collect().await.expect("no error").to_bytes()
    }

    /// Three frames with a known total length, as a server gives them.
    struct Frames(Vec<&'static str>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            let bytes = Bytes::from_static(self.0.remove(0).as_bytes());
            Poll::Ready(Some(Ok(Frame::data(bytes))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|frame| frame.len() as u64).sum())
        }
    }

    #[tokio::test]
    async fn a_body_can_be_read_again() {
        let replay = Replay::new(request(Frames(vec!["ab", "cd", "e"]).boxed_unsync()));
        assert_eq!(read(replay.attempt().body).await, "abcde");
        assert_eq!(read(replay.attempt().body).await, "abcde");
    }

    #[tokio::test]
    async fn an_attempt_that_stops_early_leaves_the_rest() {
        let replay = Replay::new(request(Frames(vec!["ab", "cd", "e"]).boxed_unsync()));
        let mut first = replay.attempt().body;
        let frame = first.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "ab");
        assert_eq!(first.size_hint().exact(), Some(3));
        drop(first);
        let second = replay.attempt().body;
        assert_eq!(second.size_hint().exact(), Some(5));
        assert_eq!(read(second).await, "abcde");
    }

    #[tokio::test]
    async fn only_short_bodies_of_known_length_are_kept() {
        assert!(is_replayable(&body::full("abc"), 3));
        assert!(!is_replayable(&body::full("abcd"), 3));
        assert!(is_replayable(&body::empty(), 0));
        let frames = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"a")))]);
        assert!(!is_replayable(&StreamBody::new(frames).boxed_unsync(), 10));
        let full = Full::new(Bytes::from_static(b"a")).map_err(|never| match never {});
        assert!(is_replayable(&full.boxed_unsync(), 10));
    }
}
