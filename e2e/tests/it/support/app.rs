//! An application in this process: answers by script and remembers what it was asked.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use dapr_e2e::await_condition;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::LIMIT;

/// A running application.
pub(crate) struct App {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    server: JoinHandle<()>,
}

/// A request the application got.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path as it was on the wire.
    pub(crate) path: String,
    /// Query as it was on the wire, empty if there was none.
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What the application answers.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    gate: Option<Arc<Semaphore>>,
}

type Script = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Playing {
    script: Script,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl App {
    /// Starts an application that answers by `script`.
    pub(crate) async fn start(
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let playing = Arc::new(Playing {
            script: Box::new(script),
            seen: Arc::clone(&seen),
        });
        let router = Router::new().fallback(play).with_state(playing);
        let server = tokio::spawn(async move {
            // It ends with the story.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { port, seen, server })
    }

    /// An application that answers every call with 200 and the JSON `{}`, and asks for nothing.
    pub(crate) async fn plain() -> Result<Self> {
        Self::start(|request| match request.path.as_str() {
            path if path.starts_with("/dapr/") => Answer::status(404),
            _ => Answer::json(&serde_json::json!({})),
        })
        .await
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it was asked so far on `path`, in order.
    pub(crate) fn seen(&self, path: &str) -> Vec<Request> {
        self.seen
            .lock()
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    /// Waits until it was asked at least `count` times on `path`.
    pub(crate) async fn await_seen(&self, path: &str, count: usize) -> Result<Vec<Request>> {
        await_condition(&format!("{count} requests on {path}"), LIMIT, || async {
            let seen = self.seen(path);
            ensure!(seen.len() >= count, "{} so far", seen.len());
            Ok(seen)
        })
        .await
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Request {
    /// A header's text; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Answer {
    /// A status without a body.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            gate: None,
        }
    }

    /// 200 with JSON.
    pub(crate) fn json(value: &Value) -> Self {
        Self::status(200)
            .with_header("content-type", "application/json")
            .with_body(value.to_string())
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Sets the body.
    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Holds the answer back until the gate has a permit.
    pub(crate) fn behind(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(Arc::clone(gate));
        self
    }
}

async fn play(
    State(playing): State<Arc<Playing>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request {
        method,
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        body,
    };
    let answer = (playing.script)(&request);
    playing.seen.lock().push(request);
    if let Some(gate) = answer.gate {
        // A closed gate is an open one.
        drop(gate.acquire().await);
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response
        .body(Body::from(answer.body))
        .expect("the script names a valid status and valid headers")
}
