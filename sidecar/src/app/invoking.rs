//! Service invocation of this run, and who may call the application.

use std::sync::Arc;

use dapr_sidecar_core::access::AccessControl;
use dapr_sidecar_core::invoke::{Invoker, InvokerSettings};
use dapr_sidecar_core::metrics::{InvokeMetrics, Off};

use super::base::{Base, UNLIMITED_MESSAGE};
use crate::channel::external::ExternalClient;
use crate::peer::PeerClient;

impl Base {
    pub(super) fn invoker(&self, peers: &Arc<PeerClient>, internal_port: u16) -> Invoker {
        let settings = &self.process.settings;
        let metrics: Arc<dyn InvokeMetrics> = match &self.metrics {
            Some(metrics) => Arc::clone(metrics) as _,
            None => Arc::new(Off),
        };
        Invoker::new(InvokerSettings {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            internal_port,
            host_address: self.host_address.clone(),
            hostname: self.hostname.clone(),
            max_replay: settings.max_body_size.unwrap_or(UNLIMITED_MESSAGE),
            peers: Arc::clone(peers) as _,
            external: Arc::new(ExternalClient::default()),
            resiliency: Arc::clone(&self.resiliency),
            metrics,
        })
    }

    pub(super) fn access_control(&self) -> anyhow::Result<Option<AccessControl>> {
        let Some(spec) = &self.configuration.access_control else {
            return Ok(None);
        };
        let spec = serde_json::from_value(serde_json::to_value(spec)?)?;
        Ok(AccessControl::parse(
            &spec,
            self.process.settings.app.protocol,
        )?)
    }
}
