//! API servers that do little, or fail.

use std::time::Duration;

use dapr_operator::app::Duties;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, advance, pause, resume};

use super::*;
use crate::support::IDLE;

/// What the page of the health server says of a kind.
fn stands(operator: &Operator, kind: &str) -> String {
    let page: Value = serde_json::from_slice(&operator.state.text(Instant::now())).expect("JSON");
    let lines = page.as_array().expect("lines");
    let line = lines.iter().find(|line| line["kind"] == kind);
    line.map_or_else(String::new, |line| line["state"].to_string())
}

/// Lets so many seconds pass on a clock that stands, with time between them for sockets.
async fn pass(seconds: usize) {
    for _ in 0..seconds {
        advance(Duration::from_secs(1)).await;
        // The clock does not run on while a thread is busy.
        drop(spawn_blocking(|| std::thread::park_timeout(Duration::from_millis(3))).await);
    }
}

#[tokio::test]
async fn a_minimal_api_server_is_enough() {
    let place = Place::new(Options {
        versions: Versions::Off,
        initial_events: false,
        events_per_watch: Some(1),
        paging: false,
        named_gets: false,
        namespaced_lists: false,
        ..Options::complete()
    })
    .await;
    place.secret("default", "redis", "b25l");
    place.put(with_secret("store", "redis"));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let value = |object: &Value| object["spec"]["metadata"][1]["value"].clone();
    eventually("the secret is seen", async || {
        let list = components(&mut shop, "default").await;
        list.is_ok_and(|list| value(&list[0]) == "b25l")
    })
    .await;
    let mut stream = component_stream(&mut shop, "default").await;
    for name in ["a", "b", "c"] {
        place.put(component(name, "v1", &[]));
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (r#type, object) = next(&mut stream).await;
        // The Secret may be seen for the first time only now.
        if r#type == 1 {
            seen.push(object["metadata"]["name"].clone());
        }
    }
    seen.sort_by_key(ToString::to_string);
    assert_eq!(seen, ["a", "b", "c"]);
    place.secret("default", "redis", "dHdv");
    let mut object = json!(null);
    while value(&object) != "dHdv" {
        object = next(&mut stream).await.1;
    }
}

#[tokio::test]
async fn what_is_known_is_served_while_the_api_server_is_away_for_a_minute() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    assert_eq!(stands(&operator, "Component"), "\"followed\"");
    place.server.stop().await;
    place.put(component("b", "v1", &[]));
    place.server.delete(&component("a", "v1", &[]));
    pause();
    pass(60).await;
    resume();
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["a"]);
    // Ready all the same: a restart would lose what is known.
    assert!(operator.health.is_ready());
    for kind in ["Component", "Pod", "Secret", "Service"] {
        assert_eq!(stands(&operator, kind), "\"stale\"", "{kind}");
    }
    place.server.resume().await.expect("resumed");
    pause();
    // No pause after a failure is longer.
    pass(35).await;
    resume();
    let mut told = [next(&mut stream).await, next(&mut stream).await]
        .map(|(r#type, object)| (r#type, object["metadata"]["name"].clone()));
    told.sort_by_key(|(r#type, _)| *r#type);
    assert_eq!(told, [(1, json!("b")), (3, json!("a"))]);
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["b"]);
    eventually("everything is followed", async || {
        let kinds = ["Component", "Pod", "Secret", "Service"];
        kinds
            .iter()
            .all(|kind| stands(&operator, kind) == "\"followed\"")
    })
    .await;
}

/// A workload that wants a Service.
fn workload(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": name}}},
        },
    })
}

#[tokio::test]
async fn a_leader_serves_on_while_the_api_server_is_away_for_a_minute_and_leads_again() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    place.put(workload("first"));
    let duties = Duties {
        services: true,
        ..IDLE
    };
    let kubeconfig = place.kubeconfig();
    let mut operator = Operator::start_as(kubeconfig, None, duties, Some("dapr-system")).await;
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}});
    eventually("it leads", async || {
        place.server.get(&service("first-dapr")).is_some()
    })
    .await;
    eventually("it is ready", async || operator.health.is_ready()).await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "operator.dapr.io", "namespace": "dapr-system"},
    });
    let holder = || {
        let lease = place.server.get(&lease).expect("a lease");
        lease["spec"]["holderIdentity"].clone()
    };
    let first = holder();

    place.server.stop().await;
    place.put(component("b", "v1", &[]));
    place.put(workload("second"));
    pause();
    pass(60).await;
    resume();
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["a"]);
    assert!(operator.health.is_ready());
    assert_eq!(stands(&operator, "Component"), "\"stale\"");
    // Its term is over, and with it what only a leader watches.
    assert_eq!(stands(&operator, "Deployment"), "");
    assert!(operator.work.try_join_next().is_none(), "it goes on");

    place.server.resume().await.expect("resumed");
    pause();
    pass(35).await;
    resume();
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["metadata"]["name"]), (1, &json!("b")));
    eventually("it leads again", async || {
        place.server.get(&service("second-dapr")).is_some()
    })
    .await;
    assert_eq!(holder(), first);
    eventually("everything is followed", async || {
        ["Component", "Deployment", "Service"]
            .iter()
            .all(|kind| stands(&operator, kind) == "\"followed\"")
    })
    .await;
    assert!(operator.work.try_join_next().is_none());
}

/// Somebody else leads by then, so what this one holds of its term is worth nothing.
#[tokio::test]
async fn a_leader_whose_lease_was_taken_in_an_outage_ends() {
    let place = Place::complete().await;
    let kubeconfig = place.kubeconfig();
    let mut operator = Operator::start_as(kubeconfig, None, IDLE, Some("dapr-system")).await;
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "operator.dapr.io", "namespace": "dapr-system"},
    });
    eventually("it leads", async || place.server.get(&lease).is_some()).await;
    place.server.stop().await;
    lease["spec"] = json!({"holderIdentity": "other", "leaseDurationSeconds": 15});
    place.put(lease);
    pause();
    pass(30).await;
    resume();
    assert!(operator.work.try_join_next().is_none(), "it cannot know");
    place.server.resume().await.expect("resumed");
    let ended = timeout(SOON, operator.work.join_next()).await;
    let error = ended.expect("in time").expect("work").expect("no panic");
    let text = "leader election lost: \"other\" holds the lease \"operator.dapr.io\"";
    assert_eq!(error.expect_err("lost").to_string(), text);
}

#[tokio::test]
async fn a_slow_api_server_slows_no_sidecar_down() {
    const SLOW: Duration = Duration::from_millis(1500);
    let place = Place::new(Options {
        latency: Some(SLOW),
        ..Options::complete()
    })
    .await;
    place.put(component("a", "v1", &[]));
    place.secret("default", "redis", "b25l");
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let asked = Instant::now();
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["a"]);
    assert!(asked.elapsed() < SLOW, "{:?}", asked.elapsed());
    let mut stream = component_stream(&mut shop, "default").await;
    // A sidecar that waits for a slow Secret holds up no other.
    let mut concerned = with_secret("store", "redis");
    concerned["scopes"] = json!(["cart"]);
    place.put(concerned);
    let mut cart = operator.app("default", "cart").await;
    eventually("the Component is seen", async || {
        let list = components(&mut cart, "default").await.expect("a list");
        list.len() == 2
    })
    .await;
    place.put(component("b", "v1", &[]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["metadata"]["name"]), (1, &json!("b")));
    assert_eq!(stands(&operator, "Component"), "\"followed\"");
}

#[tokio::test]
async fn an_api_server_that_has_too_much_to_do_is_asked_later() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let too_many = Fault::Status {
        code: 429,
        retry_after: Some(1),
    };
    // One for each kind, and one more.
    for _ in 0..11 {
        place.server.fail_list(too_many);
    }
    let asked = Instant::now();
    let operator = place.operator().await;
    assert!(
        asked.elapsed() >= Duration::from_secs(1),
        "it asks as late as it is told to"
    );
    let mut shop = operator.app("default", "shop").await;
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["a"]);
}

#[tokio::test]
async fn history_that_is_gone_loses_nothing() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    place.server.stop().await;
    place.server.delete(&component("a", "v1", &[]));
    place.put(component("b", "v1", &[]));
    place.server.compact();
    place.server.resume().await.expect("resumed");
    let mut told = [next(&mut stream).await, next(&mut stream).await]
        .map(|(r#type, object)| (r#type, object["metadata"]["name"].clone()));
    told.sort_by_key(|(r#type, _)| *r#type);
    assert_eq!(told, [(1, json!("b")), (3, json!("a"))]);
}

#[tokio::test]
async fn a_new_certificate_and_new_trust_anchors_break_no_stream() {
    let place = Place::complete().await;
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    let svid = operator.authority.svid(OPERATOR);
    let replaced = operator
        .publisher
        .replace(svid, operator.authority.anchors());
    replaced.expect("a new certificate");
    let mut cart = operator.app("default", "cart").await;
    assert!(components(&mut cart, "default").await.is_ok());
    // Another authority: who is connected stays, and who comes has to be of it.
    let other = Authority::new();
    let replaced = operator
        .publisher
        .replace(other.svid(OPERATOR), other.anchors());
    replaced.expect("another authority");
    place.put(component("a", "v1", &[]));
    assert_eq!(next(&mut stream).await.0, 1);
    let id = "spiffe://public/ns/default/new";
    let mut new = connect(&other, operator.port(), id).await;
    assert!(components(&mut new, "default").await.is_ok());
    let old = operator.authority.security(id);
    let expect = dapr_security::Expect::Id(dapr_security::SpiffeId::new(OPERATOR).expect("an id"));
    let endpoint = tonic::transport::Endpoint::from_shared(operator.url()).expect("a URL");
    let refused = endpoint.connect_with_connector(old.connector(expect)).await;
    assert!(refused.is_err(), "the old authority is not trusted");
}

#[tokio::test]
async fn failures_lose_nothing() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    let too_many = Fault::Status {
        code: 429,
        retry_after: Some(1),
    };
    let faults = [
        Fault::Error(410),
        Fault::Reset,
        Fault::Garbage,
        Fault::End,
        too_many,
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        place.server.disturb(fault);
        let version = format!("v{}", index + 2);
        place.put(component("a", &version, &[]));
        let (r#type, object) = next(&mut stream).await;
        assert_eq!(
            (r#type, &object["spec"]["version"]),
            (2, &json!(version)),
            "{fault:?}"
        );
    }
}
