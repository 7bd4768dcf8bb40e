//! Servers that do less than they should.

use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Options, Verb, Versions};
use dapr_kubernetes::Config;
use tokio::time::Instant;

use crate::support::{Watched, config_map, start, until};

/// The defaults: what they promise about a minimal server is tested as it stands.
fn config() -> Config {
    Config::default()
}

#[tokio::test]
async fn a_watch_that_ends_after_one_event_makes_nobody_wait() {
    let server = start(Options::minimal()).await;
    server.put(config_map("a", "0"));
    let watched = Watched::config_maps(&server, config()).await.synced().await;
    until("a watch", || server.count(Verb::Watch, "configmaps") > 0).await;
    for round in 1..=20 {
        let begun = Instant::now();
        server.put(config_map("a", &round.to_string()));
        watched.agrees(&server).await;
        // A change that falls between two watches is found by the list that follows, a pause later at most.
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "round {round}: {:?}",
            begun.elapsed()
        );
    }
    server.delete(&config_map("a", ""));
    watched.agrees(&server).await;
    watched.assert_sound();
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.parameter("resourceVersion").is_none())
    );
    assert_eq!(server.count(Verb::Get, "configmaps"), 0);
}

#[tokio::test]
async fn a_minimal_server_is_not_hammered() {
    // Every watch begins with an event that says nothing new, and ends with it.
    let server = start(Options {
        initial_events: true,
        ..Options::minimal()
    })
    .await;
    server.put(config_map("a", "1"));
    server.put(config_map("b", "1"));
    let begun = Instant::now();
    let watched = Watched::config_maps(&server, config()).await.synced().await;
    until("some lists", || server.count(Verb::List, "configmaps") >= 4).await;
    let seconds = begun.elapsed().as_secs_f64();
    // Lists 1, 1.5 and 2.25 s apart; watches from 50 ms to 1 s apart.
    assert!(seconds > 4.0, "{seconds} s");
    let watches = server.count(Verb::Watch, "configmaps");
    assert!(watches <= 12, "{watches} watches in {seconds} s");
    server.put(config_map("b", "2"));
    let begun = Instant::now();
    watched.agrees(&server).await;
    // Such a watch shows the first object only: the other is found by the list.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_server_without_versions_but_with_lasting_watches_is_listed_twice() {
    let server = start(Options {
        versions: Versions::Off,
        ..Options::complete()
    })
    .await;
    server.put(config_map("a", "1"));
    let watched = Watched::config_maps(&server, config()).await.synced().await;
    until("the second list", || {
        server.count(Verb::List, "configmaps") == 2
    })
    .await;
    for round in 0..10 {
        server.put(config_map("b", &round.to_string()));
        watched.agrees(&server).await;
    }
    assert_eq!(server.count(Verb::List, "configmaps"), 2);
    assert_eq!(server.count(Verb::Watch, "configmaps"), 1);
}

#[tokio::test]
async fn a_head_that_waits_for_the_first_event_is_no_obstacle() {
    let server = start(Options {
        late_heads: true,
        ..Options::minimal()
    })
    .await;
    let watched = Watched::config_maps(&server, config()).await.synced().await;
    until("the second list", || {
        server.count(Verb::List, "configmaps") == 2
    })
    .await;
    for round in 0..3 {
        server.put(config_map("a", &round.to_string()));
        watched.agrees(&server).await;
    }
    watched.assert_sound();
}

#[tokio::test]
async fn versions_that_are_given_but_watches_that_end_at_once_lose_nothing() {
    let server = start(Options {
        events_per_watch: Some(1),
        initial_events: false,
        ..Options::complete()
    })
    .await;
    let watched = Watched::config_maps(&server, config()).await.synced().await;
    for round in 0..30 {
        server.put(config_map(
            &format!("object-{}", round % 3),
            &round.to_string(),
        ));
    }
    watched.agrees(&server).await;
    watched.assert_sound();
}
