//! The time in which this process may act as leader, and a client that acts in no other.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tower::{BoxError, Service};

/// The time in which this process may act as leader. It grows with every renewal.
#[derive(Clone, Debug)]
pub struct Term(watch::Receiver<Instant>);

/// This process may not act as leader any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process is not the leader any more")]
pub struct Over;

/// What ends a term, or makes it longer. Dropped, the term keeps the end it has.
#[derive(Debug)]
pub(super) struct Grant(watch::Sender<Instant>);

impl Grant {
    pub(super) fn until(end: Instant) -> (Self, Term) {
        let (sender, receiver) = watch::channel(end);
        (Self(sender), Term(receiver))
    }

    pub(super) fn extend(&self, end: Instant) {
        self.0.send_replace(end);
    }

    pub(super) fn end(&self) {
        self.0.send_replace(Instant::now());
    }
}

impl Term {
    /// Whether this process may act now.
    pub fn is_current(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        let mut end = self.0.clone();
        loop {
            let moment = *end.borrow_and_update();
            tokio::select! {
                () = sleep_until(moment) => {
                    if !self.is_current() {
                        return;
                    }
                }
                changed = end.changed() => {
                    if changed.is_err() {
                        // Nobody extends it any more.
                        sleep_until(moment).await;
                        return;
                    }
                }
            }
        }
    }

    /// A client that changes something only during this term: requests that write fail with [`Over`] after it, those
    /// that are under way are given up at its end. Reads are not limited.
    pub fn fence(&self, client: &kube::Client) -> kube::Client {
        let namespace = client.default_namespace().to_owned();
        let fence = Fence {
            inner: client.clone(),
            term: self.clone(),
        };
        kube::Client::new(fence, namespace)
    }
}

struct Fence {
    inner: kube::Client,
    term: Term,
}

impl Service<Request<Body>> for Fence {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The client inside has a queue of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let (client, term) = (self.inner.clone(), self.term.clone());
        Box::pin(async move {
            if is_read {
                return Ok(client.send(request).await?);
            }
            if !term.is_current() {
                return Err(Over.into());
            }
            tokio::select! {
                biased;
                () = term.ended() => Err(Over.into()),
                answer = client.send(request) => Ok(answer?),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_when_nobody_extends_it() {
        let start = Instant::now();
        let (grant, term) = Grant::until(start + Duration::from_secs(10));
        let mut ended = std::pin::pin!(term.ended());
        tokio::select! {
            () = &mut ended => panic!("too early"),
            () = sleep_until(start + Duration::from_secs(9)) => {}
        }
        assert!(term.is_current());
        grant.extend(start + Duration::from_secs(19));
        ended.await;
        assert_eq!(start.elapsed().as_secs(), 19);
        assert!(!term.is_current());
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_can_be_cut_short() {
        let start = Instant::now();
        let (grant, term) = Grant::until(start + Duration::from_secs(10));
        grant.end();
        term.ended().await;
        assert_eq!(start.elapsed().as_secs(), 0);
        drop(grant);
        term.ended().await;
        assert!(!term.is_current());
    }
}
