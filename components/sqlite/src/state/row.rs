//! From the columns of a row to an item.

use std::borrow::Cow;

use base64::DecodeError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_components_core::state::Item;
use dapr_components_core::{Error, ErrorKind};
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::time;
use crate::error::failed;

/// Reads `value, is_binary, etag, expiration_time`.
pub(super) fn item(row: &Row<'_>) -> Result<Item, Error> {
    let column = |index| row.get_ref(index).map_err(failed);
    let value = match column(0)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        other => return Err(unreadable("value", other)),
    };
    let data = if is_binary(column(1)?) {
        decode(value)?
    } else {
        Bytes::copy_from_slice(value)
    };
    let expires = match column(3)? {
        ValueRef::Null => None,
        ValueRef::Text(text) => {
            let parsed = std::str::from_utf8(text).ok().and_then(time::parse);
            Some(parsed.ok_or_else(|| unreadable("expiration_time", ValueRef::Text(text)))?)
        }
        other => return Err(unreadable("expiration_time", other)),
    };
    let metadata = expires.map(|expires| ("ttlExpireTime".to_owned(), time::rfc3339(expires)));
    Ok(Item {
        data,
        etag: Some(row.get(2).map_err(failed)?),
        metadata: metadata.into_iter().collect(),
    })
}

/// Written as an integer; by hand it may be a text.
fn is_binary(value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::Integer(number) => number != 0,
        ValueRef::Text(text) => matches!(text, b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True"),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => false,
    }
}

/// Line breaks do not count, as in Go; other tools write them.
fn decode(text: &[u8]) -> Result<Bytes, Error> {
    let is_broken = text.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    let text = if is_broken {
        let kept = text.iter().filter(|byte| !matches!(byte, b'\r' | b'\n'));
        Cow::Owned(kept.copied().collect::<Vec<u8>>())
    } else {
        Cow::Borrowed(text)
    };
    STANDARD.decode(&*text).map(Bytes::from).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len(),
        };
        let message =
            format!("failed to decode binary data: illegal base64 data at input byte {at}");
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}

fn unreadable(column: &str, value: ValueRef<'_>) -> Error {
    let shown = match value {
        ValueRef::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        other => other.data_type().to_string(),
    };
    Error::new(
        ErrorKind::Internal,
        format!("failed to read column {column}: unexpected value {shown}"),
    )
}
