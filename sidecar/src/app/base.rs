//! What every part of a run is made of: who we are, what we may do, what is measured.

use std::sync::Arc;

use dapr_crds::configuration::ConfigurationSpec;
use dapr_kit::health::Target;
use dapr_security::Security;
use dapr_sidecar_api::metrics::ApiMetrics;
use dapr_sidecar_core::metrics::{ComponentMetrics, Off};
use dapr_sidecar_core::resiliency::Resiliency;

use super::Process;
use crate::adapters::Readiness;
use crate::metrics::RuntimeMetrics;

/// Largest message between sidecars when bodies are not limited.
pub(super) const UNLIMITED_MESSAGE: usize = usize::MAX >> 1;

/// The targets of `/v1.0/healthz`, in the order upstream names them.
pub(super) struct Targets {
    pub(super) security: Target,
    pub(super) metrics: Target,
    pub(super) grpc: Target,
    pub(super) internal: Target,
    pub(super) runtime: Target,
    pub(super) outbound: Target,
}

/// What everything else is made of: who we are, what we may do, what is loaded.
pub(super) struct Base {
    pub(super) process: Process,
    pub(super) security: Security,
    pub(super) configuration: ConfigurationSpec,
    pub(super) hostname: String,
    pub(super) host_address: String,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Option<Arc<ApiMetrics>>,
    pub(super) runtime_metrics: Arc<RuntimeMetrics>,
    pub(super) resiliency: Arc<Resiliency>,
    pub(super) registry: prometheus::Registry,
}

impl Base {
    pub(super) fn component_metrics(&self) -> Arc<dyn ComponentMetrics> {
        match &self.metrics {
            Some(metrics) => Arc::clone(metrics) as _,
            None => Arc::new(Off),
        }
    }
}
