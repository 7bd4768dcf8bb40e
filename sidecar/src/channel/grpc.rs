//! An application that speaks gRPC.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::{HttpExtension, InvokeRequest, InvokeResponse};
use dapr_proto::dapr::proto::runtime::v1::app_callback_alpha_client::AppCallbackAlphaClient;
use dapr_proto::dapr::proto::runtime::v1::app_callback_client::AppCallbackClient;
use dapr_proto::dapr::proto::runtime::v1::app_callback_health_check_client::AppCallbackHealthCheckClient;
use dapr_sidecar_api::metrics::{ApiMetrics, GrpcCall};
use dapr_sidecar_api::settings::Tracing;
use dapr_sidecar_api::{trace, wire};
use dapr_sidecar_core::app::{
    AppChannel, BulkEvent, BulkOutcome, Config, Error, Event, EventOutcome, Protocol,
};
use dapr_sidecar_core::body::{self, Body, BoxError};
use dapr_sidecar_core::invoke::{Request, Response, Status, headers};
use dapr_sidecar_core::pubsub::Subscription;
use dapr_sidecar_core::rpc;
use http::HeaderMap;
use http::uri::PathAndQuery;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use tower::{Service as _, ServiceExt as _};

use super::http::SettingsError;
use super::permits::Permits;
use super::transport::Transport;
use super::{events, tls};
use crate::peer::proxy::absolute;
use crate::settings::App;

/// Longest wait for a connection to the application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const API_TOKEN: &str = "dapr-api-token";
const TRACE_BIN: &str = "grpc-trace-bin";
/// What is no metadata of the application's.
const OF_THE_CALL: [&str; 5] = [
    "content-type",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
];
const ON_INVOKE: &str = "/dapr.proto.runtime.v1.AppCallback/OnInvoke";
const ON_TOPIC_EVENT: &str = "/dapr.proto.runtime.v1.AppCallback/OnTopicEvent";

/// Talks to a gRPC application over one connection.
pub struct GrpcChannel {
    channel: Channel,
    origin: http::Uri,
    token: Option<MetadataValue<Ascii>>,
    protocol: Protocol,
    permits: Permits,
    probe_timeout: Duration,
    max_message: usize,
    metrics: Option<Arc<ApiMetrics>>,
    tracing: Tracing,
}

impl std::fmt::Debug for GrpcChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcChannel")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl GrpcChannel {
    /// A channel to `app` on `port`; it connects with the first call. `max_message` is in bytes.
    pub fn new(
        app: &App,
        port: u16,
        max_message: usize,
        metrics: Option<Arc<ApiMetrics>>,
    ) -> Result<Self, SettingsError> {
        let origin: http::Uri = format!("http://{}:{port}", app.address)
            .parse()
            .map_err(|_| SettingsError::NotAHeader("--app-channel-address"))?;
        let tls = match app.protocol {
            Protocol::Grpcs => Some(TlsConnector::from(Arc::new(tls::unverified(&[b"h2"])?))),
            Protocol::Http | Protocol::Https | Protocol::H2c | Protocol::Grpc => None,
        };
        let address = format!("{}:{port}", app.address);
        let connector =
            tower::service_fn(move |_: http::Uri| connect(address.clone(), tls.clone()));
        let channel = Endpoint::from(origin.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector_lazy(connector);
        let mut token = app
            .token
            .as_deref()
            .map(|token| {
                MetadataValue::try_from(token)
                    .map_err(|_| SettingsError::NotAHeader("APP_API_TOKEN"))
            })
            .transpose()?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self {
            channel,
            origin,
            token,
            protocol: app.protocol,
            permits: Permits::new(app.max_concurrency),
            probe_timeout: app
                .health
                .as_ref()
                .map_or(Duration::from_millis(500), |health| health.timeout),
            max_message,
            metrics,
            tracing: Tracing::PassThrough,
        })
    }

    /// The channel, which delivers events with spans of their own if tracing is on.
    pub fn with_tracing(mut self, tracing: Tracing) -> Self {
        self.tracing = tracing;
        self
    }

    /// Counts a call of `AppCallback`; bytes are those of the payload.
    fn count<T>(
        &self,
        method: &'static str,
        started: Instant,
        sent: usize,
        answer: &Result<T, tonic::Status>,
    ) {
        if let Some(metrics) = &self.metrics {
            let code = answer.as_ref().err().map_or(rpc::Code::Ok, |status| {
                rpc::Code::from_i32(status.code() as i32)
            });
            let sent = u64::try_from(sent).unwrap_or(u64::MAX);
            metrics.grpc_client(&GrpcCall {
                method,
                code,
                received: 0,
                sent,
                elapsed: started.elapsed(),
            });
        }
    }

    /// Sends a call of an unknown service to the application as it is, with the application's token.
    pub async fn forward(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, rpc::Status> {
        let (mut parts, body) = request.into_parts();
        parts.uri = absolute(&self.origin, &parts.uri)?;
        parts.headers.remove(API_TOKEN);
        if let Some(token) = self
            .token
            .as_ref()
            .and_then(|token| http::HeaderValue::from_bytes(token.as_bytes()).ok())
        {
            parts.headers.insert(API_TOKEN, token);
        }
        let unavailable = |error: tonic::transport::Error| {
            rpc::Status::new(
                rpc::Code::Unavailable,
                format!("connection error: desc = {:?}", chain(&error)),
            )
        };
        let mut channel = self.channel.clone();
        let request = http::Request::from_parts(parts, tonic::body::Body::new(body));
        let response = channel
            .ready()
            .await
            .map_err(unavailable)?
            .call(request)
            .await
            .map_err(unavailable)?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }

    fn callback(&self) -> AppCallbackClient<Channel> {
        AppCallbackClient::with_origin(self.channel.clone(), self.origin.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message)
    }

    /// `AppCallback.OnInvoke`: the headers, and the message with the trailers. The generated client would mix them.
    async fn on_invoke(
        &self,
        call: tonic::Request<InvokeRequest>,
    ) -> (
        HeaderMap,
        Result<(InvokeResponse, HeaderMap), tonic::Status>,
    ) {
        let mut client =
            tonic::client::Grpc::with_origin(self.channel.clone(), self.origin.clone())
                .max_decoding_message_size(self.max_message)
                .max_encoding_message_size(self.max_message);
        if let Err(error) = client.ready().await {
            let text = format!("Service was not ready: {error}");
            return (HeaderMap::new(), Err(tonic::Status::unknown(text)));
        }
        let call = call.map(|message| futures::stream::once(std::future::ready(message)));
        let path = PathAndQuery::from_static(ON_INVOKE);
        let answer = client.streaming(call, path, ProstCodec::default()).await;
        let (metadata, mut messages, _) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(status) => return (HeaderMap::new(), Err(status)),
        };
        let rest = async {
            let message: Option<InvokeResponse> = messages.message().await?;
            let message =
                message.ok_or_else(|| tonic::Status::internal("Missing response message."))?;
            let trailers = messages.trailers().await?;
            Ok((message, trailers.map(passed_on).unwrap_or_default()))
        };
        (passed_on(metadata), rest.await)
    }

    fn with_token<T>(&self, mut request: tonic::Request<T>) -> tonic::Request<T> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert(API_TOKEN, token.clone());
        }
        request
    }
}

/// Metadata as it goes on: without what gRPC says with it about this call.
fn passed_on(metadata: MetadataMap) -> HeaderMap {
    let mut headers = metadata.into_headers();
    for name in OF_THE_CALL {
        headers.remove(name);
    }
    headers
}

async fn connect(
    address: String,
    tls: Option<TlsConnector>,
) -> std::io::Result<TokioIo<Transport>> {
    let stream = TcpStream::connect(address.as_str()).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(TokioIo::new(Transport::Plain(stream)));
    };
    let host = address
        .rsplit_once(':')
        .map_or(address.as_str(), |(host, _)| host)
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = rustls::pki_types::ServerName::try_from(host)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    Ok(TokioIo::new(Transport::Tls(Box::new(
        tls.connect(name, stream).await?,
    ))))
}

/// Whether there is no connection to the application, so that nothing of the request was sent.
fn is_unreachable(status: &tonic::Status) -> bool {
    use std::error::Error as _;
    let mut cause = status.source();
    while let Some(current) = cause {
        if current.is::<tonic::ConnectError>() {
            return true;
        }
        cause = current.source();
    }
    false
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}

#[async_trait]
impl AppChannel for GrpcChannel {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    async fn invoke(&self, request: Request) -> Result<Response, Error> {
        let data = body::collect(request.body, self.max_message)
            .await
            .map_err(|error| Error::Transport(error.to_string()))?;
        let length = data.len();
        let content_type = content_type(&request.headers);
        let message = InvokeRequest {
            method: request.method,
            data: Some(prost_types::Any {
                type_url: request.type_url,
                value: data.into(),
            }),
            content_type,
            // A gRPC caller may have said nothing of HTTP.
            http_extension: (request.verb.is_some() || !request.query.is_empty()).then(|| {
                HttpExtension {
                    verb: wire::verb_number(request.verb.as_ref()),
                    querystring: request.query,
                }
            }),
        };
        let mut call = tonic::Request::new(message);
        let mut metadata = headers::to_grpc_app(request.headers, request.origin);
        if let (Some(traceparent), false) = (
            metadata.get("traceparent"),
            metadata.contains_key(TRACE_BIN),
        ) && let Some(binary) = trace::to_binary(traceparent)
        {
            metadata.insert(TRACE_BIN, binary);
        }
        *call.metadata_mut() = MetadataMap::from_headers(metadata);

        let permit = self.permits.acquire().await;
        let started = Instant::now();
        let (mut headers, answer) = self.on_invoke(self.with_token(call)).await;
        self.count(ON_INVOKE, started, length, &answer);
        match answer {
            Ok((message, trailers)) => {
                if let Ok(value) = http::HeaderValue::from_str(&message.content_type)
                    && !message.content_type.is_empty()
                {
                    headers.insert(http::header::CONTENT_TYPE, value);
                }
                let data = message.data.unwrap_or_default();
                Ok(Response {
                    status: Status::Grpc(rpc::Status::new(rpc::Code::Ok, "")),
                    headers,
                    trailers,
                    type_url: data.type_url,
                    body: permit.hold(body::full(Bytes::from(data.value))),
                    is_untouched: false,
                })
            }
            Err(status) => Ok(Response {
                is_untouched: is_unreachable(&status),
                status: Status::Grpc(wire::from_tonic(&status)),
                headers,
                trailers: passed_on(status.metadata().clone()),
                type_url: String::new(),
                body: body::empty(),
            }),
        }
    }

    async fn config(&self) -> Result<Config, Error> {
        Ok(Config::default())
    }

    async fn subscriptions(&self) -> Result<Vec<Subscription>, Error> {
        match self.callback().list_topic_subscriptions(()).await {
            Ok(response) => Ok(response
                .into_inner()
                .subscriptions
                .into_iter()
                .map(events::subscription)
                .collect()),
            Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(Error::Status(wire::from_tonic(&status))),
        }
    }

    async fn deliver(&self, event: Event, trace: &HeaderMap) -> Result<EventOutcome, Error> {
        let metadata = event_metadata(&event.metadata, trace::delivery(self.tracing, trace));
        let length = event.body.len();
        let mut call = tonic::Request::new(wire::topic_event(event));
        *call.metadata_mut() = metadata;
        let _permit = self.permits.acquire().await;
        let started = Instant::now();
        let answer = self.callback().on_topic_event(self.with_token(call)).await;
        self.count(ON_TOPIC_EVENT, started, length, &answer);
        match answer {
            Ok(response) => Ok(wire::event_outcome(response.into_inner().status)),
            Err(status) => Ok(failed_delivery(&status)),
        }
    }

    async fn deliver_bulk(
        &self,
        batch: BulkEvent,
        trace: &HeaderMap,
    ) -> Result<BulkOutcome, Error> {
        let metadata = event_metadata(&batch.metadata, trace::delivery(self.tracing, trace));
        let message = events::bulk_event(batch);
        let call = |message| {
            let mut call = tonic::Request::new(message);
            *call.metadata_mut() = metadata.clone();
            self.with_token(call)
        };
        let _permit = self.permits.acquire().await;
        let mut answer = self
            .callback()
            .on_bulk_topic_event(call(message.clone()))
            .await;
        if matches!(&answer, Err(status) if status.code() == Code::Unimplemented) {
            // Applications of older SDKs serve the call under its alpha name only.
            let mut alpha =
                AppCallbackAlphaClient::with_origin(self.channel.clone(), self.origin.clone())
                    .max_encoding_message_size(self.max_message);
            #[expect(deprecated, reason = "kept for exactly these applications")]
            let alpha = alpha.on_bulk_topic_event_alpha1(call(message));
            answer = alpha.await;
        }
        match answer {
            Ok(response) => Ok(BulkOutcome::Entries(
                response
                    .into_inner()
                    .statuses
                    .into_iter()
                    .map(|entry| {
                        let outcome = wire::event_outcome(entry.status);
                        (entry.entry_id, outcome)
                    })
                    .collect(),
            )),
            Err(status) => Ok(BulkOutcome::All(failed_delivery(&status))),
        }
    }

    async fn probe(&self) -> bool {
        let mut client =
            AppCallbackHealthCheckClient::with_origin(self.channel.clone(), self.origin.clone());
        let started = Instant::now();
        let Ok(answer) = tokio::time::timeout(self.probe_timeout, client.health_check(())).await
        else {
            return false;
        };
        if let Some(metrics) = &self.metrics {
            let code = answer.as_ref().err().map_or(rpc::Code::Ok, |status| {
                rpc::Code::from_i32(status.code() as i32)
            });
            metrics.grpc_probe(code, started.elapsed());
        }
        answer.is_ok()
    }
}

/// Metadata of a message and its trace context as gRPC metadata. What gRPC keeps for itself, a timeout for instance, is
/// not up to whoever published the message.
fn event_metadata(metadata: &BTreeMap<String, String>, trace: HeaderMap) -> MetadataMap {
    let mut headers = HeaderMap::new();
    events::add_metadata(&mut headers, metadata);
    let reserved = headers
        .keys()
        .filter(|name| headers::is_reserved(name.as_str()));
    for name in reserved.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    headers::encode_binaries(&mut headers);
    headers.extend(trace);
    MetadataMap::from_headers(headers)
}

fn failed_delivery(status: &tonic::Status) -> EventOutcome {
    let reason = wire::from_tonic(status).to_string();
    match status.code() {
        Code::Unimplemented => EventOutcome::Ignored(reason),
        code => EventOutcome::Retry {
            reason,
            code: Some(code as i32),
        },
    }
}

fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use dapr_sidecar_core::invoke::Origin;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use prost::Message as _;
    use tokio::net::TcpListener;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    /// An application that answers one call with a message and this status.
    async fn serve(listener: TcpListener, status: &'static str) {
        let (stream, _) = listener.accept().await.expect("a connection");
        let service = service_fn(move |_| async move {
            let message = InvokeResponse {
                content_type: "text/plain".to_owned(),
                ..InvokeResponse::default()
            };
            let message = message.encode_to_vec();
            let length = u32::try_from(message.len()).expect("short").to_be_bytes();
            let message = [&[0], &length[..], &message].concat();
            let trailers = headers(&[("grpc-status", status), ("x-trailer", "last")]);
            let message = Frame::data(Bytes::from(message));
            let frames = match status {
                "0" => vec![message, Frame::trailers(trailers)],
                _ => vec![Frame::trailers(trailers)],
            };
            let frames = frames.into_iter().map(Ok::<_, Infallible>);
            http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-encoding", "identity")
                .header("x-header", "first")
                .body(StreamBody::new(futures::stream::iter(frames)))
        });
        let serving = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        // The client leaves at the end of the test.
        drop(serving.await);
    }

    async fn invoke(status: &'static str) -> Response {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = tokio::spawn(serve(listener, status));
        let app = App {
            port: Some(port),
            protocol: Protocol::Grpc,
            address: "127.0.0.1".to_owned(),
            max_concurrency: 0,
            load_config: true,
            load_subscriptions: true,
            token: None,
            health: None,
        };
        let channel = GrpcChannel::new(&app, port, 1 << 20, None).expect("settings");
        let request = Request {
            verb: None,
            method: "m".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            type_url: String::new(),
            origin: Origin::Grpc,
            body: body::empty(),
        };
        let answer = channel.invoke(request).await.expect("it is there");
        server.abort();
        answer
    }

    #[test]
    fn metadata_of_messages_says_nothing_about_the_call() {
        let metadata = [
            ("pubsubName", "p"),
            ("grpc-timeout", "1n"),
            ("te", "trailers"),
            ("raw-bin", "AAA="),
        ];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let trace = headers(&[("traceparent", "t")]);
        let metadata = event_metadata(&metadata.into(), trace);
        let expected = [
            ("pubsubname", "p"),
            ("raw-bin", "QUFBPQ=="),
            ("traceparent", "t"),
        ];
        assert_eq!(metadata.into_headers(), headers(&expected));
    }

    #[tokio::test]
    async fn trailers_stay_apart_from_headers() {
        let answer = invoke("0").await;
        let names = |headers: &HeaderMap| -> Vec<String> {
            let names = headers.keys().filter(|name| *name != "date");
            let mut names: Vec<_> = names.map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&answer.headers), ["content-type", "x-header"]);
        assert_eq!(answer.headers["content-type"], "text/plain");
        assert_eq!(names(&answer.trailers), ["x-trailer"]);

        let answer = invoke("5").await;
        assert!(
            matches!(&answer.status, Status::Grpc(status) if status.code == rpc::Code::NotFound)
        );
        assert_eq!(names(&answer.headers), ["x-header"]);
        assert_eq!(names(&answer.trailers), ["x-trailer"]);
    }
}
