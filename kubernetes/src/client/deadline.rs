//! A limit for every call but a watch: whole answers come within it, or the call fails.
//!
//! A watch is silent for minutes by design; it is bounded by the `timeoutSeconds` of its reader.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use kube::client::Body;
use tower::{BoxError, Service};

/// The largest answer that is taken: a list of every pod of a large cluster from a server that does not page.
const ANSWER_LIMIT: usize = 256 << 20;

/// A service whose calls end.
#[derive(Clone, Debug)]
pub(super) struct Deadline<S> {
    inner: S,
    limit: Duration,
}

/// The call took too long.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} seconds", limit.as_secs())]
struct Late {
    limit: Duration,
}

impl<S> Deadline<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Incoming>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Either<Full<Bytes>, Incoming>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let endless = is_endless(request.uri());
        let limit = self.limit;
        let answer = self.inner.call(request);
        Box::pin(async move {
            if endless {
                return Ok(answer.await.map_err(Into::into)?.map(Either::Right));
            }
            let whole = async {
                let (parts, body) = answer.await.map_err(Into::into)?.into_parts();
                let body = Limited::new(body, ANSWER_LIMIT).collect().await?.to_bytes();
                Ok(Response::from_parts(parts, Either::Left(Full::new(body))))
            };
            tokio::time::timeout(limit, whole)
                .await
                .unwrap_or_else(|_| Err(Late { limit }.into()))
        })
    }
}

/// A watch, or a log that is followed.
fn is_endless(uri: &Uri) -> bool {
    let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
    pairs
        .into_iter()
        .any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watches_and_logs_have_no_limit() {
        let check = |uri: &str| is_endless(&uri.parse().expect("a uri"));
        assert!(check("/api/v1/pods?limit=5&watch=true"));
        assert!(check("/api/v1/pods?watch=1&timeoutSeconds=5"));
        assert!(!check("/api/v1/pods?fieldSelector=watch%3Dtrue"));
        assert!(!check("/api/v1/pods?watch=false"));
        assert!(!check("/api/v1/pods"));
    }
}
