//! Expiry.

use super::Suite;
use crate::conformance::eventually;
use crate::state::{Feature, Operation, RequestMetadata, SetRequest};

const EXPIRES: &str = "ttlExpireTime";

pub(super) async fn run(suite: &Suite<'_>) {
    get_tells_the_expiry(suite).await;
    expired_items_are_missing(suite).await;
    rewriting_removes_the_expiry(suite).await;
    some_texts_mean_no_expiry(suite).await;
    other_texts_are_refused(suite).await;
    if suite.has(Feature::Transactional) {
        transactions_expire_too(suite).await;
    }
}

fn with_ttl(mut request: SetRequest, ttl: &str) -> SetRequest {
    request
        .metadata
        .insert("ttlInSeconds".to_owned(), ttl.to_owned());
    request
}

async fn set_with(suite: &Suite<'_>, name: &str, ttl: &str) {
    let result = suite
        .store
        .set(with_ttl(suite.set_request(name, "1"), ttl))
        .await;
    result.unwrap_or_else(|error| panic!("set with ttlInSeconds {ttl:?}: {error}"));
}

async fn expiry(suite: &Suite<'_>, name: &str) -> Option<String> {
    suite.item(name).await.metadata.remove(EXPIRES)
}

async fn get_tells_the_expiry(suite: &Suite<'_>) {
    set_with(suite, "ttl-long", "1000").await;
    let Some(text) = expiry(suite, "ttl-long").await else {
        return;
    }; // Some stores cannot tell.
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(
        shape, "0000-00-00T00:00:00Z",
        "{EXPIRES} is RFC 3339 in UTC with whole seconds: {text}"
    );
}

async fn expired_items_are_missing(suite: &Suite<'_>) {
    set_with(suite, "ttl-short", "1").await;
    eventually("an item with a TTL of 1 s expires", async || {
        suite.get("ttl-short").await.is_none()
    })
    .await;
    suite.delete("ttl-short").await;
    suite.set("ttl-short", "2").await;
    assert_eq!(
        suite.data("ttl-short").await.as_deref(),
        Some(&b"2"[..]),
        "an expired key can be written again"
    );
}

async fn rewriting_removes_the_expiry(suite: &Suite<'_>) {
    set_with(suite, "ttl-rewritten", "1000").await;
    let told = expiry(suite, "ttl-rewritten").await.is_some();
    set_with(suite, "ttl-rewritten", "-1").await;
    assert_eq!(
        expiry(suite, "ttl-rewritten").await,
        None,
        "-1 removes an expiry"
    );
    if told && suite.has(Feature::Etag) {
        let mut request = with_ttl(suite.set_request("ttl-rewritten", "3"), "1000");
        request.etag = Some(suite.etag("ttl-rewritten").await);
        suite
            .store
            .set(request)
            .await
            .expect("set with etag and TTL");
        assert!(
            expiry(suite, "ttl-rewritten").await.is_some(),
            "a conditional write sets the expiry"
        );
        suite.set("ttl-rewritten", "2").await;
        assert_eq!(
            expiry(suite, "ttl-rewritten").await,
            None,
            "a write without a TTL removes the expiry"
        );
    }
}

async fn some_texts_mean_no_expiry(suite: &Suite<'_>) {
    for ttl in ["0", "-1", ""] {
        set_with(suite, "ttl-none", ttl).await;
        assert_eq!(
            expiry(suite, "ttl-none").await,
            None,
            "ttlInSeconds {ttl:?} means no expiry"
        );
    }
}

async fn other_texts_are_refused(suite: &Suite<'_>) {
    for ttl in ["x", "1.5", "1s", " 1", "99999999999999999999"] {
        let result = suite
            .store
            .set(with_ttl(suite.set_request("ttl-bad", "1"), ttl))
            .await;
        let error = result.expect_err("a TTL that is no integer is refused");
        assert!(!error.is_retriable(), "a wrong TTL stays wrong: {error}");
    }
    assert_eq!(
        suite.get("ttl-bad").await,
        None,
        "a refused set writes nothing"
    );
}

async fn transactions_expire_too(suite: &Suite<'_>) {
    let operations = vec![Operation::Upsert(with_ttl(
        suite.set_request("ttl-tx", "1"),
        "1",
    ))];
    suite
        .store
        .transact(operations, RequestMetadata::new())
        .await
        .expect("transaction with a TTL");
    eventually("an item written in a transaction expires", async || {
        suite.get("ttl-tx").await.is_none()
    })
    .await;
}
