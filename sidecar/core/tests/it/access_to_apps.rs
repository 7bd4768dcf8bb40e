//! Service invocation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dapr_sidecar_core::access::{self, AccessControl};
use dapr_sidecar_core::app::Protocol;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::invoke::{
    CallerId, Error, HttpEndpoint, Invoker, InvokerSettings, Location, Origin, Request, Status,
};
use dapr_sidecar_core::metrics::Off;
use dapr_sidecar_core::resiliency::{Resiliency, Resource};
use dapr_sidecar_core::rpc::{self, Code};
use futures::stream;
use http::{HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::fakes::{Addresses, TwoPods, World, request};

fn invoker(world: &Arc<World>, policies: serde_json::Value) -> Invoker {
    let invoker = without_resolver(world, policies);
    invoker.set_resolver(Arc::new(Addresses(Mutex::new(vec!["1.2.3.4:5"]))));
    invoker
}

fn without_resolver(world: &Arc<World>, policies: serde_json::Value) -> Invoker {
    let resource = Resource {
        name: "r".to_owned(),
        spec: serde_json::from_value(policies).expect("a specification"),
        ..Resource::default()
    };
    let invoker = Invoker::new(InvokerSettings {
        app_id: "me".to_owned(),
        namespace: "ns".to_owned(),
        internal_port: 50002,
        host_address: "10.0.0.1".to_owned(),
        hostname: "host".to_owned(),
        max_replay: 100,
        peers: Arc::clone(world) as _,
        external: Arc::clone(world) as _,
        resiliency: Arc::new(Resiliency::new("me", vec![resource], Arc::new(Off))),
        metrics: Arc::new(Off),
    });
    invoker.set_app(Some(Arc::clone(world) as _));
    invoker
}

fn unavailable() -> Result<Status, rpc::Status> {
    Err(rpc::Status::new(Code::Unavailable, "gone"))
}

fn status(code: u16) -> Status {
    Status::Http(StatusCode::from_u16(code).expect("a status"))
}

fn answered(code: u16) -> Result<Status, rpc::Status> {
    Ok(status(code))
}

#[tokio::test]
async fn targets_are_located() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    let endpoint = HttpEndpoint {
        name: "bank".to_owned(),
        base_url: "https://bank".to_owned(),
        headers: [(http::header::USER_AGENT, HeaderValue::from_static("me"))]
            .into_iter()
            .collect(),
        tls: None,
    };
    invoker.set_endpoints(BTreeMap::from([("bank".to_owned(), endpoint)]));
    for target in ["me", "me.ns"] {
        assert_eq!(
            invoker.locate(target).await.expect("found"),
            Location::Local,
            "{target}"
        );
    }
    for (target, to) in [
        ("me", "app"),
        ("other", "ns/other@1.2.3.4:5"),
        ("me.far", "far/me@1.2.3.4:5"),
        ("http://h:1", "http://h:1"),
        ("bank", "bank=https://bank"),
        ("bank.ns", "bank=https://bank"),
    ] {
        let answer = invoker
            .invoke(target, request("/a//b", "x"))
            .await
            .expect("called");
        assert_eq!(answer.status, Status::Http(StatusCode::OK));
        let seen = world.seen.lock().pop().expect("a call");
        assert_eq!(
            (seen.to.as_str(), seen.method.as_str(), &seen.body[..]),
            (to, "/a/b", &b"x"[..])
        );
        // Only other sidecars get the headers of forwarding; the endpoint has headers of its own.
        assert_eq!(
            seen.headers.contains_key("destination-app-id"),
            to.contains('@'),
            "{target}"
        );
        assert_eq!(
            seen.headers.contains_key("user-agent"),
            to.starts_with("bank"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn without_name_resolution_nobody_is_called() {
    let world = Arc::new(World::default());
    let invoker = without_resolver(&world, json!({}));
    for target in ["me", "me.ns", "other", "http://h:1"] {
        let error = invoker.invoke(target, request("m", "x")).await;
        let error = error.expect_err("no resolver").message(target);
        assert_eq!(
            error,
            format!("failed to invoke, id: {target}, err: name resolver not initialized")
        );
        invoker.locate(target).await.expect_err("nor by proxies");
    }
    assert!(world.seen.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_reached_costs_no_call_and_no_time() {
    let world = Arc::new(World {
        dead: Some("10.0.0.1:1"),
        ..World::default()
    });
    let invoker = invoker(&world, json!({}));
    let pods = Arc::new(TwoPods::default());
    invoker.set_resolver(Arc::clone(&pods) as _);
    let started = Instant::now();
    // A body that cannot be sent again is no hindrance: nothing of it was sent.
    for request in [streamed("m", b"x"), request("m", "x")] {
        let answer = invoker.invoke("other", request).await.expect("called");
        assert_eq!(answer.status, Status::Http(StatusCode::OK));
        let seen = world.seen.lock().pop().expect("a call");
        assert_eq!(
            (seen.to.as_str(), &seen.body[..]),
            ("ns/other@10.0.0.2:1", &b"x"[..])
        );
    }
    assert_eq!(*pods.failed.lock(), ["10.0.0.1:1"]);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_breaks_goes_to_another_pod_at_once() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    invoker.set_resolver(Arc::new(TwoPods::default()));
    world.answer([unavailable()]);
    let started = Instant::now();
    let answer = invoker.invoke("other", request("m", "x")).await;
    assert_eq!(answer.expect("called").status, Status::Http(StatusCode::OK));
    let to: Vec<String> = world
        .seen
        .lock()
        .iter()
        .map(|seen| seen.to.clone())
        .collect();
    assert_eq!(to, ["ns/other@10.0.0.1:1", "ns/other@10.0.0.2:1"]);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_carried_out_is_sent_to_many_pods_as_often_as_to_one() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    invoker.set_resolver(Arc::new(TwoPods::default()));
    world.answer(std::iter::repeat_with(unavailable).take(9));
    let error = invoker.invoke("other", request("m", "x")).await;
    assert!(
        matches!(error, Err(Error::Retried { retries: 3, .. })),
        "{error:?}"
    );
    assert_eq!(world.calls(), 4);
}

/// A body that cannot be sent again.
fn streamed(method: &str, data: &'static [u8]) -> Request {
    let frames = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(data)))]);
    Request {
        body: StreamBody::new(frames).boxed_unsync(),
        ..request(method, "")
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_application_got_goes_to_another_pod() {
    for policies in [
        json!({}),
        // The policy repeats nothing by itself.
        json!({"policies": {"timeouts": {"t": "5s"}}, "targets": {"apps": {"other": {"timeout": "t"}}}}),
    ] {
        let world = Arc::new(World {
            without_app: Some("10.0.0.1:1"),
            ..World::default()
        });
        let invoker = invoker(&world, policies);
        let started = Instant::now();
        for request in [streamed("m", b"x"), request("m", "x")] {
            invoker.set_resolver(Arc::new(TwoPods::default()));
            let answer = invoker.invoke("other", request).await;
            assert_eq!(answer.expect("called").status, Status::Http(StatusCode::OK));
            let seen = world.seen.lock().pop().expect("a call");
            assert_eq!(
                (seen.to.as_str(), &seen.body[..]),
                ("ns/other@10.0.0.2:1", &b"x"[..])
            );
        }
        // Where there is no other pod, the call fails at once.
        invoker.set_resolver(Arc::new(Addresses(Mutex::new(vec!["10.0.0.1:1"]))));
        for request in [streamed("m", b"x"), request("m", "x")] {
            let error = invoker.invoke("other", request).await;
            let error = error.expect_err("no application").to_string();
            assert!(error.contains("connection refused"), "{error}");
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_streamed_request_that_somebody_may_have_begun_with_is_not_sent_again() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    invoker.set_resolver(Arc::new(TwoPods::default()));
    world.answer([unavailable()]);
    let error = invoker.invoke("other", streamed("m", b"x")).await;
    assert!(matches!(error, Err(Error::Peer(_))), "{error:?}");
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn targets_that_cannot_be_called() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    let check = async |target: &str, method: &str, expected: &str| {
        let error = invoker
            .invoke(target, request(method, ""))
            .await
            .expect_err(target);
        assert_eq!(error.to_string(), expected);
    };
    check("", "m", "app id is empty").await;
    check("a.b.c", "m", "invalid app id a.b.c").await;
    check("missing", "m", "couldn't find service: missing").await;
    check(
        "other",
        "a#b",
        "rpc error: code = InvalidArgument desc = invalid method: method contains forbidden character: \"a#b\"",
    )
    .await;
    invoker.set_app_healthy(false);
    check(
        "me",
        "m",
        "rpc error: code = Internal desc = app is not in a healthy state",
    )
    .await;
    invoker.set_app(None);
    check(
        "me",
        "m",
        "cannot invoke local endpoint: app channel not initialized",
    )
    .await;
    invoker.set_resolver(Arc::new(Addresses(Mutex::new(vec![""]))));
    check(
        "other",
        "m",
        "resolver returned empty address for app id ns/other",
    )
    .await;
    assert_eq!(world.calls(), 0);
    invoker.set_resolver(Arc::new(Addresses(Mutex::new(vec!["", "", "1.1.1.1:1"]))));
    assert!(invoker.invoke("other", request("m", "")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn unreachable_sidecars_are_tried_again_with_the_same_body() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    world.answer([unavailable(), unavailable()]);
    let started = Instant::now();
    invoker
        .invoke("other", request("m", "data"))
        .await
        .expect("in the end");
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    let seen = std::mem::take(&mut *world.seen.lock());
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter()
            .all(|seen| seen.body == "data" && seen == &seen.clone())
    );
    world.answer(std::iter::repeat_with(unavailable).take(4));
    let error = invoker
        .invoke("other", request("m", "data"))
        .await
        .expect_err("never");
    assert_eq!(
        error.message("other"),
        "failed to invoke, id: other, err: failed to invoke target other after 3 retries. Error: rpc error: code = Unavailable desc = gone"
    );
    assert_eq!(world.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn other_errors_and_streams_are_not_tried_again() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    world.answer([Err(rpc::Status::new(Code::PermissionDenied, "no"))]);
    let error = invoker
        .invoke("other", request("m", ""))
        .await
        .expect_err("denied");
    assert!(error.is_denied());
    assert_eq!(
        error.to_string(),
        "rpc error: code = PermissionDenied desc = no"
    );
    world.answer([unavailable()]);
    let mut streamed = request("m", "");
    let frames = ["a", "b"].map(|frame| Ok::<_, BoxError>(Frame::data(Bytes::from(frame))));
    streamed.body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    let error = invoker.invoke("other", streamed).await.expect_err("gone");
    assert_eq!(
        error.to_string(),
        "rpc error: code = Unavailable desc = gone"
    );
    assert_eq!(world.calls(), 2);
    assert_eq!(world.seen.lock()[1].body, "ab");
}

#[tokio::test(start_paused = true)]
async fn a_policy_replaces_the_built_in_retries_and_sees_statuses() {
    let world = Arc::new(World::default());
    let invoker = invoker(
        &world,
        json!({
            "policies": {"retries": {"r": {"duration": "1ms", "maxRetries": 2,
                "matching": {"httpStatusCodes": "500-599"}}}},
            "targets": {"apps": {"other": {"retry": "r"}, "me": {"retry": "r"}}}
        }),
    );
    let check =
        async |target: &str, answers: Vec<Result<Status, rpc::Status>>, calls: usize, last: u16| {
            world.seen.lock().clear();
            world.answers.lock().clear();
            world.answer(answers);
            let answer = invoker
                .invoke(target, request("m", "x"))
                .await
                .expect("an answer");
            assert_eq!(answer.status.number(), i32::from(last), "{target}");
            assert_eq!(world.calls(), calls, "{target}");
        };
    check("other", vec![answered(503), answered(500)], 3, 200).await;
    check("other.ns", vec![answered(503), answered(500)], 3, 200).await;
    check(
        "me",
        vec![answered(503), answered(503), answered(502)],
        3,
        502,
    )
    .await;
    check("other", vec![answered(404)], 1, 404).await;
    check("other", vec![answered(302)], 1, 302).await;
    check("other", vec![unavailable(), answered(200)], 2, 200).await;
    check("free", vec![answered(503)], 1, 503).await;
    world.answer(std::iter::repeat_with(unavailable).take(3));
    let error = invoker
        .invoke("other", request("m", "x"))
        .await
        .expect_err("gone");
    assert_eq!(
        error.to_string(),
        "rpc error: code = Unavailable desc = gone"
    );
}

#[tokio::test(start_paused = true)]
async fn of_what_a_grpc_caller_gets_as_an_error_all_is_tried_again() {
    let world = Arc::new(World::default());
    let invoker = invoker(
        &world,
        json!({
            "policies": {"retries": {"r": {"duration": "1ms", "maxRetries": 2,
                "matching": {"httpStatusCodes": "500-599", "gRPCStatusCodes": "14"}}}},
            "targets": {"apps": {"other": {"retry": "r"}}}
        }),
    );
    let grpc = |code| Ok(Status::Grpc(rpc::Status::new(code, "")));
    for (answer, calls) in [
        (answered(302), 3),
        (answered(404), 3),
        (grpc(Code::NotFound), 3),
        (answered(204), 1),
        (grpc(Code::Ok), 1),
    ] {
        world.seen.lock().clear();
        world.answers.lock().clear();
        world.answer(std::iter::repeat_n(answer.clone(), 3));
        let call = Request {
            origin: Origin::Grpc,
            ..request("m", "x")
        };
        invoker.invoke("other", call).await.expect("an answer");
        assert_eq!(world.calls(), calls, "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_says_so_itself() {
    let world = Arc::new(World {
        unreadable: true,
        ..World::default()
    });
    let invoker = invoker(&world, json!({}));
    let error = invoker.invoke("other", request("m", "x")).await;
    let error = error.expect_err("nobody got it").to_string();
    assert_eq!(error, "stream too large");
}

#[tokio::test(start_paused = true)]
async fn breakers_are_per_method_and_their_outcome_is_bare() {
    let world = Arc::new(World::default());
    let invoker = invoker(
        &world,
        json!({
            "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}}},
            "targets": {"apps": {"other": {"circuitBreaker": "b"}}}
        }),
    );
    world.answer([answered(500)]);
    let answer = invoker
        .invoke("other", request("m", ""))
        .await
        .expect("an answer");
    assert_eq!(answer.status.number(), 500);
    let error = invoker
        .invoke("other", request("m", ""))
        .await
        .expect_err("open");
    assert!(matches!(error, Error::BreakerOpen));
    let status = error.to_status("other");
    assert_eq!(
        (status.code, status.message.as_str()),
        (Code::Unknown, "circuit breaker is open")
    );
    assert!(invoker.invoke("other", request("n", "")).await.is_ok());
}

fn caller() -> CallerId {
    CallerId {
        trust_domain: "public".to_owned(),
        namespace: "ns".to_owned(),
        app_id: "shop".to_owned(),
        url: "spiffe://public/ns/ns/shop".to_owned(),
    }
}

#[tokio::test]
async fn the_callee_checks_access() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    let spec: access::Spec = serde_json::from_value(json!({
        "defaultAction": "deny",
        "policies": [{"appId": "shop", "trustDomain": "public", "namespace": "ns", "defaultAction": "deny",
            "operations": [{"name": "/pay", "httpVerb": ["POST"], "action": "allow"}]}]
    }))
    .expect("a specification");
    let access = AccessControl::parse(&spec, Protocol::Http).expect("valid");
    invoker.set_access_control(access);
    let caller = caller();
    let allowed = invoker
        .invoke_local(Some(&caller), request("/pay", "x"))
        .await;
    assert!(allowed.is_ok());
    let mut get = request("Other//x", "");
    get.verb = Some(Method::GET);
    let denied = invoker
        .invoke_local(Some(&caller), get)
        .await
        .expect_err("denied");
    assert_eq!(
        denied.status.to_string(),
        "rpc error: code = PermissionDenied desc = access control policy has denied access to id: spiffe://public/ns/ns/shop operation: Other/x verb: GET"
    );
    let denied = invoker
        .invoke_local(None, request("pay", ""))
        .await
        .expect_err("denied");
    assert_eq!(
        denied.status.message,
        "access control policy has denied access to id:  operation: pay verb: POST"
    );
    let denied = invoker
        .authorize(None, "/pkg.Service/Call")
        .expect_err("denied");
    assert!(
        denied
            .message
            .ends_with("operation: /pkg.Service/Call verb: NONE"),
        "{denied}"
    );
    // The own application is not subject to it.
    assert!(invoker.invoke("me", request("anything", "")).await.is_ok());
}

#[tokio::test]
async fn the_callee_reports_what_went_wrong() {
    let world = Arc::new(World::default());
    let invoker = invoker(&world, json!({}));
    let check = async |verb: Option<Method>, expected: &str| {
        let mut request = request("m", "");
        request.verb = verb;
        let failure = invoker
            .invoke_local(None, request)
            .await
            .expect_err("fails");
        assert_eq!(failure.status.to_string(), expected);
    };
    check(
        None,
        "rpc error: code = Internal desc = error invoking app channel: rpc error: code = InvalidArgument desc = invalid HTTP verb",
    )
    .await;
    invoker.set_app_healthy(false);
    check(
        Some(Method::GET),
        "rpc error: code = Internal desc = error invoking app channel: rpc error: code = Internal desc = app is not in a healthy state",
    )
    .await;
    invoker.set_app(None);
    check(
        Some(Method::GET),
        "rpc error: code = Internal desc = app channel is not initialized",
    )
    .await;
}

#[tokio::test]
async fn grpc_apps_take_calls_without_verb_and_bytes_in_metadata() {
    let world = Arc::new(World {
        grpc: true,
        ..World::default()
    });
    let invoker = invoker(&world, json!({}));
    let mut call = request("m", "");
    call.verb = None;
    call.headers
        .insert("x-bin", HeaderValue::from_static("AAA="));
    invoker.invoke("me", call).await.expect("called");
    assert_eq!(world.seen.lock()[0].headers["x-bin"], "QUFBPQ==");
}
