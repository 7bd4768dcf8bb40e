//! Secrets from a JSON file that is read once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use dapr_components_core::secret_store::{
    Feature, GetRequest, RequestMetadata, Secret, SecretStore,
};
use dapr_components_core::{Error, ErrorKind, Metadata};
use serde_json::Value;

/// Between the names of nested values, unless given.
const SEPARATOR: &str = ":";

/// The secrets of one file.
pub struct Store {
    secrets: BTreeMap<String, Secret>,
    features: &'static [Feature],
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("secrets", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

/// Reads the file `metadata` names.
///
/// # Errors
/// No file is named, it cannot be read, or it holds no JSON object.
pub async fn open(metadata: &Metadata) -> Result<Store, Error> {
    let wrong = |text: String| Error::new(ErrorKind::Configuration, text);
    let file = metadata.get("secretsFile").unwrap_or_default();
    if file.is_empty() {
        return Err(wrong("missing local secrets file in metadata".to_owned()));
    }
    let text = tokio::fs::read(file).await.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        wrong(format!("open {file}: {reason}"))
    })?;
    let values: serde_json::Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("{file} holds no JSON object: {error}")))?;
    let separator = metadata
        .get("nestedSeparator")
        .filter(|separator| !separator.is_empty())
        .unwrap_or(SEPARATOR);
    Ok(if metadata.bool("multiValued").unwrap_or(false) {
        Store {
            secrets: several(values, separator),
            features: &[Feature::MultipleKeyValuesPerSecret],
        }
    } else {
        Store {
            secrets: single(values, separator),
            features: &[],
        }
    })
}

/// Every value is a secret, named by the way to it.
fn single(values: serde_json::Map<String, Value>, separator: &str) -> BTreeMap<String, Secret> {
    let mut flat = BTreeMap::new();
    flatten("", Value::Object(values), separator, &mut flat);
    flat.into_iter()
        .map(|(name, value)| (name.clone(), Secret::single(name, value)))
        .collect()
}

/// Every entry of the file is a secret: a text with one value, an object with several. Others do not exist.
fn several(values: serde_json::Map<String, Value>, separator: &str) -> BTreeMap<String, Secret> {
    let secrets = values.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name.clone(), Secret::single(name, text))),
        Value::Object(_) => {
            let mut flat = BTreeMap::new();
            flatten("", value, separator, &mut flat);
            Some((name, Secret(flat)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    });
    secrets.collect()
}

fn flatten(name: &str, value: Value, separator: &str, into: &mut BTreeMap<String, String>) {
    let below = |key: &str| match name {
        "" => key.to_owned(),
        _ => format!("{name}{separator}{key}"),
    };
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                flatten(&below(&key), value, separator, into);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.into_iter().enumerate() {
                flatten(&below(&index.to_string()), value, separator, into);
            }
        }
        Value::String(text) => {
            into.insert(name.to_owned(), text);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            into.insert(name.to_owned(), value.to_string());
        }
    }
}

#[async_trait]
impl SecretStore for Store {
    fn features(&self) -> &[Feature] {
        self.features
    }

    async fn get(&self, request: GetRequest) -> Result<Secret, Error> {
        self.secrets.get(&request.name).cloned().ok_or_else(|| {
            let text = format!("secret {} not found", request.name);
            Error::new(ErrorKind::Invalid, text)
        })
    }

    async fn bulk_get(&self, _: RequestMetadata) -> Result<BTreeMap<String, Secret>, Error> {
        Ok(self.secrets.clone())
    }
}
