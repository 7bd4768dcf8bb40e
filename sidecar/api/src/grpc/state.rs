//! The state methods.

use std::collections::{BTreeMap, HashMap};

use dapr_components_core::state::Feature;
use dapr_proto::dapr::proto::common::v1::state_options::{StateConcurrency, StateConsistency};
use dapr_proto::dapr::proto::common::v1::{StateItem, StateOptions};
use dapr_proto::dapr::proto::runtime::v1::{
    BulkStateItem, DeleteBulkStateRequest, DeleteStateRequest, ExecuteStateTransactionRequest,
    GetBulkStateRequest, GetBulkStateResponse, GetStateRequest, GetStateResponse,
    QueryStateRequest, QueryStateResponse, SaveStateRequest,
};
use dapr_sidecar_core::state::{self, DeleteItem, Operation, SaveItem, Value, canonical_value};
use tonic::Status;

use crate::error::{self, Surface};
use crate::services::Core;

fn refused(error: state::Error) -> Status {
    error::state(error, Surface::Grpc).into()
}

fn map(metadata: HashMap<String, String>) -> BTreeMap<String, String> {
    metadata.into_iter().collect()
}

fn consistency(number: i32) -> &'static str {
    match StateConsistency::try_from(number) {
        Ok(StateConsistency::ConsistencyEventual) => "eventual",
        Ok(StateConsistency::ConsistencyStrong) => "strong",
        Ok(StateConsistency::ConsistencyUnspecified) | Err(_) => "",
    }
}

fn concurrency(number: i32) -> &'static str {
    match StateConcurrency::try_from(number) {
        Ok(StateConcurrency::ConcurrencyFirstWrite) => "first-write",
        Ok(StateConcurrency::ConcurrencyLastWrite) => "last-write",
        Ok(StateConcurrency::ConcurrencyUnspecified) | Err(_) => "",
    }
}

fn options(options: Option<StateOptions>) -> (String, String) {
    let options = options.unwrap_or_default();
    (
        concurrency(options.concurrency).to_owned(),
        consistency(options.consistency).to_owned(),
    )
}

pub(super) async fn get(core: &Core, request: GetStateRequest) -> Result<GetStateResponse, Status> {
    let found = core
        .stores
        .get(
            &request.store_name,
            &request.key,
            consistency(request.consistency),
            map(request.metadata),
        )
        .await
        .map_err(refused)?;
    let item = found.unwrap_or_default();
    Ok(GetStateResponse {
        data: item.data,
        etag: item.etag.unwrap_or_default(),
        metadata: item.metadata.into_iter().collect(),
    })
}

pub(super) async fn get_bulk(
    core: &Core,
    request: GetBulkStateRequest,
) -> Result<GetBulkStateResponse, Status> {
    core.stores.store(&request.store_name).map_err(refused)?;
    if request.keys.is_empty() {
        return Ok(GetBulkStateResponse::default());
    }
    let items = core
        .stores
        .bulk_get(
            &request.store_name,
            request.keys,
            request.parallelism,
            map(request.metadata),
        )
        .await
        .map_err(refused)?;
    let items = items.into_iter().map(|item| {
        let (found, error) = match item.result {
            Ok(found) => (found.unwrap_or_default(), String::new()),
            Err(reason) => (Default::default(), reason),
        };
        BulkStateItem {
            key: item.key,
            data: found.data,
            etag: found.etag.unwrap_or_default(),
            error,
            metadata: found.metadata.into_iter().collect(),
        }
    });
    Ok(GetBulkStateResponse {
        items: items.collect(),
    })
}

/// An item with its raw bytes.
fn raw_item(item: StateItem) -> SaveItem {
    let (concurrency, consistency) = options(item.options);
    SaveItem {
        key: item.key,
        value: Value::Binary(item.value),
        etag: item.etag.map(|etag| etag.value),
        concurrency,
        consistency,
        content_type: item.metadata.get("contentType").cloned(),
        metadata: map(item.metadata),
    }
}

/// An item to save: raw bytes, unless it says that it is JSON, which is stored compact.
fn save_item(item: StateItem) -> Result<SaveItem, Status> {
    let mut item = raw_item(item);
    if item.content_type.as_deref() == Some("application/json") {
        let text = std::str::from_utf8(item.value.bytes())
            .map_err(|error| Status::unknown(error.to_string()))?;
        let json = canonical_value(text).map_err(|error| Status::unknown(error.to_string()))?;
        item.value = Value::Json(json);
    }
    Ok(item)
}

fn delete_item(item: StateItem) -> DeleteItem {
    let (concurrency, consistency) = options(item.options);
    DeleteItem {
        key: item.key,
        etag: item.etag.map(|etag| etag.value),
        concurrency,
        consistency,
        metadata: map(item.metadata),
    }
}

pub(super) async fn save(core: &Core, request: SaveStateRequest) -> Result<(), Status> {
    core.stores.store(&request.store_name).map_err(refused)?;
    if request.states.is_empty() {
        return Ok(());
    }
    let items = request
        .states
        .into_iter()
        .map(|item| {
            if item.key.is_empty() {
                return Err(error::empty_state_key().into());
            }
            save_item(item)
        })
        .collect::<Result<Vec<_>, Status>>()?;
    core.stores
        .save(&request.store_name, items)
        .await
        .map_err(refused)
}

pub(super) async fn delete(core: &Core, request: DeleteStateRequest) -> Result<(), Status> {
    let (concurrency, consistency) = options(request.options);
    let item = DeleteItem {
        key: request.key,
        etag: request.etag.map(|etag| etag.value),
        concurrency,
        consistency,
        metadata: map(request.metadata),
    };
    core.stores
        .delete(&request.store_name, item)
        .await
        .map_err(refused)
}

pub(super) async fn delete_bulk(
    core: &Core,
    request: DeleteBulkStateRequest,
) -> Result<(), Status> {
    core.stores.store(&request.store_name).map_err(refused)?;
    let items: Vec<_> = request.states.into_iter().map(delete_item).collect();
    if items.is_empty() {
        return Ok(());
    }
    core.stores
        .delete_bulk(&request.store_name, items)
        .await
        .map_err(refused)
}

pub(super) async fn transact(
    core: &Core,
    request: ExecuteStateTransactionRequest,
) -> Result<(), Status> {
    let store = core.stores.store(&request.store_name).map_err(refused)?;
    if !store.inner.features().contains(&Feature::Transactional) {
        let store = request.store_name;
        return Err(refused(state::Error::TransactionsNotSupported { store }));
    }
    let operations = request
        .operations
        .into_iter()
        .map(|operation| {
            let item = operation.request.unwrap_or_default();
            match operation.operation_type.as_str() {
                // Other than in a save, nothing is read into the bytes.
                "upsert" => Ok(Operation::Upsert(raw_item(item))),
                "delete" => Ok(Operation::Delete(delete_item(item))),
                other => Err(error::unsupported_operation(other).into()),
            }
        })
        .collect::<Result<Vec<_>, Status>>()?;
    if operations.is_empty() {
        return Ok(());
    }
    core.stores
        .transact(&request.store_name, operations, map(request.metadata))
        .await
        .map_err(refused)
}

pub(super) async fn query(
    core: &Core,
    request: QueryStateRequest,
) -> Result<QueryStateResponse, Status> {
    let refused = core
        .stores
        .query(&request.store_name, &request.query, map(request.metadata))
        .await;
    match refused {
        Err(error) => Err(error::state_query(error).into()),
        Ok(never) => match never {},
    }
}
