//! Components that need nothing but this machine: secrets from a file and from the environment.
//!
//! They are for development; what a secret store of a company does (leases, versions, audits) is absent.

pub mod secret_store;

use std::sync::Arc;

use dapr_components_core::Registries;
use dapr_components_core::secret_store::SecretStore;

use secret_store::{env, file};

/// Registers `secretstores.local.file` and `secretstores.local.env`; the latter reads `environment`.
pub fn register(into: &mut Registries, environment: Arc<dyn env::Environment>) {
    into.secret_stores
        .register("secretstores.local.file/v1", |metadata| {
            Box::pin(
                async move { Ok(Arc::new(file::open(&metadata).await?) as Arc<dyn SecretStore>) },
            )
        });
    into.secret_stores
        .register("secretstores.local.env/v1", move |metadata| {
            let store = env::open(&metadata, Arc::clone(&environment));
            Box::pin(async move { Ok(Arc::new(store) as Arc<dyn SecretStore>) })
        });
}
