//! State.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_components_core::state::{GetRequest, StateStore};
use dapr_components_in_memory::state::Store;
use dapr_sidecar_core::metrics::Off;
use dapr_sidecar_core::resiliency::Resiliency;
use dapr_sidecar_core::state::{
    DeleteItem, Error, EtagProblem, Operation, SaveItem, Stores, Value,
};

use crate::fakes::metadata;

fn stores(properties: &[(&str, &str)]) -> (Stores, Arc<dyn StateStore>) {
    let stores = Stores::new(
        "app",
        Some("ns"),
        Arc::new(Resiliency::default()),
        Arc::new(Off),
    );
    let store: Arc<dyn StateStore> = Arc::new(Store::open());
    stores
        .add(&metadata("store", properties), Arc::clone(&store))
        .expect("a good component");
    (stores, store)
}

fn save(key: &str, value: &str, etag: Option<&str>) -> SaveItem {
    SaveItem {
        key: key.to_owned(),
        value: Value::Json(value.to_owned().into()),
        etag: etag.map(str::to_owned),
        concurrency: String::new(),
        consistency: String::new(),
        metadata: BTreeMap::new(),
        content_type: None,
    }
}

async fn get(stores: &Stores, key: &str) -> Option<String> {
    let item = stores
        .get("store", key, "", BTreeMap::new())
        .await
        .expect("readable")?;
    Some(String::from_utf8(item.data.to_vec()).expect("text"))
}

#[tokio::test]
async fn values_are_kept_below_the_prefix() {
    let (stores, inner) = stores(&[("keyPrefix", "namespace")]);
    stores
        .save("store", vec![save("k", "1", None)])
        .await
        .expect("saved");
    assert_eq!(get(&stores, "k").await.as_deref(), Some("1"));
    let request = GetRequest {
        key: "ns.app||k".to_owned(),
        ..GetRequest::default()
    };
    assert!(inner.get(request).await.expect("readable").is_some());
    let item = DeleteItem {
        key: "k".to_owned(),
        ..DeleteItem::default()
    };
    stores.delete("store", item.clone()).await.expect("deleted");
    assert_eq!(get(&stores, "k").await, None);
    stores
        .delete("store", item)
        .await
        .expect("a missing key is success");
}

#[tokio::test]
async fn unknown_stores_and_illegal_keys() {
    let none = Stores::new("app", None, Arc::new(Resiliency::default()), Arc::new(Off));
    let error = none.save("s", Vec::new()).await.expect_err("none");
    assert_eq!(error.to_string(), "state store s is not configured");
    let (stores, _) = stores(&[]);
    let error = stores.save("s", Vec::new()).await.expect_err("unknown");
    assert_eq!(error.to_string(), "state store s is not found");
    let error = stores
        .get("store", "a||b", "", BTreeMap::new())
        .await
        .expect_err("illegal");
    assert_eq!(
        error.to_string(),
        "input key/keyPrefix 'a||b' can't contain '||'"
    );
    assert!(stores.remove("store").is_some());
    assert!(matches!(
        stores.store("store"),
        Err(Error::NotConfigured { .. })
    ));
}

#[tokio::test]
async fn components_that_ask_for_too_much_are_refused() {
    let stores = Stores::new("app", None, Arc::new(Resiliency::default()), Arc::new(Off));
    let check = |property: &str, value: &str, expected: &str| {
        let metadata = metadata("s", &[(property, value)]);
        let error = stores
            .add(&metadata, Arc::new(Store::open()))
            .expect_err("refused");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check("primaryEncryptionKey", "00", "primaryEncryptionKey");
    check("outboxPublishPubsub", "bus", "outboxPublishPubsub");
    check(
        "keyPrefix",
        "a||B",
        "failed to save lock keyprefix: api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'",
    );
}

#[tokio::test]
async fn an_option_nobody_knows_fails_its_item_only() {
    let (stores, _) = stores(&[]);
    let mut bad = save("bad", "1", None);
    bad.concurrency = "sometimes".to_owned();
    let error = stores
        .save("store", vec![bad.clone(), save("good", "1", None)])
        .await
        .expect_err("one is bad");
    let Error::Save { etag, reason, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(etag, EtagProblem::None);
    assert_eq!(reason, "unrecognized concurrency model 'sometimes'");
    assert_eq!(get(&stores, "good").await.as_deref(), Some("1"));
    assert_eq!(get(&stores, "bad").await, None);
    let all = stores.save("store", vec![bad.clone(), bad]).await;
    all.expect_err("both are bad");

    let delete = |key: &str, consistency: &str| DeleteItem {
        key: key.to_owned(),
        consistency: consistency.to_owned(),
        ..DeleteItem::default()
    };
    let items = vec![delete("other", "never"), delete("good", "")];
    let error = stores.delete_bulk("store", items).await;
    let error = error.expect_err("one is bad");
    assert!(
        error
            .to_string()
            .contains("unrecognized consistency model 'never'"),
        "{error}"
    );
    assert_eq!(get(&stores, "good").await, None);
}

#[tokio::test]
async fn etag_problems_are_told_apart() {
    let (stores, _) = stores(&[]);
    stores
        .save("store", vec![save("k", "1", None)])
        .await
        .expect("saved");
    let error = stores
        .save("store", vec![save("k", "2", Some("999"))])
        .await
        .expect_err("another etag");
    let Error::Save { etag, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*etag, EtagProblem::Mismatch);
    let text = error.to_string();
    let expected =
        "failed saving state in state store store: possible etag mismatch. error from state store";
    assert!(text.starts_with(expected), "{text}");
    // With several items the others are written, and the text says it twice.
    let items = vec![save("k", "2", Some("999")), save("other", "3", None)];
    let error = stores.save("store", items).await.expect_err("another etag");
    let twice = "possible etag mismatch. error from state store: possible etag mismatch. error from state store";
    assert!(error.to_string().contains(twice), "{error}");
    assert_eq!(get(&stores, "other").await.as_deref(), Some("3"));
    assert_eq!(get(&stores, "k").await.as_deref(), Some("1"));
    let item = DeleteItem {
        key: "k".to_owned(),
        etag: Some("999".to_owned()),
        ..DeleteItem::default()
    };
    // Of a single item the text says it once.
    let alone = stores.delete_bulk("store", vec![item.clone()]).await;
    let text = alone.expect_err("another etag").to_string();
    assert!(
        text.starts_with("failed deleting state in state store store: possible etag")
            && !text.contains(twice),
        "{text}"
    );
    let error = stores
        .delete("store", item)
        .await
        .expect_err("another etag");
    assert!(
        matches!(
            error,
            Error::Delete {
                etag: EtagProblem::Mismatch,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .starts_with("failed deleting state with key k: possible etag")
    );
}

#[tokio::test]
async fn wrong_options_are_refused() {
    let (stores, _) = stores(&[]);
    let item = DeleteItem {
        key: "k".to_owned(),
        concurrency: "sometimes".to_owned(),
        ..DeleteItem::default()
    };
    let error = stores.delete("store", item).await.expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "failed deleting state with key k: unrecognized concurrency model 'sometimes'"
    );
}

#[tokio::test]
async fn bulk_reads_give_the_callers_keys() {
    let (stores, _) = stores(&[]);
    stores
        .save("store", vec![save("a", "1", None), save("b", "2", None)])
        .await
        .expect("saved");
    let keys = ["b", "missing", "a"].map(str::to_owned).to_vec();
    let mut items = stores
        .bulk_get("store", keys, 2, BTreeMap::new())
        .await
        .expect("readable");
    items.sort_by(|left, right| left.key.cmp(&right.key));
    let found: Vec<_> = items
        .into_iter()
        .map(|item| {
            let data = item.result.expect("readable").map(|item| item.data);
            (item.key, data)
        })
        .collect();
    let expected = [
        ("a".to_owned(), Some("1".into())),
        ("b".to_owned(), Some("2".into())),
        ("missing".to_owned(), None),
    ];
    assert_eq!(found, expected);
    let items = ["a", "b"].map(|key| DeleteItem {
        key: key.to_owned(),
        ..DeleteItem::default()
    });
    stores
        .delete_bulk("store", items.to_vec())
        .await
        .expect("deleted");
    assert_eq!(get(&stores, "a").await, None);
}

#[tokio::test]
async fn transactions_are_all_or_nothing() {
    let (stores, _) = stores(&[]);
    stores
        .save("store", vec![save("a", "1", None)])
        .await
        .expect("saved");
    let operations = vec![
        Operation::Upsert(save("b", "2", None)),
        Operation::Upsert(save("a", "9", Some("999"))),
    ];
    let error = stores
        .transact("store", operations, BTreeMap::new())
        .await
        .expect_err("another etag");
    let text = error.to_string();
    assert!(
        text.starts_with("error while executing state transaction: "),
        "{text}"
    );
    assert_eq!(get(&stores, "b").await, None);
    let operations = vec![
        Operation::Upsert(save("b", "2", None)),
        Operation::Delete(DeleteItem {
            key: "a".to_owned(),
            ..DeleteItem::default()
        }),
    ];
    stores
        .transact("store", operations, BTreeMap::new())
        .await
        .expect("done");
    assert_eq!(get(&stores, "a").await, None);
    assert_eq!(get(&stores, "b").await.as_deref(), Some("2"));
    stores
        .transact("store", Vec::new(), BTreeMap::new())
        .await
        .expect("nothing is success");
}

#[tokio::test]
async fn the_query_api_is_refused() {
    let (stores, _) = stores(&[]);
    let error = stores
        .query("store", "{}", BTreeMap::new())
        .await
        .expect_err("refused");
    assert_eq!(error.to_string(), "state store does not support querying");
}
