//! Timers through the runtime.

use std::time::Duration;

use dapr_sidecar_actors::app_host::unpack;
use dapr_sidecar_core::actors::{Actors as _, Timer};
use dapr_sidecar_core::app::Config;
use tokio::time::Instant;

use crate::fixture::{THERE, World, begin, call, config, deactivated, fired, settle};

fn timer(name: &str, due_time: &str, period: &str) -> Timer {
    Timer {
        actor_type: "a".to_owned(),
        actor_id: "1".to_owned(),
        name: name.to_owned(),
        due_time: due_time.to_owned(),
        period: period.to_owned(),
        ttl: String::new(),
        callback: "back".to_owned(),
        data: r#"{"x": 1}"#.into(),
    }
}

fn about(elapsed: Duration, seconds: u64) -> bool {
    let expected = Duration::from_secs(seconds);
    elapsed >= expected && elapsed < expected + Duration::from_millis(50)
}

#[tokio::test(start_paused = true)]
async fn a_timer_fires_at_its_times_and_activates_the_actor() {
    let (world, _stream) = World::hosting().await;
    let start = Instant::now();
    world
        .runtime
        .create_timer(timer("t", "5s", "R3/PT10S"))
        .await
        .expect("created");
    for (times, seconds) in [(1, 5), (2, 15), (3, 25)] {
        world.app.until(&fired("a/1.t"), times).await;
        assert!(about(start.elapsed(), seconds), "{:?}", start.elapsed());
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.app.fires.lock().len(), 3);
    let (call, callback) = world.app.fires.lock()[0].clone();
    assert_eq!(callback, "back");
    assert_eq!(
        (call.due_time.as_str(), call.period.as_str()),
        ("5s", "R3/PT10S")
    );
    assert_eq!(
        unpack(call.data.as_ref()).as_deref(),
        Some(&br#"{"x": 1}"#[..])
    );
    assert!(call.is_timer);
    assert_eq!(world.runtime.status().active[0].1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_timer_is_silent_and_a_late_one_catches_up() {
    let (world, _stream) = World::hosting().await;
    world
        .runtime
        .create_timer(timer("gone", "5s", "5s"))
        .await
        .expect("created");
    world
        .runtime
        .delete_timer("a", "1", "gone")
        .await
        .expect("deleted");
    world
        .runtime
        .delete_timer("a", "1", "unknown")
        .await
        .expect("success");
    world
        .runtime
        .create_timer(timer("t", "10s", "10s"))
        .await
        .expect("created");
    let held = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(
        world.app.fires.lock().is_empty(),
        "the fire waits for its turn"
    );
    world.app.release.notify_one();
    held.await.expect("task").expect("runs");
    settle().await;
    settle().await;
    // The fire due at 10 s, and at once the one due at 20 s.
    assert_eq!(world.app.fires.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn fires_of_one_actor_do_not_overlap() {
    let (world, _stream) = World::hosting().await;
    world
        .runtime
        .create_timer(timer("hold", "1s", ""))
        .await
        .expect("created");
    world
        .runtime
        .create_timer(timer("next", "2s", ""))
        .await
        .expect("created");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.app.seen(), [fired("a/1.hold")]);
    world.app.release.notify_one();
    world.app.until(&fired("a/1.next"), 1).await;
}

#[tokio::test(start_paused = true)]
async fn timers_outlive_idleness_and_follow_their_actor() {
    let (world, mut stream) = World::hosting_with(Config {
        actor_idle_timeout: Some(Duration::from_secs(10)),
        ..config(&["a", "b"])
    })
    .await;
    world
        .runtime
        .create_timer(timer("t", "1s", "60s"))
        .await
        .expect("created");
    world.app.until(&deactivated("a/1"), 1).await;
    world.app.until(&fired("a/1.t"), 2).await;
    stream.round(2, &[("a", &[THERE])]).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    let fires = world.peers.fires.lock();
    assert_eq!(fires.len(), 1);
    assert_eq!(fires[0].0.address, THERE);
    assert!(fires[0].1.is_timer);
}

#[tokio::test(start_paused = true)]
async fn refused_timers() {
    let (world, _stream) = World::hosting().await;
    let check = async |timer: Timer, expected: &str| {
        let error = world
            .runtime
            .create_timer(timer)
            .await
            .expect_err("refused");
        assert_eq!(error.to_string(), expected);
    };
    check(
        timer("t", "soon", ""),
        "error creating actor timer: error parsing timer due time: unsupported time/duration format: soon",
    )
    .await;
    let unknown = Timer {
        actor_type: "x".to_owned(),
        ..timer("t", "", "")
    };
    check(
        unknown,
        "error creating actor timer: can't create timer for actor x||1: actor type not registered",
    )
    .await;
    check(
        timer("a/b", "", ""),
        "invalid request: name contains forbidden character: \"a/b\"",
    )
    .await;
    assert!(world.runtime.invoke(call("a", "1", "run")).await.is_ok());
}
