//! Requests as the surfaces hand them in: keys and options as the caller wrote them.

use std::collections::BTreeMap;

use dapr_components_core::state::{
    Concurrency, Consistency, DeleteRequest, Item, SetRequest, Value,
};

/// One key to write.
#[derive(Debug, Clone)]
pub struct SaveItem {
    /// Key without prefix.
    pub key: String,
    /// Value as it is to be stored.
    pub value: Value,
    /// Etag, if given.
    pub etag: Option<String>,
    /// `first-write`, `last-write` or empty.
    pub concurrency: String,
    /// `strong`, `eventual` or empty.
    pub consistency: String,
    /// Metadata of the item.
    pub metadata: BTreeMap<String, String>,
    /// Content type, if given.
    pub content_type: Option<String>,
}

/// One key to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteItem {
    /// Key without prefix.
    pub key: String,
    /// Etag, if given.
    pub etag: Option<String>,
    /// `first-write`, `last-write` or empty.
    pub concurrency: String,
    /// `strong`, `eventual` or empty.
    pub consistency: String,
    /// Metadata of the item.
    pub metadata: BTreeMap<String, String>,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Writes a key.
    Upsert(SaveItem),
    /// Deletes a key.
    Delete(DeleteItem),
}

impl Operation {
    /// The key it touches, without prefix.
    pub fn key(&self) -> &str {
        match self {
            Self::Upsert(item) => &item.key,
            Self::Delete(item) => &item.key,
        }
    }
}

/// The answer for one key of a bulk read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkItem {
    /// Key without prefix.
    pub key: String,
    /// The item, `None` if the key is missing, or why it could not be read.
    pub result: Result<Option<Item>, String>,
}

/// An option with a text no store knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// Neither `first-write` nor `last-write`.
    #[error("unrecognized concurrency model '{0}'")]
    Concurrency(String),
    /// Neither `strong` nor `eventual`.
    #[error("unrecognized consistency model '{0}'")]
    Consistency(String),
}

/// Parses a concurrency option.
pub fn concurrency(text: &str) -> Result<Concurrency, BadOption> {
    match text {
        "" => Ok(Concurrency::Unspecified),
        "first-write" => Ok(Concurrency::FirstWrite),
        "last-write" => Ok(Concurrency::LastWrite),
        _ => Err(BadOption::Concurrency(text.to_owned())),
    }
}

/// Parses a consistency option.
pub fn consistency(text: &str) -> Result<Consistency, BadOption> {
    match text {
        "" => Ok(Consistency::Unspecified),
        "strong" => Ok(Consistency::Strong),
        "eventual" => Ok(Consistency::Eventual),
        _ => Err(BadOption::Consistency(text.to_owned())),
    }
}

/// The request of a component for `item`, stored under `key`.
pub(crate) fn set_request(item: SaveItem, key: String) -> Result<SetRequest, BadOption> {
    Ok(SetRequest {
        key,
        value: item.value,
        etag: item.etag,
        concurrency: concurrency(&item.concurrency)?,
        consistency: consistency(&item.consistency)?,
        metadata: item.metadata,
        content_type: item.content_type,
    })
}

/// The request of a component for `item`, stored under `key`.
pub(crate) fn delete_request(item: DeleteItem, key: String) -> Result<DeleteRequest, BadOption> {
    Ok(DeleteRequest {
        key,
        etag: item.etag,
        concurrency: concurrency(&item.concurrency)?,
        consistency: consistency(&item.consistency)?,
        metadata: item.metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_exact_texts() {
        assert_eq!(concurrency(""), Ok(Concurrency::Unspecified));
        assert_eq!(concurrency("first-write"), Ok(Concurrency::FirstWrite));
        assert_eq!(consistency("strong"), Ok(Consistency::Strong));
        let error = concurrency("First-Write").expect_err("wrong case");
        assert_eq!(
            error.to_string(),
            "unrecognized concurrency model 'First-Write'"
        );
        let error = consistency("sometimes").expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unrecognized consistency model 'sometimes'"
        );
    }
}
