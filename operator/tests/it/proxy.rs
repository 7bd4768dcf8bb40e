//! A way to an API server that notes who wrote what, and when.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The largest request: an object.
const LIMIT: usize = 4 << 20;

/// A write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) who: &'static str,
    pub(crate) path: String,
    /// When it came here, before the API server saw it.
    pub(crate) at: Instant,
    /// What the API server said; `None` as long as it has said nothing.
    pub(crate) status: Option<StatusCode>,
}

/// The writes of everybody, in order of their coming.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes(Arc<Mutex<Vec<Write>>>);

impl Writes {
    /// Those so far.
    pub(crate) fn all(&self) -> Vec<Write> {
        self.0.lock().clone()
    }

    fn begin(&self, who: &'static str, request: &Request) -> Option<usize> {
        if request.method() == Method::GET {
            return None;
        }
        let mut writes = self.0.lock();
        writes.push(Write {
            who,
            path: request.uri().path().to_owned(),
            at: Instant::now(),
            status: None,
        });
        Some(writes.len() - 1)
    }

    fn end(&self, index: usize, status: StatusCode) {
        if let Some(write) = self.0.lock().get_mut(index) {
            write.status = Some(status);
        }
    }
}

/// The way of one client. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    is_cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Way {
    who: &'static str,
    client: kube::Client,
    writes: Writes,
    is_cut: watch::Receiver<bool>,
}

impl Proxy {
    /// A way for `who`, with the rights of `client`.
    pub(crate) async fn start(who: &'static str, client: kube::Client, writes: Writes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let is_cut = watch::Sender::new(false);
        let way = Way {
            who,
            client,
            writes,
            is_cut: is_cut.subscribe(),
        };
        let router = Router::new().fallback(pass).with_state(way);
        let task = tokio::spawn(async move {
            // It ends with its task only.
            drop(axum::serve(listener, router).await);
        });
        Self { port, is_cut, task }
    }

    /// Lets nothing through any more, also of answers that have begun.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Takes back [`Proxy::cut`].
    pub(crate) fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// Writes a kubeconfig for this way into `folder`.
    pub(crate) fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("written");
        path
    }
}

async fn pass(State(way): State<Way>, request: Request) -> Response {
    if *way.is_cut.borrow() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let noted = way.writes.begin(way.who, &request);
    let (mut head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LIMIT).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    // They are about this connection.
    head.headers.remove(http::header::HOST);
    head.headers.remove(http::header::CONTENT_LENGTH);
    let request = Request::from_parts(head, kube::client::Body::from(body.to_vec()));
    match way.client.send(request).await {
        Ok(response) => {
            if let Some(index) = noted {
                way.writes.end(index, response.status());
            }
            let cut = cut(way.is_cut);
            response
                .map(|body| Body::from_stream(Body::new(body).into_data_stream().take_until(cut)))
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

async fn cut(mut is_cut: watch::Receiver<bool>) {
    if is_cut.wait_for(|is_cut| *is_cut).await.is_err() {
        // The proxy is gone, and nobody cuts it any more.
        std::future::pending::<()>().await;
    }
}
