//! The state API.

use std::collections::BTreeMap;

use ::http::header::{ETAG, HeaderValue, IF_MATCH};
use bytes::Bytes;
use dapr_components_core::state::Feature;
use dapr_sidecar_core::fields::Fields;
use dapr_sidecar_core::state::{
    self, BulkItem, DeleteItem, Operation, SaveItem, Value, canonical_value,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::path::decode;
use super::{Call, Handled, add_metadata, json, no_content};
use crate::error::{self, ApiError, Surface};

type Metadata = BTreeMap<String, String>;

fn surface<'a>(call: &Call<'a>) -> Surface<'a> {
    Surface::Http {
        app_id: &call.core.app_id,
    }
}

pub(super) async fn get(call: Call<'_>, store: &str, key: &str) -> Handled {
    let (store, key) = (decode(store)?, decode(key)?);
    let consistency = call.query.get("consistency");
    let found = call
        .core
        .stores
        .get(&store, &key, &consistency, call.query.metadata())
        .await
        .map_err(|error| error::state(error, surface(&call)))?;
    let Some(item) = found else {
        return Ok(no_content());
    };
    if item.data.is_empty() {
        let store = call.core.stores.store(&store);
        let store = store.map_err(|error| error::state(error, surface(&call)))?;
        if !store.inner.has_empty_values() {
            return Ok(no_content());
        }
    }
    let mut response = json(item.data);
    let headers = response.headers_mut();
    if let Some(etag) = item.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        headers.insert(ETAG, etag);
    }
    add_metadata(headers, &item.metadata);
    Ok(response)
}

/// An item of a save, or the request of an operation in a transaction.
#[derive(Debug)]
struct Item<'a> {
    key: String,
    value: Option<&'a RawValue>,
    etag: Option<String>,
    metadata: Metadata,
    concurrency: String,
    consistency: String,
    content_type: Option<String>,
}

impl<'a> TryFrom<&Fields<'a>> for Item<'a> {
    type Error = serde_json::Error;

    fn try_from(fields: &Fields<'a>) -> Result<Self, serde_json::Error> {
        let options: Fields<'_> = fields.borrowed("options")?.unwrap_or_default();
        Ok(Self {
            key: fields.get("key")?,
            value: fields.raw("value"),
            etag: fields.get("etag")?,
            metadata: fields.metadata("metadata")?,
            concurrency: options.get("concurrency")?,
            consistency: options.get("consistency")?,
            content_type: fields.get("contentType")?,
        })
    }
}

impl Item<'_> {
    /// The item to save; metadata of the query overrides its own.
    fn save(self, query: &Metadata) -> Result<SaveItem, serde_json::Error> {
        let value = canonical_value(self.value.map_or("null", RawValue::get))?;
        Ok(SaveItem {
            key: self.key,
            value: Value::Json(value),
            etag: self.etag,
            concurrency: self.concurrency,
            consistency: self.consistency,
            metadata: merged(self.metadata, query),
            content_type: self.content_type,
        })
    }

    fn delete(self, query: &Metadata) -> DeleteItem {
        DeleteItem {
            key: self.key,
            etag: self.etag,
            concurrency: self.concurrency,
            consistency: self.consistency,
            metadata: merged(self.metadata, query),
        }
    }
}

fn merged(mut metadata: Metadata, query: &Metadata) -> Metadata {
    metadata.extend(
        query
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    metadata
}

pub(super) async fn save(mut call: Call<'_>, store: &str) -> Handled {
    let store = decode(store)?;
    let surface = surface(&call);
    call.core
        .stores
        .store(&store)
        .map_err(|error| error::state(error, surface))?;
    let query = call.query.metadata();
    let body = call
        .read_json()
        .await
        .map_err(|error| error::malformed_text(error.to_string()))?;
    let wrong = |error: serde_json::Error| error::malformed_text(error.to_string());
    let items: Option<Vec<Fields<'_>>> = serde_json::from_slice(&body).map_err(wrong)?;
    let items = items.unwrap_or_default();
    if items.is_empty() {
        return Ok(no_content());
    }
    let items = items.iter().map(Item::try_from);
    let items = items.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let items = items
        .into_iter()
        .map(|item| {
            if item.key.is_empty() {
                return Err(error::key_required());
            }
            item.save(&query).map_err(wrong)
        })
        .collect::<Result<Vec<_>, _>>()?;
    call.core
        .stores
        .save(&store, items)
        .await
        .map_err(|error| error::state(error, surface))?;
    Ok(no_content())
}

pub(super) async fn delete(call: Call<'_>, store: &str, key: &str) -> Handled {
    let (store, key) = (decode(store)?, decode(key)?);
    let etag = call.headers.get(IF_MATCH);
    let item = DeleteItem {
        key: key.into_owned(),
        etag: etag.map(|etag| String::from_utf8_lossy(etag.as_bytes()).into_owned()),
        concurrency: call.query.get("concurrency").into_owned(),
        consistency: call.query.get("consistency").into_owned(),
        metadata: call.query.metadata(),
    };
    call.core
        .stores
        .delete(&store, item)
        .await
        .map_err(|error| error::state(error, surface(&call)))?;
    Ok(no_content())
}

#[derive(Serialize)]
struct BulkAnswer<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn bulk_get(mut call: Call<'_>, store: &str) -> Handled {
    let store = decode(store)?;
    let surface = surface(&call);
    call.core
        .stores
        .store(&store)
        .map_err(|error| error::state(error, surface))?;
    let body = call.read_or_malformed().await?;
    let request: Fields<'_> = serde_json::from_slice(&body).map_err(error::malformed)?;
    let keys: Vec<String> = request.get("keys").map_err(error::malformed)?;
    let parallelism = request.get("parallelism").map_err(error::malformed)?;
    let metadata = request.metadata("metadata").map_err(error::malformed)?;
    if keys.is_empty() {
        return Ok(json("[]\n"));
    }
    let metadata = merged(metadata, &call.query.metadata());
    let items = call
        .core
        .stores
        .bulk_get(&store, keys, parallelism, metadata)
        .await
        .map_err(|error| error::state(error, surface))?;
    Ok(json(bulk_answer(&items)))
}

fn bulk_answer(items: &[BulkItem]) -> Bytes {
    let none = Metadata::new();
    let answers: Vec<BulkAnswer<'_>> = items
        .iter()
        .map(|item| {
            let mut answer = BulkAnswer {
                key: &item.key,
                data: None,
                etag: None,
                metadata: &none,
                error: None,
            };
            match &item.result {
                Ok(None) => {}
                Ok(Some(found)) => {
                    answer.etag = found.etag.as_deref().filter(|etag| !etag.is_empty());
                    answer.metadata = &found.metadata;
                    match serde_json::from_slice(&found.data) {
                        Ok(data) => answer.data = Some(data),
                        Err(_) if found.data.is_empty() => {}
                        Err(error) => answer.error = Some(format!("value is not JSON: {error}")),
                    }
                }
                Err(reason) => answer.error = Some(reason.clone()),
            }
            answer
        })
        .collect();
    let mut body = serde_json::to_vec(&answers).unwrap_or_default();
    body.push(b'\n');
    body.into()
}

pub(super) async fn transact(mut call: Call<'_>, store: &str) -> Handled {
    let store = decode(store)?;
    let surface = surface(&call);
    let refused = |error| error::state_transaction(error, surface);
    let found = call.core.stores.store(&store).map_err(refused)?;
    if !found.inner.features().contains(&Feature::Transactional) {
        let store = store.into_owned();
        return Err(refused(state::Error::TransactionsNotSupported { store }).into());
    }
    let body = call.read_or_malformed().await?;
    let transaction: Fields<'_> = serde_json::from_slice(&body).map_err(error::malformed)?;
    let operations: Option<Vec<Fields<'_>>> = transaction
        .borrowed("operations")
        .map_err(error::malformed)?;
    let metadata = transaction.metadata("metadata").map_err(error::malformed)?;
    let operations = operations.unwrap_or_default();
    if operations.is_empty() {
        return Ok(no_content());
    }
    let query = call.query.metadata();
    let operations = operations
        .iter()
        .map(|operation| operation_of(operation, &query))
        .collect::<Result<Vec<_>, ApiError>>()?;
    let metadata = merged(metadata, &query);
    call.core
        .stores
        .transact(&store, operations, metadata)
        .await
        .map_err(refused)?;
    Ok(no_content())
}

fn operation_of(operation: &Fields<'_>, query: &Metadata) -> Result<Operation, ApiError> {
    let kind: String = operation.get("operation").map_err(error::malformed)?;
    let item = || {
        let request: Fields<'_> = operation.borrowed("request")?.unwrap_or_default();
        Item::try_from(&request)
    };
    match kind.as_str() {
        "upsert" => {
            let item = item().and_then(|item| item.save(query));
            Ok(Operation::Upsert(item.map_err(error::malformed)?))
        }
        "delete" => Ok(Operation::Delete(
            item().map_err(error::malformed)?.delete(query),
        )),
        other => Err(error::unsupported_operation(other)),
    }
}

pub(super) async fn query(mut call: Call<'_>, store: &str) -> Handled {
    let store = decode(store)?;
    call.core.stores.store(&store).map_err(error::state_query)?;
    let body = call.read().await.map_err(|error| {
        let store = store.to_string();
        let reason = error.to_string();
        error::state_query(state::Error::QueryFailed { store, reason })
    })?;
    let text = String::from_utf8_lossy(&body);
    let refused = call
        .core
        .stores
        .query(&store, &text, call.query.metadata())
        .await;
    match refused {
        Err(error) => Err(error::state_query(error).into()),
        Ok(never) => match never {},
    }
}
