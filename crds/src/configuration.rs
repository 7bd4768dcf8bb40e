//! Configuration: how a sidecar, or for `daprsystem` the control plane, behaves.
//!
//! Pointers of the Go types are options here, so that "unset" and "false" stay apart where a default differs.

mod metric;
mod schema;
mod security;
mod tracing;
mod workflow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::{V1Alpha1, is_false, or_default, resource};

pub use metric::{DEFAULT_LATENCY_BUCKETS, MetricHttp, MetricLabel, MetricRule, MetricSpec};
pub(crate) use schema::schema;
pub use security::{
    AccessControl, AccessControlOperation, AccessControlPolicy, ApiAccess, ApiRule, MtlsSpec,
    SecretsScope, SecretsSpec, TokenValidator,
};
pub use tracing::{OtelHeader, OtelSpec, TracingSpec, ZipkinSpec};
pub use workflow::{ConcurrencyLimit, StateRetentionPolicy, WorkflowSpec};

/// One configuration of sidecars or of the control plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename = "Configuration",
    default,
    rename_all = "camelCase"
)]
pub struct Configuration {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// The settings.
    #[serde(deserialize_with = "or_default")]
    pub spec: ConfigurationSpec,
}

resource!(
    Configuration,
    "Configuration",
    "v1alpha1",
    "configurations",
    |_it| &[]
);

/// The settings by subject; what is absent takes the defaults of the reader.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigurationSpec {
    /// Who may call the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_control: Option<AccessControl>,
    /// Which APIs of the sidecar are open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiAccess>,
    /// Middleware on the way to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_http_pipeline: Option<PipelineSpec>,
    /// Middleware of the sidecar's HTTP API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_pipeline: Option<PipelineSpec>,
    /// Which components may not be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<ComponentsSpec>,
    /// Feature flags.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureSpec>,
    /// Logging.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<LoggingSpec>,
    /// Metrics, older spelling; read through [`ConfigurationSpec::effective_metric`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricSpec>,
    /// Metrics; what is set here overrides `metric`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricSpec>,
    /// Workload certificates and the identity of the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// How app ids become addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_resolution: Option<NameResolutionSpec>,
    /// Which secrets the app may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsSpec>,
    /// Traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
    /// WebAssembly components.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasm: Option<WasmSpec>,
    /// The workflow engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowSpec>,
}

impl ConfigurationSpec {
    /// The metric settings in force: `metric` overridden by each field that is set in `metrics`.
    pub fn effective_metric(&self) -> MetricSpec {
        let base = self.metric.clone().unwrap_or_default();
        match &self.metrics {
            Some(metrics) => base.overridden_by(metrics),
            None => base,
        }
    }

    /// Whether mTLS between sidecars is on; it is unless switched off by name.
    pub fn mtls_enabled(&self) -> bool {
        self.mtls
            .as_ref()
            .and_then(|mtls| mtls.enabled)
            .unwrap_or(true)
    }

    /// What the resource says about a feature flag, `None` when it does not name it.
    pub fn feature(&self, name: &str) -> Option<bool> {
        self.features
            .iter()
            .find(|feature| feature.name == name)
            .map(|feature| feature.enabled)
    }
}

/// Middleware in order, the first outermost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PipelineSpec {
    /// The handlers.
    #[serde(deserialize_with = "or_default")]
    pub handlers: Vec<HandlerSpec>,
}

/// One middleware of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HandlerSpec {
    /// Component name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Middleware type, for example `middleware.http.bearer`.
    #[serde(deserialize_with = "or_default")]
    pub r#type: String,
    /// Component version, `v1` when empty. Read from files only: the CRD has no such field.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub version: String,
    /// Limits the handler; kept for compatibility.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<SelectorSpec>,
}

/// Conditions of a handler.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SelectorSpec {
    /// The conditions.
    #[serde(deserialize_with = "or_default")]
    pub fields: Vec<SelectorField>,
}

/// One condition of a handler.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SelectorField {
    /// Field compared.
    #[serde(deserialize_with = "or_default")]
    pub field: String,
    /// Value wanted.
    #[serde(deserialize_with = "or_default")]
    pub value: String,
}

/// Components that may not be loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ComponentsSpec {
    /// Entries `type` or `type/version`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// A feature flag.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FeatureSpec {
    /// Name of the flag.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// On or off.
    #[serde(deserialize_with = "or_default")]
    pub enabled: bool,
}

/// Logging settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoggingSpec {
    /// Log lines per API call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_logging: Option<ApiLoggingSpec>,
}

/// Log lines per API call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiLoggingSpec {
    /// Whether calls are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether routes are logged instead of URLs.
    #[serde(
        rename = "obfuscateURLs",
        deserialize_with = "or_default",
        skip_serializing_if = "is_false"
    )]
    pub obfuscate_urls: bool,
    /// Whether health probes are left out.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub omit_health_checks: bool,
}

/// The name resolver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NameResolutionSpec {
    /// Resolver name, for example `mdns`.
    #[serde(deserialize_with = "or_default")]
    pub component: String,
    /// Its version.
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// Its settings, free JSON.
    #[serde(deserialize_with = "or_default")]
    pub configuration: Value,
}

/// WebAssembly settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WasmSpec {
    /// Forces the strict sandbox on every such component.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub strict_sandbox: bool,
}
