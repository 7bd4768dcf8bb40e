//! Secrets from a JSON file that is read once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use dapr_components_core::secret_store::{
    Feature, GetRequest, RequestMetadata, Secret, SecretStore,
};
use dapr_components_core::{Error, ErrorKind, Metadata};
use serde_json::value::RawValue;

/// Between the names of nested values, unless given.
const SEPARATOR: &str = ":";

/// An object with its values as they stand in the file.
type Object<'a> = BTreeMap<String, &'a RawValue>;

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
    let no_object = |error| wrong(format!("{file} holds no JSON object: {error}"));
    let values: Object<'_> = serde_json::from_slice(&text).map_err(no_object)?;
    let separator = metadata
        .get("nestedSeparator")
        .filter(|separator| !separator.is_empty())
        .unwrap_or(SEPARATOR);
    Ok(if metadata.bool("multiValued").unwrap_or(false) {
        Store {
            secrets: several(&values, separator).map_err(no_object)?,
            features: &[Feature::MultipleKeyValuesPerSecret],
        }
    } else {
        Store {
            secrets: single(&values, separator).map_err(no_object)?,
            features: &[],
        }
    })
}

/// Every value is a secret, named by the way to it.
fn single(
    values: &Object<'_>,
    separator: &str,
) -> Result<BTreeMap<String, Secret>, serde_json::Error> {
    let mut flat = BTreeMap::new();
    for (name, value) in values {
        flatten(name, value, separator, &mut flat)?;
    }
    let secrets = flat.into_iter();
    Ok(secrets
        .map(|(name, value)| (name.clone(), Secret::single(name, value)))
        .collect())
}

/// Every entry of the file is a secret: a text with one value, an object with several. Others do not exist.
fn several(
    values: &Object<'_>,
    separator: &str,
) -> Result<BTreeMap<String, Secret>, serde_json::Error> {
    let mut secrets = BTreeMap::new();
    for (name, value) in values {
        let text = value.get();
        if text.starts_with('"') {
            let secret = Secret::single(name.clone(), serde_json::from_str::<String>(text)?);
            secrets.insert(name.clone(), secret);
        } else if text.starts_with('{') {
            let mut flat = BTreeMap::new();
            for (key, value) in serde_json::from_str::<Object<'_>>(text)? {
                flatten(&key, value, separator, &mut flat)?;
            }
            secrets.insert(name.clone(), Secret(flat));
        }
    }
    Ok(secrets)
}

/// Numbers stay as they are written: a long one may be a key.
fn flatten(
    name: &str,
    value: &RawValue,
    separator: &str,
    into: &mut BTreeMap<String, String>,
) -> Result<(), serde_json::Error> {
    let below = |key: &str| match name {
        "" => key.to_owned(),
        _ => format!("{name}{separator}{key}"),
    };
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            for (key, value) in serde_json::from_str::<Object<'_>>(text)? {
                flatten(&below(&key), value, separator, into)?;
            }
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            for (index, value) in items.into_iter().enumerate() {
                flatten(&below(&index.to_string()), value, separator, into)?;
            }
        }
        Some(b'"') => {
            into.insert(name.to_owned(), serde_json::from_str(text)?);
        }
        _ => {
            into.insert(name.to_owned(), text.to_owned());
        }
    }
    Ok(())
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
