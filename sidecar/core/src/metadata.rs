//! What the metadata API shows: one snapshot of everything this sidecar has loaded.

use std::collections::BTreeMap;

use crate::actors::RuntimeStatus;
use crate::pubsub::Subscription;

/// A loaded component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// `<category>.<technology>`
    pub component_type: String,
    /// Version as written.
    pub version: String,
    /// Features as reported, plus `ACTOR` for stores that can hold actors.
    pub capabilities: Vec<String>,
}

/// How the application is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppConnection {
    /// 0 without an application.
    pub port: u16,
    /// Protocol text.
    pub protocol: String,
    /// Host the application listens on.
    pub channel_address: String,
    /// 0 is unlimited.
    pub max_concurrency: u32,
    /// Health check settings, when on.
    pub health: Option<AppHealth>,
}

/// App health check settings; durations are Go texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppHealth {
    /// Path probed; `None` for gRPC.
    pub path: Option<String>,
    /// Probe interval.
    pub interval: String,
    /// Probe timeout.
    pub timeout: String,
    /// Failures before unhealthy.
    pub threshold: u32,
}

/// A snapshot for the metadata API.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Own app id.
    pub app_id: String,
    /// Version of Dapr served.
    pub runtime_version: String,
    /// Enabled features.
    pub enabled_features: Vec<String>,
    /// Components in load order.
    pub components: Vec<Component>,
    /// `extended`: what was set, plus `daprRuntimeVersion`.
    pub extended: BTreeMap<String, String>,
    /// Subscriptions in effect.
    pub subscriptions: Vec<Subscription>,
    /// Names of HTTP endpoints.
    pub http_endpoints: Vec<String>,
    /// Names of resiliency resources.
    pub resiliencies: Vec<String>,
    /// Application connection.
    pub app: AppConnection,
    /// Actor runtime.
    pub actors: RuntimeStatus,
}

/// Gives a snapshot and takes what applications set.
pub trait Metadata: Send + Sync + 'static {
    /// The state of this moment.
    fn snapshot(&self) -> Snapshot;

    /// Sets an `extended` value; an empty key is ignored.
    fn set(&self, key: String, value: String);
}
