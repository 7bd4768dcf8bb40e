//! The suite of state stores.

mod etags;
mod keys;
mod transactions;
mod ttl;
mod values;

use std::fmt::Debug;

use bytes::Bytes;
use uuid::Uuid;

use crate::state::{DeleteRequest, Feature, GetRequest, Item, SetRequest, StateStore, Value};
use crate::{Error, ErrorKind};

/// Runs every case the store's features select. It leaves keys behind, all below a random prefix.
pub async fn run(store: &dyn StateStore) {
    let suite = Suite {
        store,
        prefix: format!("conformance-{}", Uuid::new_v4().simple()),
    };
    values::run(&suite).await;
    if suite.has(Feature::Etag) {
        etags::run(&suite).await;
    }
    if suite.has(Feature::Transactional) {
        transactions::run(&suite).await;
    }
    if suite.has(Feature::Ttl) {
        ttl::run(&suite).await;
    }
    keys::run(&suite).await;
}

/// The store under test with the few verbs the cases speak in.
struct Suite<'a> {
    store: &'a dyn StateStore,
    prefix: String,
}

impl Suite<'_> {
    fn has(&self, feature: Feature) -> bool {
        self.store.features().contains(&feature)
    }

    fn key(&self, name: &str) -> String {
        format!("{}||{name}", self.prefix)
    }

    async fn try_get(&self, name: &str) -> Result<Option<Item>, Error> {
        self.store
            .get(GetRequest {
                key: self.key(name),
                ..GetRequest::default()
            })
            .await
    }

    async fn get(&self, name: &str) -> Option<Item> {
        self.try_get(name)
            .await
            .unwrap_or_else(|error| panic!("get {name}: {error}"))
    }

    async fn item(&self, name: &str) -> Item {
        self.get(name)
            .await
            .unwrap_or_else(|| panic!("{name} must be there"))
    }

    async fn data(&self, name: &str) -> Option<Bytes> {
        self.get(name).await.map(|item| item.data)
    }

    async fn etag(&self, name: &str) -> String {
        self.item(name)
            .await
            .etag
            .unwrap_or_else(|| panic!("{name} must have an etag"))
    }

    fn set_request(&self, name: &str, json: &'static str) -> SetRequest {
        set_request(self.key(name), json)
    }

    fn delete_request(&self, name: &str) -> DeleteRequest {
        DeleteRequest {
            key: self.key(name),
            ..DeleteRequest::default()
        }
    }

    async fn set(&self, name: &str, json: &'static str) {
        let result = self.store.set(self.set_request(name, json)).await;
        result.unwrap_or_else(|error| panic!("set {name}: {error}"));
    }

    async fn delete(&self, name: &str) {
        let result = self.store.delete(self.delete_request(name)).await;
        result.unwrap_or_else(|error| panic!("delete {name}: {error}"));
    }
}

fn set_request(key: String, json: &'static str) -> SetRequest {
    SetRequest {
        key,
        value: Value::Json(Bytes::from_static(json.as_bytes())),
        etag: None,
        concurrency: crate::state::Concurrency::Unspecified,
        consistency: crate::state::Consistency::Unspecified,
        metadata: crate::state::RequestMetadata::new(),
        content_type: None,
    }
}

fn refused<T: Debug>(result: Result<T, Error>, kind: ErrorKind, what: &str) -> Error {
    match result {
        Ok(value) => panic!("must be refused: {what}, but it gave {value:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "kind of the error of {what}: {error}");
            error
        }
    }
}

fn mismatch<T: Debug>(result: Result<T, Error>, what: &str) {
    let error = refused(result, ErrorKind::EtagMismatch, what);
    let text = error.to_string();
    assert!(
        text.starts_with("possible etag mismatch. error from state store"),
        "text of {what}: {text}"
    );
}
