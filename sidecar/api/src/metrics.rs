//! The Prometheus series of the sidecar: what the surfaces and the core's services record.
//!
//! Names and labels are upstream's. Series appear with their first record, never before. Durations are whole
//! milliseconds, and one below a millisecond is counted but not measured, as upstream does.

mod api;
mod core;
mod family;
pub(crate) mod path;

use prometheus::Registry;

pub use api::{GrpcCall, HttpCall};
use family::{Builder, Latency};
pub use path::PathMatching;

/// What the configuration says about metrics.
#[derive(Debug, Clone, Default)]
pub struct MetricsSettings {
    /// Upper bounds of latency buckets in milliseconds; empty is the default.
    pub latency_buckets: Vec<f64>,
    /// The path label of HTTP metrics.
    pub paths: PathMatching,
    /// Leaves the `method` label of HTTP metrics empty.
    pub exclude_verbs: bool,
    /// Counts errors by code (`error_code_total`).
    pub record_error_codes: bool,
}

/// All series.
pub struct ApiMetrics {
    settings: MetricsSettings,
    http: api::Http,
    grpc: api::Grpc,
    core: core::Series,
    error_codes: Option<prometheus::IntCounterVec>,
}

impl std::fmt::Debug for ApiMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiMetrics").finish_non_exhaustive()
    }
}

impl ApiMetrics {
    /// Registers the series with `registry`.
    ///
    /// # Errors
    /// When a series of one of these names is registered already.
    pub fn new(
        registry: &Registry,
        app_id: &str,
        namespace: &str,
        settings: MetricsSettings,
    ) -> Result<Self, prometheus::Error> {
        let latency = Latency::new(&settings.latency_buckets);
        let plain = Builder::new(registry, latency.clone(), &[("app_id", app_id)]);
        let component = Builder::new(
            registry,
            latency,
            &[("app_id", app_id), ("namespace", namespace)],
        );
        let error_codes = settings
            .record_error_codes
            .then(|| {
                plain.counter(
                    "error_code_total",
                    "Number of times an error with a specific code was encountered.",
                    &["error_code", "category"],
                )
            })
            .transpose()?;
        Ok(Self {
            http: api::Http::new(&plain, &settings)?,
            grpc: api::Grpc::new(&plain)?,
            core: core::Series::new(&plain, &component, registry)?,
            error_codes,
            settings,
        })
    }

    /// Counts an error by its code, when that is asked for.
    pub(crate) fn error(&self, code: &str) {
        if let Some(counter) = &self.error_codes {
            counter.with_label_values(&[code, category(code)]).inc();
        }
    }
}

/// The category upstream files a code under.
fn category(code: &str) -> &'static str {
    const PREFIXES: [(&str, &str); 24] = [
        ("ERR_ACTOR", "actor"),
        ("ERR_STATE", "state"),
        ("ERR_NOT_SUPPORTED_STATE", "state"),
        ("ERR_PUBLISH_OUTBOX", "pubsub"),
        ("ERR_PUBSUB", "pubsub"),
        ("ERR_TOPIC", "pubsub"),
        ("ERR_CONFIGURATION", "configuration"),
        ("ERR_CRYPTO", "crypto"),
        ("ERR_SECRET", "secret"),
        ("ERR_PERMISSION_DENIED", "secret"),
        ("ERR_CONVERSATION", "conversation"),
        ("ERR_DIRECT_INVOKE", "service-invocation"),
        ("ERR_INVOKE_OUTPUT_BINDING", "binding"),
        ("ERR_LOCK", "lock"),
        ("ERR_TRY_LOCK", "lock"),
        ("ERR_UNLOCK", "lock"),
        ("DAPR_SCHEDULER", "job"),
        ("ERR_HEALTH", "health"),
        ("ERR_OUTBOUND_HEALTH", "health"),
        ("ERR_WORKFLOW", "workflow"),
        ("ERR_INSTANCE_ID", "workflow"),
        ("ERR_START_WORKFLOW", "workflow"),
        ("ERR_GET_WORKFLOW", "workflow"),
        ("ERR_RAISE_EVENT_WORKFLOW", "workflow"),
    ];
    PREFIXES
        .iter()
        .find(|(prefix, _)| code.starts_with(prefix))
        .map_or("common", |(_, category)| category)
}

#[cfg(test)]
mod tests;
