//! One fault at a time, and what it must not cost.

use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Fault, Options, Verb, Versions};
use dapr_kubernetes::{Config, State};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{PATH, Watched, config_map, connect, quick, start, until};

#[tokio::test]
async fn after_410_the_list_is_read_again_at_once() {
    let server = start(Options::complete()).await;
    server.put(config_map("kept", "1"));
    server.put(config_map("lost", "1"));
    // With these pauses a second attempt after back-off would not fit into the limit.
    let slow = Config {
        backoff: dapr_kubernetes::watch::Pace::new(
            Duration::from_secs(300),
            Duration::from_secs(300),
        ),
        ..quick()
    };
    let watched = Watched::config_maps(&server, slow).await.synced().await;
    until("a watch", || server.open_watches(PATH) == 1).await;
    server.disturb(Fault::Silent);
    server.delete(&config_map("lost", ""));
    server.put(config_map("new", "1"));
    server.compact();
    watched.agrees(&server).await;
    assert_eq!(server.count(Verb::List, "configmaps"), 2);
    assert_eq!(watched.told.lock().deleted.len(), 1);
    watched.assert_sound();
}

#[tokio::test]
async fn a_server_that_goes_on_with_410_is_given_pauses() {
    let server = start(Options::complete()).await;
    let config = Config {
        backoff: dapr_kubernetes::watch::Pace::new(
            Duration::from_millis(200),
            Duration::from_millis(200),
        ),
        ..quick()
    };
    let begun = Instant::now();
    for _ in 0..4 {
        server.fail_watch(Fault::Error(410));
    }
    let watched = Watched::config_maps(&server, config).await.synced().await;
    until("a watch at last", || {
        server.count(Verb::Watch, "configmaps") == 5
    })
    .await;
    // The first list follows at once, the other three after at least half of the pause.
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(server.count(Verb::List, "configmaps"), 5);
    watched.assert_sound();
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let server = start(Options::complete()).await;
    server.fail_list(Fault::Status {
        code: 429,
        retry_after: Some(1),
    });
    let watched = Watched::config_maps(&server, quick()).await.synced().await;
    let lists: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| request.verb == Verb::List)
        .map(|list| list.at)
        .collect();
    assert_eq!(lists.len(), 2);
    assert!(
        lists[1] - lists[0] >= Duration::from_secs(1),
        "{:?}",
        lists[1] - lists[0]
    );
    let health = watched.reader.health().borrow().clone();
    assert_eq!(health.state, State::Synced);
    let error = health.last_error.expect("an error");
    assert_eq!(&*error, "list ConfigMap: 429 Too Many Requests: scripted");
}

#[tokio::test]
async fn a_half_closed_connection_is_given_up_in_time() {
    let server = start(Options::complete()).await;
    let config = quick();
    let bound = config.watch_timeout.mul_f64(1.5) + Duration::from_secs(1) + config.grace;
    let watched = Watched::config_maps(&server, config).await.synced().await;
    until("a watch", || server.open_watches(PATH) == 1).await;
    server.disturb(Fault::Silent);
    let begun = Instant::now();
    server.put(config_map("a", "1"));
    watched.agrees(&server).await;
    assert!(
        begun.elapsed() < bound + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        server.count(Verb::List, "configmaps"),
        1,
        "the watch goes on from its version"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_within_an_event_costs_no_list() {
    let server = start(Options::complete()).await;
    let watched = Watched::config_maps(&server, quick()).await.synced().await;
    for (round, fault) in [
        Fault::Reset,
        Fault::Garbage,
        Fault::Error(500),
        Fault::End,
        Fault::Duplicate,
    ]
    .into_iter()
    .enumerate()
    {
        until("a watch", || server.open_watches(PATH) == 1).await;
        server.disturb(fault);
        server.put(config_map("a", &round.to_string()));
        watched.agrees(&server).await;
    }
    assert_eq!(server.count(Verb::List, "configmaps"), 1);
    assert_eq!(watched.told.lock().applied, 5);
    watched.assert_sound();
}

#[tokio::test]
async fn events_that_come_twice_change_nothing() {
    let server = start(Options::complete()).await;
    let watched = Watched::config_maps(&server, quick()).await.synced().await;
    until("a watch", || server.open_watches(PATH) == 1).await;
    for round in ["1", "2", "3"] {
        server.put(config_map("a", round));
    }
    watched.agrees(&server).await;
    // The three come again, and the next one twice.
    server.disturb(Fault::Duplicate);
    server.put(config_map("b", "1"));
    watched.agrees(&server).await;
    server.put(config_map("b", "2"));
    watched.agrees(&server).await;
    assert_eq!(watched.told.lock().applied, 5);
    assert_eq!(server.count(Verb::List, "configmaps"), 1);
    watched.assert_sound();
}

#[tokio::test]
async fn a_server_that_was_away_costs_no_list_and_the_store_stays() {
    let server = start(Options::complete()).await;
    server.put(config_map("a", "1"));
    let watched = Watched::config_maps(&server, quick()).await.synced().await;
    let health = watched.reader.health();
    server.stop().await;
    until("stale", || {
        matches!(health.borrow().state, State::Stale { .. })
    })
    .await;
    server.put(config_map("b", "1"));
    assert_eq!(watched.value("a").as_deref(), Some("1"));
    assert!(watched.reader.is_synced());
    server.resume().await.expect("the same port");
    watched.agrees(&server).await;
    until("synced", || health.borrow().state == State::Synced).await;
    assert_eq!(server.count(Verb::List, "configmaps"), 1);
}

#[tokio::test]
async fn a_server_that_comes_back_with_less_is_followed() {
    for versions in [Versions::On, Versions::Off] {
        let server = start(Options {
            versions,
            ..Options::complete()
        })
        .await;
        for name in ["a", "b", "c"] {
            server.put(config_map(name, "1"));
        }
        let watched = Watched::config_maps(&server, quick()).await.synced().await;
        assert_eq!(watched.reader.len(), 3);
        server.stop().await;
        server.wipe();
        server.put(config_map("b", "2"));
        server.resume().await.expect("the same port");
        watched.agrees(&server).await;
        watched.assert_sound();
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_harms_no_other() {
    let server = start(Options::complete()).await;
    let bad = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default", "name": "b"}, "data": 7});
    server.put(config_map("a", "1"));
    server.put(bad.clone());
    server.put(config_map("c", "1"));
    let watched = Watched::config_maps(&server, quick()).await.synced().await;
    assert_eq!(watched.reader.len(), 2);
    assert_eq!(watched.reader.unreadable(), 1);
    let told = watched.reader.all_unreadable();
    assert_eq!((&*told[0].namespace, &*told[0].name), ("default", "b"));
    assert!(told[0].uid.is_some(), "{told:?}");
    assert!(
        told[0].reason.contains("expected") && !told[0].reason.contains('7'),
        "{told:?}"
    );
    server.put(config_map("b", "2"));
    until("the good version", || {
        watched.value("b").as_deref() == Some("2")
    })
    .await;
    assert_eq!(watched.reader.unreadable(), 0);
    server.put(bad);
    until("the bad version", || watched.reader.unreadable() == 1).await;
    assert_eq!(
        watched.value("b").as_deref(),
        Some("2"),
        "the last good version is served"
    );
    server.put(config_map("d", "1"));
    until("the next object", || watched.value("d").is_some()).await;
    server.delete(&config_map("b", ""));
    watched.agrees(&server).await;
    assert_eq!(watched.reader.unreadable(), 0);
}

#[tokio::test]
async fn lists_are_read_in_pages_and_whole_once_a_page_expired() {
    let server = start(Options::complete()).await;
    for number in 0..25 {
        server.put(config_map(&format!("object-{number:02}"), "1"));
    }
    let config = Config {
        page: 10,
        ..quick()
    };
    let watched = Watched::config_maps(&server, config.clone())
        .await
        .synced()
        .await;
    watched.agrees(&server).await;
    assert_eq!(server.count(Verb::List, "configmaps"), 3);
    drop(watched);

    // The second page of this one is gone: it is followed by one request for everything.
    let slow = start(Options {
        latency: Some(Duration::from_millis(30)),
        ..Options::complete()
    })
    .await;
    for number in 0..25 {
        slow.put(config_map(&format!("object-{number:02}"), "1"));
    }
    let watched = Watched::config_maps(&slow, config).await;
    until("the first page", || watched.reader.len() == 10).await;
    slow.expire_pages();
    watched.agrees(&slow).await;
    let lists: Vec<_> = slow
        .requests()
        .into_iter()
        .filter(|request| request.verb == Verb::List)
        .collect();
    assert_eq!(lists.last().expect("a list").parameter("limit"), None);
    watched.assert_sound();
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_waited_for() {
    let server = start(Options::complete()).await;
    server.install("configmaps", false);
    let watched = Watched::config_maps(&server, quick()).await;
    let health = watched.reader.health();
    until("the reason", || health.borrow().last_error.is_some()).await;
    let error = health.borrow().last_error.clone().expect("an error");
    assert!(
        error.starts_with("list ConfigMap: 404 Not Found: "),
        "{error}"
    );
    assert_eq!(health.borrow().state, State::Starting);
    assert!(health.borrow().is_absent);
    server.install("configmaps", true);
    server.put(config_map("a", "1"));
    watched.agrees(&server).await;
    assert!(!health.borrow().is_absent);
    assert_eq!(watched.told.lock().synced, 1);
}

#[tokio::test]
async fn bookmarks_keep_a_quiet_watch_from_falling_behind() {
    let server = start(Options {
        bookmarks: Some(Duration::from_millis(10)),
        ..Options::complete()
    })
    .await;
    let watched = Watched::config_maps(&server, quick()).await.synced().await;
    until("a watch", || server.open_watches(PATH) == 1).await;
    // Another kind moves the server on, beyond what it remembers.
    let before = server.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "default", "name": "s"}}));
    let contact = watched.reader.health().borrow().last_contact;
    until("a bookmark", || {
        watched.reader.health().borrow().last_contact > contact
    })
    .await;
    let watches = server.count(Verb::Watch, "configmaps");
    until("the next watch", || {
        server.count(Verb::Watch, "configmaps") > watches
    })
    .await;
    let requests = server.requests();
    let last = requests
        .iter()
        .rfind(|request| request.verb == Verb::Watch)
        .expect("a watch");
    assert_eq!(
        last.parameter("resourceVersion"),
        before["metadata"]["resourceVersion"].as_str()
    );
    assert_eq!(server.count(Verb::List, "configmaps"), 1);
}

#[tokio::test]
async fn a_watch_of_one_namespace_knows_where_its_objects_are() {
    let server = start(Options::complete()).await;
    server.put(config_map("a", "1"));
    let mut elsewhere = config_map("b", "1");
    elsewhere["metadata"]["namespace"] = json!("elsewhere");
    server.put(elsewhere);
    let api = kube::Api::<ConfigMap>::namespaced(connect(&server).await, "default");
    let watched = Watched::run(api, quick()).synced().await;
    assert_eq!(watched.seen().keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(watched.reader.in_namespace("default").len(), 1);
    assert_eq!(watched.reader.in_namespace("elsewhere").len(), 0);
}

#[tokio::test]
async fn selectors_are_sent_and_what_stops_matching_is_deleted() {
    let server = start(Options::complete()).await;
    let mut object = config_map("a", "1");
    object["metadata"]["labels"] = json!({"watched": "yes"});
    server.put(object);
    server.put(config_map("b", "1"));
    let config = Config {
        labels: Some("watched=yes".to_owned()),
        ..quick()
    };
    let watched = Watched::config_maps(&server, config).await.synced().await;
    assert_eq!(watched.seen().keys().collect::<Vec<_>>(), ["a"]);
    server.put(config_map("a", "1"));
    until("it is gone", || watched.reader.is_empty()).await;
    watched.assert_sound();
}
