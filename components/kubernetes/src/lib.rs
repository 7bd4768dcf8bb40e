//! What a cluster offers its pods: names of Services as addresses of sidecars, and Secrets as a secret store.
//!
//! The API server is asked by a client of a few requests. The client library of the control plane, with its types and
//! caches, is deliberately absent: this code is in every pod.

mod client;
mod credentials;

pub mod name_resolution;
pub mod secret_store;

use std::sync::Arc;

use dapr_components_core::Registries;
use dapr_components_core::name_resolution::Resolver;
use dapr_components_core::secret_store::SecretStore;

/// Registers the resolver `kubernetes` and `secretstores.kubernetes`; `cluster` is what the pod's environment says.
pub fn register(into: &mut Registries, cluster: Cluster) {
    into.name_resolution
        .register("kubernetes", |_instance, configuration| {
            Box::pin(async move {
                let resolver = name_resolution::Kubernetes::open(&configuration)?;
                Ok(Arc::new(resolver) as Arc<dyn Resolver>)
            })
        });
    let cluster = Arc::new(cluster);
    into.secret_stores
        .register("secretstores.kubernetes/v1", move |metadata| {
            let cluster = Arc::clone(&cluster);
            Box::pin(async move {
                let store = secret_store::open(&metadata, &cluster).await?;
                Ok(Arc::new(store) as Arc<dyn SecretStore>)
            })
        });
}

/// What a pod knows of its cluster from its environment.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub api_server: Option<(String, String)>,
    /// `NAMESPACE`
    pub namespace: Option<String>,
}
