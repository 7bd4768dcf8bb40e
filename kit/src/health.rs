//! Health targets and the `/healthz` server of the control plane.
//!
//! Each subsystem registers one target and reports itself; the process is ready when every target is.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{HeaderMap, HeaderValue, USER_AGENT};
use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http;

/// The health targets of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    targets: Arc<Targets>,
}

#[derive(Debug)]
struct Targets {
    states: Mutex<Vec<TargetState>>,
    /// Whether all are ready; changed under the lock, so it follows the order of the reports.
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct TargetState {
    name: String,
    ready: bool,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            states: Mutex::default(),
            ready: watch::Sender::new(false),
        }
    }
}

impl Health {
    /// No targets yet, and hence not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a target. It starts unready and keeps its last state when the handle is dropped, so a subsystem
    /// that dies before it was ready keeps the process unready.
    pub fn target(&self, name: impl Into<String>) -> Target {
        let index = self.targets.change(|states| {
            states.push(TargetState {
                name: name.into(),
                ready: false,
            });
            states.len() - 1
        });
        Target {
            targets: self.targets.clone(),
            index,
        }
    }

    /// The names of the targets that are not ready, in the order they were registered.
    pub fn unready(&self) -> Vec<String> {
        let states = self.targets.states.lock();
        states
            .iter()
            .filter(|target| !target.ready)
            .map(|target| target.name.clone())
            .collect()
    }

    /// Whether there is at least one target and every one is ready.
    pub fn is_ready(&self) -> bool {
        *self.targets.ready.borrow()
    }

    /// Waits until [`is_ready`](Self::is_ready).
    pub async fn await_ready(&self) {
        // The sender lives in `self`, so the channel cannot close.
        drop(self.subscribe().wait_for(|ready| *ready).await);
    }

    /// Follows [`is_ready`](Self::is_ready).
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.targets.ready.subscribe()
    }
}

impl Targets {
    fn change<T>(&self, change: impl FnOnce(&mut Vec<TargetState>) -> T) -> T {
        let mut states = self.states.lock();
        let result = change(&mut states);
        let all = !states.is_empty() && states.iter().all(|target| target.ready);
        self.ready
            .send_if_modified(|ready| std::mem::replace(ready, all) != all);
        result
    }
}

/// One subsystem's own entry in [`Health`].
#[derive(Debug)]
pub struct Target {
    targets: Arc<Targets>,
    index: usize,
}

impl Target {
    /// The subsystem serves.
    pub fn ready(&self) {
        self.set(true);
    }

    /// The subsystem does not serve, or no longer.
    pub fn unready(&self) {
        self.set(false);
    }

    fn set(&self, ready: bool) {
        // The index stays valid: targets are never removed.
        self.targets
            .change(|states| states[self.index].ready = ready);
    }
}

/// One more page of the health server, such as placement's `/placement/state`.
pub struct Page {
    path: &'static str,
    respond: Box<dyn Fn() -> Response<Full<Bytes>> + Send + Sync>,
}

impl Page {
    /// Answers every method on exactly `path`. `respond` must not block.
    pub fn new(
        path: &'static str,
        respond: impl Fn() -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            respond: Box::new(respond),
        }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// How long a probe of the kubelet is held while there is something to wait for. It comes once in a second at most, and
/// gives up after a second at least: held, it sees at once what it would see a second later.
const HELD: Duration = Duration::from_millis(850);

/// Waits a moment for `ready` if it is the kubelet who asks, so that a pod is ready when its program is.
pub async fn hold(headers: &HeaderMap, ready: impl Future<Output = ()>) {
    let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
    if agent.is_some_and(|agent| agent.starts_with(b"kube-probe/")) {
        tokio::time::timeout(HELD, ready).await.unwrap_or_default();
    }
}

/// Serves `/healthz` for every method until the token is cancelled: 200 or 503 with an empty body. `extra` adds a
/// page; every other path is 404, and one that is not clean, as `//healthz`, 307 to the one that is.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    extra: Option<Page>,
    token: CancellationToken,
) {
    let extra = Arc::new(extra);
    let respond = move |request: Request<()>| {
        let (health, extra) = (health.clone(), Arc::clone(&extra));
        async move {
            if let Some(elsewhere) = http::redirect(&request) {
                return elsewhere;
            }
            match (request.uri().path(), extra.as_ref()) {
                ("/healthz", _) => {
                    hold(request.headers(), health.await_ready()).await;
                    http::empty(if health.is_ready() {
                        StatusCode::OK
                    } else {
                        StatusCode::SERVICE_UNAVAILABLE
                    })
                }
                (path, Some(page)) if path == page.path => (page.respond)(),
                _ => http::not_found(),
            }
        }
    };
    http::serve_with(listener, respond, token).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_every_target_is() {
        let health = Health::new();
        assert!(!health.is_ready(), "nothing registered");
        let first = health.target("first");
        let second = health.target("second");
        assert_eq!(health.unready(), ["first", "second"]);
        second.ready();
        assert_eq!(health.unready(), ["first"]);
        assert!(!health.is_ready());
        first.ready();
        assert!(health.is_ready());
        health.await_ready().await;
        second.unready();
        assert!(!health.is_ready());
        assert_eq!(health.unready(), ["second"]);
        second.ready();
        drop((first, second));
        assert!(health.is_ready(), "a dropped handle keeps its state");
        drop(health.target("late"));
        assert_eq!(health.unready(), ["late"]);
    }

    #[tokio::test]
    async fn readiness_can_be_awaited() {
        let health = Health::new();
        let target = health.target("late");
        let mut changes = health.subscribe();
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.await_ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        target.ready();
        waiting.await.expect("no panic");
        assert!(*changes.wait_for(|ready| *ready).await.expect("open"));
    }

    #[tokio::test]
    async fn a_probe_of_the_kubelet_waits_a_moment() {
        let health = Health::new();
        let target = health.target("target");
        let shown = health.clone();
        let server =
            http::testing::Server::start(|listener, token| serve(listener, shown, None, token))
                .await;
        let probe = async || server.raw_as("kube-probe/1.33", "GET", "/healthz").await;
        let began = tokio::time::Instant::now();
        assert_eq!(server.request("GET", "/healthz").await.0, 503);
        assert!(began.elapsed() < HELD, "others do not wait");
        assert!(probe().await.starts_with("HTTP/1.1 503"));
        assert!(began.elapsed() >= HELD);
        let asked = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(probe(), async {
            // The probe is on its way, or waits: it is answered with what is then.
            tokio::task::yield_now().await;
            target.ready();
        });
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(asked.elapsed() < HELD, "no longer than there is need to");
        server.stop().await;
    }

    #[tokio::test]
    async fn serves_healthz_for_every_method_and_nothing_else() {
        let health = Health::new();
        let target = health.target("target");
        let page = Page::new("/placement/state", || Response::new(Full::from("{}")));
        let server = http::testing::Server::start(|listener, token| {
            serve(listener, health, Some(page), token)
        })
        .await;
        assert_eq!(server.request("GET", "/healthz").await.0, 503);
        target.ready();
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            assert_eq!(
                server.request(method, "/healthz?verbose").await,
                (200, String::new()),
                "{method}"
            );
        }
        assert_eq!(
            server.request("GET", "/placement/state").await,
            (200, "{}".to_owned())
        );
        for path in ["/", "/healthz/", "/metrics", "/placement"] {
            assert_eq!(server.request("GET", path).await.0, 404, "{path}");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn answers_of_gos_router() {
        let health = Health::new();
        health.target("target").ready();
        let server =
            http::testing::Server::start(|listener, token| serve(listener, health, None, token))
                .await;
        let check = async |method: &str, path: &str, expected: &[&str], body: &str| {
            let answer = server.raw(method, path).await.to_ascii_lowercase();
            let (head, found) = answer.split_once("\r\n\r\n").expect("a head");
            for line in expected {
                assert!(head.lines().any(|it| it == *line), "{line} in {head}");
            }
            assert_eq!(found, body, "{method} {path}");
        };
        check(
            "GET",
            "//healthz?verbose",
            &[
                "http/1.1 307 temporary redirect",
                "location: /healthz?verbose",
                "content-type: text/html; charset=utf-8",
            ],
            "<a href=\"/healthz?verbose\">temporary redirect</a>.\n\n",
        )
        .await;
        let elsewhere = ["http/1.1 307 temporary redirect", "location: /healthz"];
        check("POST", "/./healthz", &elsewhere, "").await;
        check(
            "GET",
            "/nothing",
            &[
                "http/1.1 404 not found",
                "content-type: text/plain; charset=utf-8",
                "x-content-type-options: nosniff",
            ],
            "404 page not found\n",
        )
        .await;
        server.stop().await;
    }
}
