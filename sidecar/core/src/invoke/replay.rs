//! A request that can be sent again: frames of its body are kept as they pass, the first attempt waits for
//! nothing. Of a long body, or one of unknown length, only the beginning is kept.

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

/// Most bytes kept of a body that is not short: what a callee takes ahead, which is all it can have been sent when it
/// turns out that it never began with the request.
const AHEAD: usize = 1 << 20;

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
    pub(crate) fn whole(request: Request) -> Self {
        Self::new(request, usize::MAX)
    }

    /// Puts the beginning of `request` on record.
    pub(crate) fn beginning(request: Request) -> Self {
        Self::new(request, AHEAD)
    }

    fn new(request: Request, limit: usize) -> Self {
        Self {
            verb: request.verb,
            method: request.method,
            query: request.query,
            headers: request.headers,
            type_url: request.type_url,
            origin: request.origin,
            body: Recorded::new(request.body, limit),
        }
    }

    /// Whether the request can be sent (once more): what was read of it is on record.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.is_complete()
    }

    /// The request once more. Its body fails unless it is complete.
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

/// A body on record while this is there: what is read of it can be read again.
pub struct Recorded(Source);

enum Source {
    Empty,
    Tape {
        tape: Arc<Mutex<Tape>>,
        /// Bytes, if that is known.
        length: Option<u64>,
    },
}

/// What has come out of a body so far, and the body itself.
struct Tape {
    frames: Vec<Bytes>,
    /// Bytes that may still be recorded; `None` once there were more, and then no frames are kept.
    room: Option<usize>,
    source: Body,
    ended: bool,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

impl Recorded {
    /// Puts the first `limit` bytes of a body on record.
    pub fn new(source: Body, limit: usize) -> Self {
        Self(match source.size_hint().exact() {
            Some(0) => Source::Empty,
            length => Source::Tape {
                tape: Arc::new(Mutex::new(Tape {
                    frames: Vec::new(),
                    room: Some(limit),
                    source,
                    ended: false,
                })),
                length,
            },
        })
    }

    /// Whether the body can be read (once more): what was read of it is on record.
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Tape { tape, .. } => tape.lock().room.is_some(),
        }
    }

    /// The body once more. It fails unless it is complete.
    pub fn attempt(&self) -> Body {
        match &self.0 {
            Source::Empty => body::empty(),
            Source::Tape { tape, length } => Player {
                is_lost: tape.lock().room.is_none(),
                tape: Arc::clone(tape),
                next: 0,
                remaining: *length,
            }
            .boxed_unsync(),
        }
    }
}

impl Tape {
    fn record(&mut self, bytes: &Bytes) {
        self.room = self.room.and_then(|room| room.checked_sub(bytes.len()));
        if self.room.is_some() {
            self.frames.push(bytes.clone());
        } else {
            self.frames = Vec::new();
        }
    }
}

/// Plays a tape from its start, and goes on with the source where the tape ends.
struct Player {
    tape: Arc<Mutex<Tape>>,
    next: usize,
    /// Bytes, if that is known.
    remaining: Option<u64>,
    /// Whether the start of the tape was gone before this began.
    is_lost: bool,
}

impl http_body::Body for Player {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self {
            tape,
            next,
            remaining,
            is_lost,
        } = &mut *self;
        if *is_lost {
            let error = "the beginning of the request is no longer there";
            return Poll::Ready(Some(Err(error.into())));
        }
        // Once the call is answered nobody will ask for another attempt.
        let is_wanted = Arc::strong_count(tape) > 1;
        let mut tape = tape.lock();
        let bytes = if let Some(bytes) = tape.frames.get(*next) {
            bytes.clone()
        } else {
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
                            if is_wanted {
                                tape.record(&bytes);
                            }
                            break bytes;
                        }
                    }
                }
            }
        };
        *next += 1;
        if let Some(remaining) = remaining {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            *remaining = remaining.saturating_sub(length);
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map(SizeHint::with_exact).unwrap_or_default()
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
        let replay = Replay::whole(request(Frames(vec!["ab", "cd", "e"]).boxed_unsync()));
        assert_eq!(read(replay.attempt().body).await, "abcde");
        assert_eq!(read(replay.attempt().body).await, "abcde");
    }

    #[tokio::test]
    async fn an_attempt_that_stops_early_leaves_the_rest() {
        let replay = Replay::whole(request(Frames(vec!["ab", "cd", "e"]).boxed_unsync()));
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
    async fn of_a_long_body_the_beginning_is_kept() {
        let long = vec![0; AHEAD];
        let frames = ["ab".into(), Bytes::from(long), "c".into()];
        let frames = frames.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)));
        let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        let replay = Replay::beginning(request(body));
        let mut first = replay.attempt().body;
        assert_eq!(first.size_hint().exact(), None);
        first.frame().await.expect("a frame").expect("no error");
        drop(first);
        assert!(replay.is_complete());
        let second = replay.attempt().body;
        assert_eq!(read(second).await.len(), AHEAD + 3);
        // More was read than is kept.
        assert!(!replay.is_complete());
        assert!(replay.attempt().body.collect().await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_kept_for_nobody() {
        let replay = Replay::whole(request(Frames(vec!["ab", "cd"]).boxed_unsync()));
        let mut body = replay.attempt().body;
        let tape = match &replay.body.0 {
            Source::Tape { tape, .. } => Arc::downgrade(tape),
            Source::Empty => panic!("it is not empty"),
        };
        body.frame().await.expect("a frame").expect("no error");
        drop(replay);
        body.frame().await.expect("a frame").expect("no error");
        let tape = tape.upgrade().expect("the body is there");
        assert_eq!(tape.lock().frames, ["ab"]);
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
