//! Conditional writes.

use futures::future::join_all;

use super::{Suite, mismatch};
use crate::ErrorKind;
use crate::state::{Concurrency, DeleteRequest, SetRequest};

pub(super) async fn run(suite: &Suite<'_>) {
    every_write_changes_the_etag(suite).await;
    sets(suite).await;
    deletes(suite).await;
    an_empty_etag_is_none(suite).await;
    first_write(suite).await;
    bulk_writes_are_independent(suite).await;
    of_concurrent_first_writes_one_wins(suite).await;
    of_concurrent_writes_with_one_etag_one_wins(suite).await;
}

fn with_etag(mut request: SetRequest, etag: &str) -> SetRequest {
    request.etag = Some(etag.to_owned());
    request
}

fn delete_with(mut request: DeleteRequest, etag: &str) -> DeleteRequest {
    request.etag = Some(etag.to_owned());
    request
}

async fn every_write_changes_the_etag(suite: &Suite<'_>) {
    suite.set("etag", "1").await;
    let first = suite.etag("etag").await;
    assert!(!first.is_empty(), "an etag is never empty");
    assert_eq!(
        suite.etag("etag").await,
        first,
        "reading does not change the etag"
    );
    suite.set("etag", "1").await;
    assert_ne!(
        suite.etag("etag").await,
        first,
        "a write of the same value changes the etag"
    );
}

async fn sets(suite: &Suite<'_>) {
    suite.set("etag-set", "1").await;
    let etag = suite.etag("etag-set").await;
    let request = suite.set_request("etag-set", "2");
    suite
        .store
        .set(with_etag(request, &etag))
        .await
        .expect("set with the stored etag");
    assert_ne!(suite.etag("etag-set").await, etag);
    let request = suite.set_request("etag-set", "3");
    mismatch(
        suite.store.set(with_etag(request, &etag)).await,
        "set with an etag of the past",
    );
    assert_eq!(
        suite.data("etag-set").await.as_deref(),
        Some(&b"2"[..]),
        "a refused set changes nothing"
    );
    let request = suite.set_request("etag-none", "1");
    mismatch(
        suite.store.set(with_etag(request, &etag)).await,
        "set of a missing key with an etag",
    );
    assert_eq!(
        suite.get("etag-none").await,
        None,
        "a refused set creates nothing"
    );
}

async fn deletes(suite: &Suite<'_>) {
    suite.set("etag-delete", "1").await;
    let old = suite.etag("etag-delete").await;
    suite.set("etag-delete", "2").await;
    let etag = suite.etag("etag-delete").await;
    let request = suite.delete_request("etag-delete");
    mismatch(
        suite.store.delete(delete_with(request.clone(), &old)).await,
        "delete with an etag of the past",
    );
    assert_eq!(
        suite.data("etag-delete").await.as_deref(),
        Some(&b"2"[..]),
        "a refused delete changes nothing"
    );
    suite
        .store
        .delete(delete_with(request.clone(), &etag))
        .await
        .expect("delete with the stored etag");
    assert_eq!(suite.get("etag-delete").await, None);
    mismatch(
        suite.store.delete(delete_with(request, &etag)).await,
        "delete of a missing key with an etag",
    );
}

async fn an_empty_etag_is_none(suite: &Suite<'_>) {
    suite.set("etag-empty", "1").await;
    let request = suite.set_request("etag-empty", "2");
    suite
        .store
        .set(with_etag(request, ""))
        .await
        .expect("set with an empty etag is unconditional");
    assert_eq!(suite.data("etag-empty").await.as_deref(), Some(&b"2"[..]));
    let request = suite.delete_request("etag-empty");
    suite
        .store
        .delete(delete_with(request, ""))
        .await
        .expect("delete with an empty etag is unconditional");
    assert_eq!(suite.get("etag-empty").await, None);
}

fn first_write_request(suite: &Suite<'_>, name: &str, json: &'static str) -> SetRequest {
    let mut request = suite.set_request(name, json);
    request.concurrency = Concurrency::FirstWrite;
    request
}

async fn first_write(suite: &Suite<'_>) {
    suite
        .store
        .set(first_write_request(suite, "first", "1"))
        .await
        .expect("first write of a new key");
    let again = suite
        .store
        .set(first_write_request(suite, "first", "2"))
        .await;
    assert!(
        again.is_err(),
        "first-write without an etag must not replace an item"
    );
    assert_eq!(suite.data("first").await.as_deref(), Some(&b"1"[..]));
    let etag = suite.etag("first").await;
    let request = with_etag(first_write_request(suite, "first", "3"), &etag);
    suite
        .store
        .set(request)
        .await
        .expect("first-write with the stored etag");
    let request = with_etag(first_write_request(suite, "first", "4"), &etag);
    mismatch(
        suite.store.set(request).await,
        "first-write with an etag of the past",
    );
    assert_eq!(suite.data("first").await.as_deref(), Some(&b"3"[..]));
}

async fn bulk_writes_are_independent(suite: &Suite<'_>) {
    let good = suite.set_request("bulk-good", "1");
    let bad = with_etag(suite.set_request("bulk-bad", "1"), "0");
    let error = suite
        .store
        .bulk_set(vec![bad, good])
        .await
        .expect_err("one etag is wrong");
    assert_eq!(
        error.0.len(),
        1,
        "only the failed keys are in the error: {error}"
    );
    assert_eq!(
        error.0[0].0,
        suite.key("bulk-bad"),
        "the error names the key"
    );
    let kind = error.0[0].1.kind();
    assert!(
        matches!(kind, ErrorKind::EtagMismatch | ErrorKind::EtagInvalid),
        "an etag error, not {kind:?}"
    );
    assert_eq!(
        suite.data("bulk-good").await.as_deref(),
        Some(&b"1"[..]),
        "the other items are written"
    );
}

/// Enough writers that a check outside the write would let two of them through.
const WRITERS: usize = 16;

async fn of_concurrent_first_writes_one_wins(suite: &Suite<'_>) {
    for round in 0..5 {
        let name = format!("race-{round}");
        let writes = (0..WRITERS).map(|_| suite.store.set(first_write_request(suite, &name, "1")));
        let won = join_all(writes)
            .await
            .iter()
            .filter(|result| result.is_ok())
            .count();
        assert_eq!(
            won, 1,
            "of {WRITERS} concurrent first writes of one key exactly one succeeds"
        );
    }
}

async fn of_concurrent_writes_with_one_etag_one_wins(suite: &Suite<'_>) {
    suite.set("race-etag", "0").await;
    let etag = suite.etag("race-etag").await;
    let writes = (0..WRITERS).map(|_| {
        suite
            .store
            .set(with_etag(suite.set_request("race-etag", "1"), &etag))
    });
    let results = join_all(writes).await;
    assert_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        1,
        "one etag admits one write"
    );
    for result in results.into_iter().filter(Result::is_err) {
        mismatch(result, "a write that lost the race");
    }
}
