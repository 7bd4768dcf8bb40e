//! Series of the HTTP and gRPC servers, and of calls to the application.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dapr_sidecar_core::rpc::Code;
use http::{Method, StatusCode};
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::family::{Builder, observe, observe_with};
use super::path;
use super::{ApiMetrics, MetricsSettings};
use crate::grpc::method;

/// Paths whose handles are kept. Paths are the callers' and without end; beyond this many, series are looked
/// up by their labels.
const KEPT_PATHS: usize = 1024;
const CODES: usize = 17;

/// Counters and latency of one method, path and status answered.
struct ServerSeries {
    requests: IntCounter,
    responses: Option<IntCounter>,
    latency: Histogram,
}

/// The same of calls to the application.
struct ClientSeries {
    completed: IntCounter,
    latency: Histogram,
    sent: Histogram,
}

/// Handles of one path by method and status: a handful, found faster by walking than by hashing.
type OfPath<T> = Vec<(&'static str, StatusCode, Arc<T>)>;

/// Handles by path, method and status.
struct Kept<T>(RwLock<HashMap<Box<str>, OfPath<T>>>);

impl<T> Kept<T> {
    fn new() -> Self {
        Self(RwLock::default())
    }

    /// The handles of what the labels `method`, `path` and `status` name.
    fn series(
        &self,
        method: &'static str,
        path: &str,
        status: StatusCode,
        make: impl FnOnce([&str; 3]) -> T,
    ) -> Arc<T> {
        let found = |of_path: &OfPath<T>| {
            of_path
                .iter()
                .find(|(verb, code, _)| *verb == method && *code == status)
                .map(|(_, _, series)| Arc::clone(series))
        };
        if let Some(series) = self.0.read().get(path).and_then(found) {
            return series;
        }
        let series = Arc::new(make([method, path, status.as_str()]));
        let mut kept = self.0.write();
        if kept.len() < KEPT_PATHS || kept.contains_key(path) {
            let of_path = kept.entry(path.into()).or_default();
            of_path.push((method, status, Arc::clone(&series)));
        }
        series
    }
}

pub(super) struct Http {
    request_bytes: HistogramVec,
    response_bytes: HistogramVec,
    latency: HistogramVec,
    requests: IntCounterVec,
    responses: Option<IntCounterVec>,
    kept: Kept<ServerSeries>,
    sizes: OnceLock<(Histogram, Histogram)>,
    client: HttpClient,
}

struct HttpClient {
    sent: HistogramVec,
    received: HistogramVec,
    latency: HistogramVec,
    completed: IntCounterVec,
    probe_latency: HistogramVec,
    probes: IntCounterVec,
    kept: Kept<ClientSeries>,
    received_total: OnceLock<Histogram>,
}

/// One answered HTTP request.
#[derive(Debug, Clone, Copy)]
pub struct HttpCall<'a> {
    /// Verb.
    pub method: &'a Method,
    /// Path without query; the application's path without a leading slash for calls of methods.
    pub path: &'a str,
    /// Status answered.
    pub status: StatusCode,
    /// Bytes of the request body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Time it took.
    pub elapsed: Duration,
}

impl Http {
    pub(super) fn new(
        builder: &Builder<'_>,
        settings: &MetricsSettings,
    ) -> prometheus::Result<Self> {
        const LABELS: [&str; 3] = ["method", "path", "status"];
        let responses = settings.paths.increased_cardinality().then(|| {
            builder.counter(
                "http_server_response_count",
                "The number of HTTP responses",
                &LABELS,
            )
        });
        Ok(Self {
            request_bytes: builder.size(
                "http_server_request_bytes",
                "HTTP request body size if set as ContentLength (uncompressed) in server.",
                &[],
            )?,
            response_bytes: builder.size(
                "http_server_response_bytes",
                "HTTP response body size (uncompressed) in server.",
                &[],
            )?,
            latency: builder.latency(
                "http_server_latency",
                "HTTP request end-to-end latency in server.",
                &LABELS,
            )?,
            requests: builder.counter(
                "http_server_request_count",
                "Count of HTTP requests processed by the server.",
                &LABELS,
            )?,
            responses: responses.transpose()?,
            kept: Kept::new(),
            sizes: OnceLock::new(),
            client: HttpClient::new(builder)?,
        })
    }

    fn series(&self, method: &'static str, path: &str, status: StatusCode) -> Arc<ServerSeries> {
        let make = |labels: [&str; 3]| ServerSeries {
            requests: self.requests.with_label_values(&labels),
            responses: self
                .responses
                .as_ref()
                .map(|responses| responses.with_label_values(&labels)),
            latency: self.latency.with_label_values(&labels),
        };
        self.kept.series(method, path, status, make)
    }
}

impl HttpClient {
    fn new(builder: &Builder<'_>) -> prometheus::Result<Self> {
        const LABELS: [&str; 3] = ["method", "path", "status"];
        Ok(Self {
            sent: builder.size(
                "http_client_sent_bytes",
                "Total bytes sent in request body (not including headers)",
                &LABELS,
            )?,
            received: builder.size(
                "http_client_received_bytes",
                "Total bytes received in response bodies (not including headers but including error responses with bodies)",
                &[],
            )?,
            latency: builder.latency(
                "http_client_roundtrip_latency",
                "Time between first byte of request headers sent to last byte of response received, or terminal error",
                &LABELS,
            )?,
            completed: builder.counter(
                "http_client_completed_count",
                "Count of completed requests",
                &LABELS,
            )?,
            probe_latency: builder.latency(
                "http_healthprobes_roundtrip_latency",
                "End-to-end latency of health probes.",
                &["status"],
            )?,
            probes: builder.counter(
                "http_healthprobes_completed_count",
                "Count of completed health probes.",
                &["status"],
            )?,
            kept: Kept::new(),
            received_total: OnceLock::new(),
        })
    }

    fn series(&self, method: &'static str, path: &str, status: StatusCode) -> Arc<ClientSeries> {
        let make = |labels: [&str; 3]| ClientSeries {
            completed: self.completed.with_label_values(&labels),
            latency: self.latency.with_label_values(&labels),
            // It has the label, and no value for it.
            sent: self.sent.with_label_values(&[labels[0], labels[1], ""]),
        };
        self.kept.series(method, path, status, make)
    }
}

/// Handles of one gRPC method of ours.
struct GrpcSeries {
    completed: [OnceLock<IntCounter>; CODES],
    latency: [OnceLock<Histogram>; CODES],
    received: OnceLock<Histogram>,
    sent: OnceLock<Histogram>,
}

pub(super) struct Grpc {
    received: HistogramVec,
    sent: HistogramVec,
    latency: HistogramVec,
    completed: IntCounterVec,
    /// By index into the table of methods.
    kept: Vec<GrpcSeries>,
    client: GrpcClient,
}

struct GrpcClient {
    sent: HistogramVec,
    received: HistogramVec,
    latency: HistogramVec,
    completed: IntCounterVec,
    probes: IntCounterVec,
    probe_latency: HistogramVec,
}

/// One ended gRPC call.
#[derive(Debug, Clone, Copy)]
pub struct GrpcCall<'a> {
    /// Full method, `/package.Service/Method`.
    pub method: &'a str,
    /// How it ended.
    pub code: Code,
    /// Bytes of the messages received.
    pub received: u64,
    /// Bytes of the messages sent.
    pub sent: u64,
    /// Time it took.
    pub elapsed: Duration,
}

impl Grpc {
    pub(super) fn new(builder: &Builder<'_>) -> prometheus::Result<Self> {
        const METHOD: [&str; 1] = ["grpc_server_method"];
        const STATUS: [&str; 2] = ["grpc_server_method", "grpc_server_status"];
        Ok(Self {
            received: builder.size(
                "grpc_io_server_received_bytes_per_rpc",
                "Total bytes received across all messages per RPC.",
                &METHOD,
            )?,
            sent: builder.size(
                "grpc_io_server_sent_bytes_per_rpc",
                "Total bytes sent in across all response messages per RPC.",
                &METHOD,
            )?,
            latency: builder.latency(
                "grpc_io_server_server_latency",
                "Time between first byte of request received to last byte of response sent, or terminal error.",
                &STATUS,
            )?,
            completed: builder.counter(
                "grpc_io_server_completed_rpcs",
                "Count of RPCs by method and status.",
                &STATUS,
            )?,
            kept: method::METHODS.iter().map(|_| GrpcSeries::new()).collect(),
            client: GrpcClient::new(builder)?,
        })
    }

    fn server(&self, call: &GrpcCall<'_>) {
        let labels = [call.method, call.code.name()];
        let kept = method::index(call.method).and_then(|index| self.kept.get(index));
        let Some(kept) = kept else {
            self.completed.with_label_values(&labels).inc();
            observe_with(&self.latency, &labels, call.elapsed);
            let method = [call.method];
            self.received
                .with_label_values(&method)
                .observe(call.received as f64);
            self.sent
                .with_label_values(&method)
                .observe(call.sent as f64);
            return;
        };
        let code = call.code as usize;
        kept.completed[code]
            .get_or_init(|| self.completed.with_label_values(&labels))
            .inc();
        let histogram = kept.latency[code].get_or_init(|| self.latency.with_label_values(&labels));
        observe(histogram, call.elapsed);
        let method = [call.method];
        kept.received
            .get_or_init(|| self.received.with_label_values(&method))
            .observe(call.received as f64);
        kept.sent
            .get_or_init(|| self.sent.with_label_values(&method))
            .observe(call.sent as f64);
    }
}

impl GrpcSeries {
    fn new() -> Self {
        Self {
            completed: [const { OnceLock::new() }; CODES],
            latency: [const { OnceLock::new() }; CODES],
            received: OnceLock::new(),
            sent: OnceLock::new(),
        }
    }
}

impl GrpcClient {
    fn new(builder: &Builder<'_>) -> prometheus::Result<Self> {
        const METHOD: [&str; 1] = ["grpc_client_method"];
        const STATUS: [&str; 2] = ["grpc_client_method", "grpc_client_status"];
        Ok(Self {
            sent: builder.size(
                "grpc_io_client_sent_bytes_per_rpc",
                "Total bytes sent across all request messages per RPC.",
                &METHOD,
            )?,
            received: builder.size(
                "grpc_io_client_received_bytes_per_rpc",
                "Total bytes received across all response messages per RPC.",
                &METHOD,
            )?,
            latency: builder.latency(
                "grpc_io_client_roundtrip_latency",
                "Time between first byte of request sent to last byte of response received, or terminal error.",
                &STATUS,
            )?,
            completed: builder.counter(
                "grpc_io_client_completed_rpcs",
                "Count of RPCs by method and status.",
                &STATUS,
            )?,
            probes: builder.counter(
                "grpc_io_healthprobes_completed_count",
                "Count of completed health probes.",
                &["grpc_client_status"],
            )?,
            probe_latency: builder.latency(
                "grpc_io_healthprobes_roundtrip_latency",
                "Time between first byte of health probes sent to last byte received, or terminal error.",
                &["grpc_client_status"],
            )?,
        })
    }
}

impl ApiMetrics {
    /// An answered request of the HTTP API.
    pub(crate) fn http_server(&self, call: &HttpCall<'_>) {
        let path = self.settings.paths.label(call.path);
        let series = self.http.series(self.verb(call.method), &path, call.status);
        series.requests.inc();
        if let Some(responses) = &series.responses {
            responses.inc();
        }
        observe(&series.latency, call.elapsed);
        let none: [&str; 0] = [];
        let (request, response) = self.http.sizes.get_or_init(|| {
            (
                self.http.request_bytes.with_label_values(&none),
                self.http.response_bytes.with_label_values(&none),
            )
        });
        request.observe(call.request_bytes as f64);
        response.observe(call.response_bytes as f64);
    }

    /// A call to the application over HTTP.
    pub fn http_client(&self, call: &HttpCall<'_>) {
        let client = &self.http.client;
        let path = path::of_application(call.path);
        let path = self.settings.paths.label(&path);
        let series = client.series(self.verb(call.method), &path, call.status);
        series.completed.inc();
        observe(&series.latency, call.elapsed);
        series.sent.observe(call.request_bytes as f64);
        let received = client.received_total.get_or_init(|| {
            let none: [&str; 0] = [];
            client.received.with_label_values(&none)
        });
        received.observe(call.response_bytes as f64);
    }

    /// A health probe of an HTTP application.
    pub fn http_probe(&self, status: StatusCode, elapsed: Duration) {
        let labels = [status.as_str()];
        let client = &self.http.client;
        client.probes.with_label_values(&labels).inc();
        observe_with(&client.probe_latency, &labels, elapsed);
    }

    /// An ended call of the gRPC API.
    pub(crate) fn grpc_server(&self, call: &GrpcCall<'_>) {
        self.grpc.server(call);
    }

    /// A call to a gRPC application, or to the scheduler.
    pub fn grpc_client(&self, call: &GrpcCall<'_>) {
        let client = &self.grpc.client;
        let labels = [call.method, call.code.name()];
        client.completed.with_label_values(&labels).inc();
        observe_with(&client.latency, &labels, call.elapsed);
        let method = [call.method];
        client
            .sent
            .with_label_values(&method)
            .observe(call.sent as f64);
        client
            .received
            .with_label_values(&method)
            .observe(call.received as f64);
    }

    /// A health probe of a gRPC application.
    pub fn grpc_probe(&self, code: Code, elapsed: Duration) {
        let labels = [code.name()];
        let client = &self.grpc.client;
        client.probes.with_label_values(&labels).inc();
        observe_with(&client.probe_latency, &labels, elapsed);
    }

    fn verb(&self, method: &Method) -> &'static str {
        if self.settings.exclude_verbs {
            return "";
        }
        match method.as_str() {
            "GET" => "GET",
            "PUT" => "PUT",
            "POST" => "POST",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            "HEAD" => "HEAD",
            "OPTIONS" => "OPTIONS",
            "CONNECT" => "CONNECT",
            "TRACE" => "TRACE",
            _ => "UNKNOWN",
        }
    }
}
