//! API servers that do little, or fail.

use super::*;

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
async fn what_is_known_is_served_while_the_api_server_is_away() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    place.server.stop().await;
    place.put(component("b", "v1", &[]));
    place.server.delete(&component("a", "v1", &[]));
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["a"]);
    assert!(operator.health.is_ready());
    place.server.resume().await.expect("resumed");
    let mut told = [next(&mut stream).await, next(&mut stream).await]
        .map(|(r#type, object)| (r#type, object["metadata"]["name"].clone()));
    told.sort_by_key(|(r#type, _)| *r#type);
    assert_eq!(told, [(1, json!("b")), (3, json!("a"))]);
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["b"]);
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
