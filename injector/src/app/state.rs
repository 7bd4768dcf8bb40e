//! How fresh the injector's picture of the cluster is: the page `/injector/state` of the health server.
//!
//! `/healthz` stays 200 while a watch is cold or stale: who is unready gets no more reviews, and pods would start without
//! their sidecar for want of knowledge that most of them do not need.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dapr_kit::health::Page;
use dapr_kubernetes::{Health, State as Freshness};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// Where the page is.
const PATH: &str = "/injector/state";

/// What is watched, once anything is. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<OnceLock<Vec<Watched>>>);

/// One kind of object.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its plural.
    pub(super) kind: &'static str,
    pub(super) health: watch::Receiver<Health>,
    /// Whether it is known without a watch, by reading the one object that counts.
    pub(super) is_read: Option<Arc<AtomicBool>>,
}

/// How much can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Trust {
    /// Nothing is known yet: pods are answered as if there were none, or refused if they need it.
    Cold,
    /// It cannot be watched, and is read by name again and again.
    Read,
    /// It is followed.
    Followed,
    /// The last known state counts.
    Stale,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    kind: &'static str,
    state: Trust,
    /// Since the API server last said something about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_since_contact: Option<u64>,
}

impl State {
    /// The page of the health server.
    pub fn page(&self) -> Page {
        let state = self.clone();
        Page::new(PATH, move || {
            let text = state.text(Instant::now());
            let mut response = Response::new(Full::from(text));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        })
    }

    /// Shows these from now on.
    pub(super) fn show(&self, watched: Vec<Watched>) {
        // There is one service in a process; a second one would be shown in vain.
        if self.0.set(watched).is_err() {
            tracing::error!("two services show their state on one page");
        }
    }

    fn text(&self, now: Instant) -> Bytes {
        let watched = self.0.get().map(Vec::as_slice).unwrap_or_default();
        let lines: Vec<Line> = watched.iter().map(|watched| watched.line(now)).collect();
        serde_json::to_vec(&lines).unwrap_or_default().into()
    }
}

impl Watched {
    fn line(&self, now: Instant) -> Line {
        let health = self.health.borrow();
        let contact = health.last_contact;
        Line {
            kind: self.kind,
            state: self.trust(&health),
            seconds_since_contact: contact.map(|at| now.duration_since(at).as_secs()),
        }
    }

    pub(super) fn trust(&self, health: &Health) -> Trust {
        let is_read = self.is_read.as_deref();
        match health.state {
            Freshness::Synced => Trust::Followed,
            Freshness::Stale { .. } => Trust::Stale,
            Freshness::Starting if is_read.is_some_and(|it| it.load(Ordering::Relaxed)) => {
                Trust::Read
            }
            Freshness::Starting => Trust::Cold,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_kind_says_how_far_it_can_be_trusted() {
        let state = State::default();
        let text = |state: &State| String::from_utf8(state.text(Instant::now()).to_vec()).unwrap();
        assert_eq!(text(&state), "[]", "nothing is watched yet");
        let (components, health) = watch::channel(Health::default());
        let (_configurations, unwatched) = watch::channel(Health::default());
        let is_read = Arc::new(AtomicBool::new(false));
        state.show(vec![
            Watched {
                kind: "components",
                health,
                is_read: None,
            },
            Watched {
                kind: "configurations",
                health: unwatched,
                is_read: Some(Arc::clone(&is_read)),
            },
        ]);
        let cold =
            r#"[{"kind":"components","state":"cold"},{"kind":"configurations","state":"cold"}]"#;
        assert_eq!(text(&state), cold);
        is_read.store(true, Ordering::Relaxed);
        components.send_modify(|health| {
            health.state = Freshness::Synced;
            health.last_contact = Some(Instant::now());
        });
        tokio::time::advance(Duration::from_secs(7)).await;
        let known = r#"[{"kind":"components","state":"followed","secondsSinceContact":7},{"kind":"configurations","state":"read"}]"#;
        assert_eq!(text(&state), known);
        let since = Instant::now();
        components.send_modify(|health| health.state = Freshness::Stale { since });
        assert!(text(&state).contains(r#""state":"stale","secondsSinceContact":7"#));
    }
}
