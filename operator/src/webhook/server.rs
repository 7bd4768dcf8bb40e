//! HTTP of the conversion: reads a bounded body within bounded time, and answers as upstream does.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use dapr_crds::subscription::review;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Bytes of a review. The API server converts a whole list at once: this is one of some ten thousand Subscriptions.
const BODY_LIMIT: usize = 32 << 20;
/// Bytes of all bodies at a time: what strangers can make the process hold.
const BODIES_LIMIT: usize = 64 << 20;
/// How long a body may take. The API server gives up a review after thirty seconds.
const BODY_TIME: Duration = Duration::from_secs(20);
/// Bodies above this are converted aside, as that takes milliseconds in which nothing else would run.
const SMALL: usize = 64 << 10;

struct Bodies(Semaphore);

/// The webhook's routes.
pub(super) fn routes() -> Router {
    limited(BODIES_LIMIT)
}

fn limited(bytes: usize) -> Router {
    Router::new()
        .route("/convert", any(convert))
        .with_state(Arc::new(Bodies(Semaphore::new(bytes))))
}

impl Bodies {
    /// The body, if it comes in time, whole, and not too large. Its permits, one per byte, are held as long as it is.
    async fn read(&self, body: Body) -> Option<(Bytes, SemaphorePermit<'_>)> {
        timeout(BODY_TIME, self.gather(body)).await.ok().flatten()
    }

    async fn gather(&self, body: Body) -> Option<(Bytes, SemaphorePermit<'_>)> {
        let mut body = Limited::new(body, BODY_LIMIT);
        let mut permits = self.0.acquire_many(0).await.ok()?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // What is no data are trailers, which say nothing here.
            if let Ok(data) = frame.ok()?.into_data() {
                let bytes = u32::try_from(data.len()).ok()?;
                permits.merge(self.0.acquire_many(bytes).await.ok()?);
                whole.extend_from_slice(&data);
            }
        }
        Some((whole.freeze(), permits))
    }
}

/// Method and content type are not looked at, and the answer has the type upstream's has.
async fn convert(State(bodies): State<Arc<Bodies>>, request: Request) -> Response {
    let Some((body, _permits)) = bodies.read(request.into_body()).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let answer = if body.len() <= SMALL {
        answer(&body)
    } else {
        // It cannot be cancelled, and ends by itself; on shutdown there is no answer.
        spawn_blocking(move || answer(&body)).await.unwrap_or(None)
    };
    match answer {
        Some(answer) => {
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            ([(CONTENT_TYPE, kind)], answer).into_response()
        }
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// The answer to a review; `None` for what is no review.
fn answer(body: &[u8]) -> Option<Vec<u8>> {
    let asked: serde_json::Value = serde_json::from_slice(body).ok()?;
    let answer = review(&asked)?;
    if answer.pointer("/response/result/message").is_some() {
        // Why is said to the API server alone: the text quotes the object.
        let review = answer
            .pointer("/response/uid")
            .and_then(serde_json::Value::as_str);
        tracing::warn!(review, "a Subscription could not be converted");
    }
    serde_json::to_vec(&answer).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;

    fn asked(route: &str) -> Value {
        json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": {
                "uid": "u-1", "desiredAPIVersion": "dapr.io/v2alpha1",
                "objects": [{
                    "apiVersion": "dapr.io/v1alpha1", "kind": "Subscription", "metadata": {"name": "s", "uid": "x"},
                    "spec": {"pubsubname": "p", "topic": "t", "route": route},
                }],
            },
        })
    }

    async fn send(routes: Router, method: &str, body: Body) -> (StatusCode, String, Bytes) {
        let request = Request::builder().method(method).uri("/convert").body(body);
        let answer = routes.oneshot(request.expect("a request")).await;
        let (head, body) = answer.expect("infallible").into_parts();
        let kind = head.headers.get(CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().expect("text"));
        let body = body.collect().await.expect("a body").to_bytes();
        (head.status, kind.to_owned(), body)
    }

    #[tokio::test]
    async fn a_review_is_answered_whatever_the_method() {
        for (method, size) in [("POST", 1), ("GET", 1), ("POST", 2 * SMALL)] {
            let body = Body::from(asked(&"r".repeat(size)).to_string());
            let (status, kind, body) = send(routes(), method, body).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(kind, "text/plain; charset=utf-8");
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(answer["response"]["uid"], "u-1");
            assert_eq!(answer["response"]["result"]["status"], "Success");
            assert!(answer.get("request").is_none());
            let converted = &answer["response"]["convertedObjects"][0];
            assert_eq!(converted["apiVersion"], "dapr.io/v2alpha1");
            assert_eq!(converted["spec"]["routes"]["default"], "r".repeat(size));
        }
    }

    #[tokio::test]
    async fn what_is_no_review_is_a_bad_request_without_a_body() {
        for text in ["", "{", "[]", "{}", "null", r#"{"request": 1}"#, "\u{0}"] {
            let (status, kind, body) = send(routes(), "POST", Body::from(text)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{text:?}");
            assert_eq!((kind.as_str(), body.len()), ("", 0), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_bound_is_refused() {
        let body = Body::from(vec![b' '; BODY_LIMIT + 1]);
        assert_eq!(
            send(routes(), "POST", body).await.0,
            StatusCode::BAD_REQUEST
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_time_is_given_up() {
        let (sender, body) = http_body_util::channel::Channel::<Bytes>::new(1);
        let (status, ..) = send(routes(), "POST", Body::new(body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        drop(sender);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_wait_for_room_and_not_for_ever() {
        let body = Body::from(asked("r").to_string());
        let (status, ..) = send(limited(16), "POST", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}
