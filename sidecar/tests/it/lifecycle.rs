//! From the start to the end of a real sidecar, beside an application made of closures.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use dapr_kit::testing::Daemon;
use dapr_proto::dapr::proto::runtime::v1::dapr_client::DaprClient;
use dapr_proto::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType;
use dapr_proto::dapr::proto::runtime::v1::{
    SubscribeTopicEventsRequestAlpha1, SubscribeTopicEventsRequestInitialAlpha1,
};
use futures::StreamExt as _;
use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Far above what a loaded machine needs for one step.
const LIMIT: Duration = Duration::from_secs(60);

const PUBSUB: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: bus}\n\
                      spec: {type: pubsub.in-memory, version: v1, metadata: []}\n";

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A sidecar with the id `orders`.
struct Sidecar {
    daemon: Daemon,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Sidecar {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let (http, grpc) = (free(), free());
        Self::start_at(folder, http, grpc, more)
    }

    fn start_at(folder: &Path, http: SocketAddr, grpc: SocketAddr, more: &[&str]) -> Self {
        let (http_port, grpc_port) = (http.port().to_string(), grpc.port().to_string());
        let mut flags = vec![
            "--app-id",
            "orders",
            "--resources-path",
            folder.to_str().expect("text"),
            "--dapr-listen-addresses",
            "127.0.0.1",
            "--dapr-http-port",
            &http_port,
            "--dapr-grpc-port",
            &grpc_port,
            "--dapr-internal-grpc-listen-address",
            "127.0.0.1",
            "--enable-metrics=false",
        ];
        flags.extend(more);
        let variables = [("DAPR_HOST_IP", "127.0.0.1")];
        Self {
            daemon: Daemon::start(env!("CARGO_BIN_EXE_daprd"), &flags, &variables),
            http,
            grpc,
        }
    }

    /// Waits for a line of the log; what it waits for happens on other threads.
    fn line(&mut self, text: &str) {
        tokio::task::block_in_place(|| self.daemon.line(text));
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}

fn folder(resources: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("resources.yaml"), resources).expect("written");
    folder
}

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    // It ends with the test.
    tokio::spawn(async move { drop(axum::serve(listener, router).await) });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_after_the_shutdown_api_is_no_second_signal() {
    let (called, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (called, answer) = (Arc::clone(&called), Arc::clone(&answer));
        move || async move {
            called.notify_one();
            answer.notified().await;
            "done"
        }
    };
    let app = serve(Router::new().route("/slow", get(slow))).await;
    let folder = folder(PUBSUB);
    let port = app.port().to_string();
    let flags = [
        "--app-port",
        &port,
        "--dapr-graceful-shutdown-seconds",
        "60",
    ];
    let mut sidecar = Sidecar::start(folder.path(), &flags);
    sidecar.line("dapr initialized");
    let url = sidecar.url("/v1.0/invoke/orders/method/slow");
    let call = tokio::spawn(async move { reqwest::get(url).await });
    timeout(LIMIT, called.notified()).await.expect("called");
    let client = reqwest::Client::new();
    let told = client.post(sidecar.url("/v1.0/shutdown")).send().await;
    assert_eq!(told.expect("answered").status(), StatusCode::NO_CONTENT);
    sidecar.line("Dapr is shutting down");
    sidecar.daemon.signal("TERM");
    sidecar.line("received SIGTERM");
    answer.notify_one();
    let answered = timeout(LIMIT, call).await.expect("in time");
    let answered = answered.expect("no panic").expect("it is finished");
    assert_eq!(answered.text().await.expect("a body"), "done");
    let ended = tokio::task::block_in_place(|| sidecar.daemon.ended());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_start_ends_it_in_good_order() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let folder = folder(PUBSUB);
    let grpc = taken.local_addr().expect("an address");
    let mut sidecar = Sidecar::start_at(folder.path(), free(), grpc, &[]);
    sidecar.line("Component loaded: bus");
    // The port of the gRPC API is tried for ten seconds.
    sidecar.daemon.signal("TERM");
    let ended = tokio::task::block_in_place(|| sidecar.daemon.ended());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let line = ended.line("told to stop before everything was up");
    assert!(!line.is_empty(), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_does_not_listen_yet_is_called_in_vain() {
    let app = free();
    let folder = folder(PUBSUB);
    let port = app.port().to_string();
    let mut sidecar = Sidecar::start(folder.path(), &["--app-port", &port]);
    sidecar.line("waiting on port");
    let call = async || {
        let answer = reqwest::get(sidecar.url("/v1.0/invoke/orders/method/hello")).await;
        let answer = answer.expect("the API is up");
        (answer.status(), answer.text().await.expect("a body"))
    };
    let (status, text) = call().await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.contains("connection refused"), "{text}");
    let listener = tokio::net::TcpListener::bind(app).await.expect("the port");
    let router = Router::new().route("/hello", get(async || "hello"));
    // It ends with the test.
    tokio::spawn(async move { drop(axum::serve(listener, router).await) });
    assert_eq!(call().await, (StatusCode::OK, "hello".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_is_held_back_stops_streaming_subscriptions() {
    let folder = folder(PUBSUB);
    let flags = ["--dapr-block-shutdown-duration", "1h"];
    let mut sidecar = Sidecar::start(folder.path(), &flags);
    sidecar.line("dapr initialized");
    let mut client = DaprClient::connect(format!("http://{}", sidecar.grpc))
        .await
        .expect("connects");
    let subscribe = SubscribeTopicEventsRequestAlpha1 {
        subscribe_topic_events_request_type: Some(SubscribeTopicEventsRequestType::InitialRequest(
            SubscribeTopicEventsRequestInitialAlpha1 {
                pubsub_name: "bus".to_owned(),
                topic: "t".to_owned(),
                ..Default::default()
            },
        )),
    };
    let requests = |first: &SubscribeTopicEventsRequestAlpha1| {
        tokio_stream::once(first.clone()).chain(tokio_stream::pending())
    };
    let stream = client.subscribe_topic_events_alpha1(requests(&subscribe));
    let mut events = stream.await.expect("subscribed").into_inner();
    assert!(events.message().await.expect("greeted").is_some());
    sidecar.daemon.signal("TERM");
    sidecar.line("Blocking graceful shutdown for");
    let end = timeout(LIMIT, events.message()).await.expect("in time");
    assert!(end.expect("a clean end").is_none());
    let refused = async {
        let stream = client.subscribe_topic_events_alpha1(requests(&subscribe));
        stream.await?.into_inner().message().await
    };
    timeout(LIMIT, refused)
        .await
        .expect("in time")
        .expect_err("for good");
    let outbound = reqwest::get(sidecar.url("/v1.0/healthz/outbound")).await;
    let outbound = outbound.expect("the API is up");
    assert_eq!(outbound.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_recovers_is_not_asked_again() {
    let (is_healthy, asked) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let event = Arc::new(Notify::new());
    let app = {
        let (health, asked, event) = (
            Arc::clone(&is_healthy),
            Arc::clone(&asked),
            Arc::clone(&event),
        );
        let healthz = move || async move {
            if health.load(Ordering::Relaxed) {
                StatusCode::OK
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let subscribe = move || async move {
            asked.fetch_add(1, Ordering::Relaxed);
            "[]"
        };
        let events = move || async move { event.notify_one() };
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/dapr/subscribe", get(subscribe))
            .route("/events", post(events));
        serve(router).await
    };
    let subscription = "---\napiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s}\n\
                        spec: {pubsubname: bus, topic: t, route: /events}\n";
    let folder = folder(&format!("{PUBSUB}{subscription}"));
    let port = app.port().to_string();
    let flags = [
        "--app-port",
        &port,
        "--enable-app-health-check",
        "--app-health-probe-interval",
        "1",
        "--app-health-threshold",
        "1",
    ];
    let mut sidecar = Sidecar::start(folder.path(), &flags);
    let url = sidecar.url("/v1.0/publish/bus/t");
    let client = reqwest::Client::new();
    // Until a subscription is up, events of this broker are lost.
    let delivered = async || {
        let delivered = async {
            loop {
                // Nobody listens yet.
                drop(client.post(&url).body("{}").send().await);
                let soon = Duration::from_millis(100);
                if timeout(soon, event.notified()).await.is_ok() {
                    return;
                }
            }
        };
        timeout(LIMIT, delivered).await.expect("an event");
    };
    delivered().await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    is_healthy.store(false, Ordering::Relaxed);
    sidecar.line("the application is unhealthy");
    is_healthy.store(true, Ordering::Relaxed);
    delivered().await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
