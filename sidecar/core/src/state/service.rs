//! The loaded stores; what is done with them is in `calls`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dapr_components_core::state::StateStore;
use dapr_components_core::{Metadata, metadata::is_truthy};

use super::{Error, KeyPrefix};
use crate::lease::{InUse, Lease, lease};
use crate::metrics::ComponentMetrics;
use crate::resiliency::Resiliency;

/// Properties that ask for what this build does not do.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("primaryEncryptionKey", "state encryption at rest"),
    ("secondaryEncryptionKey", "state encryption at rest"),
    ("outboxPublishPubsub", "the transactional outbox"),
    ("outboxPublishTopic", "the transactional outbox"),
];

/// A loaded store.
pub struct Store {
    /// Name of the component.
    pub name: String,
    /// The component; keys are full, nothing is retried.
    pub inner: Arc<dyn StateStore>,
    /// Whether the component is marked to hold actor state.
    pub actor_store: bool,
    pub(super) prefix: KeyPrefix,
    _in_use: InUse,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// All loaded stores by name.
pub struct Stores {
    app_id: String,
    namespace: Option<String>,
    pub(super) resiliency: Arc<Resiliency>,
    pub(super) metrics: Arc<dyn ComponentMetrics>,
    stores: ArcSwap<BTreeMap<String, Arc<Store>>>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.stores.load().keys()).finish()
    }
}

impl Stores {
    /// No stores yet, for application `app_id` in `namespace` (empty counts as none).
    pub fn new(
        app_id: &str,
        namespace: Option<&str>,
        resiliency: Arc<Resiliency>,
        metrics: Arc<dyn ComponentMetrics>,
    ) -> Self {
        Self {
            app_id: app_id.to_owned(),
            namespace: namespace.map(str::to_owned),
            resiliency,
            metrics,
            stores: ArcSwap::default(),
        }
    }

    /// Adds a store, or replaces the one of that name. Fails on a key prefix with `||` and on properties
    /// that ask for encryption or the outbox. The lease ends with the last call once the store is taken out.
    pub fn add(&self, metadata: &Metadata, store: Arc<dyn StateStore>) -> Result<Lease, Error> {
        let refused = |reason: String| Error::Component {
            store: metadata.name.clone(),
            reason,
        };
        for (property, what) in UNSUPPORTED {
            if metadata.get(property).is_some() {
                return Err(refused(format!(
                    "metadata {property} asks for {what}, which this version does not have; remove {property} from component {}",
                    metadata.name
                )));
            }
        }
        let prefix = KeyPrefix::parse(
            metadata.get("keyPrefix"),
            &metadata.name,
            &self.app_id,
            self.namespace.as_deref(),
        )
        .map_err(|error| {
            refused(format!(
                "failed to save lock keyprefix: api error: code = InvalidArgument desc = {error}"
            ))
        })?;
        let (in_use, lease) = lease();
        let store = Arc::new(Store {
            name: metadata.name.clone(),
            inner: store,
            actor_store: metadata.get("actorStateStore").is_some_and(is_truthy),
            prefix,
            _in_use: in_use,
        });
        self.stores.rcu(|stores| {
            let mut stores = BTreeMap::clone(stores);
            stores.insert(store.name.clone(), Arc::clone(&store));
            stores
        });
        Ok(lease)
    }

    /// Takes a store out; the caller closes it.
    pub fn remove(&self, name: &str) -> Option<Arc<dyn StateStore>> {
        let before = self.stores.rcu(|stores| {
            let mut stores = BTreeMap::clone(stores);
            stores.remove(name);
            stores
        });
        before.get(name).map(|store| Arc::clone(&store.inner))
    }

    /// The store `name`, for callers with keys of their own.
    pub fn store(&self, name: &str) -> Result<Arc<Store>, Error> {
        let stores = self.stores.load();
        match stores.get(name) {
            Some(store) => Ok(Arc::clone(store)),
            None if stores.is_empty() => Err(Error::NotConfigured {
                store: name.to_owned(),
            }),
            None => Err(Error::NotFound {
                store: name.to_owned(),
            }),
        }
    }

    /// The store marked `actorStateStore`, the first by name where several are.
    pub fn actor_store(&self) -> Option<Arc<Store>> {
        let stores = self.stores.load();
        stores.values().find(|store| store.actor_store).cloned()
    }
}
