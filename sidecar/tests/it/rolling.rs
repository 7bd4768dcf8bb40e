//! Two sidecars of one app are replaced, one after the other, under load: no call fails.
//!
//! The callees are real processes that get SIGTERM; the caller is the code of the sidecar with the resolver of clusters
//! on a list of addresses.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use dapr_components_kubernetes::name_resolution::{Kubernetes, Names};
use dapr_proto::dapr::proto::common::v1::{InvokeRequest, InvokeResponse};
use dapr_security::Security;
use dapr_sidecar::channel::external::ExternalClient;
use dapr_sidecar::peer::{PeerClient, Pool};
use dapr_sidecar_core::body;
use dapr_sidecar_core::invoke::{Invoker, InvokerSettings, Origin, Request, Status};
use dapr_sidecar_core::metrics::Off;
use dapr_sidecar_core::rpc::Code;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Calls in a second.
const RATE: u32 = 200;
/// Far above what a loaded machine needs for one step.
const LIMIT: Duration = Duration::from_secs(60);

/// The addresses of the app's Service, and how many calls the app has answered.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<Vec<SocketAddr>>>, Arc<AtomicUsize>);

#[async_trait]
impl Names for Service {
    async fn look_up(&self, _: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(self.0.lock().clone())
    }
}

/// A sidecar with the id `orders`.
struct Pod {
    process: Child,
    internal: SocketAddr,
    public: SocketAddr,
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

impl Pod {
    async fn start(app: SocketAddr) -> Self {
        Self::start_beside("http", app).await
    }

    /// Beside an application that speaks `protocol`.
    async fn start_beside(protocol: &str, app: SocketAddr) -> Self {
        let (internal, public) = (free(), free());
        let flags = [
            ("--app-id", "orders".to_owned()),
            ("--app-port", app.port().to_string()),
            ("--app-protocol", protocol.to_owned()),
            ("--dapr-listen-addresses", "127.0.0.1".to_owned()),
            ("--dapr-http-port", "0".to_owned()),
            ("--dapr-grpc-port", "0".to_owned()),
            ("--dapr-public-port", public.port().to_string()),
            ("--dapr-public-listen-address", "127.0.0.1".to_owned()),
            ("--dapr-internal-grpc-port", internal.port().to_string()),
            (
                "--dapr-internal-grpc-listen-address",
                "127.0.0.1".to_owned(),
            ),
        ];
        let process = Command::new(env!("CARGO_BIN_EXE_daprd"))
            .args(
                flags
                    .iter()
                    .flat_map(|(flag, value)| [*flag, value.as_str()]),
            )
            .arg("--enable-metrics=false")
            .env_clear()
            .env("DAPR_HOST_IP", "127.0.0.1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("daprd starts");
        let pod = Self {
            process,
            internal,
            public,
        };
        let ready = async {
            while !pod.is_ready().await {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, ready).await.expect("the pod is ready");
        pod
    }

    async fn is_ready(&self) -> bool {
        let url = format!("http://{}/v1.0/healthz", self.public);
        let answer = reqwest::get(url).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::NO_CONTENT)
    }

    /// Ends as a pod does: its address stays in the Service until the process is told to stop, and a while longer.
    async fn terminate(mut self, service: &Service) {
        let id = self.process.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.expect("kill runs").success());
        let ended = async {
            while self.process.try_wait().expect("a status").is_none() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, ended).await.expect("the pod ends");
        self.stays_listed(service).await;
        service.0.lock().retain(|other| *other != self.internal);
    }

    /// Name servers tell about a pod that is gone only later: calls go on meanwhile.
    async fn stays_listed(&self, service: &Service) {
        let before = service.1.load(Ordering::Relaxed);
        let went_on = async {
            while service.1.load(Ordering::Relaxed) < before + 100 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, went_on).await.expect("calls go on");
    }
}

/// The application, until `gone`.
async fn app(service: &Service, gone: &CancellationToken) -> SocketAddr {
    let counter = Arc::clone(&service.1);
    let router = Router::new().fallback(move |request: axum::extract::Request| {
        let counter = Arc::clone(&counter);
        async move {
            if request.uri().path() != "/place" {
                return Err(StatusCode::NOT_FOUND);
            }
            let length = request
                .into_body()
                .collect()
                .await
                .map_or(0, |body| body.to_bytes().len());
            // An application that works on its calls for a moment: some are in flight when the signal comes.
            sleep(Duration::from_millis(20)).await;
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(length.to_string())
        }
    });
    serve(router, gone).await
}

/// As [`app`], for callers who want gRPC.
async fn grpc_app(service: &Service, gone: &CancellationToken) -> SocketAddr {
    let counter = Arc::clone(&service.1);
    let on_invoke = move |request: axum::extract::Request| {
        let counter = Arc::clone(&counter);
        async move {
            let body = request.into_body().collect().await;
            // Behind flag and length of the message.
            let message = body.expect("a request").to_bytes().split_off(5);
            let message = InvokeRequest::decode(message).expect("a message");
            let length = message.data.unwrap_or_default().value.len();
            counter.fetch_add(1, Ordering::Relaxed);
            let answer = InvokeResponse {
                data: Some(prost_types::Any {
                    value: length.to_string().into_bytes(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let mut frame = vec![0; 5];
            answer.encode(&mut frame).expect("encoded");
            let size = u32::try_from(frame.len() - 5).expect("small");
            frame[1..5].copy_from_slice(&size.to_be_bytes());
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            let frames = [
                http_body::Frame::data(bytes::Bytes::from(frame)),
                http_body::Frame::trailers(trailers),
            ];
            let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, io::Error>)));
            let mut response = http::Response::new(axum::body::Body::new(body));
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/grpc"),
            );
            response
        }
    };
    let path = "/dapr.proto.runtime.v1.AppCallback/OnInvoke";
    serve(
        Router::new().route(path, axum::routing::post(on_invoke)),
        gone,
    )
    .await
}

async fn serve(router: Router, gone: &CancellationToken) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let gone = gone.clone().cancelled_owned();
    tokio::spawn(async move {
        // It ends with the test at the latest.
        drop(
            axum::serve(listener, router)
                .with_graceful_shutdown(gone)
                .await,
        );
    });
    address
}

fn caller(service: &Service) -> Invoker {
    let pool = Arc::new(Pool::new(Security::insecure()));
    let invoker = Invoker::new(InvokerSettings {
        app_id: "shop".to_owned(),
        namespace: "default".to_owned(),
        internal_port: 50002,
        host_address: "127.0.0.1".to_owned(),
        hostname: "host".to_owned(),
        max_replay: 4 << 20,
        peers: Arc::new(PeerClient::new(pool, 4 << 20)),
        external: Arc::new(ExternalClient::default()),
        resiliency: Arc::default(),
        metrics: Arc::new(Off),
    });
    let resolver = Kubernetes::open_with(&serde_json::json!({}), service.clone()).expect("opens");
    invoker.set_resolver(Arc::new(resolver));
    invoker
}

/// A call with a body that can be sent again, or with one that cannot.
fn request(is_streamed: bool) -> Request {
    let body = if is_streamed {
        let frame = http_body::Frame::data(bytes::Bytes::from_static(b"tea"));
        StreamBody::new(futures::stream::iter([Ok(frame)])).boxed_unsync()
    } else {
        body::full("tea")
    };
    Request {
        verb: Some(Method::POST),
        method: "place".to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        type_url: String::new(),
        origin: Origin::Http,
        body,
    }
}

async fn call(invoker: &Invoker, is_streamed: bool) -> Result<Duration, String> {
    let started = Instant::now();
    let response = invoker.invoke("orders", request(is_streamed)).await;
    let response = response.map_err(|error| error.to_string())?;
    let body = response
        .body
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    match response.status {
        Status::Http(StatusCode::OK) if body == "3" => Ok(started.elapsed()),
        Status::Grpc(status) if status.code == Code::Ok && body == "3" => Ok(started.elapsed()),
        status => Err(format!("{status:?}: {}", String::from_utf8_lossy(&body))),
    }
}

/// Calls at the rate, one in four with a streamed body, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<Vec<(bool, Result<Duration, String>)>>,
}

impl Load {
    fn start(service: &Service) -> Self {
        let invoker = Arc::new(caller(service));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let calls = tokio::spawn(async move {
            let mut open = JoinSet::new();
            let mut ticks = interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut number = 0u32;
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                number += 1;
                let invoker = Arc::clone(&invoker);
                let is_streamed = number.is_multiple_of(4);
                open.spawn(async move { (is_streamed, call(&invoker, is_streamed).await) });
            }
            open.join_all().await
        });
        Self { stop, calls }
    }

    /// None may have failed.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let results = self.calls.await.expect("the load ends");
        let failed: Vec<(bool, &String)> = results
            .iter()
            .filter_map(|(is_streamed, result)| Some((*is_streamed, result.as_ref().err()?)))
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {}: {failed:?}",
            failed.len(),
            results.len(),
        );
        assert!(results.len() >= 200, "only {} calls", results.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_callees_are_replaced() {
    let service = Service::default();
    let app = app(&service, &CancellationToken::new()).await;
    let mut pods = Vec::new();
    for _ in 0..2 {
        let pod = Pod::start(app).await;
        service.0.lock().push(pod.internal);
        pods.push(pod);
    }
    let load = Load::start(&service);
    // Both pods are replaced, and those that replaced them.
    for _ in 0..4 {
        let pod = Pod::start(app).await;
        service.0.lock().push(pod.internal);
        pods.push(pod);
        pods.remove(0).terminate(&service).await;
    }
    load.end().await;
}

/// A native sidecar is told to end when its application has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_an_application_has_gone_before_its_sidecar() {
    application_goes("http").await;
}

/// Its status is inside of an answer that its sidecar gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_a_grpc_application_has_gone_before_its_sidecar() {
    application_goes("grpc").await;
}

async fn application_goes(protocol: &str) {
    let service = Service::default();
    let gone = CancellationToken::new();
    let start = async |gone: &CancellationToken| match protocol {
        "grpc" => grpc_app(&service, gone).await,
        _ => app(&service, gone).await,
    };
    let application = start(&gone).await;
    let left = Pod::start_beside(protocol, application).await;
    let other = start(&CancellationToken::new()).await;
    let staying = Pod::start_beside(protocol, other).await;
    service.0.lock().extend([left.internal, staying.internal]);
    gone.cancel();
    let refused = async {
        while tokio::net::TcpStream::connect(application).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, refused).await.expect("it ends");
    let load = Load::start(&service);
    left.stays_listed(&service).await;
    left.stays_listed(&service).await;
    load.end().await;
}
