//! Actors of an HTTP application.

use std::sync::Arc;

use async_trait::async_trait;
use dapr_sidecar_actors::app_host::{AppHost as _, Error, pack};
use dapr_sidecar_actors::channel_host::ChannelHost;
use dapr_sidecar_core::actors::ERROR_HEADER;
use dapr_sidecar_core::app::{self, AppChannel, Config, Event, EventOutcome, Protocol};
use dapr_sidecar_core::body;
use dapr_sidecar_core::invoke::{Request, Response, Status};
use dapr_sidecar_core::peer::ReminderCall;
use dapr_sidecar_core::pubsub::Subscription;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;

use crate::fixture::call;

/// Verb, path, headers, body.
type Sent = (Option<Method>, String, HeaderMap, String);

/// Answers every request the same way.
struct Channel {
    status: StatusCode,
    headers: HeaderMap,
    requests: Mutex<Vec<Sent>>,
}

impl Channel {
    fn new(status: u16, header: Option<&'static str>) -> Arc<Self> {
        let mut headers = HeaderMap::new();
        if let Some(name) = header {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        Arc::new(Self {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            requests: Mutex::default(),
        })
    }

    fn host(self: &Arc<Self>) -> ChannelHost {
        let app: Arc<dyn AppChannel> = Arc::clone(self) as _;
        ChannelHost::new(app, "app", "ns")
    }
}

#[async_trait]
impl AppChannel for Channel {
    fn protocol(&self) -> Protocol {
        Protocol::Http
    }

    async fn invoke(&self, request: Request) -> Result<Response, app::Error> {
        use http_body_util::BodyExt as _;
        let body = request.body.collect().await.expect("in memory").to_bytes();
        let body = String::from_utf8(body.to_vec()).expect("text");
        self.requests
            .lock()
            .push((request.verb, request.method, request.headers, body));
        Ok(Response {
            status: Status::Http(self.status),
            headers: self.headers.clone(),
            trailers: HeaderMap::new(),
            type_url: String::new(),
            body: body::full("answer"),
            is_untouched: false,
        })
    }

    async fn config(&self) -> Result<Config, app::Error> {
        Ok(Config::default())
    }

    async fn subscriptions(&self) -> Result<Vec<Subscription>, app::Error> {
        Ok(Vec::new())
    }

    async fn deliver(&self, _: Event, _: &HeaderMap) -> Result<EventOutcome, app::Error> {
        Ok(EventOutcome::Success)
    }

    async fn probe(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_method_is_a_put_with_the_callers_headers() {
    let channel = Channel::new(200, None);
    let mut call = call("t", "a b", "run");
    call.headers.insert("x-own", HeaderValue::from_static("1"));
    call.headers
        .insert("dapr-caller-app-id", HeaderValue::from_static("liar"));
    call.body = "in".into();
    let reply = channel.host().invoke(&call).await.expect("answered");
    assert_eq!(reply.body, "answer");
    let (verb, path, headers, body) = channel.requests.lock().remove(0);
    assert_eq!(verb, Some(Method::PUT));
    assert_eq!(path, "actors/t/a%20b/method/run");
    assert_eq!(body, "in");
    assert_eq!(headers["x-own"], "1");
    assert_eq!(headers["dapr-caller-app-id"], "app");
    assert_eq!(headers["dapr-caller-namespace"], "ns");
    assert!(!headers.contains_key(CONTENT_TYPE));
}

#[tokio::test]
async fn a_method_always_carries_a_trace_context() {
    let channel = Channel::new(200, None);
    let mut call = call("t", "1", "m");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    channel.host().invoke(&call).await.expect("answered");
    call.headers
        .insert("traceparent", HeaderValue::from_static(parent));
    channel.host().invoke(&call).await.expect("answered");
    channel
        .host()
        .deactivate("t", "1")
        .await
        .expect("deactivated");
    let requests = channel.requests.lock();
    let trace = |index: usize| {
        requests[index]
            .2
            .get("traceparent")
            .map(HeaderValue::as_bytes)
    };
    let none = "00-00000000000000000000000000000000-0000000000000000-00";
    assert_eq!(trace(0), Some(none.as_bytes()));
    assert_eq!(trace(1), Some(parent.as_bytes()));
    assert_eq!(trace(2), None);
}

#[tokio::test]
async fn answers_of_methods() {
    let check = async |status: u16, header: Option<&'static str>, expected: Result<u16, &str>| {
        let result = Channel::new(status, header)
            .host()
            .invoke(&call("t", "1", "m"))
            .await;
        assert_eq!(
            result
                .map(|reply| reply.status.as_u16())
                .map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{status} {header:?}"
        );
    };
    check(200, None, Ok(200)).await;
    check(
        404,
        None,
        Err("actor method not found: actors/t/1/method/m"),
    )
    .await;
    check(201, None, Err("error from actor service: (201) answer")).await;
    check(500, None, Err("error from actor service: (500) answer")).await;
    check(200, Some(ERROR_HEADER), Ok(200)).await;
    // Marked as the actor's or not: another status is a failure.
    let failed = "error from actor service: (500) answer";
    check(500, Some(ERROR_HEADER), Err(failed)).await;
    let missing = "actor method not found: actors/t/1/method/m";
    check(404, Some(ERROR_HEADER), Err(missing)).await;
    check(
        200,
        Some("x-daprremindercancel"),
        Err("reminder has been canceled"),
    )
    .await;
}

fn fire(name: &str) -> ReminderCall {
    ReminderCall {
        actor_type: "t".to_owned(),
        actor_id: "1".to_owned(),
        name: name.to_owned(),
        data: pack(&"[1]".into()),
        due_time: String::new(),
        period: String::new(),
        registered_time: None,
        expiration_time: None,
        is_timer: false,
        skip_lock: false,
    }
}

#[tokio::test]
async fn reminders_timers_and_deactivations() {
    let channel = Channel::new(200, Some("x-daprremindercancel"));
    let host = channel.host();
    host.remind(&fire("r"))
        .await
        .expect("a cancelled one is success");
    host.timer(&fire("t"), "back").await.expect("as well");
    host.deactivate("t", "1").await.expect("done");
    let requests = channel.requests.lock();
    let paths: Vec<_> = requests.iter().map(|request| request.1.as_str()).collect();
    assert_eq!(
        paths,
        [
            "actors/t/1/method/remind/r",
            "actors/t/1/method/timer/t",
            "actors/t/1"
        ]
    );
    assert_eq!(requests[0].3, r#"{"data":[1],"dueTime":"","period":""}"#);
    assert_eq!(
        requests[1].3,
        r#"{"data":[1],"callback":"back","dueTime":"","period":""}"#
    );
    assert_eq!(requests[0].2[CONTENT_TYPE], "application/json");
    assert_eq!(requests[0].2.len(), 1);
    assert_eq!(requests[2].0, Some(Method::DELETE));
    assert_eq!(requests[2].2[CONTENT_TYPE], "application/x-protobuf");
}

#[tokio::test]
async fn failed_fires() {
    let missing = Channel::new(404, None).host().remind(&fire("r")).await;
    assert_eq!(
        missing.err(),
        Some(Error::NotFound("actors/t/1/method/remind/r".to_owned()))
    );
    let marked = Channel::new(200, Some(ERROR_HEADER))
        .host()
        .remind(&fire("r"))
        .await;
    assert!(marked.is_err());
}
