//! Actor state on a state store: keys below the actor, one transaction for all writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dapr_components_core::state::{
    DeleteRequest, Feature, GetRequest, Operation, SetRequest, StateStore, Value,
};
use dapr_sidecar_core::actors::{StateItem, StateOperation};

/// Why the state of an actor could not be read or written; the caller's prefix is not part of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("missing key")]
    MissingKey,
    #[error("ttlInSeconds is not supported without the \"ActorStateTTL\" feature enabled")]
    TtlDisabled,
    #[error("the transaction contains more operations than supported by the state store")]
    TooManyOperations,
    #[error("{0}")]
    Store(String),
}

/// Whether a store can hold actors.
pub(crate) fn is_usable(store: &dyn StateStore) -> bool {
    let features = store.features();
    features.contains(&Feature::Etag) && features.contains(&Feature::Transactional)
}

/// The store of an application's actors.
pub(crate) struct ActorState {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn StateStore>,
}

/// Which actor, and the rules of this sidecar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) app_id: &'a str,
    pub(crate) actor_type: &'a str,
    pub(crate) actor_id: &'a str,
    pub(crate) allow_ttl: bool,
}

impl Scope<'_> {
    /// All keys of the actor begin with it, and stores with partitions keep them together.
    fn partition(&self) -> String {
        format!("{}||{}||{}", self.app_id, self.actor_type, self.actor_id)
    }
}

pub(crate) async fn get(
    store: &dyn StateStore,
    scope: Scope<'_>,
    key: &str,
) -> Result<Option<StateItem>, Error> {
    let partition = scope.partition();
    let request = GetRequest {
        key: format!("{partition}||{key}"),
        metadata: with_partition(BTreeMap::new(), &partition),
        ..GetRequest::default()
    };
    let item = store.get(request).await.map_err(store_error)?;
    Ok(item.map(|item| StateItem {
        data: item.data,
        metadata: item.metadata,
    }))
}

pub(crate) async fn transact(
    store: &dyn StateStore,
    scope: Scope<'_>,
    operations: Vec<StateOperation>,
) -> Result<(), Error> {
    if operations.is_empty() {
        return Ok(());
    }
    if store
        .max_transaction_size()
        .is_some_and(|max| operations.len() > max)
    {
        return Err(Error::TooManyOperations);
    }
    let partition = scope.partition();
    let operations = operations
        .into_iter()
        .map(|operation| store_operation(operation, &partition, scope.allow_ttl))
        .collect::<Result<_, _>>()?;
    let metadata = with_partition(BTreeMap::new(), &partition);
    store
        .transact(operations, metadata)
        .await
        .map_err(store_error)
}

fn store_operation(
    operation: StateOperation,
    partition: &str,
    allow_ttl: bool,
) -> Result<Operation, Error> {
    match operation {
        StateOperation::Upsert {
            key,
            value,
            etag,
            metadata,
        } => {
            if !allow_ttl && metadata.contains_key("ttlInSeconds") {
                return Err(Error::TtlDisabled);
            }
            Ok(Operation::Upsert(SetRequest {
                key: full_key(partition, &key)?,
                value: classify(value),
                etag,
                concurrency: Default::default(),
                consistency: Default::default(),
                metadata: with_partition(metadata, partition),
                content_type: None,
            }))
        }
        StateOperation::Delete { key, etag } => Ok(Operation::Delete(DeleteRequest {
            key: full_key(partition, &key)?,
            etag,
            metadata: with_partition(BTreeMap::new(), partition),
            ..DeleteRequest::default()
        })),
    }
}

/// JSON is kept as text, which stores can show and query; anything else is bytes.
fn classify(value: Bytes) -> Value {
    if serde_json::from_slice::<serde::de::IgnoredAny>(&value).is_ok() {
        Value::Json(value)
    } else {
        Value::Binary(value)
    }
}

fn full_key(partition: &str, key: &str) -> Result<String, Error> {
    if key.is_empty() {
        return Err(Error::MissingKey);
    }
    Ok(format!("{partition}||{key}"))
}

fn with_partition(
    mut metadata: BTreeMap<String, String>,
    partition: &str,
) -> BTreeMap<String, String> {
    metadata.insert("partitionKey".to_owned(), partition.to_owned());
    metadata
}

fn store_error(error: dapr_components_core::Error) -> Error {
    Error::Store(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(key: &str, ttl: Option<&str>) -> StateOperation {
        StateOperation::Upsert {
            key: key.to_owned(),
            value: Bytes::from_static(b"1"),
            etag: None,
            metadata: ttl
                .map(|ttl| ("ttlInSeconds".to_owned(), ttl.to_owned()))
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn keys_and_partition() {
        let operation = store_operation(upsert("k", Some("5")), "app||t||1", true);
        let Ok(Operation::Upsert(request)) = operation else {
            panic!("{operation:?}");
        };
        assert_eq!(request.key, "app||t||1||k");
        assert_eq!(request.metadata["partitionKey"], "app||t||1");
        assert_eq!(request.metadata["ttlInSeconds"], "5");
        assert_eq!(request.value, Value::Json(Bytes::from_static(b"1")));
    }

    #[test]
    fn refused_operations() {
        let check = |operation: StateOperation, expected: &Error| {
            let result = store_operation(operation, "p", false);
            assert_eq!(result.err().as_ref(), Some(expected));
        };
        check(upsert("", None), &Error::MissingKey);
        check(upsert("k", Some("5")), &Error::TtlDisabled);
        let delete = StateOperation::Delete {
            key: String::new(),
            etag: None,
        };
        check(delete, &Error::MissingKey);
    }
}
