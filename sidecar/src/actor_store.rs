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

/// A store with policies around each call.
pub struct ActorStore {
    /// Name of the component.
    pub name: String,
    /// The component.
    pub inner: Arc<dyn StateStore>,
    /// Policies.
    pub resiliency: Arc<Resiliency>,
    /// What is counted.
    pub metrics: Arc<dyn ComponentMetrics>,
}

impl std::fmt::Debug for ActorStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActorStore")
            .field("name", &self.name)
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
            component: &self.name,
            kind: ComponentKind::Statestore,
        };
        let result = self.resiliency.run(target, attempt).await;
        self.metrics.record(
            Block::State,
            &self.name,
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
        self.inner.features()
    }

    fn max_transaction_size(&self) -> Option<usize> {
        self.inner.max_transaction_size()
    }

    async fn get(&self, request: GetRequest) -> Result<Option<Item>, Error> {
        self.call("get", || self.inner.get(request.clone())).await
    }

    async fn set(&self, request: SetRequest) -> Result<(), Error> {
        self.call("set", || self.inner.set(request.clone())).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), Error> {
        self.call("delete", || self.inner.delete(request.clone()))
            .await
    }

    async fn transact(
        &self,
        operations: Vec<Operation>,
        metadata: RequestMetadata,
    ) -> Result<(), Error> {
        self.call("transaction", || {
            self.inner.transact(operations.clone(), metadata.clone())
        })
        .await
    }
}
