//! What a request says about the length of its body on HTTP/1.1.

use std::time::Duration;

use dapr_sidecar_core::body::{self, Body, BoxError};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};

/// How long the first bytes of a body may take that verbs of this kind rarely have; upstream's client waits as long.
const FIRST_BYTES: Duration = Duration::from_millis(200);

/// Says how long the body is, where hyper would say nothing: servers refuse a POST that does not (411), and must read a
/// body of unknown length with any verb.
///
/// From another sidecar nobody knows whether a body comes until it does. A GET without one must not be announced as
/// chunked: servers that look for no body there take its end for the next request.
pub(super) async fn announce(request: Request<Body>) -> Request<Body> {
    let (mut parts, mut body) = request.into_parts();
    let is_known = body.size_hint().exact().is_some();
    if !is_known && !usually_has_body(&parts.method) {
        body = beginning(body).await;
    }
    if body.is_end_stream() {
        if usually_has_body(&parts.method) {
            let none = HeaderValue::from_static("0");
            parts.headers.insert(CONTENT_LENGTH, none);
        }
    } else if !is_known {
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(TRANSFER_ENCODING, chunked);
    }
    Request::from_parts(parts, body)
}

/// As upstream's client sees it.
fn usually_has_body(verb: &Method) -> bool {
    const RARELY: [&str; 7] = [
        "GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND", "SEARCH", "CONNECT",
    ];
    !RARELY.contains(&verb.as_str())
}

/// The same body, known to be empty if it ends at once.
async fn beginning(mut body: Body) -> Body {
    let first = tokio::time::timeout(FIRST_BYTES, async {
        loop {
            match body.frame().await {
                Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.is_empty()) => {}
                first => return first,
            }
        }
    });
    match first.await {
        Err(_) => body,
        Ok(None) => body::empty(),
        Ok(Some(first)) => with_first(first, body),
    }
}

fn with_first(first: Result<Frame<bytes::Bytes>, BoxError>, rest: Body) -> Body {
    use futures::StreamExt as _;

    let first = futures::stream::iter([first]);
    StreamBody::new(first.chain(BodyStream::new(rest))).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;

    /// A body of unknown length, which ends when its sender does.
    fn streamed() -> (mpsc::Sender<&'static str>, Body) {
        let (sender, mut receiver) = mpsc::channel::<&'static str>(4);
        let frames = futures::stream::poll_fn(move |cx| {
            let next = receiver.poll_recv(cx);
            next.map(|data| data.map(|data| Ok(Frame::data(Bytes::from_static(data.as_bytes())))))
        });
        (sender, StreamBody::new(frames).boxed_unsync())
    }

    async fn sent(verb: &str, body: Body) -> (Option<String>, Option<String>, Bytes) {
        let request = Request::builder().method(verb).uri("/");
        let request = announce(request.body(body).expect("a request")).await;
        let header = |name| {
            let value = request.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let (length, encoding) = (header(CONTENT_LENGTH), header(TRANSFER_ENCODING));
        let body = body::collect(request.into_body(), 100)
            .await
            .expect("a body");
        (length, encoding, body)
    }

    #[tokio::test(start_paused = true)]
    async fn no_body_is_said_to_be_none_with_the_verbs_that_have_one() {
        for verb in ["POST", "PUT", "PATCH", "TRACE"] {
            let expected = (Some("0".to_owned()), None, Bytes::new());
            assert_eq!(sent(verb, body::empty()).await, expected, "{verb}");
        }
        for verb in ["GET", "HEAD", "DELETE", "OPTIONS"] {
            let expected = (None, None, Bytes::new());
            assert_eq!(sent(verb, body::empty()).await, expected, "{verb}");
            let (sender, body) = streamed();
            drop(sender);
            assert_eq!(sent(verb, body).await, expected, "{verb}, streamed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_streamed_body_is_announced_and_arrives_whole() {
        let chunked = |body| (None, Some("chunked".to_owned()), Bytes::from_static(body));
        for verb in ["GET", "DELETE", "POST"] {
            let (sender, body) = streamed();
            for data in ["", "a", "b"] {
                sender.send(data).await.expect("room");
            }
            drop(sender);
            assert_eq!(sent(verb, body).await, chunked(b"ab"), "{verb}");
        }
        // One that takes its time is announced before it begins.
        let (sender, body) = streamed();
        let late = tokio::spawn(async move {
            tokio::time::sleep(FIRST_BYTES * 2).await;
            sender.send("late").await.expect("room");
        });
        assert_eq!(sent("GET", body).await, chunked(b"late"));
        late.await.expect("sent");
    }

    #[tokio::test]
    async fn a_known_length_is_left_to_the_client() {
        let expected = (None, None, Bytes::from_static(b"ab"));
        assert_eq!(sent("POST", body::full("ab")).await, expected);
        assert_eq!(sent("GET", body::full("ab")).await, expected);
    }
}
