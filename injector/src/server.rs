//! The webhook's HTTP: reads a bounded body within bounded time, and answers. Decides nothing about pods.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::admission::{Cluster, Injector, Outcome};
use crate::metrics::Metrics;

mod held;

use held::Held;

/// Bytes of a review: the API server takes requests of 3 MiB, and quotes what it took.
const BODY_LIMIT: usize = 8 << 20;
/// How long a body may take. The API server gives up a whole review after ten seconds.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Bytes of all reviews at a time: what strangers can make the process hold. A thousand usual ones fit in.
const BODIES_LIMIT: usize = 64 << 20;
/// Bytes that each review counts for beside those of its body: its answer is not smaller because it is.
const REVIEW: u32 = 32 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the handler works with.
#[derive(Debug)]
pub struct Webhook<C> {
    injector: Injector,
    cluster: Arc<C>,
    metrics: Metrics,
    /// A permit for each byte, given back once the answer has left.
    bodies: Arc<Semaphore>,
}

impl<C: Cluster + Send + Sync + 'static> Webhook<C> {
    /// A webhook that answers as `injector` decides.
    pub fn new(injector: Injector, cluster: Arc<C>, metrics: Metrics) -> Self {
        Self {
            injector,
            cluster,
            metrics,
            bodies: Arc::new(Semaphore::new(BODIES_LIMIT)),
        }
    }

    /// Its routes.
    pub fn routes(self) -> Router {
        let mutate = any(mutate::<C>);
        let not_found = || async { plain(StatusCode::NOT_FOUND, "404 page not found\n") };
        Router::new()
            .route("/mutate", mutate)
            .fallback(not_found)
            .with_state(Arc::new(self))
    }

    /// The body, if it comes in time, whole, and not too large.
    async fn read(&self, body: Body) -> Option<(Bytes, OwnedSemaphorePermit)> {
        timeout(BODY_TIME, self.gather(body)).await.ok().flatten()
    }

    async fn gather(&self, body: Body) -> Option<(Bytes, OwnedSemaphorePermit)> {
        let mut body = Limited::new(body, BODY_LIMIT);
        let mut permits = self.permits(REVIEW).await?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // What is no data are trailers, which say nothing here.
            if let Ok(data) = frame.ok()?.into_data() {
                permits.merge(self.permits(u32::try_from(data.len()).ok()?).await?);
                whole.extend_from_slice(&data);
            }
        }
        Some((whole.freeze(), permits))
    }

    async fn permits(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        let bodies = Arc::clone(&self.bodies);
        bodies.acquire_many_owned(bytes).await.ok()
    }
}

async fn mutate<C>(State(webhook): State<Arc<Webhook<C>>>, request: Request) -> Response
where
    C: Cluster + Send + Sync + 'static,
{
    webhook.metrics.request();
    let (head, body) = request.into_parts();
    let read = webhook.read(body).await;
    let Some((body, permits)) = read.filter(|(body, _)| !body.is_empty()) else {
        return plain(StatusCode::BAD_REQUEST, "empty body\n");
    };
    // Exactly this: a charset makes it another type, as upstream has it.
    if head.headers.get(CONTENT_TYPE) != Some(&JSON) {
        let text = "invalid Content-Type, expected `application/json`\n";
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let answer = webhook.injector.review(&body, &*webhook.cluster);
    webhook.metrics.outcome(&answer.outcome);
    tell(&answer.outcome);
    if answer.body.is_empty() {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "could not encode response\n",
        );
    }
    let answer = Body::new(Held::new(answer.body, permits));
    ([(CONTENT_TYPE, JSON)], answer).into_response()
}

fn tell(outcome: &Outcome) {
    match outcome {
        Outcome::Ignored => {}
        Outcome::Injected { app_id } => {
            tracing::info!("Sidecar injector succeeded injection for app '{app_id}'");
        }
        Outcome::Failed { app_id, error, .. } => {
            tracing::error!("Sidecar injector failed to inject for app '{app_id}'. Error: {error}");
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let nosniff = (
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    (status, [(CONTENT_TYPE, kind), nosniff], text).into_response()
}

#[cfg(test)]
mod tests;
