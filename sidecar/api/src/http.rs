//! The HTTP API.
//!
//! Service invocation is the hot path: it is found first, its headers are moved and its body is streamed.
//! Middleware runs in upstream's order, as plain code around one `match` over the routes.

pub(crate) mod absent;
mod actors;
mod answer;
mod cors;
mod invoke;
mod limit;
pub(crate) mod path;
mod process;
mod public;
mod publish;
pub(crate) mod route;
mod secrets;
mod serve;
mod sniff;
mod state;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use ::http::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN, USER_AGENT};
use ::http::request::Parts;
use ::http::{Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use dapr_sidecar_core::body::{self, Body, BoxError};
use http_body_util::BodyExt as _;

use crate::error::ApiError;
use crate::services::Core;
use crate::{error, trace};
pub use answer::AnswerBody;
use answer::Record;
use path::Query;
pub(crate) use process::kind as shutdown_kind;
use route::{Matched, Route};
pub use serve::{Listener, serve, serve_public};

/// Header with the token of the API.
pub(crate) const API_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");

/// The answer to a path with a malformed escape, whatever it addresses.
const BAD_ESCAPE: &str = "400 Bad Request";

/// Why a request is answered without its handler's answer.
enum Refused {
    /// An error of the table.
    Api(Box<ApiError>),
    /// Text of a middleware.
    Text(StatusCode, &'static str),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

impl From<path::BadEscape> for Refused {
    fn from(_: path::BadEscape) -> Self {
        Self::Text(StatusCode::BAD_REQUEST, BAD_ESCAPE)
    }
}

type Handled = Result<Response<Body>, Refused>;

/// A request after middleware, as handlers see it.
struct Call<'a> {
    core: &'a Core,
    query: Query<'a>,
    headers: HeaderMap,
    body: Body,
    trace: &'a trace::Answer,
}

impl Call<'_> {
    async fn read(&mut self) -> Result<Bytes, BoxError> {
        let body = std::mem::replace(&mut self.body, body::empty());
        Ok(body.collect().await?.to_bytes())
    }

    /// Reads the body of a route that takes JSON of its own; whatever goes wrong is a malformed request.
    async fn read_or_malformed(&mut self) -> Result<Bytes, ApiError> {
        self.read_json().await.map_err(error::malformed)
    }

    /// Reads a body that is JSON. Bytes that are no UTF-8 are replacement characters, as Go reads it.
    async fn read_json(&mut self) -> Result<Bytes, BoxError> {
        let body = self.read().await?;
        Ok(match String::from_utf8_lossy(&body) {
            Cow::Borrowed(_) => body,
            Cow::Owned(text) => text.into(),
        })
    }

    fn content_type(&self) -> Option<&str> {
        self.headers
            .get(::http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
    }
}

/// Answers one request of the HTTP API.
pub async fn handle<B>(core: Arc<Core>, request: Request<B>) -> Response<AnswerBody>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    if head_bytes(&parts) > core.settings.max_header_bytes {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return text(status, "431 Request Header Fields Too Large").map(AnswerBody::plain);
    }
    if !path::is_well_formed(parts.uri.path()) {
        return text(StatusCode::BAD_REQUEST, BAD_ESCAPE).map(AnswerBody::plain);
    }
    let (body, read) = limit::limited(body, core.settings.max_body_size, core.metrics.is_some());
    let path = path::clean(parts.uri.path()).into_owned();
    let matched = route::find(&parts.method, &path, &core.settings.rules);
    let name = matched.map_or(invoke_name(&core), |matched| matched.name);
    let is_health = path.contains("/healthz");
    let user_agent = core
        .settings
        .api_logging
        .and_then(|_| parts.headers.get(USER_AGENT).cloned());

    let answer = match traced(&core, &mut parts, is_health) {
        Ok(answer) => answer,
        // Neither counted nor logged, as at upstream.
        Err(text) => {
            let mut response = bad_baggage(text);
            finish(&mut response, &parts);
            return response.map(AnswerBody::plain);
        }
    };
    let (mut response, log) = guarded(&core, &mut parts, matched, &path, body, &answer).await;
    if !is_health {
        answer.write_http(response.headers_mut());
    }
    finish(&mut response, &parts);
    let (is_logged, target) = match log {
        Log::Yes(target) => (true, target),
        Log::No => (false, None),
    };
    let status = response.status();
    let record = Record {
        started,
        status,
        method: parts.method,
        path,
        name,
        target,
        user_agent,
        read,
        is_logged,
        core,
    };
    response.map(|body| AnswerBody::new(body, record))
}

/// Bytes of the request head as HTTP/1.1 writes it.
fn head_bytes(parts: &Parts) -> usize {
    let path = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    path + headers.sum::<usize>()
}

fn traced(core: &Core, parts: &mut Parts, is_health: bool) -> Result<trace::Answer, String> {
    if is_health {
        return Ok(trace::Answer::default());
    }
    trace::http(core.settings.tracing, &mut parts.headers)
}

/// Whether an answer is logged, and what an obfuscated log names beside the operation.
enum Log {
    Yes(Option<String>),
    /// CORS and the token come before the log.
    No,
}

/// CORS, then the token, then the routes.
async fn guarded(
    core: &Core,
    parts: &mut Parts,
    matched: Option<Matched<'_>>,
    path: &str,
    body: Body,
    trace: &trace::Answer,
) -> (Response<Body>, Log) {
    let Some(cors) = &core.settings.cors else {
        return authorized(core, parts, matched, path, body, trace).await;
    };
    if let Some(response) = cors::preflight(cors, &parts.method, &parts.headers) {
        return (response, Log::No);
    }
    let origin = parts.headers.get(ORIGIN).cloned();
    let (mut response, log) = authorized(core, parts, matched, path, body, trace).await;
    cors::decorate(cors, origin, response.headers_mut());
    (response, log)
}

async fn authorized(
    core: &Core,
    parts: &mut Parts,
    matched: Option<Matched<'_>>,
    path: &str,
    body: Body,
    trace: &trace::Answer,
) -> (Response<Body>, Log) {
    let exempt = matches!(
        matched.map(|matched| matched.route),
        Some(Route::Healthz | Route::HealthzOutbound)
    );
    if let Some(token) = core.settings.api_token.as_deref().filter(|_| !exempt) {
        let given = parts.headers.remove(API_TOKEN);
        if !given.is_some_and(|given| same_secret(given.as_bytes(), token.as_bytes())) {
            let response = text(StatusCode::UNAUTHORIZED, "invalid api token\n");
            return (response, Log::No);
        }
    }
    let headers = std::mem::take(&mut parts.headers);
    if let Some(route) = matched
        .map(|matched| matched.route)
        .filter(|route| *route != Route::Invoke)
    {
        let call = Call {
            core,
            query: Query(parts.uri.query().unwrap_or_default()),
            headers,
            body,
            trace,
        };
        let target = actor_target(core, &route);
        let response = dispatch(call, route).await;
        return (
            response.unwrap_or_else(|refused| refused.answer(core)),
            Log::Yes(target),
        );
    }
    if !core.settings.rules.allows_http_invoke() {
        return (unrouted(core, path), Log::Yes(None));
    }
    let request = invoke::Incoming {
        method: parts.method.clone(),
        uri: &parts.uri,
        path,
        http1: parts.version <= Version::HTTP_11,
        headers,
        body,
    };
    let (result, target) = invoke::invoke(core, request).await;
    let response = result.unwrap_or_else(|refused| refused.answer(core));
    (response, Log::Yes(target))
}

/// Each handler's future has a place of its own size: what every request moves and holds would be that of the largest.
async fn dispatch(call: Call<'_>, route: Route<'_>) -> Handled {
    match route {
        // Handled before, and the compiler should not let a new route be forgotten.
        Route::Invoke => Err(error::no_target().into()),
        Route::GetState(store, key) => Box::pin(state::get(call, store, key)).await,
        Route::SaveState(store) => Box::pin(state::save(call, store)).await,
        Route::DeleteState(store, key) => Box::pin(state::delete(call, store, key)).await,
        Route::GetBulkState(store) => Box::pin(state::bulk_get(call, store)).await,
        Route::ExecuteStateTransaction(store) => Box::pin(state::transact(call, store)).await,
        Route::QueryState(store) => Box::pin(state::query(call, store)).await,
        Route::PublishEvent(pubsub, topic) => Box::pin(publish::publish(call, pubsub, topic)).await,
        Route::BulkPublishEvent(pubsub, topic) => {
            Box::pin(publish::bulk(call, pubsub, topic)).await
        }
        Route::InvokeBinding(name) => Box::pin(absent::binding(call, name)).await,
        Route::GetSecret(store, key) => Box::pin(secrets::get(call, store, key)).await,
        Route::GetBulkSecret(store) => Box::pin(secrets::bulk_get(call, store)).await,
        Route::GetConfiguration => Err(error::configuration_not_configured().into()),
        Route::TryLock(store) => Box::pin(absent::try_lock(call, store)).await,
        Route::Unlock => Box::pin(absent::unlock(call)).await,
        Route::Crypto => Err(error::crypto_not_configured().into()),
        Route::SubtleCrypto => Err(error::unimplemented().into()),
        Route::ExecuteActorStateTransaction(kind, id) => {
            Box::pin(actors::transact(call, kind, id)).await
        }
        Route::GetActorState(kind, id, key) => {
            Box::pin(actors::get_state(call, kind, id, key)).await
        }
        Route::InvokeActor(kind, id, name) => Box::pin(actors::invoke(call, kind, id, name)).await,
        Route::RegisterActorReminder(kind, id, name) => {
            Box::pin(actors::create_reminder(call, kind, id, name)).await
        }
        Route::GetActorReminder(kind, id, name) => {
            Box::pin(actors::get_reminder(call, kind, id, name)).await
        }
        Route::UnregisterActorReminder(kind, id, name) => {
            Box::pin(actors::delete_reminder(call, kind, id, name)).await
        }
        Route::RegisterActorTimer(kind, id, name) => {
            Box::pin(actors::create_timer(call, kind, id, name)).await
        }
        Route::UnregisterActorTimer(kind, id, name) => {
            Box::pin(actors::delete_timer(call, kind, id, name)).await
        }
        Route::ScheduleJob(name) => Box::pin(absent::schedule_job(call, name)).await,
        Route::GetJob(_) => Err(absent::no_scheduler(call.core, error::Job::Get).into()),
        Route::DeleteJob(_) => Err(absent::no_scheduler(call.core, error::Job::Delete).into()),
        Route::Workflow => Err(absent::workflow(call.core).into()),
        Route::Converse(name) => Box::pin(absent::converse(call, name)).await,
        Route::GetMetadata => Ok(process::metadata(call.core)),
        Route::PutMetadata(key) => Box::pin(process::put_metadata(call, key)).await,
        Route::Healthz => process::healthz(call.core, call.query),
        Route::HealthzOutbound => process::healthz_outbound(call.core),
        Route::Shutdown => Ok(process::shutdown(call.core, &call.headers)),
    }
}

impl Refused {
    fn answer(self, core: &Core) -> Response<Body> {
        match self {
            Self::Api(error) => {
                if let Some(metrics) = &core.metrics {
                    metrics.error(&error.tag);
                }
                error.to_http()
            }
            Self::Text(status, message) => text(status, message),
        }
    }
}

/// What a path gets that no route takes while invocation is closed.
fn unrouted(core: &Core, path: &str) -> Response<Body> {
    let methods = route::methods(path, &core.settings.rules);
    if methods.is_empty() {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(::http::header::ALLOW, allow);
    }
    response
}

fn invoke_name(core: &Core) -> &'static str {
    if core.settings.rules.allows_http_invoke() {
        "InvokeService"
    } else {
        ""
    }
}

/// `<type>.<id>` of an actor call, for obfuscated logs.
fn actor_target(core: &Core, route: &Route<'_>) -> Option<String> {
    core.settings.api_logging?;
    match route {
        Route::InvokeActor(kind, id, _) => Some(format!("{kind}.{id}")),
        _ => None,
    }
}

fn bad_baggage(mut message: String) -> Response<Body> {
    message.push('\n');
    let mut response = text(StatusCode::BAD_REQUEST, message);
    response.headers_mut().insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A `HEAD` has no body, whatever its handler made.
fn finish(response: &mut Response<Body>, parts: &Parts) {
    if parts.method == Method::HEAD {
        *response.body_mut() = body::empty();
    }
}

/// Compares without telling by its duration where the texts differ.
pub(crate) fn same_secret(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len()
        && given
            .iter()
            .zip(wanted)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = status;
    response
}

fn no_content() -> Response<Body> {
    empty(StatusCode::NO_CONTENT)
}

fn text(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(message));
    *response.status_mut() = status;
    response.headers_mut().insert(
        ::http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn json(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(body));
    response.headers_mut().insert(
        ::http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Adds `metadata.<key>` headers; a value no header can have is left out.
fn add_metadata<'m>(
    headers: &mut HeaderMap,
    metadata: impl IntoIterator<Item = (&'m String, &'m String)>,
) {
    for (key, value) in metadata {
        let name = HeaderName::try_from(format!("metadata.{key}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}
