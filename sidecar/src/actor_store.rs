//! The actors' state store, under the component's resiliency policies and counted like any other call of it.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use dapr_components_core::Error;
use dapr_components_core::state::{
    DeleteRequest, Feature, GetRequest, Item, Operation, RequestMetadata, SetRequest, StateStore,
};
use dapr_sidecar_core::metrics::{Block, ComponentMetrics};
use dapr_sidecar_core::resiliency::{ComponentKind, Failed, Resiliency, Target};
use dapr_sidecar_core::state::Store;

/// A store with policies around each call.
pub struct ActorStore {
    /// The component; held as a whole, so that it is not closed while a call of it is in flight.
    pub store: Arc<Store>,
    /// Policies.
    pub resiliency: Arc<Resiliency>,
    /// What is counted.
    pub metrics: Arc<dyn ComponentMetrics>,
}

impl std::fmt::Debug for ActorStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActorStore")
            .field("name", &self.store.name)
            .finish_non_exhaustive()
    }
}

impl ActorStore {
    async fn call<T, F>(&self, operation: &str, attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let started = Instant::now();
        let target = Target::Outbound {
            component: &self.store.name,
            kind: ComponentKind::Statestore,
        };
        let result = self.resiliency.run(target, attempt).await;
        self.metrics.record(
            Block::State,
            &self.store.name,
            operation,
            result.is_ok(),
            started.elapsed(),
        );
        result.map_err(|failed| match failed {
            Failed::Operation(error) => error,
            other => Error::new(
                dapr_components_core::ErrorKind::Unavailable,
                other.to_string(),
            ),
        })
    }
}

#[async_trait]
impl StateStore for ActorStore {
    fn features(&self) -> &[Feature] {
        self.store.inner.features()
    }

    fn max_transaction_size(&self) -> Option<usize> {
        self.store.inner.max_transaction_size()
    }

    async fn get(&self, request: GetRequest) -> Result<Option<Item>, Error> {
        self.call("get", || self.store.inner.get(request.clone()))
            .await
    }

    async fn set(&self, request: SetRequest) -> Result<(), Error> {
        self.call("set", || self.store.inner.set(request.clone()))
            .await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), Error> {
        self.call("delete", || self.store.inner.delete(request.clone()))
            .await
    }

    async fn transact(
        &self,
        operations: Vec<Operation>,
        metadata: RequestMetadata,
    ) -> Result<(), Error> {
        self.call("transaction", || {
            self.store
                .inner
                .transact(operations.clone(), metadata.clone())
        })
        .await
    }
}
