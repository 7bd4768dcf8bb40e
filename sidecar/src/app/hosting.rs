//! The actor runtime of this run and its state store.

use std::sync::Arc;

use anyhow::Context as _;
use dapr_security::SpiffeId;
use dapr_sidecar_actors::reminders::Disabled;
use dapr_sidecar_actors::settings::Discovery;
use dapr_sidecar_actors::{Runtime, Settings as ActorSettings};
use dapr_sidecar_core::state::Store;
use tokio_util::sync::CancellationToken;

use super::base::Base;
use crate::actor_metrics::ActorMetrics;
use crate::actor_store::ActorStore;
use crate::adapters::PlacementDialer;
use crate::components::Components;
use crate::peer::PeerClient;
use crate::settings::Mode;

impl Base {
    /// The runtime, and what drives it until a token is cancelled.
    pub(super) fn actors(
        &self,
        peers: Arc<PeerClient>,
        internal_port: u16,
    ) -> anyhow::Result<(
        Arc<Runtime>,
        impl FnOnce(CancellationToken) -> futures::future::BoxFuture<'static, ()> + use<>,
    )> {
        let settings = &self.process.settings;
        let plane = &settings.control_plane;
        let has_placement = !plane.placement.is_empty();
        let placement = settings
            .has_identity()
            .then(|| {
                SpiffeId::new(format!(
                    "spiffe://{}/ns/{}/dapr-placement",
                    plane.trust_domain, plane.namespace
                ))
            })
            .transpose()
            .context("the identity of placement")?;
        // Exists only with placement; it is met by the first round.
        let target =
            has_placement.then(|| self.readiness.health.target("internal-placement-service"));
        Ok(Runtime::new(ActorSettings {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            own_address: own_address(&self.host_address, internal_port),
            placement_addresses: plane.placement.clone(),
            discovery: discovery(settings.mode),
            disseminate_timeout: plane.disseminate_timeout,
            state_ttl: self
                .configuration
                .features
                .iter()
                .any(|f| f.name == "ActorStateTTL" && f.enabled),
            peers,
            dialer: Arc::new(PlacementDialer {
                security: self.security.clone(),
                placement,
            }),
            resiliency: Arc::clone(&self.resiliency),
            reminders: Arc::new(Disabled),
            metrics: Arc::new(ActorMetrics::new(&self.registry, &settings.app_id)?),
            on_ready: Arc::new(move || {
                if let Some(target) = &target {
                    target.ready();
                }
            }),
        }))
    }

    /// Gives the actors their store, if there is one and placement is configured; returns it.
    pub(super) async fn set_actor_store(
        &self,
        actors: &Runtime,
        components: &Components,
    ) -> anyhow::Result<Option<Arc<Store>>> {
        let has_placement = !self.process.settings.control_plane.placement.is_empty();
        let Some(store) = components.stores.actor_store().filter(|_| has_placement) else {
            return Ok(None);
        };
        let wrapped = ActorStore {
            store: Arc::clone(&store),
            resiliency: Arc::clone(&self.resiliency),
            metrics: self.component_metrics(),
        };
        let set = actors
            .set_state_store(Some((store.name.clone(), Arc::new(wrapped))))
            .await;
        set.with_context(|| format!("component {}", store.name))?;
        Ok(Some(store))
    }
}

/// In a cluster placement has one name, whose addresses change.
fn discovery(mode: Mode) -> Discovery {
    match mode {
        Mode::Standalone => Discovery::List,
        Mode::Kubernetes => Discovery::Dns,
    }
}

/// `host:port`, IPv6 addresses in brackets.
fn own_address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_cluster_the_name_of_placement_is_resolved_for_each_connection() {
        assert_eq!(discovery(Mode::Kubernetes), Discovery::Dns);
        assert_eq!(discovery(Mode::Standalone), Discovery::List);
    }
}
