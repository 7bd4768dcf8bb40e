//! Method calls: turns, reentrancy, routing.

use std::sync::Arc;
use std::time::Duration;

use dapr_sidecar_actors::app_host::Error as HostError;
use dapr_sidecar_core::actors::{
    API_CALL_HEADER, Actors as _, Call, Error, REENTRANCY_HEADER, REMOTE_HEADER,
};
use dapr_sidecar_core::app::{Config, Reentrancy};
use dapr_sidecar_core::metrics::Off;
use dapr_sidecar_core::peer::{ReminderCall, Target};
use dapr_sidecar_core::resiliency::{Resiliency, Resource};
use dapr_sidecar_core::rpc::{Code, Status};
use http::HeaderValue;
use tokio::time::Instant;

use crate::fixture::{ADDRESSES, HERE, THERE, World, begin, call, config, end, settle};

#[tokio::test(start_paused = true)]
async fn calls_of_one_actor_come_one_after_the_other() {
    let (world, _stream) = World::hosting().await;
    let first = world.start("a", "1", "hold1");
    world.app.until(&begin("a/1.hold1"), 1).await;
    let second = world.start("a", "1", "two");
    let other = world.start("a", "2", "run");
    assert!(other.await.expect("task").is_ok());
    assert!(!second.is_finished());
    world.app.release.notify_one();
    assert!(first.await.expect("task").is_ok());
    assert!(second.await.expect("task").is_ok());
    assert_eq!(
        world.app.seen(),
        [
            begin("a/1.hold1"),
            begin("a/2.run"),
            end("a/2.run"),
            end("a/1.hold1"),
            begin("a/1.two"),
            end("a/1.two"),
        ]
    );
    assert_eq!(world.runtime.status().active[0].1, 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_frees_the_actor() {
    let (world, _stream) = World::hosting().await;
    let first = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    first.abort();
    assert!(world.runtime.invoke(call("a", "1", "run")).await.is_ok());
}

fn reentrant(max_stack_depth: u32) -> Config {
    Config {
        reentrancy: Reentrancy {
            enabled: true,
            max_stack_depth,
        },
        ..config(&["a"])
    }
}

fn in_chain(id: &str) -> Call {
    let mut call = call("a", "1", "run");
    let id = HeaderValue::from_str(id).expect("a header");
    call.headers.insert(REENTRANCY_HEADER, id);
    call
}

#[tokio::test(start_paused = true)]
async fn a_chain_may_call_its_actor_again() {
    let (world, _stream) = World::hosting_with(reentrant(2)).await;
    let outer = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    let id = {
        let calls = world.app.calls.lock();
        calls[0].headers[REENTRANCY_HEADER]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(id.len(), 36, "a generated id");
    assert!(world.runtime.invoke(in_chain(&id)).await.is_ok());
    let stranger = world.start("a", "1", "stranger");
    settle().await;
    assert!(!stranger.is_finished());
    world.app.release.notify_one();
    assert!(outer.await.expect("task").is_ok());
    assert!(stranger.await.expect("task").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_chain_is_named_by_the_exact_key_only() {
    let (world, _stream) = World::hosting_with(reentrant(2)).await;
    let mut call = in_chain("x");
    call.spelling.keep(REENTRANCY_HEADER);
    assert!(world.runtime.invoke(call).await.is_ok());
    let calls = world.app.calls.lock();
    let id = &calls[0].headers[REENTRANCY_HEADER];
    assert_eq!(id.len(), 36, "a generated id: {id:?}");
    assert!(calls[0].spelling.is_canonical(REENTRANCY_HEADER));
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_is_too_deep_is_refused() {
    let (world, _stream) = World::hosting_with(reentrant(1)).await;
    let outer = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    let id = {
        let calls = world.app.calls.lock();
        calls[0].headers[REENTRANCY_HEADER]
            .to_str()
            .expect("text")
            .to_owned()
    };
    let refused = world.runtime.invoke(in_chain(&id)).await;
    assert_eq!(refused.err(), Some(Error::StackDepth));
    let status = world
        .runtime
        .invoke_from_peer(in_chain(&id))
        .await
        .expect_err("too deep");
    assert_eq!(status.code, Code::ResourceExhausted);
    world.app.release.notify_one();
    assert!(outer.await.expect("task").is_ok());
    assert!(world.runtime.invoke(call("a", "1", "run")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_reentrancy_no_id_is_made_up() {
    let (world, _stream) = World::hosting().await;
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    let calls = world.app.calls.lock();
    assert!(!calls[0].headers.contains_key(REENTRANCY_HEADER));
    assert_eq!(calls[0].headers[API_CALL_HEADER], "true");
    assert!(!calls[0].headers.contains_key(REMOTE_HEADER));
}

#[tokio::test(start_paused = true)]
async fn names_are_checked() {
    let (world, _stream) = World::hosting().await;
    for call in [
        call("a#", "1", "m"),
        call("a", "1/2", "m"),
        call("a", "1", "m?"),
    ] {
        let error = world.runtime.invoke(call).await.expect_err("refused");
        assert!(matches!(error, Error::BadRequest(_)), "{error}");
    }
    assert!(
        world.runtime.invoke(call("a", "", "m")).await.is_ok(),
        "an empty id is fine"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_fails_after_five_seconds() {
    let (world, _stream) = World::hosting().await;
    let before = Instant::now();
    let error = world
        .runtime
        .invoke(call("nope", "1", "m"))
        .await
        .expect_err("unknown");
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    assert_eq!(
        error,
        Error::InvokeStatus(Status::new(
            Code::FailedPrecondition,
            "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'nope/1'"
        ))
    );
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_application_are_final() {
    let (world, _stream) = World::hosting().await;
    *world.app.failure.lock() = Some(HostError::Service("(500) boom".to_owned()));
    let before = Instant::now();
    let error = world
        .runtime
        .invoke(call("a", "1", "m"))
        .await
        .expect_err("failed");
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(
        error.to_string(),
        "error invoke actor method: error from actor service: (500) boom"
    );
    let status = world
        .runtime
        .invoke_from_peer(call("a", "1", "m"))
        .await
        .expect_err("failed");
    assert_eq!(
        status,
        Status::new(
            Code::Internal,
            "error invoke actor method: error from actor service: (500) boom"
        )
    );
}

/// `a` on another host.
async fn elsewhere() -> World {
    let mut world = World::new().await;
    world.register(&config(&["b"])).await;
    let mut stream = world.placement.accept().await;
    stream.host().await;
    stream.round(1, &[("a", &[THERE]), ("b", &[HERE])]).await;
    // The stream lives on in the background.
    tokio::spawn(async move {
        let mut stream = stream;
        while stream
            .hosts
            .message()
            .await
            .is_ok_and(|host| host.is_some())
        {}
    });
    world
}

#[tokio::test(start_paused = true)]
async fn calls_go_to_the_host_of_the_actor() {
    let world = elsewhere().await;
    let reply = world
        .runtime
        .invoke(call("a", "1", "m"))
        .await
        .expect("answered");
    assert_eq!(reply.body, "remote");
    let calls = world.peers.calls.lock();
    assert_eq!(
        calls[0].0,
        Target {
            app_id: "other".to_owned(),
            namespace: "ns".to_owned(),
            address: THERE.to_owned(),
        }
    );
    assert_eq!(calls[0].1.headers[API_CALL_HEADER], "true");
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_again_on_other_hosts() {
    let world = elsewhere().await;
    let check = async |answers: Vec<Status>, attempts: usize, expected: Result<(), &str>| {
        let attempted = {
            let mut calls = world.peers.calls.lock();
            std::mem::take(&mut *calls).len()
        };
        assert!(attempted < 100);
        *world.peers.answers.lock() = answers.into();
        let result = world.runtime.invoke(call("a", "1", "m")).await;
        assert_eq!(
            result.map(|_| ()).map_err(|error| error.to_string()),
            expected.map_err(str::to_owned)
        );
        assert_eq!(world.peers.calls.lock().len(), attempts);
    };
    let internal = |text: &str| Status::new(Code::Internal, text);
    let moved = internal("error invoke actor method: remote actor moved");
    let busy = internal("error invoke actor method: x: placement is disseminating");
    check(vec![moved, busy], 3, Ok(())).await;
    check(
        vec![internal("error invoke actor method: boom")],
        1,
        Err("rpc error: code = Internal desc = error invoke actor method: boom"),
    )
    .await;
    let down = Status::new(Code::Unavailable, "down");
    check(
        vec![down; 6],
        6,
        Err(
            "error invoke actor method: failed to invoke target 10.0.0.2:50002 after 5 retries. Error: rpc error: code = Unavailable desc = down",
        ),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_from_other_sidecars_run_here_or_not_at_all() {
    let world = elsewhere().await;
    assert!(
        world
            .runtime
            .invoke_from_peer(call("b", "1", "m"))
            .await
            .is_ok()
    );
    assert_eq!(world.app.calls.lock()[0].headers[REMOTE_HEADER], "true");
    let status = world
        .runtime
        .invoke_from_peer(call("a", "1", "m"))
        .await
        .expect_err("moved");
    assert_eq!(
        status,
        Status::new(
            Code::Internal,
            "error invoke actor method: remote actor moved"
        )
    );
    assert!(world.peers.calls.lock().is_empty());
}

fn reminder(actor_type: &str) -> ReminderCall {
    ReminderCall {
        actor_type: actor_type.to_owned(),
        actor_id: "1".to_owned(),
        name: "r".to_owned(),
        data: None,
        due_time: String::new(),
        period: String::new(),
        registered_time: None,
        expiration_time: None,
        is_timer: false,
        skip_lock: false,
    }
}

#[tokio::test(start_paused = true)]
async fn reminders_are_forwarded() {
    let world = elsewhere().await;
    world
        .runtime
        .fire_reminder(&reminder("b"))
        .await
        .expect("here");
    world
        .runtime
        .fire_reminder(&reminder("a"))
        .await
        .expect("there");
    assert_eq!(world.peers.fires.lock().len(), 1);
    assert_eq!(world.app.fires.lock().len(), 1);
    // The scheduler tries again, not we.
    let down = Status::new(Code::Unavailable, "down");
    world.peers.answers.lock().push_back(down);
    let before = Instant::now();
    assert!(world.runtime.fire_reminder(&reminder("a")).await.is_err());
    assert_eq!(before.elapsed(), Duration::ZERO);
    let status = world
        .runtime
        .remind_from_peer(reminder("a"))
        .await
        .expect_err("moved");
    assert_eq!(
        status.message,
        "error invoke actor method: remote actor moved"
    );
    world
        .runtime
        .remind_from_peer(reminder("b"))
        .await
        .expect("here");
}

#[tokio::test(start_paused = true)]
async fn a_reminder_waits_for_the_turn_unless_it_skips_it() {
    let (world, _stream) = World::hosting().await;
    let held = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    let skipping = ReminderCall {
        skip_lock: true,
        ..reminder("a")
    };
    world
        .runtime
        .fire_reminder(&skipping)
        .await
        .expect("beside the turn");
    let call = reminder("a");
    let mut waiting = std::pin::pin!(world.runtime.fire_reminder(&call));
    assert!(
        tokio::time::timeout(Duration::from_secs(9), waiting.as_mut())
            .await
            .is_err()
    );
    world.app.release.notify_one();
    waiting.await.expect("after the turn");
    assert!(held.await.expect("task").is_ok());
}

async fn under(spec: serde_json::Value) -> (World, crate::fixture::Stream) {
    let resource = Resource {
        spec: serde_json::from_value(spec).expect("a specification"),
        ..Resource::default()
    };
    let resiliency = Resiliency::new("app", vec![resource], Arc::new(Off));
    World::under(&ADDRESSES, resiliency)
        .with_store()
        .await
        .hosts(config(&["a", "b"]))
        .await
}

#[tokio::test(start_paused = true)]
async fn policies_of_the_user_replace_the_built_in_ones() {
    let (world, _stream) = under(serde_json::json!({
        "policies": {
            "timeouts": {"short": "3s"},
            "retries": {"twice": {"duration": "2s", "maxRetries": 2}},
        },
        "targets": {"actors": {"a": {"timeout": "short", "retry": "twice"}}},
    }))
    .await;
    let before = Instant::now();
    let error = world
        .runtime
        .invoke(call("a", "1", "hold"))
        .await
        .expect_err("too long");
    assert_eq!(
        error.to_string(),
        "error invoke actor method: context deadline exceeded"
    );
    // Three attempts of 3 s with two waits of 2 s.
    assert_eq!(before.elapsed(), Duration::from_secs(13));
    let waits = async |failure: HostError| {
        *world.app.failure.lock() = Some(failure);
        let before = Instant::now();
        assert!(world.runtime.invoke(call("a", "1", "m")).await.is_err());
        before.elapsed()
    };
    let waited = waits(HostError::Service("(500) boom".to_owned())).await;
    assert_eq!(waited, Duration::from_secs(4), "tried again twice");
    let waited = waits(HostError::NotFound("m".to_owned())).await;
    assert_eq!(waited, Duration::ZERO, "a method does not come by itself");
}

#[tokio::test(start_paused = true)]
async fn a_target_without_retries_has_none() {
    let (world, _stream) = under(serde_json::json!({
        "policies": {"timeouts": {"short": "3s"}},
        "targets": {"actors": {"a": {"timeout": "short"}, "gone": {}}},
    }))
    .await;
    for (actor_type, method, seconds) in [("a", "hold", 3), ("gone", "m", 0)] {
        let before = Instant::now();
        let result = world.runtime.invoke(call(actor_type, "1", method)).await;
        assert!(result.is_err(), "{actor_type}");
        assert_eq!(
            before.elapsed(),
            Duration::from_secs(seconds),
            "{actor_type}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn default_policies_stand_around_the_built_in_retries() {
    let (world, _stream) = under(serde_json::json!({
        "policies": {"retries": {"DefaultActorRetryPolicy": {"duration": "2s", "maxRetries": 1}}},
    }))
    .await;
    let before = Instant::now();
    let unknown = world.runtime.invoke(call("gone", "1", "m")).await;
    assert!(unknown.is_err());
    // Two attempts of five waits of 1 s, and one wait of 2 s.
    assert_eq!(before.elapsed(), Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses() {
    let (world, _stream) = under(serde_json::json!({
        "policies": {"circuitBreakers": {"touchy": {"trip": "consecutiveFailures >= 1"}}},
        "targets": {"actors": {"a": {"circuitBreaker": "touchy", "circuitBreakerScope": "type"}}},
    }))
    .await;
    *world.app.failure.lock() = Some(HostError::Service("(500) boom".to_owned()));
    assert!(world.runtime.invoke(call("a", "1", "m")).await.is_err());
    let error = world
        .runtime
        .invoke(call("a", "1", "m"))
        .await
        .expect_err("open");
    assert_eq!(
        error.to_string(),
        "error invoke actor method: circuit breaker is open"
    );
}
