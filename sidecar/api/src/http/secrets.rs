//! The secrets API.

use std::collections::BTreeMap;

use dapr_components_core::secret_store::Secret;
use serde::Serialize;

use super::path::decode;
use super::{Call, Handled, json};
use crate::error;

pub(super) async fn get(call: Call<'_>, store: &str, key: &str) -> Handled {
    let (store, key) = (decode(store)?, decode(key)?);
    let secrets = &call.core.secrets;
    let found = secrets.get(&store, &key, call.query.metadata()).await;
    let Secret(values) = found.map_err(|error| error::secrets(&error))?;
    line(&values)
}

pub(super) async fn bulk_get(call: Call<'_>, store: &str) -> Handled {
    let store = decode(store)?;
    let secrets = &call.core.secrets;
    let found = secrets.bulk_get(&store, call.query.metadata()).await;
    let found = found.map_err(|error| error::secrets(&error))?;
    let all: BTreeMap<&String, &BTreeMap<String, String>> = found
        .iter()
        .map(|(name, Secret(values))| (name, values))
        .collect();
    line(&all)
}

/// JSON with the line feed upstream ends it with.
fn line(value: &impl Serialize) -> Handled {
    let mut body = serde_json::to_vec(value).map_err(error::malformed)?;
    body.push(b'\n');
    Ok(json(body))
}
