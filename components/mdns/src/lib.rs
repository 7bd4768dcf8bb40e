//! Name resolution by multicast DNS, the default outside Kubernetes.
//!
//! It speaks upstream's service names and records, so both kinds of sidecars find each other. Retry around a
//! lookup belongs to the caller of [`dapr_components_core::name_resolution`].

mod resolver;

mod browsing;
mod cache;
mod engine;

mod findings;
mod names;
mod service;

mod interfaces;
mod link;

pub use resolver::Mdns;

use std::sync::Arc;

use dapr_components_core::Registries;
use dapr_components_core::name_resolution::Resolver;

/// Registers the resolver as `mdns`; it has no configuration.
pub fn register(into: &mut Registries) {
    into.name_resolution
        .register("mdns", |instance, _configuration| {
            Box::pin(async move { Ok(Arc::new(Mdns::open(instance).await?) as Arc<dyn Resolver>) })
        });
}
