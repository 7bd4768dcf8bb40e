//! The server.
//!
//!     ANY    /who                              the name of its pod
//!     ANY    /unsteady/<key>                   fails twice, then answers, and so on
//!     ANY    /slow/<milliseconds>              answers after that time
//!     POST   /events/<name>                    takes an event
//!     GET    /events                           data of the events that came, by name
//!     ANY    /actors/<type>/<id>/...           an actor; its host is an application with ACTORS
//!     POST   /load                             begins a load; DELETE ends it with a summary
//!     GET    /load/<count>                     tells how much was sent, when it is as much or after 8 s
//!     POST   /watch                            waits for a component; GET tells when it was there
//!
//! Environment: POD is its name, ACTORS a type of actors it hosts, LINGER for how many seconds it serves on after SIGTERM.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::{Path, Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::load::{Load, Order};
use crate::watch::{self, Wanted};

/// Where the sidecar expects the application.
const PORT: u16 = 8000;
/// How long connections may still be used for one request each, when no more are accepted.
const LEAVING: Duration = Duration::from_millis(500);
/// How long whoever waits for a load is kept waiting, which is less than it waits.
const PATIENCE: Duration = Duration::from_secs(8);
/// Every so many calls of an unsteady key are answered.
const STEADY: usize = 3;

type Shared = Arc<App>;
type Failed = (StatusCode, String);

struct App {
    pod: String,
    actors: Option<String>,
    events: Mutex<BTreeMap<String, Vec<Value>>>,
    calls: Mutex<BTreeMap<String, usize>>,
    load: Mutex<Option<Load>>,
    watch: Mutex<Option<JoinHandle<Result<u64>>>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the application reads its environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Serves until it is told to end.
pub(crate) async fn serve() -> Result<()> {
    let app = Arc::new(App {
        pod: variable("POD").context("POD is not set")?,
        actors: variable("ACTORS"),
        events: Mutex::default(),
        calls: Mutex::default(),
        load: Mutex::default(),
        watch: Mutex::default(),
    });
    let linger = match variable("LINGER") {
        Some(seconds) => Duration::from_secs(seconds.parse().context("LINGER")?),
        None => Duration::ZERO,
    };
    let routes = Router::new()
        .route(
            "/who",
            any(async |State(app): State<Shared>| app.pod.clone()),
        )
        .route("/unsteady/{key}", any(unsteady))
        .route("/slow/{milliseconds}", any(slow))
        .route("/events", get(events))
        .route("/events/{name}", post(event))
        .route("/dapr/config", get(config))
        .route("/actors/{*rest}", any(actor))
        .route("/load", post(start_load).delete(stop_load))
        .route("/load/{count}", get(sent))
        .route("/watch", post(start_watch).get(watched))
        .with_state(app);
    let is_leaving = Arc::new(AtomicBool::new(false));
    let routes = routes.layer(from_fn_with_state(Arc::clone(&is_leaving), last_answers));
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut ended = signal(SignalKind::terminate())?;
    let told = async {
        ended.recv().await;
        sleep(linger).await;
    };
    tokio::select! {
        served = axum::serve(listener, routes) => served?,
        () = told => {}
    }
    // The listener is closed by now, connections are open. To close one that is idle would race with a request that is
    // being sent on it, and no client may send a POST again that got no answer.
    is_leaving.store(true, Ordering::Relaxed);
    sleep(LEAVING).await;
    Ok(())
}

/// Answers, and closes connections once the application leaves.
async fn last_answers(
    State(is_leaving): State<Arc<AtomicBool>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if is_leaving.load(Ordering::Relaxed) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

async fn unsteady(State(app): State<Shared>, Path(key): Path<String>) -> Result<String, Failed> {
    let mut calls = app.calls.lock();
    let calls = calls.entry(key).or_default();
    *calls += 1;
    if *calls % STEADY == 0 {
        Ok(app.pod.clone())
    } else {
        Err((StatusCode::INTERNAL_SERVER_ERROR, format!("call {calls}")))
    }
}

async fn slow(State(app): State<Shared>, Path(milliseconds): Path<u64>) -> String {
    sleep(Duration::from_millis(milliseconds)).await;
    app.pod.clone()
}

async fn event(
    State(app): State<Shared>,
    Path(name): Path<String>,
    Json(event): Json<Value>,
) -> Json<Value> {
    let data = event["data"].clone();
    app.events.lock().entry(name).or_default().push(data);
    Json(json!({"status": "SUCCESS"}))
}

async fn events(State(app): State<Shared>) -> Json<Value> {
    Json(json!(*app.events.lock()))
}

async fn config(State(app): State<Shared>) -> Result<Json<Value>, StatusCode> {
    match &app.actors {
        Some(kind) => Ok(Json(
            json!({"entities": [kind], "drainOngoingCallTimeout": "5s"}),
        )),
        None => Err(StatusCode::NOT_FOUND),
    }
}

async fn actor(State(app): State<Shared>) -> Json<String> {
    Json(app.pod.clone())
}

async fn start_load(
    State(app): State<Shared>,
    Json(order): Json<Order>,
) -> Result<StatusCode, Failed> {
    let mut load = app.load.lock();
    if load.is_some() {
        return Err((StatusCode::CONFLICT, "a load is on".to_owned()));
    }
    *load = Some(Load::start(order).map_err(failed)?);
    Ok(StatusCode::NO_CONTENT)
}

async fn sent(
    State(app): State<Shared>,
    Path(count): Path<usize>,
) -> Result<Json<usize>, StatusCode> {
    let load = app.load.lock().as_ref().map(Load::sent);
    let mut load = load.ok_or(StatusCode::NOT_FOUND)?;
    // Late or ended: what was sent by then is told in any case.
    drop(timeout(PATIENCE, load.wait_for(|sent| *sent >= count)).await);
    let sent = *load.borrow();
    Ok(Json(sent))
}

async fn stop_load(State(app): State<Shared>) -> Result<Json<Value>, Failed> {
    let load = app.load.lock().take();
    let load = load.ok_or((StatusCode::NOT_FOUND, "no load is on".to_owned()))?;
    Ok(Json(json!(load.stop().await.map_err(failed)?)))
}

async fn start_watch(State(app): State<Shared>, Json(wanted): Json<Wanted>) -> StatusCode {
    let before = app.watch.lock().replace(tokio::spawn(watch::seen(wanted)));
    if let Some(before) = before {
        before.abort();
    }
    StatusCode::NO_CONTENT
}

async fn watched(State(app): State<Shared>) -> Result<Json<u64>, Failed> {
    let watch = app.watch.lock().take();
    let watch = watch.ok_or((StatusCode::NOT_FOUND, "nothing is watched".to_owned()))?;
    let seen = watch.await.map_err(|error| failed(error.into()))?;
    Ok(Json(seen.map_err(failed)?))
}

fn failed(error: anyhow::Error) -> Failed {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
}
