//! Secret stores: named secrets with one or several values.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use crate::Error;

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// A secret can have several values, each under a key of its own.
    MultipleKeyValuesPerSecret,
}

impl Feature {
    /// Upstream's name, as the metadata API lists capabilities.
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleKeyValuesPerSecret => "MULTIPLE_KEY_VALUES_PER_SECRET",
        }
    }
}

/// Request metadata.
pub type RequestMetadata = BTreeMap<String, String>;

/// The values of one secret by key. It never shows them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub BTreeMap<String, String>);

impl Secret {
    /// A secret with one value.
    pub fn single(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self(BTreeMap::from([(key.into(), value.into())]))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Asks for one secret.
#[derive(Debug, Clone, Default)]
pub struct GetRequest {
    /// Its name.
    pub name: String,
    /// Request metadata.
    pub metadata: RequestMetadata,
}

/// A secret store. Every call makes one attempt.
#[async_trait]
pub trait SecretStore: Send + Sync + 'static {
    /// What the store can do.
    fn features(&self) -> &[Feature];

    /// The values of one secret.
    async fn get(&self, request: GetRequest) -> Result<Secret, Error>;

    /// All secrets by name.
    async fn bulk_get(&self, metadata: RequestMetadata) -> Result<BTreeMap<String, Secret>, Error>;

    /// Closes connections.
    async fn close(&self) {}
}
