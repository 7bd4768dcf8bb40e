//! The client of placement.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dapr_proto::dapr::proto::placement::v1::HostOperation;
use dapr_sidecar_core::actors::{Actors as _, Phase};
use dapr_sidecar_core::app::Config;
use tokio::time::Instant;

use crate::fixture::{HERE, THERE, World, begin, call, config, deactivated, end, settle};

#[tokio::test(start_paused = true)]
async fn the_first_report_and_readiness() {
    let mut world = World::new().await;
    settle().await;
    assert!(
        world.placement.try_accept().is_none(),
        "not before registration"
    );
    assert_eq!(world.runtime.status().phase, Phase::Initializing);

    world.register(&config(&["a", "b"])).await;
    let mut stream = world.placement.accept().await;
    let report = stream.host().await;
    assert_eq!(report.name, HERE);
    assert_eq!(report.id, "app");
    assert_eq!(report.namespace, "ns");
    assert_eq!(report.entities, ["a", "b"]);
    assert_eq!(report.operation(), HostOperation::Report);
    #[expect(deprecated, reason = "still sent")]
    let level = report.api_level;
    assert_eq!(level, 20);
    assert_eq!(report.version, None);

    stream.step("lock", 3, &[]).await;
    stream.step("update", 3, &[("a", &[HERE])]).await;
    let status = world.runtime.status();
    assert!(status.placement_connected && !status.host_ready);
    assert_eq!(world.ready.load(Ordering::SeqCst), 0);
    stream.step("unlock", 3, &[]).await;
    let status = world.runtime.status();
    assert!(status.host_ready);
    assert_eq!(status.phase, Phase::Running);
    assert_eq!(status.active, [("a".to_owned(), 0), ("b".to_owned(), 0)]);
    assert_eq!(world.ready.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn changed_types_are_reported_again() {
    let (world, mut stream) = World::hosting().await;
    world.register(&config(&["c"])).await;
    assert_eq!(stream.host().await.entities, ["a", "b", "c"]);
    world
        .runtime
        .set_state_store(None)
        .await
        .expect("removing works");
    assert!(stream.host().await.entities.is_empty());
    let store = world.store.clone();
    world
        .runtime
        .set_state_store(Some(("other".to_owned(), store)))
        .await
        .expect("usable");
    assert_eq!(stream.host().await.entities, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_first_round() {
    let mut world = World::new().await;
    let running = world.start("a", "1", "run");
    world.register(&config(&["a"])).await;
    let mut stream = world.placement.accept().await;
    stream.host().await;
    stream.step("lock", 1, &[]).await;
    stream.step("update", 1, &[("a", &[HERE])]).await;
    settle().await;
    assert!(world.app.seen().is_empty());
    stream.step("unlock", 1, &[]).await;
    assert!(running.await.expect("task").is_ok());
}

#[tokio::test(start_paused = true)]
async fn calls_of_unchanged_types_survive_a_round() {
    let (world, mut stream) = World::hosting().await;
    let kept = world.start("b", "1", "hold");
    world.app.until(&begin("b/1.hold"), 1).await;
    stream.step("lock", 2, &[]).await;
    stream
        .step("update", 2, &[("a", &[HERE, THERE]), ("b", &[HERE])])
        .await;
    // In the middle of the round new calls of the unchanged type run, those of the changed one wait.
    let other = world.runtime.invoke(call("b", "2", "run")).await;
    assert!(other.is_ok());
    let waiting = world.start("a", "b", "run");
    settle().await;
    assert!(!waiting.is_finished());
    world.app.release.notify_one();
    assert!(kept.await.expect("task").is_ok());
    stream.step("unlock", 2, &[]).await;
    assert!(waiting.await.expect("task").is_ok());
    assert_eq!(
        world
            .app
            .seen()
            .iter()
            .filter(|seen| **seen == begin("b/1.hold"))
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn calls_of_changed_types_are_drained_cut_and_tried_again() {
    let (world, mut stream) = World::hosting().await;
    let held = world.start("a", "b", "hold");
    world.app.until(&begin("a/b.hold"), 1).await;
    stream.step("lock", 2, &[]).await;
    let before = Instant::now();
    // `b` stays on this host, yet its call is cut after the drain time.
    stream
        .step("update", 2, &[("a", &[HERE, THERE]), ("b", &[HERE])])
        .await;
    assert_eq!(before.elapsed(), Duration::from_secs(2));
    stream.step("unlock", 2, &[]).await;
    world.app.until(&begin("a/b.hold"), 2).await;
    world.app.release.notify_one();
    assert!(held.await.expect("task").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_within_the_drain_is_not_cut() {
    let (world, mut stream) = World::hosting().await;
    let held = world.start("a", "b", "hold");
    world.app.until(&begin("a/b.hold"), 1).await;
    stream.step("lock", 2, &[]).await;
    stream.order("update", 2, &[("a", &[HERE, THERE])]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.app.release.notify_one();
    assert!(held.await.expect("task").is_ok());
    assert_eq!(stream.host().await.operation(), HostOperation::Update);
    assert_eq!(world.app.seen(), [begin("a/b.hold"), end("a/b.hold")]);
}

#[tokio::test(start_paused = true)]
async fn without_draining_calls_are_cut_at_once() {
    let (world, mut stream) = World::hosting_with(Config {
        drain_rebalanced_actors: Some(false),
        ..config(&["a"])
    })
    .await;
    let held = world.start("a", "b", "hold");
    world.app.until(&begin("a/b.hold"), 1).await;
    stream.step("lock", 2, &[]).await;
    let before = Instant::now();
    stream.step("update", 2, &[("a", &[HERE, THERE])]).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    held.abort();
}

#[tokio::test(start_paused = true)]
async fn actors_that_move_are_deactivated_before_the_answer() {
    let (world, mut stream) = World::hosting().await;
    for id in ["b", "1", "3"] {
        world
            .runtime
            .invoke(call("a", id, "run"))
            .await
            .expect("runs");
    }
    world.app.forget();
    stream.step("lock", 2, &[]).await;
    // On the ring of these two hosts only `b` stays; the others belong to the second.
    stream
        .step("update", 2, &[("a", &[HERE, THERE]), ("b", &[HERE])])
        .await;
    let status = world.runtime.status();
    let gone = world.app.seen().len();
    assert_eq!(status.active[0], ("a".to_owned(), 3 - gone));
    assert!(gone > 0 && gone < 3, "{:?}", world.app.seen());
    assert!(!world.app.seen().contains(&deactivated("a/b")));
    stream.step("unlock", 2, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_round_is_followed_by_the_next() {
    let (world, mut stream) = World::hosting().await;
    stream.step("lock", 2, &[]).await;
    stream.step("update", 2, &[("a", &[HERE, THERE])]).await;
    stream.step("lock", 3, &[]).await;
    stream.step("update", 3, &[("a", &[HERE])]).await;
    stream.step("unlock", 3, &[]).await;
    assert!(world.runtime.invoke(call("a", "1", "run")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_halts_the_actors_and_the_next_address_follows_at_once() {
    let (mut world, stream) = World::hosting().await;
    assert_eq!(stream.address, "p0:1");
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    let before = Instant::now();
    drop(stream);
    let mut stream = world.placement.accept().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(stream.address, "p1:1");
    assert!(world.app.seen().contains(&deactivated("a/1")));
    let status = world.runtime.status();
    assert!(!status.host_ready && status.active[0].1 == 0);
    let waiting = world.start("a", "1", "run");
    settle().await;
    assert!(!waiting.is_finished());
    stream.host().await;
    stream.round(1, &[("a", &[HERE])]).await;
    assert!(waiting.await.expect("task").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_is_followed_by_a_short_pause() {
    let mut world = World::new().await;
    world.placement.refuse_dials.store(3, Ordering::SeqCst);
    let before = Instant::now();
    world.register(&config(&[])).await;
    world.placement.accept().await;
    let pauses = before.elapsed();
    assert!(
        pauses >= Duration::from_millis(750) && pauses < Duration::from_millis(2260),
        "{pauses:?}"
    );
    assert_eq!(world.placement.dials.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_the_leader_is_left_at_once() {
    let mut world = World::new().await;
    world.placement.redirects.store(1, Ordering::SeqCst);
    let before = Instant::now();
    world.register(&config(&["a"])).await;
    let stream = world.placement.accept().await;
    assert_eq!(stream.address, "p1:1");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_before_the_first_order_is_followed_at_once_but_not_for_ever() {
    let mut world = World::new().await;
    world.register(&config(&["a"])).await;
    let mut stream = world.placement.accept().await;
    stream.host().await;
    let before = Instant::now();
    for address in ["p1:1", "p0:1", "p1:1"] {
        drop(stream);
        stream = world.placement.accept().await;
        assert_eq!(stream.address, address);
        assert_eq!(before.elapsed(), Duration::ZERO);
        stream.host().await;
    }
    drop(stream);
    let stream = world.placement.accept().await;
    assert_eq!(stream.address, "p0:1");
    assert!(before.elapsed() >= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn wrong_orders_end_the_stream() {
    let (mut world, mut stream) = World::hosting().await;
    stream.order("dance", 2, &[]).await;
    assert!(stream.hosts.message().await.ok().flatten().is_none());
    let mut stream = world.placement.accept().await;
    stream.host().await;
    stream.step("lock", 9, &[]).await;
    stream.order("update", 8, &[]).await;
    assert!(stream.hosts.message().await.ok().flatten().is_none());
    world.placement.accept().await;
}

#[tokio::test(start_paused = true)]
async fn a_round_that_takes_too_long_ends_the_stream() {
    let (mut world, mut stream) = World::hosting().await;
    stream.step("lock", 2, &[]).await;
    let before = Instant::now();
    world.placement.accept().await;
    assert_eq!(before.elapsed(), Duration::from_secs(30));

    // From the update on the server's own limit is in force.
    let (mut world, mut stream) = World::hosting().await;
    stream.step("lock", 2, &[]).await;
    stream.step("update", 2, &[]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.placement.try_accept().is_none());
}
