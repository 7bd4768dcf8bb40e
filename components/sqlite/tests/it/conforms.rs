use std::sync::Arc;
use std::time::Duration;

use dapr_components_core::conformance;
use dapr_components_core::state::Concurrency;

use crate::{Folder, get, open, set, try_open};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    let folder = Folder::new();
    let store = open(&folder.path()).await;
    conformance::state::run(&*store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_write_ahead_log_conforms() {
    let folder = Folder::new();
    let store = try_open(&[("url", &folder.path()), ("disableWAL", "true")])
        .await
        .expect("open");
    conformance::state::run(&*store).await;
    store.close().await;
    let mode: String = folder
        .connect()
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .expect("pragma");
    assert_eq!(mode, "delete");
}

#[tokio::test]
async fn memory_conforms() {
    conformance::state::run(&*open(":memory:").await).await;
}

#[tokio::test]
async fn capabilities_are_in_upstream_s_order() {
    let store = open(":memory:").await;
    let names: Vec<_> = store
        .features()
        .iter()
        .map(|feature| feature.name())
        .collect();
    assert_eq!(names, ["ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE"]);
}

/// Two stores stand for two sidecars: nothing but the file connects them.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_share_a_file() {
    let folder = Folder::new();
    let path = folder.path();
    let (one, two) = tokio::join!(open(&path), open(&path));
    let stores = [one, two];
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..40 {
        let store = Arc::clone(&stores[writer % 2]);
        tasks.spawn(async move {
            let mut request = set(&format!("first-{}", writer / 8), "1");
            request.concurrency = Concurrency::FirstWrite;
            store.set(request).await.is_ok()
        });
    }
    let won = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(won, 5, "one first write per key, across both stores");
    stores[0].set(set("a", "7")).await.expect("set");
    assert_eq!(get(&*stores[1], "a").await.expect("there").data, "7");
}

#[tokio::test]
async fn what_was_acknowledged_survives() {
    let folder = Folder::new();
    let store = open(&folder.path()).await;
    store.set(set("a", "{\"b\":1}")).await.expect("set");
    let etag = get(&*store, "a").await.and_then(|item| item.etag);
    drop(store); // Not closed: as after a crash.
    let store = open(&folder.path()).await;
    let item = get(&*store, "a").await.expect("there");
    assert_eq!((item.data.as_ref(), item.etag), (&b"{\"b\":1}"[..], etag));
}

#[tokio::test]
async fn a_closed_store_refuses() {
    let store = open(":memory:").await;
    store.close().await;
    store.close().await;
    let error = store.set(set("a", "1")).await.expect_err("closed");
    assert_eq!(error.to_string(), "the database is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_process_is_waited_for_and_then_reported() {
    let folder = Folder::new();
    let store = try_open(&[("url", &folder.path()), ("busyTimeout", "50ms")])
        .await
        .expect("open");
    store.set(set("a", "1")).await.expect("set");
    let other = folder.connect();
    other.execute_batch("BEGIN IMMEDIATE").expect("lock");
    let error = store.set(set("a", "2")).await.expect_err("locked");
    assert_eq!(error.to_string(), "database is locked (5) (SQLITE_BUSY)");
    assert!(error.is_retriable());
    assert_eq!(get(&*store, "a").await.expect("reads go on").data, "1");
    other.execute_batch("COMMIT").expect("unlock");
    store.set(set("a", "3")).await.expect("set after the lock");
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_nothing_else() {
    let store = open(":memory:?_pragma=max_page_count(16)").await;
    store.set(set("small", "1")).await.expect("set");
    let mut large = set("large", "1");
    large.value = dapr_components_core::state::Value::Binary(vec![0; 200_000].into());
    let error = store.set(large.clone()).await.expect_err("full");
    assert!(
        error
            .to_string()
            .starts_with("database or disk is full (13)"),
        "{error}"
    );
    let (failed, written) = tokio::join!(store.set(large), store.set(set("other", "2")));
    assert!(failed.is_err());
    // The full disk may have taken the shared transaction with it; then the other write says so.
    assert_eq!(get(&*store, "other").await.is_some(), written.is_ok());
    assert_eq!(get(&*store, "small").await.expect("there").data, "1");
    store
        .set(set("after", "3"))
        .await
        .expect("the store goes on");
}

#[tokio::test]
async fn expired_rows_are_removed_every_interval() {
    let folder = Folder::new();
    let store = try_open(&[("url", &folder.path()), ("cleanupInterval", "1s")])
        .await
        .expect("open");
    let mut request = set("short", "1");
    request
        .metadata
        .insert("ttlInSeconds".to_owned(), "1".to_owned());
    store.set(request).await.expect("set");
    store.set(set("kept", "1")).await.expect("set");
    let connection = folder.connect();
    let keys = || -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT key FROM state ORDER BY key")
            .expect("prepare");
        statement
            .query_map([], |row| row.get(0))
            .expect("query")
            .collect::<Result<_, _>>()
            .expect("rows")
    };
    let removed = async {
        while keys() != ["kept"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), removed)
        .await
        .expect("removed in time");
    let claims: i64 = connection
        .query_row("SELECT count(*) FROM metadata WHERE key = 'last-cleanup' AND value LIKE '____-__-__ __:__:__'", [], |row| row.get(0))
        .expect("claim");
    assert_eq!(claims, 1);
}
