//! Maps `<type>/<version>` to the function that opens a component.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::name_resolution::{Instance, Resolver};
use crate::pubsub::PubSub;
use crate::secret_store::SecretStore;
use crate::state::StateStore;
use crate::{Error, ErrorKind, Metadata};

/// What opening a component gives.
pub type Opening<T> = BoxFuture<'static, Result<Arc<T>, Error>>;

type Open<T> = Arc<dyn Fn(Metadata) -> Opening<T> + Send + Sync>;

/// The components of one building block, by type and version.
pub struct Registry<T: ?Sized> {
    /// How upstream names the building block in errors, for instance `state store`.
    what: &'static str,
    open: BTreeMap<String, Open<T>>,
}

impl<T: ?Sized> std::fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.open.keys()).finish()
    }
}

impl<T: ?Sized> Registry<T> {
    /// An empty registry of `what`.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            open: BTreeMap::new(),
        }
    }

    /// Registers `open` for a type with its version (`state.redis/v1`); `v1` also serves `v0` and no version.
    pub fn register<F>(&mut self, name: &str, open: F)
    where
        F: Fn(Metadata) -> Opening<T> + Send + Sync + 'static,
    {
        self.open.insert(name.to_lowercase(), Arc::new(open));
    }

    /// Opens the component that `metadata` describes.
    pub async fn open(&self, metadata: Metadata) -> Result<Arc<T>, Error> {
        let version = match metadata.version.to_lowercase().as_str() {
            "" | "v0" => "v1".to_owned(),
            version => version.to_owned(),
        };
        let name = format!("{}/{version}", metadata.component_type.to_lowercase());
        let Some(open) = self.open.get(&name) else {
            let text = format!(
                "couldn't find {} {}/{}",
                self.what, metadata.component_type, metadata.version
            );
            return Err(Error::new(ErrorKind::Configuration, text));
        };
        open(metadata).await
    }

    /// Every registered `<type>/<version>`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }
}

type OpenResolver = Arc<dyn Fn(Instance, serde_json::Value) -> Opening<dyn Resolver> + Send + Sync>;

/// Name resolvers, by the component name a Configuration gives (`mdns`).
#[derive(Default)]
pub struct Resolvers {
    open: BTreeMap<String, OpenResolver>,
}

impl std::fmt::Debug for Resolvers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.open.keys()).finish()
    }
}

impl Resolvers {
    /// Registers `open` under `name`.
    pub fn register<F>(&mut self, name: &str, open: F)
    where
        F: Fn(Instance, serde_json::Value) -> Opening<dyn Resolver> + Send + Sync + 'static,
    {
        self.open.insert(name.to_lowercase(), Arc::new(open));
    }

    /// Opens resolver `name` for `instance` with the Configuration's `nameResolution.configuration`.
    pub async fn open(
        &self,
        name: &str,
        instance: Instance,
        configuration: serde_json::Value,
    ) -> Result<Arc<dyn Resolver>, Error> {
        match self.open.get(&name.to_lowercase()) {
            Some(open) => open(instance, configuration).await,
            None => {
                let known: Vec<_> = self.open.keys().map(String::as_str).collect();
                let text = format!(
                    "couldn't find name resolver {name}/v1; this build has: {}",
                    known.join(", ")
                );
                Err(Error::new(ErrorKind::Configuration, text))
            }
        }
    }
}

/// The registries of all building blocks; filled in one place by the sidecar.
#[derive(Debug)]
pub struct Registries {
    /// `state.*`
    pub state: Registry<dyn StateStore>,
    /// `pubsub.*`
    pub pubsub: Registry<dyn PubSub>,
    /// `secretstores.*`
    pub secret_stores: Registry<dyn SecretStore>,
    /// Name resolvers.
    pub name_resolution: Resolvers,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            state: Registry::new("state store"),
            pubsub: Registry::new("message bus"),
            secret_stores: Registry::new("secret store"),
            name_resolution: Resolvers::default(),
        }
    }
}
