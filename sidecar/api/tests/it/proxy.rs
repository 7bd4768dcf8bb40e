//! Forwarded gRPC calls under policies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_sidecar_api::grpc;
use dapr_sidecar_api::services::Proxy;
use dapr_sidecar_core::body::{Body, BoxError};
use dapr_sidecar_core::invoke::Location;
use dapr_sidecar_core::resiliency::Resource;
use dapr_sidecar_core::rpc::{self, Code};
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::fixture::{World, world};

/// One message, `hi`.
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// What becomes of a call once the application has got all of it.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It gives back what it got.
    Echo,
    /// It fails, before anything else of an answer.
    AtOnce(Code),
    /// It fails after the headers.
    AfterHeaders(Code),
    /// It never gets there.
    Lost(Code),
    /// It is not answered.
    Silence,
    /// It is answered without end.
    Endless,
}

/// An application behind another sidecar.
#[derive(Default)]
struct Scripted {
    fates: Mutex<VecDeque<Fate>>,
    seen: Mutex<Vec<Bytes>>,
    /// Whether it can be called, as often as it is asked.
    reachable: Mutex<VecDeque<bool>>,
}

fn status(code: Code) -> HeaderMap {
    let number = HeaderValue::from(code as i32);
    let own = HeaderValue::from_static("app");
    HeaderMap::from_iter([
        (HeaderName::from_static("grpc-status"), number),
        (HeaderName::from_static("x-by"), own),
    ])
}

fn body(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Body {
    let frames: Vec<_> = frames.into_iter().map(Ok::<_, BoxError>).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

#[async_trait]
impl Proxy for Scripted {
    async fn forward(
        &self,
        _: Location,
        request: Request<Body>,
    ) -> Result<Response<Body>, rpc::Status> {
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Echo);
        let first = Frame::data(Bytes::from_static(MESSAGE));
        let body = match fate {
            Fate::Lost(code) => return Err(rpc::Status::new(code, "lost")),
            Fate::Silence => std::future::pending().await,
            Fate::Endless => {
                tokio::spawn(request.into_body().collect());
                let first = stream::iter([Ok::<_, BoxError>(first)]);
                StreamBody::new(first.chain(stream::pending())).boxed_unsync()
            }
            Fate::Echo | Fate::AtOnce(_) | Fate::AfterHeaders(_) => {
                let all = request.into_body().collect().await;
                let all =
                    all.map_err(|error| rpc::Status::new(Code::Unavailable, error.to_string()))?;
                let all = all.to_bytes();
                self.seen.lock().push(all.clone());
                match fate {
                    Fate::AfterHeaders(code) => body([Frame::trailers(status(code))]),
                    Fate::AtOnce(code) => {
                        let mut answer = Response::new(body([]));
                        *answer.headers_mut() = status(code);
                        return Ok(answer);
                    }
                    _ => body([Frame::data(all), Frame::trailers(status(Code::Ok))]),
                }
            }
        };
        Ok(Response::new(body))
    }

    async fn reach(&self, _: &Location) -> Result<(), rpc::Status> {
        match self.reachable.lock().pop_front() {
            Some(false) => Err(rpc::Status::new(Code::Unavailable, "unreachable")),
            Some(true) | None => Ok(()),
        }
    }
}

struct Stage {
    world: World,
    app: Arc<Scripted>,
}

/// How a call ended: its code, what was answered, who said so.
#[derive(Debug, PartialEq, Eq)]
struct End {
    code: Code,
    text: String,
    data: Bytes,
    is_by_app: bool,
}

impl Stage {
    /// An application `other` under these policies.
    fn new(policies: serde_json::Value, fates: impl IntoIterator<Item = Fate>) -> Self {
        let mut world = world();
        let resource = Resource {
            spec: serde_json::from_value(policies).expect("a specification"),
            ..Resource::default()
        };
        world.resiliency.load("app", vec![resource]);
        let app = Arc::new(Scripted::default());
        app.fates.lock().extend(fates);
        let core = Arc::get_mut(&mut world.core).expect("nobody else has it");
        core.proxy = Arc::clone(&app) as _;
        Self { world, app }
    }

    async fn open(&self, body: Body, headers: &[(&str, &str)]) -> Response<grpc::GrpcBody> {
        let mut request = Request::post("/shop.Orders/Get")
            .header("content-type", "application/grpc")
            .header("dapr-app-id", "other");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).expect("a request");
        let service = grpc::service(Arc::clone(&self.world.core));
        let answer = service.oneshot(request).await;
        answer.unwrap_or_else(|never| match never {})
    }

    async fn call(&self, body: Body) -> End {
        let answer = self.open(body, &[]).await;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("it ends");
        let trailers = body.trailers().cloned().unwrap_or_default();
        let said = if parts.headers.contains_key("grpc-status") {
            parts.headers
        } else {
            trailers
        };
        let found = tonic::Status::from_header_map(&said).expect("a status");
        End {
            code: Code::from_i32(found.code() as i32),
            text: found.message().to_owned(),
            data: body.to_bytes(),
            is_by_app: said.contains_key("x-by"),
        }
    }

    fn calls(&self) -> usize {
        self.app.seen.lock().len()
    }
}

fn message() -> Body {
    body([Frame::data(Bytes::from_static(MESSAGE))])
}

fn retries(codes: &str) -> serde_json::Value {
    json!({
        "policies": {"retries": {"r": {
            "duration": "1s", "maxRetries": 3, "matching": {"gRPCStatusCodes": codes}
        }}},
        "targets": {"apps": {"other": {"retry": "r"}}}
    })
}

fn of_app(code: Code) -> End {
    End {
        code,
        text: String::new(),
        data: Bytes::new(),
        is_by_app: true,
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_repeated_with_its_message_until_it_succeeds() {
    let fates = [
        Fate::Lost(Code::Unavailable),
        Fate::AtOnce(Code::Unavailable),
        Fate::AfterHeaders(Code::Unavailable),
    ];
    let stage = Stage::new(retries("14"), fates);
    let end = stage.call(message()).await;
    let expected = End {
        data: Bytes::from_static(MESSAGE),
        ..of_app(Code::Ok)
    };
    assert_eq!(end, expected);
    assert_eq!(*stage.app.seen.lock(), [MESSAGE; 3]);
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_is_that_of_the_application() {
    let stage = Stage::new(retries(""), [Fate::AfterHeaders(Code::NotFound); 9]);
    assert_eq!(stage.call(message()).await, of_app(Code::NotFound));
    assert_eq!(stage.calls(), 4);
    // Codes that are not listed are final.
    let stage = Stage::new(retries("14"), [Fate::AtOnce(Code::NotFound)]);
    assert_eq!(stage.call(message()).await, of_app(Code::NotFound));
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_covers_all_of_a_call() {
    let policies = json!({
        "policies": {"timeouts": {"t": "5s"}},
        "targets": {"apps": {"other": {"timeout": "t"}}}
    });
    for (fate, data) in [(Fate::Silence, &b""[..]), (Fate::Endless, MESSAGE)] {
        let stage = Stage::new(policies.clone(), [fate]);
        let started = Instant::now();
        let end = stage.call(message()).await;
        let expected = End {
            code: Code::DeadlineExceeded,
            text: "context deadline exceeded".to_owned(),
            data: Bytes::from_static(data),
            is_by_app: false,
        };
        assert_eq!(end, expected);
        assert_eq!(started.elapsed().as_secs(), 5, "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_method_has_a_breaker() {
    let policies = json!({
        "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1", "timeout": "60s"}}},
        "targets": {"apps": {"other": {"circuitBreaker": "b"}}}
    });
    let stage = Stage::new(policies, [Fate::AtOnce(Code::Internal)]);
    assert_eq!(stage.call(message()).await, of_app(Code::Internal));
    let end = stage.call(message()).await;
    assert_eq!(
        (end.code, &*end.text, end.is_by_app),
        (Code::Unknown, "circuit breaker is open", false)
    );
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn streams_are_refused_retries_unless_they_say_what_they_are() {
    let two = || body([MESSAGE; 2].map(|one| Frame::data(Bytes::from_static(one))));
    let stage = Stage::new(retries(""), []);
    let end = stage.call(two()).await;
    assert_eq!(
        (end.code, &*end.text),
        (
            Code::FailedPrecondition,
            "cannot use resiliency policies with retries on streaming RPCs"
        )
    );
    // Also when the answer has begun.
    let frames = [MESSAGE; 2].map(|one| Ok::<_, BoxError>(Frame::data(Bytes::from_static(one))));
    let slowly = stream::iter(frames).then(async |frame| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        frame
    });
    stage.app.fates.lock().push_back(Fate::Endless);
    let end = stage
        .call(StreamBody::new(Box::pin(slowly)).boxed_unsync())
        .await;
    assert_eq!((end.code, &*end.data), (Code::FailedPrecondition, MESSAGE));

    let stage = Stage::new(retries(""), []);
    stage.app.reachable.lock().extend([false, false]);
    let started = Instant::now();
    let answer = stage.open(two(), &[("dapr-stream", "true")]).await;
    let data = answer.into_body().collect().await.expect("it ends");
    assert_eq!(data.to_bytes(), [MESSAGE, MESSAGE].concat());
    assert_eq!(started.elapsed().as_secs(), 2, "opened at the third try");
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_beyond_the_limit_is_sent_once() {
    let length = 5 << 20;
    let mut long = vec![0; 5 + length];
    let prefix = u32::try_from(length).expect("short").to_be_bytes();
    long[1..5].copy_from_slice(&prefix);
    let long = || body([Frame::data(Bytes::from(long.clone()))]);
    let stage = Stage::new(retries(""), [Fate::AtOnce(Code::Unavailable)]);
    assert_eq!(stage.call(long()).await, of_app(Code::Unavailable));
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_call_is_counted_once_with_its_end() {
    let lines = |stage: &Stage| {
        let text = dapr_kit::metrics::encode(&stage.world.registry.gather());
        let lines = text.lines().filter(|line| {
            line.starts_with("dapr_runtime_service_invocation_re") && line.contains("_total{")
        });
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let sent = |kind: &str| {
        format!(
            "dapr_runtime_service_invocation_req_sent_total{{app_id=\"app\",dst_app_id=\"other\",type=\"{kind}\"}} 1"
        )
    };
    let received = |code: u8| {
        format!(
            "dapr_runtime_service_invocation_res_recv_total{{app_id=\"app\",src_app_id=\"other\",status=\"{code}\",type=\"unary\"}} 1"
        )
    };
    for (fate, code) in [
        (Fate::Echo, 0),
        (Fate::AtOnce(Code::NotFound), 5),
        (Fate::AfterHeaders(Code::Aborted), 10),
        (Fate::Lost(Code::Unavailable), 14),
    ] {
        let stage = Stage::new(json!({}), [fate]);
        stage.call(message()).await;
        assert_eq!(lines(&stage), [sent("unary"), received(code)], "{fate:?}");
    }
    // Attempts are one call.
    let stage = Stage::new(retries("14"), [Fate::AtOnce(Code::Unavailable)]);
    stage.call(message()).await;
    assert_eq!(lines(&stage), [sent("unary"), received(0)]);
    // The caller leaves.
    let stage = Stage::new(json!({}), [Fate::Endless]);
    drop(stage.open(message(), &[]).await);
    assert_eq!(lines(&stage), [sent("unary"), received(1)]);
    // A stream may never end.
    let stage = Stage::new(json!({}), [Fate::Echo]);
    let answer = stage.open(message(), &[("dapr-stream", "true")]).await;
    answer.into_body().collect().await.expect("it ends");
    assert_eq!(lines(&stage), [sent("streaming")]);
}
