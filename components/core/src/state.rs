//! State stores: keys with values, etags, expiry, transactions.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;

use crate::{Error, ErrorKind};

pub mod ttl;

/// What a store can do; the core refuses the rest before calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Etags on items and conditional writes.
    Etag,
    /// Several operations in one atomic transaction.
    Transactional,
    /// The query API.
    QueryApi,
    /// Expiry by `ttlInSeconds`.
    Ttl,
    /// Deletes all keys below a prefix.
    DeleteWithPrefix,
    /// Partition keys in request metadata.
    PartitionKey,
    /// Lists keys by pattern.
    KeysLike,
}

impl Feature {
    /// Upstream's name, as the metadata API lists capabilities.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etag => "ETAG",
            Self::Transactional => "TRANSACTIONAL",
            Self::QueryApi => "QUERY_API",
            Self::Ttl => "TTL",
            Self::DeleteWithPrefix => "DELETE_WITH_PREFIX",
            Self::PartitionKey => "PARTITION_KEY",
            Self::KeysLike => "KEYS_LIKE",
        }
    }
}

/// Request metadata.
pub type RequestMetadata = BTreeMap<String, String>;

/// How concurrent writes are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Concurrency {
    /// Not given: the store's default, last write wins.
    #[default]
    Unspecified,
    /// The first write wins: without an etag the key must not exist.
    FirstWrite,
    /// The last write wins.
    LastWrite,
}

/// How fresh a read, how durable a write has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Not given: the store's default.
    #[default]
    Unspecified,
    /// Eventual.
    Eventual,
    /// Strong.
    Strong,
}

/// A value on its way into a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Raw bytes; stores that hold text encode them.
    Binary(Bytes),
    /// JSON text, stored as it is.
    Json(Bytes),
}

impl Value {
    /// The bytes, whatever they are.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Binary(bytes) | Self::Json(bytes) => bytes,
        }
    }
}

/// Reads one key.
#[derive(Debug, Clone, Default)]
pub struct GetRequest {
    /// Full key, prefix applied.
    pub key: String,
    /// Wanted consistency.
    pub consistency: Consistency,
    /// Request metadata.
    pub metadata: RequestMetadata,
}

/// What a key holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// Value as stored.
    pub data: Bytes,
    /// Etag, if the store gives one.
    pub etag: Option<String>,
    /// For instance `ttlExpireTime` (RFC 3339, UTC, seconds).
    pub metadata: RequestMetadata,
}

/// Writes one key.
#[derive(Debug, Clone)]
pub struct SetRequest {
    /// Full key, prefix applied.
    pub key: String,
    /// New value.
    pub value: Value,
    /// Etag the stored item must have; empty counts as absent for most stores.
    pub etag: Option<String>,
    /// Concurrency asked for.
    pub concurrency: Concurrency,
    /// Consistency asked for.
    pub consistency: Consistency,
    /// Request metadata, `ttlInSeconds` among it.
    pub metadata: RequestMetadata,
    /// Content type of the value, if given.
    pub content_type: Option<String>,
}

/// Deletes one key; a missing key is success unless an etag was given.
#[derive(Debug, Clone, Default)]
pub struct DeleteRequest {
    /// Full key, prefix applied.
    pub key: String,
    /// Etag the stored item must have.
    pub etag: Option<String>,
    /// Concurrency asked for.
    pub concurrency: Concurrency,
    /// Consistency asked for.
    pub consistency: Consistency,
    /// Request metadata.
    pub metadata: RequestMetadata,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Writes a key.
    Upsert(SetRequest),
    /// Deletes a key.
    Delete(DeleteRequest),
}

impl Operation {
    /// The full key it touches.
    pub fn key(&self) -> &str {
        match self {
            Self::Upsert(request) => &request.key,
            Self::Delete(request) => &request.key,
        }
    }
}

/// Lists keys by pattern.
#[derive(Debug, Clone, Default)]
pub struct KeysLikeRequest {
    /// Pattern of SQL's `LIKE` (`%`, `_`, escape `\`) over full keys; empty is refused.
    pub pattern: String,
    /// Where the page before ended, as that page said.
    pub continuation_token: Option<String>,
    /// Most keys per page; `None` or 0 for all.
    pub page_size: Option<u32>,
}

/// A page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysPage {
    /// Full keys in the store's order.
    pub keys: Vec<String>,
    /// Where the next page starts; `None` on the last one.
    pub continuation_token: Option<String>,
}

/// The answer for one key of a bulk read.
#[derive(Debug)]
pub struct BulkItem {
    /// Full key, as asked for.
    pub key: String,
    /// The item, `None` if the key is missing, or why it could not be read.
    pub result: Result<Option<Item>, Error>,
}

/// Which keys of a bulk write failed and why.
#[derive(Debug, thiserror::Error)]
#[error("{}", join(.0))]
pub struct BulkError(pub Vec<(String, Error)>);

fn join(errors: &[(String, Error)]) -> String {
    errors
        .iter()
        .map(|(_, error)| error.to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A state store. Every call makes one attempt.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// What the store can do.
    fn features(&self) -> &[Feature];

    /// Most operations one transaction may have; `None` for no limit.
    fn max_transaction_size(&self) -> Option<usize> {
        None
    }

    /// Whether an empty value is a value to callers of the HTTP API. Of some stores upstream tells them the same as of a
    /// missing key; callers over gRPC see the etag in any case.
    fn has_empty_values(&self) -> bool {
        true
    }

    /// Reads one key; `None` if it is missing or has expired.
    async fn get(&self, request: GetRequest) -> Result<Option<Item>, Error>;

    /// Writes one key.
    async fn set(&self, request: SetRequest) -> Result<(), Error>;

    /// Deletes one key.
    async fn delete(&self, request: DeleteRequest) -> Result<(), Error>;

    /// Runs all operations in order, all or nothing.
    async fn transact(
        &self,
        operations: Vec<Operation>,
        metadata: RequestMetadata,
    ) -> Result<(), Error> {
        drop((operations, metadata));
        Err(Error::new(
            ErrorKind::Unsupported,
            "transactions are not supported by this state store",
        ))
    }

    /// Reads several keys, at most `parallelism` at once (0: all); the default asks for each key.
    async fn bulk_get(
        &self,
        requests: Vec<GetRequest>,
        parallelism: usize,
    ) -> Result<Vec<BulkItem>, Error> {
        let limit = if parallelism == 0 {
            requests.len().max(1)
        } else {
            parallelism
        };
        let gets = requests.into_iter().map(|request| async move {
            let key = request.key.clone();
            BulkItem {
                key,
                result: self.get(request).await,
            }
        });
        Ok(futures::stream::iter(gets).buffered(limit).collect().await)
    }

    /// Writes several keys, each for itself: those without an error are written.
    async fn bulk_set(&self, requests: Vec<SetRequest>) -> Result<(), BulkError> {
        let sets = requests.into_iter().map(|request| async move {
            let key = request.key.clone();
            self.set(request).await.err().map(|error| (key, error))
        });
        failed(futures::future::join_all(sets).await)
    }

    /// Deletes several keys, each for itself.
    async fn bulk_delete(&self, requests: Vec<DeleteRequest>) -> Result<(), BulkError> {
        let deletes = requests.into_iter().map(|request| async move {
            let key = request.key.clone();
            self.delete(request).await.err().map(|error| (key, error))
        });
        failed(futures::future::join_all(deletes).await)
    }

    /// Lists keys by pattern; stores with [`Feature::KeysLike`].
    async fn keys_like(&self, request: KeysLikeRequest) -> Result<KeysPage, Error> {
        drop(request);
        Err(Error::new(
            ErrorKind::Unsupported,
            "listing keys is not supported by this state store",
        ))
    }

    /// Deletes the keys directly below `prefix` and says how many; stores with [`Feature::DeleteWithPrefix`].
    async fn delete_with_prefix(&self, prefix: String) -> Result<u64, Error> {
        drop(prefix);
        Err(Error::new(
            ErrorKind::Unsupported,
            "deleting by prefix is not supported by this state store",
        ))
    }

    /// Closes connections and files.
    async fn close(&self) {}
}

fn failed(results: Vec<Option<(String, Error)>>) -> Result<(), BulkError> {
    let errors: Vec<_> = results.into_iter().flatten().collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(BulkError(errors))
    }
}
