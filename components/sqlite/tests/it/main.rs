//! `state.sqlite` from the outside: conformance, and files as upstream writes them.

mod conforms;
mod files;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dapr_components_core::state::{
    Concurrency, Consistency, GetRequest, Item, SetRequest, StateStore, Value,
};
use dapr_components_core::{Error, Metadata, Registries};
use tempfile::TempDir;

/// A folder for one database file.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().expect("temporary folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("data.db")
    }

    fn path(&self) -> String {
        self.file().to_str().expect("UTF-8 path").to_owned()
    }

    /// A connection as another process would have it.
    fn connect(&self) -> rusqlite::Connection {
        connect(&self.file())
    }
}

fn connect(file: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(file).expect("open")
}

async fn try_open(properties: &[(&str, &str)]) -> Result<Arc<dyn StateStore>, Error> {
    let mut registries = Registries::default();
    dapr_components_sqlite::register(&mut registries);
    let properties = properties
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let metadata = Metadata::new("store", "state.sqlite", "v1", properties).expect("metadata");
    registries.state.open(metadata).await
}

async fn open(connection_string: &str) -> Arc<dyn StateStore> {
    try_open(&[("connectionString", connection_string)])
        .await
        .expect("open")
}

fn set(key: &str, json: &'static str) -> SetRequest {
    SetRequest {
        key: key.to_owned(),
        value: Value::Json(Bytes::from_static(json.as_bytes())),
        etag: None,
        concurrency: Concurrency::Unspecified,
        consistency: Consistency::Unspecified,
        metadata: [].into(),
        content_type: None,
    }
}

async fn try_get(store: &dyn StateStore, key: &str) -> Result<Option<Item>, Error> {
    store
        .get(GetRequest {
            key: key.to_owned(),
            ..GetRequest::default()
        })
        .await
}

async fn get(store: &dyn StateStore, key: &str) -> Option<Item> {
    try_get(store, key)
        .await
        .unwrap_or_else(|error| panic!("get {key}: {error}"))
}
