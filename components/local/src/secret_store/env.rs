//! Secrets from environment variables, but for those of the sidecar itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dapr_components_core::secret_store::{
    Feature, GetRequest, RequestMetadata, Secret, SecretStore,
};
use dapr_components_core::{Error, Metadata};

/// The variables of a process.
pub trait Environment: Send + Sync + 'static {
    /// The value of a variable.
    fn get(&self, name: &str) -> Option<String>;

    /// All variables.
    fn all(&self) -> Vec<(String, String)>;
}

/// Variables whose names begin with a prefix.
pub struct Store {
    prefix: String,
    environment: Arc<dyn Environment>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The store that `metadata` describes.
pub fn open(metadata: &Metadata, environment: Arc<dyn Environment>) -> Store {
    Store {
        prefix: metadata.get("prefix").unwrap_or_default().to_owned(),
        environment,
    }
}

/// Whether applications may read a variable: the sidecar's own hold its tokens.
fn is_open(variable: &str) -> bool {
    let upper = variable.to_uppercase();
    upper != "APP_API_TOKEN" && !upper.starts_with("DAPR_")
}

#[async_trait]
impl SecretStore for Store {
    fn features(&self) -> &[Feature] {
        &[]
    }

    /// A variable that is not set, or not open, is an empty value, as upstream has it.
    async fn get(&self, request: GetRequest) -> Result<Secret, Error> {
        let variable = format!("{}{}", self.prefix, request.name);
        let value = if is_open(&variable) {
            self.environment.get(&variable).unwrap_or_default()
        } else {
            String::new()
        };
        Ok(Secret::single(request.name, value))
    }

    async fn bulk_get(&self, _: RequestMetadata) -> Result<BTreeMap<String, Secret>, Error> {
        let open = self.environment.all().into_iter();
        let open = open.filter(|(name, _)| is_open(name));
        Ok(open
            .filter_map(|(name, value)| {
                let name = name.strip_prefix(&self.prefix)?.to_owned();
                Some((name.clone(), Secret::single(name, value)))
            })
            .collect())
    }
}
