//! Transactions: in order, all or nothing.

use super::{Suite, mismatch};
use crate::Error;
use crate::state::{Feature, Operation, RequestMetadata};

pub(super) async fn run(suite: &Suite<'_>) {
    in_order(suite).await;
    all_or_nothing(suite).await;
    etags_of_the_past_are_refused(suite).await;
    if suite.has(Feature::Ttl) {
        bad_operations_roll_back(suite).await;
    }
}

async fn transact(suite: &Suite<'_>, operations: Vec<Operation>) -> Result<(), Error> {
    suite
        .store
        .transact(operations, RequestMetadata::new())
        .await
}

fn upsert(suite: &Suite<'_>, name: &str, json: &'static str) -> Operation {
    Operation::Upsert(suite.set_request(name, json))
}

fn delete(suite: &Suite<'_>, name: &str) -> Operation {
    Operation::Delete(suite.delete_request(name))
}

async fn in_order(suite: &Suite<'_>) {
    transact(suite, Vec::new())
        .await
        .expect("an empty transaction is nothing to do");
    suite.set("tx-old", "1").await;
    let operations = vec![
        upsert(suite, "tx-new", "1"),
        delete(suite, "tx-old"),
        delete(suite, "tx-missing"),
        upsert(suite, "tx-twice", "1"),
        upsert(suite, "tx-twice", "2"),
        upsert(suite, "tx-gone", "1"),
        delete(suite, "tx-gone"),
    ];
    transact(suite, operations).await.expect("transaction");
    assert_eq!(suite.data("tx-new").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(suite.get("tx-old").await, None);
    assert_eq!(
        suite.data("tx-twice").await.as_deref(),
        Some(&b"2"[..]),
        "the later operation wins"
    );
    assert_eq!(
        suite.get("tx-gone").await,
        None,
        "a delete after an upsert wins"
    );
}

async fn all_or_nothing(suite: &Suite<'_>) {
    suite.set("tx-kept", "1").await;
    suite.set("tx-wrong", "1").await;
    let mut wrong = suite.delete_request("tx-wrong");
    wrong.etag = Some("0".to_owned());
    let before = suite.item("tx-kept").await;
    let operations = vec![
        upsert(suite, "tx-created", "1"),
        upsert(suite, "tx-kept", "2"),
        Operation::Delete(wrong),
        upsert(suite, "tx-after", "1"),
    ];
    assert!(
        transact(suite, operations).await.is_err(),
        "a wrong etag fails the transaction"
    );
    assert_eq!(
        suite.get("tx-created").await,
        None,
        "a failed transaction creates nothing"
    );
    assert_eq!(
        suite.item("tx-kept").await,
        before,
        "a failed transaction changes nothing, etag included"
    );
    assert_eq!(suite.get("tx-after").await, None);
    suite.set("tx-kept", "3").await;
    assert_eq!(
        suite.data("tx-kept").await.as_deref(),
        Some(&b"3"[..]),
        "the store still works after a rollback"
    );
}

async fn etags_of_the_past_are_refused(suite: &Suite<'_>) {
    suite.set("tx-etag", "1").await;
    let etag = suite.etag("tx-etag").await;
    let mut request = suite.set_request("tx-etag", "2");
    request.etag = Some(etag.clone());
    transact(suite, vec![Operation::Upsert(request.clone())])
        .await
        .expect("upsert with the stored etag");
    mismatch(
        transact(suite, vec![Operation::Upsert(request)]).await,
        "transaction with an etag of the past",
    );
    assert_eq!(suite.data("tx-etag").await.as_deref(), Some(&b"2"[..]));
    let mut request = suite.delete_request("tx-etag");
    request.etag = Some(etag);
    mismatch(
        transact(suite, vec![Operation::Delete(request)]).await,
        "transactional delete with an etag of the past",
    );
    let mut request = suite.delete_request("tx-etag");
    request.etag = Some(suite.etag("tx-etag").await);
    transact(suite, vec![Operation::Delete(request)])
        .await
        .expect("delete with the stored etag");
    assert_eq!(suite.get("tx-etag").await, None);
}

async fn bad_operations_roll_back(suite: &Suite<'_>) {
    let mut bad = suite.set_request("tx-bad", "1");
    bad.metadata
        .insert("ttlInSeconds".to_owned(), "x".to_owned());
    let operations = vec![upsert(suite, "tx-good", "1"), Operation::Upsert(bad)];
    assert!(
        transact(suite, operations).await.is_err(),
        "a wrong TTL fails the transaction"
    );
    assert_eq!(
        suite.get("tx-good").await,
        None,
        "a wrong TTL undoes the operations before it"
    );
}
