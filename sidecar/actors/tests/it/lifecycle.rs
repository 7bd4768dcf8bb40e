//! Idle actors, registration, hosting without a store, shutdown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dapr_sidecar_actors::runtime::UnsuitableStore;
use dapr_sidecar_core::actors::{Actors as _, Error, Phase, Reminder, Timer};
use dapr_sidecar_core::app::Config;
use dapr_sidecar_core::rpc::Code;
use tokio::time::Instant;

use crate::fixture::{
    HERE, Seen, Store, THERE, World, begin, call, config, deactivated, end, settle,
};

async fn idle_after(seconds: u64) -> (World, crate::fixture::Stream) {
    World::hosting_with(Config {
        actor_idle_timeout: Some(Duration::from_secs(seconds)),
        ..config(&["a", "b"])
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn idle_actors_are_deactivated_and_come_back() {
    let (world, _stream) = idle_after(10).await;
    let start = Instant::now();
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    tokio::time::sleep(Duration::from_secs(6)).await;
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    world.app.until(&deactivated("a/1"), 1).await;
    let idle = start.elapsed();
    assert!(
        idle >= Duration::from_secs(16) && idle < Duration::from_millis(16_100),
        "{idle:?}"
    );
    settle().await;
    assert_eq!(world.runtime.status().active[0].1, 0);
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs again");
    world.app.until(&deactivated("a/1"), 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_in_its_turn_is_not_idle() {
    let (world, _stream) = idle_after(10).await;
    let held = world.start("a", "1", "hold");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.app.seen(), [begin("a/1.hold")]);
    world.app.release.notify_one();
    held.await.expect("task").expect("runs");
    world.app.until(&deactivated("a/1"), 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_deactivation_before_it() {
    let (world, _stream) = idle_after(10).await;
    world
        .runtime
        .invoke(call("a", "slow", "run"))
        .await
        .expect("runs");
    world.app.until(&deactivated("a/slow"), 1).await;
    let waiting = world.start("a", "slow", "again");
    settle().await;
    assert!(!waiting.is_finished());
    world.app.release.notify_one();
    waiting.await.expect("task").expect("a fresh actor");
    assert_eq!(world.app.seen().last(), Some(&end("a/slow.again")));
}

#[tokio::test(start_paused = true)]
async fn one_actor_can_be_deactivated_by_hand() {
    let (world, _stream) = World::hosting().await;
    world.runtime.deactivate("a", "1").await;
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    world.runtime.deactivate("a", "1").await;
    assert_eq!(world.app.seen().last(), Some(&deactivated("a/1")));
    assert_eq!(world.runtime.status().active[0].1, 0);
}

#[tokio::test(start_paused = true)]
async fn after_unregistration_everybody_waits_again() {
    let (world, mut stream) = World::hosting().await;
    let held = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    world.runtime.unregister().await;
    let error = held.await.expect("task").expect_err("cut off");
    assert_eq!(
        error.to_string(),
        "error invoke actor method: context canceled"
    );
    assert!(
        !world.app.seen().contains(&deactivated("a/1")),
        "no word to an ill application"
    );
    assert!(stream.host().await.entities.is_empty());
    assert!(world.runtime.status().active.is_empty());

    let waiting = world.start("a", "1", "run");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    world.register(&config(&["a"])).await;
    assert_eq!(stream.host().await.entities, ["a"]);
    stream.round(2, &[("a", &[HERE])]).await;
    assert!(waiting.await.expect("task").is_ok());
}

#[tokio::test(start_paused = true)]
async fn types_of_this_process_stay_when_the_application_is_ill() {
    let (world, mut stream) = World::hosting().await;
    let host = world.app.clone();
    let own = "dapr.internal.ns.app.workflow";
    world.runtime.host(&config(&[own]), host).await;
    assert_eq!(stream.host().await.entities, ["a", "b", own]);
    world.runtime.unregister().await;
    assert_eq!(stream.host().await.entities, [own]);
    world.runtime.unhost(&[own.to_owned()]).await;
    assert!(stream.host().await.entities.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_store_nothing_is_hosted() {
    let mut world = World::without_store(&crate::fixture::ADDRESSES);
    world.register(&config(&["a"])).await;
    assert!(
        world.ready.load(Ordering::SeqCst) > 0,
        "nothing to wait for"
    );
    let mut stream = world.placement.accept().await;
    assert!(stream.host().await.entities.is_empty());
    stream.round(0, &[("a", &[HERE])]).await;
    let status = world.runtime.status();
    assert_eq!(status.active, [("a".to_owned(), 0)]);
    let error = world
        .runtime
        .invoke(call("a", "1", "m"))
        .await
        .expect_err("suspended");
    assert_eq!(
        error.to_string(),
        "error invoke actor method: failed to create actor: actor hosting is suspended: no actor state store configured"
    );
    let timer = Timer {
        actor_type: "a".to_owned(),
        actor_id: "1".to_owned(),
        name: "t".to_owned(),
        ..Timer::default()
    };
    assert_eq!(
        world.runtime.create_timer(timer).await.map_err(|error| error.to_string()),
        Err("error creating actor timer: can't create timer for actor a||1: actor type not registered".to_owned())
    );
    assert_eq!(
        world.runtime.get_reminder("a", "1", "r").await.err(),
        Some(Error::ReminderNonHosted)
    );
    assert_eq!(
        world.runtime.get_state("a", "1", "k").await.err(),
        Some(Error::NoStateStore)
    );
    assert_eq!(
        world.runtime.transact("a", "1", Vec::new()).await.err(),
        Some(Error::InstanceMissing)
    );
}

#[tokio::test(start_paused = true)]
async fn removing_the_store_drains_and_swapping_it_does_not() {
    let (world, _stream) = World::hosting().await;
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    let swapped = std::sync::Arc::new(Store::default());
    world
        .runtime
        .set_state_store(Some(("store".to_owned(), swapped)))
        .await
        .expect("usable");
    assert!(!world.app.seen().contains(&deactivated("a/1")));
    world
        .runtime
        .set_state_store(None)
        .await
        .expect("removing works");
    assert!(world.app.seen().contains(&deactivated("a/1")));
    let unusable = std::sync::Arc::new(Store {
        features: Vec::new(),
        ..Store::default()
    });
    let refused = world
        .runtime
        .set_state_store(Some(("store".to_owned(), unusable)))
        .await;
    assert_eq!(refused, Err(UnsuitableStore));
}

#[tokio::test(start_paused = true)]
async fn without_placement_every_call_says_so() {
    let world = World::without_store(&[]);
    settle().await;
    assert_eq!(world.ready.load(Ordering::SeqCst), 1);
    assert_eq!(world.runtime.status().phase, Phase::Disabled);
    let error = world
        .runtime
        .invoke(call("a", "1", "m"))
        .await
        .expect_err("disabled");
    assert_eq!(error, Error::NoPlacement);
    let error = world
        .runtime
        .get_state("a", "1", "k")
        .await
        .expect_err("disabled");
    assert_eq!(error, Error::NoPlacement);
    world.stop.cancel();
    world.run.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn reserved_types_are_closed_to_applications() {
    let (world, _stream) = World::hosting().await;
    let own = "dapr.internal.ns.app.workflow";
    let expected = Error::Reserved(own.to_owned());
    let error = world
        .runtime
        .get_state(own, "1", "k")
        .await
        .expect_err("closed");
    assert_eq!(error, expected);
    let error = world
        .runtime
        .delete_timer(own, "1", "t")
        .await
        .expect_err("closed");
    assert_eq!(error, expected);
    let error = world
        .runtime
        .delete_reminder(own, "1", "r")
        .await
        .expect_err("closed");
    assert_eq!(error, expected);
}

#[tokio::test(start_paused = true)]
async fn reminders_need_a_scheduler() {
    let (world, _stream) = World::hosting().await;
    let reminder = Reminder {
        actor_type: "a".to_owned(),
        actor_id: "1".to_owned(),
        name: "r".to_owned(),
        ..Reminder::default()
    };
    let check = |result: Result<(), Error>, expected: &str| {
        assert_eq!(
            result.map_err(|error| error.to_string()),
            Err(expected.to_owned())
        );
    };
    check(
        world.runtime.create_reminder(reminder.clone()).await,
        "error creating actor reminder: scheduler clients are disabled",
    );
    check(
        world.runtime.get_reminder("a", "1", "r").await.map(|_| ()),
        "error getting actor reminder: api error: code = Internal desc = failed to get job due to: scheduler clients are disabled",
    );
    check(
        world.runtime.delete_reminder("a", "1", "r").await,
        "error deleting actor reminder: scheduler clients are disabled",
    );
    // One that an older version took can be removed.
    check(
        world.runtime.delete_reminder("a", "1", "a#b").await,
        "error deleting actor reminder: scheduler clients are disabled",
    );
    let bad = Reminder {
        name: "a#b".to_owned(),
        ..reminder
    };
    check(
        world.runtime.create_reminder(bad).await,
        "invalid request: name contains forbidden character: \"a#b\"",
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_calls_off_and_deactivates_all() {
    let (world, _stream) = World::hosting().await;
    let held = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    world
        .runtime
        .invoke(call("b", "2", "run"))
        .await
        .expect("runs");
    let waiting = world.start("nope", "1", "m");
    settle().await;
    let before = Instant::now();
    world.stop.cancel();
    world.run.await.expect("ends");
    assert!(before.elapsed() < Duration::from_secs(1));
    let error = held.await.expect("task").expect_err("cut off");
    assert_eq!(
        error.to_string(),
        "error invoke actor method: context canceled"
    );
    assert!(waiting.await.expect("task").is_err());
    let seen = world.app.seen();
    assert!(seen.contains(&deactivated("a/1")) && seen.contains(&deactivated("b/2")));
    let error = world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect_err("closed");
    assert_eq!(error, Error::Closed);
    // Another sidecar, whose table still names this one, tries again until it names its successor.
    let status = world
        .runtime
        .invoke_from_peer(call("a", "1", "run"))
        .await
        .expect_err("closed");
    assert_eq!(status.code, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_about_to_end_does() {
    let (world, _stream) = World::hosting().await;
    let held = world.start("a", "1", "hold");
    world.app.until(&begin("a/1.hold"), 1).await;
    world.stop.cancel();
    tokio::time::sleep(Duration::from_millis(400)).await;
    world.app.release.notify_one();
    held.await.expect("task").expect("not cut off");
    world.run.await.expect("ends");
    assert_eq!(world.app.seen().last(), Some(&deactivated("a/1")));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_table_as_the_sidecar_ends_is_made_elsewhere() {
    let (world, mut stream) = World::hosting().await;
    stream.step("lock", 2, &[]).await;
    stream.step("update", 2, &[("a", &[THERE])]).await;
    let runtime = world.runtime.clone();
    let waiting = async move { runtime.invoke_from_peer(call("a", "1", "run")).await };
    let waiting = tokio::spawn(waiting);
    settle().await;
    assert!(!waiting.is_finished());
    world.stop.cancel();
    let status = waiting.await.expect("task").expect_err("not here");
    assert_eq!(
        status.message,
        "error invoke actor method: remote actor moved"
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_has_a_bound() {
    let (world, _stream) = World::hosting().await;
    world
        .runtime
        .invoke(call("a", "slow", "run"))
        .await
        .expect("runs");
    let before = Instant::now();
    world.stop.cancel();
    world.run.await.expect("ends");
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    assert!(
        world
            .app
            .seen()
            .contains(&Seen::Deactivate("a/slow".to_owned()))
    );
}
