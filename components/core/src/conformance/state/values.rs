//! Reading, writing, deleting, in bulk too, and what values look like afterwards.

use bytes::Bytes;

use super::{Suite, set_request};
use crate::state::{GetRequest, Value};

pub(super) async fn run(suite: &Suite<'_>) {
    crud(suite).await;
    json_comes_back_as_written(suite).await;
    bytes_come_back_as_written(suite).await;
    keys_are_text_of_any_kind(suite).await;
    bulk_get(suite).await;
    bulk_set_and_delete(suite).await;
}

async fn crud(suite: &Suite<'_>) {
    assert_eq!(
        suite.get("missing").await,
        None,
        "a missing key is no error and no item"
    );
    suite.delete("missing").await;
    suite.set("crud", "1").await;
    assert_eq!(suite.data("crud").await, Some(Bytes::from_static(b"1")));
    suite.set("crud", "{\"a\":2}").await;
    assert_eq!(
        suite.data("crud").await,
        Some(Bytes::from_static(b"{\"a\":2}")),
        "a second write replaces the first"
    );
    suite.delete("crud").await;
    assert_eq!(suite.get("crud").await, None, "a deleted key is gone");
    suite.set("crud", "3").await;
    assert_eq!(
        suite.data("crud").await,
        Some(Bytes::from_static(b"3")),
        "a deleted key can be written again"
    );
}

async fn json_comes_back_as_written(suite: &Suite<'_>) {
    for json in [
        "null",
        "true",
        "\"\"",
        "\"a\\u003cb\"",
        "[1,\"x\",{}]",
        "{\"a\":{\"b\":[]}}",
        "\"Ü 🦀\"",
        "1.5e300",
    ] {
        suite.set("json", json).await;
        assert_eq!(
            suite.data("json").await.as_deref(),
            Some(json.as_bytes()),
            "JSON value {json}"
        );
    }
}

async fn bytes_come_back_as_written(suite: &Suite<'_>) {
    let every: Vec<u8> = (0..=255).collect();
    let large = vec![0xA5; 300_000];
    for value in [
        &b""[..],
        b"a",
        b"ab",
        b"abc",
        b"{\"not\":\"parsed\"",
        b"\"quoted\"",
        &every,
        &large,
    ] {
        let mut request = suite.set_request("bytes", "0");
        request.value = Value::Binary(Bytes::copy_from_slice(value));
        suite
            .store
            .set(request)
            .await
            .unwrap_or_else(|error| panic!("set of {} bytes: {error}", value.len()));
        let item = suite.item("bytes").await;
        assert_eq!(
            item.data.as_ref(),
            value,
            "binary value of {} bytes",
            value.len()
        );
    }
}

async fn keys_are_text_of_any_kind(suite: &Suite<'_>) {
    let names = [
        "a b",
        "ümläut",
        "per%cent",
        "under_score",
        "quo'te",
        "A",
        "a",
        "x||y||z",
    ];
    for name in names {
        suite
            .store
            .set(set_request(suite.key(name), "0"))
            .await
            .expect("any text is a key");
    }
    suite.set("a", "1").await;
    for name in names {
        let expected: &[u8] = if name == "a" { b"1" } else { b"0" };
        assert_eq!(
            suite.data(name).await.as_deref(),
            Some(expected),
            "keys are exact: {name}"
        );
    }
}

async fn bulk_get(suite: &Suite<'_>) {
    suite.set("bulk-1", "1").await;
    suite.set("bulk-2", "2").await;
    for parallelism in [0, 1, 10] {
        let names = ["bulk-1", "bulk-missing", "bulk-2"];
        let requests = names.map(|name| GetRequest {
            key: suite.key(name),
            ..GetRequest::default()
        });
        let mut items = suite
            .store
            .bulk_get(requests.into(), parallelism)
            .await
            .expect("bulk get");
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        assert_eq!(
            keys,
            ["bulk-1", "bulk-2", "bulk-missing"].map(|name| suite.key(name)),
            "one entry per key"
        );
        let data: Vec<_> = items
            .into_iter()
            .map(|item| item.result.expect("no key fails").map(|item| item.data))
            .collect();
        assert_eq!(
            data,
            [
                Some(Bytes::from_static(b"1")),
                Some(Bytes::from_static(b"2")),
                None
            ]
        );
    }
    assert!(
        suite
            .store
            .bulk_get(Vec::new(), 0)
            .await
            .expect("empty bulk get")
            .is_empty()
    );
}

async fn bulk_set_and_delete(suite: &Suite<'_>) {
    let names: Vec<_> = (0..50).map(|n| format!("many-{n}")).collect();
    let sets = names
        .iter()
        .map(|name| suite.set_request(name, "7"))
        .collect();
    suite.store.bulk_set(sets).await.expect("bulk set");
    for name in &names {
        assert_eq!(
            suite.data(name).await.as_deref(),
            Some(&b"7"[..]),
            "written by bulk set: {name}"
        );
    }
    let deletes = names
        .iter()
        .map(|name| suite.delete_request(name))
        .collect();
    suite.store.bulk_delete(deletes).await.expect("bulk delete");
    for name in &names {
        assert_eq!(
            suite.get(name).await,
            None,
            "deleted by bulk delete: {name}"
        );
    }
}
