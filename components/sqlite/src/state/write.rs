//! From a write request to the statement that carries it out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_components_core::state::{Concurrency, DeleteRequest, SetRequest, Value, ttl};
use dapr_components_core::{Error, ErrorKind};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::sql::Sql;
use crate::error::failed;

/// A write that has been checked and needs the database only.
#[derive(Debug)]
pub(super) enum Change {
    Upsert {
        key: String,
        text: Bytes,
        is_binary: bool,
        ttl: Option<u32>,
        condition: Condition,
    },
    /// First-write means nothing for a delete here.
    Delete { key: String, etag: Option<String> },
}

#[derive(Debug)]
pub(super) enum Condition {
    None,
    Absent,
    Etag(String),
}

impl Change {
    pub(super) fn upsert(request: SetRequest) -> Result<Self, Error> {
        let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
        let ttl = ttl::seconds(&request.metadata)
            .map_err(|cause| invalid(format!("error parsing TTL: {cause}")))?;
        let (text, is_binary) = match request.value {
            Value::Binary(bytes) => (Bytes::from(STANDARD.encode(bytes)), true),
            Value::Json(text) if std::str::from_utf8(&text).is_ok() => (text, false),
            Value::Json(_) => {
                return Err(invalid(
                    "the value is not JSON: it is not UTF-8 text".to_owned(),
                ));
            }
        };
        let condition = match (given(request.etag), request.concurrency) {
            (Some(etag), _) => Condition::Etag(etag),
            (None, Concurrency::FirstWrite) => Condition::Absent,
            (None, Concurrency::Unspecified | Concurrency::LastWrite) => Condition::None,
        };
        Ok(Self::Upsert {
            key: request.key,
            text,
            is_binary,
            ttl,
            condition,
        })
    }

    pub(super) fn delete(request: DeleteRequest) -> Self {
        Self::Delete {
            key: request.key,
            etag: given(request.etag),
        }
    }

    pub(super) fn apply(&self, connection: &Connection, sql: &Sql) -> Result<(), Error> {
        let is_done = match self {
            Self::Upsert {
                key,
                text,
                is_binary,
                ttl,
                condition,
            } => {
                let text = ToSqlOutput::Borrowed(ValueRef::Text(text));
                let etag = Uuid::new_v4().to_string();
                let statement = |sql| connection.prepare_cached(sql).map_err(failed);
                let changed =
                    match condition {
                        Condition::None => statement(&sql.replace)?
                            .execute(params![key, text, is_binary, etag, ttl]),
                        Condition::Absent => statement(&sql.insert)?
                            .execute(params![key, text, is_binary, etag, ttl]),
                        Condition::Etag(old) => statement(&sql.update)?
                            .execute(params![key, text, is_binary, etag, ttl, old]),
                    };
                changed.map_err(failed)? > 0
            }
            Self::Delete { key, etag: None } => {
                let mut statement = connection.prepare_cached(&sql.delete).map_err(failed)?;
                statement.execute([key]).map_err(failed)?;
                true
            }
            Self::Delete {
                key,
                etag: Some(etag),
            } => {
                let mut statement = connection
                    .prepare_cached(&sql.delete_with_etag)
                    .map_err(failed)?;
                statement.execute([key, etag]).map_err(failed)? > 0
            }
        };
        if is_done {
            Ok(())
        } else {
            Err(Error::etag_mismatch(None))
        }
    }
}

fn given(etag: Option<String>) -> Option<String> {
    etag.filter(|etag| !etag.is_empty())
}
