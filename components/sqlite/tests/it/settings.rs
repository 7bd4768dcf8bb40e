use crate::{Folder, open, set, try_open};

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_reported_as_upstream_does() {
    let error = try_open(&[("connectionString", "/no/such/folder/data.db")])
        .await
        .err()
        .expect("no folder");
    assert_eq!(
        error.to_string(),
        "failed to ping: unable to open database file: out of memory (14)"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_reported() {
    let folder = Folder::new();
    std::fs::write(
        folder.file(),
        "This is text and not the header of a SQLite database, by far.".repeat(40),
    )
    .expect("write");
    let error = try_open(&[("connectionString", &folder.path())])
        .await
        .err()
        .expect("no database");
    assert_eq!(
        error.to_string(),
        "failed to ping: file is not a database (26)"
    );
}

#[tokio::test]
async fn forms_of_the_connection_string_name_one_file() {
    let folder = Folder::new();
    for text in [
        folder.path(),
        format!("file:{}", folder.path()),
        format!("file:{}?cache=private&_txlock=deferred", folder.path()),
    ] {
        open(&text)
            .await
            .set(set("a", "1"))
            .await
            .unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let rows: i64 = folder
        .connect()
        .query_row("SELECT count(*) FROM state", [], |row| row.get(0))
        .expect("count");
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn memory_is_not_shared_between_components() {
    let (one, two) = (
        open(":memory:").await,
        open("file::memory:?cache=shared").await,
    );
    one.set(set("a", "1")).await.expect("set");
    assert_eq!(crate::get(&*two, "a").await, None);
}

#[tokio::test]
async fn both_types_are_registered() {
    let mut registries = dapr_components_core::Registries::default();
    dapr_components_sqlite::register(&mut registries);
    assert_eq!(
        registries.state.names().collect::<Vec<_>>(),
        ["state.sqlite/v1", "state.sqlite3/v1"]
    );
}
