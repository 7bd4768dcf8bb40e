//! How app ids become addresses in this run.

use std::sync::Arc;

use dapr_components_core::name_resolution::{Instance, Resolver};

use super::base::Base;
use crate::registries;
use crate::settings::Mode;

impl Base {
    /// The resolver the Configuration names; none, and a warning, when it cannot be opened.
    pub(super) async fn resolver(&self, internal_port: u16) -> Option<Arc<dyn Resolver>> {
        let settings = &self.process.settings;
        let spec = self
            .configuration
            .name_resolution
            .as_ref()
            .filter(|spec| !spec.component.is_empty());
        let default = match settings.mode {
            Mode::Standalone => "mdns",
            Mode::Kubernetes => "kubernetes",
        };
        let name = spec.map_or(default, |spec| spec.component.as_str());
        let configuration = spec
            .map(|spec| spec.configuration.clone())
            .unwrap_or_default();
        let listen = settings.listen.internal_address.as_str();
        let is_loopback = matches!(listen, "127.0.0.1" | "localhost" | "[::1]" | "::1");
        let instance = Instance {
            app_id: settings.app_id.clone(),
            namespace: settings.identity_namespace().to_owned(),
            address: if is_loopback {
                listen.to_owned()
            } else {
                self.host_address.clone()
            },
            hostname: self.hostname.clone(),
            internal_port,
            http_port: settings.listen.http_port,
            app_port: settings.app.port.unwrap_or(0),
        };
        match registries::all(&self.process.environment)
            .name_resolution
            .open(name, instance, configuration)
            .await
        {
            Ok(resolver) => {
                tracing::info!(target: "dapr.runtime", "Initialized name resolution to {name}");
                Some(resolver)
            }
            Err(error) => {
                tracing::warn!(target: "dapr.runtime", "failed to init name resolution: {error}");
                None
            }
        }
    }
}
