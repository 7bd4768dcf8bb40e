//! How fresh the operator's picture of the cluster is: the page `/operator/state` of the health server, a metric, and a
//! word in the log when it changes.
//!
//! `/healthz` stays 200 while the API server is away: a restart would only lose what is known, and sidecars are served
//! that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use dapr_kit::health::Page;
use dapr_kubernetes::{Health, State as Freshness};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::Full;
use parking_lot::Mutex;
use prometheus::{IntGaugeVec, Opts, Registry};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// Where the page is.
const PATH: &str = "/operator/state";

/// What is watched. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    watched: Arc<Mutex<BTreeMap<Box<str>, watch::Receiver<Health>>>>,
    followed: IntGaugeVec,
}

/// How much can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Trust {
    /// Nothing is known yet.
    Cold,
    /// The API server does not know the kind.
    Absent,
    /// It is followed.
    Followed,
    /// The last known state counts.
    Stale,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: &'a str,
    state: Trust,
    /// Since the API server last said something about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_since_contact: Option<u64>,
}

impl State {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// The metric is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let followed = IntGaugeVec::new(
            Opts::new(
                "dapr_operator_watch_followed",
                "Whether what is known of a kind is current: 0 while it is not known yet, or the API server is away.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(followed.clone()))?;
        Ok(Self {
            watched: Arc::default(),
            followed,
        })
    }

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

    /// Shows a kind until it is dropped, and logs when the API server cannot be followed and when it can again.
    pub(super) async fn show(self, kind: &str, mut health: watch::Receiver<Health>) -> Infallible {
        self.watched.lock().insert(kind.into(), health.clone());
        let followed = self.followed.with_label_values(&[kind]);
        let _shown = Shown { state: &self, kind };
        let mut was_stale = false;
        loop {
            let seen = health.borrow_and_update().clone();
            let trust = Trust::of(&seen);
            followed.set(i64::from(matches!(trust, Trust::Followed | Trust::Absent)));
            let is_stale = trust == Trust::Stale;
            if is_stale && !was_stale {
                let error = seen.last_error.as_deref();
                tracing::warn!(
                    kind,
                    error,
                    "the API server cannot be followed; the last known state is served"
                );
            } else if was_stale && !is_stale {
                tracing::info!(kind, "the API server is followed again");
            }
            was_stale = is_stale;
            if health.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What the page says: a line per kind, in JSON.
    pub fn text(&self, now: Instant) -> Bytes {
        let watched = self.watched.lock();
        let lines = watched.iter().map(|(kind, health)| {
            let health = health.borrow();
            let contact = health.last_contact;
            Line {
                kind,
                state: Trust::of(&health),
                seconds_since_contact: contact.map(|at| now.duration_since(at).as_secs()),
            }
        });
        let lines: Vec<Line<'_>> = lines.collect();
        serde_json::to_vec(&lines).unwrap_or_default().into()
    }
}

/// A kind on the page. What a leader watches is not known any more when its term has ended.
struct Shown<'a> {
    state: &'a State,
    kind: &'a str,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.state.watched.lock().remove(self.kind);
        // The only error is that there is no such line.
        drop(self.state.followed.remove_label_values(&[self.kind]));
    }
}

impl Trust {
    fn of(health: &Health) -> Self {
        match health.state {
            Freshness::Starting | Freshness::Stale { .. } if health.is_absent => Self::Absent,
            Freshness::Starting => Self::Cold,
            Freshness::Synced => Self::Followed,
            Freshness::Stale { .. } => Self::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_kind_says_how_far_it_can_be_trusted() {
        let registry = Registry::new();
        let state = State::register(&registry).expect("new");
        let (change, health) = watch::channel(Health::default());
        let task = tokio::spawn({
            let state = state.clone();
            async move { state.show("Component", health).await }
        });
        let look = async || {
            yield_now().await;
            let text = state.text(Instant::now());
            let text: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            let gauge = state.followed.with_label_values(&["Component"]).get();
            (
                text[0]["state"].as_str().unwrap_or_default().to_owned(),
                gauge,
            )
        };
        let since = Instant::now();
        for (freshness, is_absent, expected) in [
            (Freshness::Starting, false, ("cold", 0)),
            (Freshness::Starting, true, ("absent", 1)),
            (Freshness::Synced, false, ("followed", 1)),
            (Freshness::Stale { since }, false, ("stale", 0)),
            (Freshness::Synced, false, ("followed", 1)),
        ] {
            change.send_modify(|health| {
                health.state = freshness;
                health.is_absent = is_absent;
                health.last_contact = Some(since);
            });
            assert_eq!(look().await, (expected.0.to_owned(), expected.1));
        }
        tokio::time::advance(Duration::from_secs(7)).await;
        let text = String::from_utf8(state.text(Instant::now()).to_vec()).expect("text");
        let expected = r#"[{"kind":"Component","state":"followed","secondsSinceContact":7}]"#;
        assert_eq!(text, expected);
        task.abort();
        task.await.expect_err("aborted");
        assert_eq!(state.text(Instant::now()), "[]");
        assert!(registry.gather().is_empty());
    }
}
