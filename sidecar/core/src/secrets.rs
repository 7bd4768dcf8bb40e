//! The secrets API: which store, whether the application may, and the call under the store's policies.

mod scopes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use dapr_components_core::Error as ComponentError;
use dapr_components_core::secret_store::{GetRequest, RequestMetadata, Secret, SecretStore};

use crate::metrics::{Block, ComponentMetrics};
use crate::resiliency::{ComponentKind, Failed, Resiliency, Target};

pub use scopes::{BadScope, ScopeSpec, Scopes};

/// Why a secret is not answered; `Display` is the text callers read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No store is loaded at all.
    #[error("secret store is not configured")]
    NotConfigured,
    /// Others are loaded, this one is not.
    #[error("failed finding secret store with key {0}")]
    NotFound(String),
    /// The Configuration keeps the secret from this application.
    #[error("access denied by policy to get {name:?} from {store:?}")]
    Denied {
        /// Store asked for.
        store: String,
        /// Secret asked for.
        name: String,
    },
    /// The store did not answer.
    #[error("failed getting secret with key {name} from secret store {store}: {reason}")]
    Get {
        /// Store asked.
        store: String,
        /// Secret asked for.
        name: String,
        /// Why.
        reason: String,
    },
    /// The store did not answer.
    #[error("failed getting secrets from secret store {store}: {reason}")]
    BulkGet {
        /// Store asked.
        store: String,
        /// Why.
        reason: String,
    },
}

type Stores = BTreeMap<String, Arc<Loaded>>;

/// A loaded store; calls hold it, so that the last of them tells that it may be closed.
struct Loaded {
    store: Arc<dyn SecretStore>,
    _in_use: crate::lease::InUse,
}

/// All loaded secret stores, and the rules of the Configuration.
pub struct Secrets {
    scopes: Scopes,
    resiliency: Arc<Resiliency>,
    metrics: Arc<dyn ComponentMetrics>,
    stores: ArcSwap<Stores>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.stores.load().keys()).finish()
    }
}

impl Secrets {
    /// No stores yet.
    pub fn new(
        scopes: Scopes,
        resiliency: Arc<Resiliency>,
        metrics: Arc<dyn ComponentMetrics>,
    ) -> Self {
        Self {
            scopes,
            resiliency,
            metrics,
            stores: ArcSwap::default(),
        }
    }

    /// Adds a store, or replaces the one of that name. The lease ends with the last call of it once it is taken out.
    pub fn add(&self, name: &str, store: Arc<dyn SecretStore>) -> crate::lease::Lease {
        let (in_use, lease) = crate::lease::lease();
        let loaded = Arc::new(Loaded {
            store,
            _in_use: in_use,
        });
        self.stores.rcu(|stores| {
            let mut stores = Stores::clone(stores);
            stores.insert(name.to_owned(), Arc::clone(&loaded));
            stores
        });
        lease
    }

    /// Takes a store out; the caller closes it.
    pub fn remove(&self, name: &str) {
        self.stores.rcu(|stores| {
            let mut stores = Stores::clone(stores);
            stores.remove(name);
            stores
        });
    }

    /// Whether a store of that name is loaded.
    pub fn contains(&self, name: &str) -> bool {
        self.stores.load().contains_key(name)
    }

    /// The values of one secret, for an application.
    pub async fn get(
        &self,
        store: &str,
        name: &str,
        metadata: RequestMetadata,
    ) -> Result<Secret, Error> {
        let loaded = self.find(store)?;
        if !self.scopes.allows(store, name) {
            return Err(Error::Denied {
                store: store.to_owned(),
                name: name.to_owned(),
            });
        }
        let request = GetRequest {
            name: name.to_owned(),
            metadata,
        };
        let attempt = || loaded.store.get(request.clone());
        let found = self.call(store, "get", attempt).await;
        found.map_err(|reason| Error::Get {
            store: store.to_owned(),
            name: name.to_owned(),
            reason,
        })
    }

    /// All secrets an application may see.
    pub async fn bulk_get(
        &self,
        store: &str,
        metadata: RequestMetadata,
    ) -> Result<BTreeMap<String, Secret>, Error> {
        let loaded = self.find(store)?;
        let attempt = || loaded.store.bulk_get(metadata.clone());
        let found = self.call(store, "bulk_get", attempt).await;
        let mut secrets = found.map_err(|reason| Error::BulkGet {
            store: store.to_owned(),
            reason,
        })?;
        secrets.retain(|name, _| self.scopes.allows(store, name));
        Ok(secrets)
    }

    /// The values of one secret for a resource of the sidecar: neither scopes nor policies apply. `None` without the
    /// store.
    pub async fn resolve(
        &self,
        store: &str,
        request: GetRequest,
    ) -> Option<Result<Secret, ComponentError>> {
        let loaded = self.stores.load().get(store).cloned()?;
        Some(loaded.store.get(request).await)
    }

    fn find(&self, name: &str) -> Result<Arc<Loaded>, Error> {
        let stores = self.stores.load();
        match stores.get(name) {
            Some(loaded) => Ok(Arc::clone(loaded)),
            None if stores.is_empty() => Err(Error::NotConfigured),
            None => Err(Error::NotFound(name.to_owned())),
        }
    }

    async fn call<T, F>(
        &self,
        store: &str,
        operation: &str,
        attempt: impl FnMut() -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, ComponentError>>,
    {
        let started = Instant::now();
        let target = Target::Outbound {
            component: store,
            kind: ComponentKind::Secretstore,
        };
        let result: Result<T, Failed<ComponentError>> = self.resiliency.run(target, attempt).await;
        self.metrics.record(
            Block::Secret,
            store,
            operation,
            result.is_ok(),
            started.elapsed(),
        );
        result.map_err(|error| error.to_string())
    }
}
