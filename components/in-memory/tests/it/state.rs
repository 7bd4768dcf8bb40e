use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dapr_components_core::state::{
    Concurrency, Consistency, DeleteRequest, GetRequest, KeysLikeRequest, SetRequest, StateStore,
    Value,
};
use dapr_components_core::{ErrorKind, Metadata, Registries, conformance};

async fn open() -> Arc<dyn StateStore> {
    let mut registries = Registries::default();
    dapr_components_in_memory::register(&mut registries);
    let metadata = Metadata::new("store", "state.in-memory", "v1", []).expect("metadata");
    registries.state.open(metadata).await.expect("open")
}

fn set(key: &str, ttl: Option<&str>) -> SetRequest {
    SetRequest {
        key: key.to_owned(),
        value: Value::Json(Bytes::from_static(b"1")),
        etag: None,
        concurrency: Concurrency::Unspecified,
        consistency: Consistency::Unspecified,
        metadata: ttl
            .map(|ttl| ("ttlInSeconds".to_owned(), ttl.to_owned()))
            .into_iter()
            .collect(),
        content_type: None,
    }
}

async fn is_there(store: &dyn StateStore, key: &str) -> bool {
    let request = GetRequest {
        key: key.to_owned(),
        ..GetRequest::default()
    };
    store.get(request).await.expect("get").is_some()
}

#[tokio::test(start_paused = true)]
async fn conforms() {
    conformance::state::run(&*open().await).await;
}

#[tokio::test]
async fn lists_its_capabilities_in_upstream_s_order() {
    let store = open().await;
    let names: Vec<_> = store
        .features()
        .iter()
        .map(|feature| feature.name())
        .collect();
    assert_eq!(
        names,
        [
            "ETAG",
            "TRANSACTIONAL",
            "TTL",
            "DELETE_WITH_PREFIX",
            "KEYS_LIKE"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn items_expire_to_the_second() {
    let store = open().await;
    store.set(set("a", Some("5"))).await.expect("set");
    tokio::time::advance(Duration::from_millis(4_999)).await;
    assert!(is_there(&*store, "a").await);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!is_there(&*store, "a").await);
}

#[tokio::test]
async fn every_integer_is_a_ttl_and_nothing_else() {
    let store = open().await;
    for ttl in [
        "-2",
        "-9223372036854775808",
        "9223372036854775807",
        "2147483648",
    ] {
        store
            .set(set("a", Some(ttl)))
            .await
            .unwrap_or_else(|error| panic!("TTL {ttl}: {error}"));
        assert!(is_there(&*store, "a").await, "TTL {ttl}");
    }
    let error = store
        .set(set("a", Some("x")))
        .await
        .expect_err("no integer");
    assert_eq!(
        error.to_string(),
        "strconv.Atoi: parsing \"x\": invalid syntax"
    );
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn first_write_guards_deletes_too() {
    let store = open().await;
    store.set(set("a", None)).await.expect("set");
    let request = DeleteRequest {
        key: "a".to_owned(),
        concurrency: Concurrency::FirstWrite,
        ..DeleteRequest::default()
    };
    let error = store.delete(request).await.expect_err("the key exists");
    assert_eq!(
        error.to_string(),
        "possible etag mismatch. error from state store: item already exists and no etag was passed"
    );
    assert!(is_there(&*store, "a").await);
}

#[tokio::test]
async fn keys_are_listed_in_the_order_of_insertion() {
    let store = open().await;
    for key in ["c", "a", "b", "c"] {
        store.set(set(key, None)).await.expect("set");
    }
    let request = KeysLikeRequest {
        pattern: "%".to_owned(),
        ..KeysLikeRequest::default()
    };
    assert_eq!(
        store.keys_like(request).await.expect("list").keys,
        ["c", "a", "b"]
    );
}
