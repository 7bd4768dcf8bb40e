//! Files that somebody else has written or will read.

use dapr_components_core::state::{KeysLikeRequest, Value};

use crate::{Folder, get, open, set, try_get, try_open};

const UPSTREAM: &str = "
    CREATE TABLE metadata (key text NOT NULL PRIMARY KEY, value text NOT NULL);
    INSERT INTO metadata VALUES ('migrations', '1');
    CREATE TABLE state (
        key TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL,
        is_binary BOOLEAN NOT NULL,
        etag TEXT NOT NULL,
        expiration_time TIMESTAMP DEFAULT NULL,
        update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
    );
    INSERT INTO state (key, value, is_binary, etag, expiration_time) VALUES
        ('app||json', '{\"a\":1}', 0, 'e1', NULL),
        ('app||binary', 'AAECAw==', 1, 'e2', NULL),
        ('app||lines', 'AAEC
Aw==
', 1, 'e2', NULL),
        ('app||empty', '', 1, 'e3', NULL),
        ('app||blob', x'7b7d', 0, 'e4', NULL),
        ('app||bad-binary', 'AA!=', 1, 'e5', NULL),
        ('app||plain', '1', 0, 'e', '2099-01-02 03:04:05'),
        ('app||fraction', '1', 0, 'e', '2099-01-02 03:04:05.678'),
        ('app||offset', '1', 0, 'e', '2099-01-02 03:04:05+02:00'),
        ('app||rfc3339', '1', 0, 'e', '2099-01-02T03:04:05Z'),
        ('app||date', '1', 0, 'e', '2099-01-02'),
        ('app||past', '1', 0, 'e', '2001-01-02 03:04:05'),
        ('app||number', '1', 0, 'e', 4102444800),
        ('app||empty-time', '1', 0, 'e', ''),
        ('app||no-time', '1', 0, 'e', 'tomorrow');
";

#[tokio::test]
async fn rows_of_upstream_are_read() {
    let folder = Folder::new();
    folder.connect().execute_batch(UPSTREAM).expect("tables");
    let store = open(&folder.path()).await;
    let values: [(&str, &[u8], &str); 5] = [
        ("app||json", b"{\"a\":1}", "e1"),
        ("app||binary", &[0, 1, 2, 3], "e2"),
        ("app||lines", &[0, 1, 2, 3], "e2"),
        ("app||empty", b"", "e3"),
        ("app||blob", b"{}", "e4"),
    ];
    for (key, data, etag) in values {
        let item = get(&*store, key)
            .await
            .unwrap_or_else(|| panic!("{key} is there"));
        assert_eq!(
            (item.data.as_ref(), item.etag.as_deref()),
            (data, Some(etag)),
            "{key}"
        );
        assert!(item.metadata.is_empty(), "{key} never expires");
    }
    let error = try_get(&*store, "app||bad-binary")
        .await
        .expect_err("no base64");
    assert_eq!(
        error.to_string(),
        "failed to decode binary data: illegal base64 data at input byte 2"
    );
}

#[tokio::test]
async fn times_of_all_forms_are_read() {
    let folder = Folder::new();
    folder.connect().execute_batch(UPSTREAM).expect("tables");
    let store = open(&folder.path()).await;
    let times = [
        ("app||plain", "2099-01-02T03:04:05Z"),
        ("app||fraction", "2099-01-02T03:04:05Z"),
        ("app||offset", "2099-01-02T01:04:05Z"),
        ("app||rfc3339", "2099-01-02T03:04:05Z"),
        ("app||date", "2099-01-02T00:00:00Z"),
    ];
    for (key, expected) in times {
        let item = get(&*store, key)
            .await
            .unwrap_or_else(|| panic!("{key} has not expired"));
        assert_eq!(
            item.metadata.get("ttlExpireTime").map(String::as_str),
            Some(expected),
            "{key}"
        );
    }
    for key in ["app||past", "app||number", "app||empty-time"] {
        assert_eq!(get(&*store, key).await, None, "{key} has expired");
    }
    assert!(
        try_get(&*store, "app||no-time").await.is_err(),
        "an impossible time fails the read"
    );
}

#[tokio::test]
async fn expired_rows_count_as_absent() {
    let folder = Folder::new();
    folder.connect().execute_batch(UPSTREAM).expect("tables");
    let store = open(&folder.path()).await;
    let mut by_etag = set("app||past", "2");
    by_etag.etag = Some("e".to_owned());
    assert!(
        store.set(by_etag).await.is_err(),
        "an expired row has no etag"
    );
    for key in ["app||past", "app||number", "app||empty-time"] {
        let mut first = set(key, "2");
        first.concurrency = dapr_components_core::state::Concurrency::FirstWrite;
        store
            .set(first)
            .await
            .unwrap_or_else(|error| panic!("first write of {key}: {error}"));
        assert_eq!(get(&*store, key).await.expect("there").data, "2");
    }
    let request = KeysLikeRequest {
        pattern: "app||%-time".to_owned(),
        ..KeysLikeRequest::default()
    };
    let keys = store.keys_like(request).await.expect("list").keys;
    assert_eq!(
        keys,
        ["app||empty-time", "app||no-time"],
        "in the order of row ids, which a first write keeps"
    );
}

#[tokio::test]
async fn files_are_written_as_upstream_writes_them() {
    let folder = Folder::new();
    let store = open(&folder.path()).await;
    store.set(set("json", "{\"a\":1}")).await.expect("set");
    let mut binary = set("binary", "");
    binary.value = Value::Binary(vec![0, 1, 2, 3].into());
    binary
        .metadata
        .insert("ttlInSeconds".to_owned(), "100".to_owned());
    store.set(binary).await.expect("set");

    let connection = folder.connect();
    let text =
        |sql: &str| -> String { connection.query_row(sql, [], |row| row.get(0)).expect(sql) };
    let columns = text(
        "SELECT group_concat(name || ' ' || type || ' ' || \"notnull\" || ' ' || pk, ', ') FROM pragma_table_info('state')",
    );
    assert_eq!(
        columns,
        "key TEXT 1 1, value TEXT 1 0, is_binary BOOLEAN 1 0, etag TEXT 1 0, expiration_time TIMESTAMP 0 0, update_time TIMESTAMP 1 0"
    );
    assert_eq!(
        text("SELECT group_concat(key || '=' || value) FROM metadata"),
        "migrations=1"
    );
    let types = "SELECT typeof(value) || ' ' || typeof(is_binary) || ' ' || typeof(expiration_time) || ' ' || value || ' ' || is_binary FROM state WHERE key = ";
    assert_eq!(
        text(&format!("{types} 'json'")),
        "text integer null {\"a\":1} 0"
    );
    assert_eq!(
        text(&format!("{types} 'binary'")),
        "text integer text AAECAw== 1"
    );
    let seconds: i64 = connection
        .query_row("SELECT unixepoch(expiration_time) - unixepoch(update_time) FROM state WHERE key = 'binary'", [], |row| row.get(0))
        .expect("times");
    assert_eq!(seconds, 100);
    assert_eq!(
        text(
            "SELECT length(expiration_time) || ' ' || length(update_time) || ' ' || length(etag) FROM state WHERE key = 'binary'"
        ),
        "19 19 36"
    );
    assert_eq!(text("PRAGMA journal_mode"), "wal");
}

#[tokio::test]
async fn a_second_data_table_is_made_beside_the_same_metadata_table() {
    let folder = Folder::new();
    for table in ["state", "other", "1st"] {
        let store = try_open(&[("url", &folder.path()), ("tableName", table)])
            .await
            .expect("open");
        store
            .set(set("a", "1"))
            .await
            .unwrap_or_else(|error| panic!("set in {table}: {error}"));
    }
}

#[tokio::test]
async fn a_higher_migration_level_is_left_alone() {
    let folder = Folder::new();
    folder.connect().execute_batch(UPSTREAM).expect("tables");
    folder
        .connect()
        .execute_batch("UPDATE metadata SET value = '9'")
        .expect("level");
    drop(open(&folder.path()).await);
    let level: String = folder
        .connect()
        .query_row("SELECT value FROM metadata", [], |row| row.get(0))
        .expect("level");
    assert_eq!(level, "9");
}

#[tokio::test]
async fn a_file_can_be_opened_for_reading_only() {
    let folder = Folder::new();
    folder.connect().execute_batch(UPSTREAM).expect("tables");
    let store = open(&format!("file:{}?mode=ro", folder.path())).await;
    assert_eq!(
        get(&*store, "app||json").await.expect("there").data,
        "{\"a\":1}"
    );
    let error = store.set(set("a", "1")).await.expect_err("read-only");
    assert_eq!(
        error.to_string(),
        "attempt to write a readonly database (8)"
    );
}
