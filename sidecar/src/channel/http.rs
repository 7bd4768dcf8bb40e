//! An application that speaks HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dapr_sidecar_api::metrics::{ApiMetrics, HttpCall};
use dapr_sidecar_api::settings::Tracing;
use dapr_sidecar_api::trace;
use dapr_sidecar_core::app::{
    AppChannel, BulkEvent, BulkOutcome, Config, Error, Event, EventOutcome, Protocol,
};
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::{Origin, Request, Response, Status, headers};
use dapr_sidecar_core::pubsub::Subscription;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connections::Connections;
use super::permits::Permits;
use super::{answers, batch, events, failure, length, outcome, path, tls};
use crate::settings::App;

/// Connections kept open while idle.
const IDLE_CONNECTIONS: usize = 64;
/// An idle connection is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest answer to `/dapr/config`, `/dapr/subscribe` and event deliveries, in bytes.
const ANSWER_LIMIT: usize = 4 << 20;

const API_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");
const APP_ID: HeaderName = HeaderName::from_static("dapr-app-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");

/// Talks to an HTTP application through one pooled client.
pub struct HttpChannel {
    client: Transport,
    /// `http://127.0.0.1:3000`
    base: String,
    app_id: HeaderValue,
    token: Option<HeaderValue>,
    protocol: Protocol,
    permits: Permits,
    probe_path: String,
    probe_timeout: Duration,
    metrics: Option<Arc<ApiMetrics>>,
    tracing: Tracing,
}

/// The client of each protocol; the request path matches on it once.
enum Transport {
    Http1(Connections),
    H2c(Client<HttpConnector, Body>),
    Tls(Client<hyper_rustls::HttpsConnector<HttpConnector>, Body>),
}

impl std::fmt::Debug for HttpChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpChannel")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// The channel cannot be made from the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A text cannot be sent as a header.
    #[error("{0} cannot be sent as an HTTP header: remove its control and non-ASCII characters")]
    NotAHeader(&'static str),
    /// The TLS library refuses its own settings.
    #[error("TLS to the application cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl HttpChannel {
    /// A channel to `app` on `port`; nothing is connected yet.
    pub fn new(
        app_id: &str,
        app: &App,
        port: u16,
        metrics: Option<Arc<ApiMetrics>>,
    ) -> Result<Self, SettingsError> {
        let header = |what, text: &str| {
            HeaderValue::from_str(text).map_err(|_| SettingsError::NotAHeader(what))
        };
        let scheme = if app.protocol == Protocol::Https {
            "https"
        } else {
            "http"
        };
        let probe_path = app
            .health
            .as_ref()
            .map_or("/healthz", |health| health.path.as_str());
        let mut token = app
            .token
            .as_deref()
            .map(|token| header("APP_API_TOKEN", token))
            .transpose()?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self {
            client: transport(app, port)?,
            base: format!("{scheme}://{}:{port}", app.address),
            app_id: header("--app-id", app_id)?,
            token,
            protocol: app.protocol,
            permits: Permits::new(app.max_concurrency),
            probe_path: format!("/{}", probe_path.trim_start_matches('/')),
            probe_timeout: app
                .health
                .as_ref()
                .map_or(Duration::from_millis(500), |health| health.timeout),
            metrics,
            tracing: Tracing::PassThrough,
        })
    }

    /// The channel, which delivers events with spans of their own if tracing is on.
    pub fn with_tracing(mut self, tracing: Tracing) -> Self {
        self.tracing = tracing;
        self
    }

    /// Sends a request; `path` is what metrics call it.
    async fn call(
        &self,
        path: &str,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Error> {
        let Some(metrics) = &self.metrics else {
            return self.send(request).await;
        };
        let started = Instant::now();
        let method = request.method().clone();
        // A body without a known length counts as empty: counting its bytes would need another layer on it.
        let length = |body: &Body| body.size_hint().exact().unwrap_or(0);
        let request_bytes = length(request.body());
        let response = self.send(request).await;
        // What was not answered counts as an error of the application's.
        let (status, response_bytes) = match &response {
            Ok(response) => (response.status(), length(response.body())),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, 0),
        };
        metrics.http_client(&HttpCall {
            method: &method,
            path,
            status,
            request_bytes,
            response_bytes,
            elapsed: started.elapsed(),
        });
        response
    }

    /// Sends a request whose URI is path and query alone.
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Error> {
        let mut request = if matches!(self.protocol, Protocol::Http | Protocol::Https) {
            length::announce(request).await
        } else {
            request
        };
        let verb = request.method().clone();
        let path = request.uri().clone();
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let uri = self.absolute(&path).unwrap_or_default();
            failure::text(&verb, &uri, error)
        };
        let ended = |is_dial: bool, text: String| {
            if is_dial {
                Error::Unreachable(text)
            } else {
                Error::Transport(text)
            }
        };
        let response = match &self.client {
            Transport::Http1(connections) => {
                return connections
                    .send(request)
                    .await
                    .map_err(|error| ended(error.is_dial(), failed(&error)));
            }
            Transport::H2c(client) => {
                *request.uri_mut() = self.absolute(&path)?;
                client.request(request).await
            }
            Transport::Tls(client) => {
                *request.uri_mut() = self.absolute(&path)?;
                client.request(request).await
            }
        };
        match response {
            Ok(response) => Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync())),
            Err(error) => Err(ended(error.is_connect(), failed(&error))),
        }
    }

    fn absolute(&self, path: &Uri) -> Result<Uri, Error> {
        format!("{}{path}", self.base)
            .parse()
            .map_err(|error| Error::Transport(format!("{}{path}: {error}", self.base)))
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Error> {
        let request = http::Request::get(path)
            .header(APP_ID, self.app_id.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body::empty())
            .map_err(|error| Error::Transport(error.to_string()))?;
        let response = self.call(path, self.with_token(request)).await?;
        let status = response.status();
        Ok((status, collect(response.into_body()).await?))
    }

    /// Posts an event or a batch to a route of the application.
    async fn post_event(
        &self,
        path: &str,
        content_type: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        trace: &HeaderMap,
    ) -> Result<(StatusCode, Bytes), Error> {
        let mut request = http::Request::post(event_uri(path)?)
            .header(CONTENT_TYPE, content_type)
            .body(body::full(body))
            .map_err(|error| Error::Transport(error.to_string()))?;
        events::add_metadata(request.headers_mut(), metadata);
        request
            .headers_mut()
            .extend(trace::delivery(self.tracing, trace));
        let permit = self.permits.acquire().await;
        let response = self.call(path, self.with_token(request)).await?;
        let status = response.status();
        Ok((status, collect(permit.hold(response.into_body())).await?))
    }

    fn with_token(&self, mut request: http::Request<Body>) -> http::Request<Body> {
        if let Some(token) = &self.token {
            request.headers_mut().insert(API_TOKEN, token.clone());
        }
        request
    }
}

/// Where an event goes. A route may have a query; blanks and the like are escaped, as in the methods of calls.
fn event_uri(route: &str) -> Result<Uri, Error> {
    let route = route.split('#').next().unwrap_or_default();
    let (path, query) = route.split_once('?').unwrap_or((route, ""));
    let uri =
        path::path_and_query(path, query).map_err(|error| Error::Transport(error.to_string()))?;
    Uri::from_maybe_shared(Bytes::from(uri)).map_err(|error| Error::Transport(error.to_string()))
}

/// The headers of a request. Of a gRPC caller, the trace context is where gRPC keeps it.
fn headers_of(mut headers: HeaderMap, origin: Origin, type_url: &str) -> HeaderMap {
    if origin == Origin::Grpc
        && let Some(traceparent) = headers.get(TRACE_BIN).and_then(trace::from_binary)
    {
        headers.insert(TRACEPARENT, traceparent);
    }
    headers::to_http_app(headers, !type_url.is_empty())
}

fn transport(app: &App, port: u16) -> Result<Transport, SettingsError> {
    let protocol = app.protocol;
    if protocol == Protocol::Http {
        let connections = Connections::new(&app.address, port);
        let connections =
            connections.map_err(|_| SettingsError::NotAHeader("--app-channel-address"))?;
        return Ok(Transport::Http1(connections));
    }
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIMEOUT)
        // What arrives at the application has been read from a caller and cannot be read again; hyper would
        // only retry requests whose body it never touched, and upstream's client does not.
        .retry_canceled_requests(true)
        .http2_only(protocol == Protocol::H2c);
    if protocol == Protocol::Https {
        tcp.enforce_http(false);
        let tls = tls::unverified(&[])?;
        return Ok(Transport::Tls(build(
            &builder,
            hyper_rustls::HttpsConnector::from((tcp, tls)),
        )));
    }
    Ok(Transport::H2c(build(&builder, tcp)))
}

fn build<C: Connect + Clone>(
    builder: &hyper_util::client::legacy::Builder,
    connector: C,
) -> Client<C, Body> {
    builder.build(connector)
}

async fn collect(body: Body) -> Result<Bytes, Error> {
    body::collect(body, ANSWER_LIMIT)
        .await
        .map_err(|error| Error::Transport(error.to_string()))
}

#[async_trait]
impl AppChannel for HttpChannel {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    async fn invoke(&self, request: Request) -> Result<Response, Error> {
        let path = path::path_and_query(&request.method, &request.query)
            .map_err(|error| Error::Transport(error.to_string()))?;
        let uri = Uri::from_maybe_shared(Bytes::from(path))
            .map_err(|error| Error::Transport(format!("{}: {error}", self.base)))?;
        let mut outgoing = http::Request::new(request.body);
        *outgoing.method_mut() = request.verb.unwrap_or(Method::POST);
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = headers_of(request.headers, request.origin, &request.type_url);

        let permit = self.permits.acquire().await;
        let response = self
            .call(&request.method, self.with_token(outgoing))
            .await?;
        let (parts, body) = response.into_parts();
        Ok(Response {
            status: Status::Http(parts.status),
            headers: parts.headers,
            trailers: HeaderMap::new(),
            type_url: String::new(),
            body: permit.hold(body),
            is_untouched: false,
        })
    }

    async fn config(&self) -> Result<Config, Error> {
        match self.get("/dapr/config").await? {
            (StatusCode::OK, body) => answers::config(&body),
            // Upstream reads any other status as an application that hosts nothing.
            _ => Ok(Config::default()),
        }
    }

    async fn subscriptions(&self) -> Result<Vec<Subscription>, Error> {
        match self.get("/dapr/subscribe").await? {
            (StatusCode::OK, body) => answers::subscriptions(&body),
            (StatusCode::NOT_FOUND, _) => Ok(Vec::new()),
            (status, body) => {
                let text = String::from_utf8_lossy(&body).into_owned();
                Err(Error::BadAnswer(format!(
                    "app returned http status code {status} from subscription endpoint: {text}"
                )))
            }
        }
    }

    async fn deliver(&self, event: Event, trace: &HeaderMap) -> Result<EventOutcome, Error> {
        let (status, answer) = self
            .post_event(
                &event.path,
                &event.content_type,
                event.body,
                &event.metadata,
                trace,
            )
            .await?;
        Ok(outcome::event(status, &answer))
    }

    async fn deliver_bulk(
        &self,
        events: BulkEvent,
        trace: &HeaderMap,
    ) -> Result<BulkOutcome, Error> {
        let body = batch::body(&events)?;
        let (status, answer) = self
            .post_event(
                &events.path,
                "application/json",
                body,
                &events.metadata,
                trace,
            )
            .await?;
        Ok(outcome::batch(status, &answer))
    }

    async fn probe(&self) -> bool {
        let request = http::Request::get(self.probe_path.as_str()).body(body::empty());
        let Ok(request) = request else { return false };
        // Probes carry neither the app id nor the token.
        let started = Instant::now();
        let Ok(Ok(response)) = tokio::time::timeout(self.probe_timeout, self.send(request)).await
        else {
            return false;
        };
        if let Some(metrics) = &self.metrics {
            metrics.http_probe(response.status(), started.elapsed());
        }
        response.status().is_success()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_events_may_need_escapes() {
        let check = |route: &str, expected: &str| {
            let uri = event_uri(route).expect(route);
            assert_eq!(uri.to_string(), expected, "{route}");
        };
        check("/orders", "/orders");
        check("orders", "/orders");
        check("/new orders/ä", "/new%20orders/%C3%A4");
        check("/a%20b?x=1&y=%2F#z", "/a%20b?x=1&y=%2F");
        check("", "/");
        event_uri("/a%b").expect_err("no escape");
    }

    #[test]
    fn a_grpc_caller_has_its_trace_context_in_binary_form() {
        let parent =
            HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let binary = trace::to_binary(&parent).expect("a context");
        let headers = HeaderMap::from_iter([(TRACE_BIN, binary)]);
        let sent = headers_of(headers.clone(), Origin::Grpc, "");
        assert_eq!(sent, HeaderMap::from_iter([(TRACEPARENT, parent)]));
        // To an HTTP caller it is a header like any other.
        assert!(headers_of(headers, Origin::Http, "").is_empty());
    }
}
