//! Actor state on a store.

use bytes::Bytes;
use dapr_components_core::state::Operation;
use dapr_sidecar_core::actors::{Actors as _, Error, StateOperation};

use crate::fixture::{World, call};

fn upsert(key: &str, value: &'static str) -> StateOperation {
    StateOperation::Upsert {
        key: key.to_owned(),
        value: Bytes::from_static(value.as_bytes()),
        etag: None,
        metadata: Default::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn state_is_kept_below_the_actor() {
    let (world, _stream) = World::hosting().await;
    let missing = world
        .runtime
        .transact("a", "1", vec![upsert("k", "1")])
        .await;
    assert_eq!(missing.err(), Some(Error::InstanceMissing));
    // Also where there is nothing to do.
    let missing = world.runtime.transact("a", "1", Vec::new()).await;
    assert_eq!(missing.err(), Some(Error::InstanceMissing));
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    let delete = StateOperation::Delete {
        key: "old".to_owned(),
        etag: Some("7".to_owned()),
    };
    let operations = vec![upsert("k", r#"{"x":1}"#), delete];
    world
        .runtime
        .transact("a", "1", operations)
        .await
        .expect("saved");

    let transactions = world.store.transactions.lock().clone();
    let (operations, metadata) = &transactions[0];
    assert_eq!(metadata["partitionKey"], "app||a||1");
    let keys: Vec<_> = operations.iter().map(Operation::key).collect();
    assert_eq!(keys, ["app||a||1||k", "app||a||1||old"]);
    let Operation::Delete(delete) = &operations[1] else {
        panic!("{operations:?}");
    };
    assert_eq!(delete.etag.as_deref(), Some("7"));
    assert_eq!(delete.metadata["partitionKey"], "app||a||1");

    let item = world
        .runtime
        .get_state("a", "1", "k")
        .await
        .expect("read")
        .expect("there");
    assert_eq!(item.data, r#"{"x":1}"#);
    assert_eq!(
        world.store.gets.lock()[0].metadata["partitionKey"],
        "app||a||1"
    );
    let none = world
        .runtime
        .get_state("elsewhere", "1", "k")
        .await
        .expect("read");
    assert!(none.is_none());
}

#[tokio::test(start_paused = true)]
async fn refused_transactions() {
    let (world, _stream) = World::hosting().await;
    world
        .runtime
        .invoke(call("a", "1", "run"))
        .await
        .expect("runs");
    world
        .runtime
        .transact("a", "1", Vec::new())
        .await
        .expect("nothing to do");
    let check = async |operations: Vec<StateOperation>, expected: &str| {
        let error = world
            .runtime
            .transact("a", "1", operations)
            .await
            .expect_err("refused");
        let expected = format!("error saving actor transaction state: {expected}");
        assert_eq!(error.to_string(), expected);
    };
    check(
        (0..4).map(|_| upsert("k", "1")).collect(),
        "the transaction contains more operations than supported by the state store",
    )
    .await;
    check(vec![upsert("", "1")], "missing key").await;
    let expiring = StateOperation::Upsert {
        key: "k".to_owned(),
        value: Bytes::new(),
        etag: None,
        metadata: [("ttlInSeconds".to_owned(), "5".to_owned())].into(),
    };
    check(
        vec![expiring],
        "ttlInSeconds is not supported without the \"ActorStateTTL\" feature enabled",
    )
    .await;
    assert!(world.store.transactions.lock().is_empty());
}
