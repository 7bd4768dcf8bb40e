//! Listing keys and deleting below a prefix.

use super::{Suite, refused};
use crate::ErrorKind;
use crate::state::{Feature, KeysLikeRequest};

pub(super) async fn run(suite: &Suite<'_>) {
    if suite.has(Feature::KeysLike) {
        patterns(suite).await;
        pages(suite).await;
        bad_requests(suite).await;
    } else {
        refused(
            suite.store.keys_like(KeysLikeRequest::default()).await,
            ErrorKind::Unsupported,
            "listing keys",
        );
    }
    if suite.has(Feature::DeleteWithPrefix) {
        delete_with_prefix(suite).await;
    } else {
        refused(
            suite.store.delete_with_prefix("x".to_owned()).await,
            ErrorKind::Unsupported,
            "deleting by prefix",
        );
    }
}

async fn list(suite: &Suite<'_>, rest: &str) -> Vec<String> {
    let request = KeysLikeRequest {
        pattern: suite.key(rest),
        ..KeysLikeRequest::default()
    };
    let page = suite
        .store
        .keys_like(request)
        .await
        .unwrap_or_else(|error| panic!("list {rest}: {error}"));
    assert_eq!(
        page.continuation_token, None,
        "everything fits into a page without a limit"
    );
    let below = suite.key("");
    let name = |key: &String| {
        key.strip_prefix(&below)
            .expect("the prefix asked for")
            .to_owned()
    };
    let mut names: Vec<_> = page.keys.iter().map(name).collect();
    names.sort();
    names
}

async fn patterns(suite: &Suite<'_>) {
    for name in [
        "list||a1",
        "list||a2",
        "list||b1",
        "list||a_",
        "list||a%",
        "list||a\\",
    ] {
        suite.set(name, "1").await;
    }
    let nothing = Vec::<String>::new();
    assert_eq!(list(suite, "list||b%").await, ["list||b1"]);
    assert_eq!(list(suite, "list||_1").await, ["list||a1", "list||b1"]);
    assert_eq!(
        list(suite, "list||a_").await,
        ["list||a%", "list||a1", "list||a2", "list||a\\", "list||a_"]
    );
    assert_eq!(list(suite, "list||a\\_").await, ["list||a_"]);
    assert_eq!(list(suite, "list||a\\%").await, ["list||a%"]);
    assert_eq!(list(suite, "list||a\\\\").await, ["list||a\\"]);
    assert_eq!(list(suite, "list||%||x").await, nothing);
    assert_eq!(
        list(suite, "list").await,
        nothing,
        "a pattern matches the whole key"
    );
    suite.delete("list||b1").await;
    assert_eq!(
        list(suite, "list||b%").await,
        nothing,
        "deleted keys are not listed"
    );
}

async fn pages(suite: &Suite<'_>) {
    for n in 0..7 {
        suite.set(&format!("page||{n}"), "1").await;
    }
    let mut names = Vec::new();
    let mut sizes = Vec::new();
    let mut continuation_token = None;
    loop {
        let request = KeysLikeRequest {
            pattern: suite.key("page||%"),
            continuation_token,
            page_size: Some(3),
        };
        let page = suite.store.keys_like(request).await.expect("page");
        sizes.push(page.keys.len());
        names.extend(page.keys);
        continuation_token = page.continuation_token;
        if continuation_token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [3, 3, 1], "pages are full but the last");
    names.sort();
    let expected: Vec<_> = (0..7).map(|n| suite.key(&format!("page||{n}"))).collect();
    assert_eq!(names, expected, "the pages together hold each key once");
}

async fn bad_requests(suite: &Suite<'_>) {
    let error = suite
        .store
        .keys_like(KeysLikeRequest::default())
        .await
        .expect_err("empty pattern");
    assert_eq!(error.to_string(), "keys like pattern cannot be empty");
    let request = KeysLikeRequest {
        pattern: "%".to_owned(),
        continuation_token: Some("no token".to_owned()),
        page_size: Some(1),
    };
    assert!(
        suite.store.keys_like(request).await.is_err(),
        "an impossible token is refused"
    );
}

async fn delete_with_prefix(suite: &Suite<'_>) {
    for name in [
        "below||1",
        "below||2",
        "below||2||deeper",
        "belowother||1",
        "below",
    ] {
        suite.set(name, "1").await;
    }
    let deleted = suite
        .store
        .delete_with_prefix(suite.key("below"))
        .await
        .expect("delete with prefix");
    assert_eq!(deleted, 2, "only keys directly below the prefix count");
    assert_eq!(suite.get("below||1").await, None);
    assert_eq!(suite.get("below||2").await, None);
    for name in ["below||2||deeper", "belowother||1", "below"] {
        assert!(
            suite.get(name).await.is_some(),
            "{name} is not directly below"
        );
    }
    assert_eq!(
        suite
            .store
            .delete_with_prefix(suite.key("below||"))
            .await
            .expect("again"),
        0
    );
}
