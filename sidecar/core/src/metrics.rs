//! What the core reports about its calls; the names and labels on the wire are the surface's business.
//!
//! Every method has an empty default, so a test or a sidecar with metrics off passes [`Off`].

use std::time::Duration;

/// A building block whose component calls are counted as `component_<block>_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Block {
    /// `component_state_*`
    State,
    /// `component_pubsub_egress_*`: publishing.
    Pubsub,
    /// `component_secret_*`
    Secret,
}

/// How the sidecar treated a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessStatus {
    /// Acknowledged.
    Success,
    /// To be delivered again.
    Retry,
    /// Given up.
    Drop,
}

impl ProcessStatus {
    /// The label's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }
}

/// Calls of components.
pub trait ComponentMetrics: Send + Sync + 'static {
    /// A call of a component ended. `operation` is `get`, `set`, `delete`, `query`, `transaction`,
    /// `bulk_get` or `bulk_delete`.
    fn record(
        &self,
        block: Block,
        component: &str,
        operation: &str,
        success: bool,
        elapsed: Duration,
    ) {
        let _ = (block, component, operation, success, elapsed);
    }

    /// A message was published (`component_pubsub_egress_*`).
    fn published(&self, component: &str, topic: &str, success: bool, elapsed: Duration) {
        let _ = (component, topic, success, elapsed);
    }

    /// A batch of messages was published (`component_pubsub_egress_bulk_*`).
    fn published_bulk(&self, component: &str, topic: &str, success: bool, elapsed: Duration) {
        let _ = (component, topic, success, elapsed);
    }

    /// The application saw a message (`component_pubsub_ingress_*`); `status` is its answer in lower case.
    fn delivered(
        &self,
        component: &str,
        topic: &str,
        process_status: ProcessStatus,
        status: &str,
        elapsed: Duration,
    ) {
        let _ = (component, topic, process_status, status, elapsed);
    }

    /// The application saw a batch (`component_pubsub_ingress_bulk_*`); `outcomes` are the distinct outcomes
    /// of its entries.
    fn delivered_bulk(
        &self,
        component: &str,
        topic: &str,
        outcomes: &[ProcessStatus],
        elapsed: Duration,
    ) {
        let _ = (component, topic, outcomes, elapsed);
    }
}

/// Service invocation between sidecars; calls to the own app id are not reported.
pub trait InvokeMetrics: Send + Sync + 'static {
    /// A call leaves for `app_id` (`req_sent`); `streaming` when it says that it is a stream.
    fn request_sent(&self, app_id: &str, streaming: bool) {
        let _ = (app_id, streaming);
    }

    /// A call of `caller` came in (`req_recv`).
    fn request_received(&self, caller: &str) {
        let _ = caller;
    }

    /// An answer goes back to `caller` (`res_sent`); `status` is the HTTP status or gRPC code.
    fn response_sent(&self, caller: &str, status: i32) {
        let _ = (caller, status);
    }

    /// An answer of `app_id` came back (`res_recv`, `res_recv_latency_ms`).
    fn response_received(&self, app_id: &str, status: i32, streaming: bool, elapsed: Duration) {
        let _ = (app_id, status, streaming, elapsed);
    }

    /// Access control decided about a caller (`runtime_acl_*`). The texts are empty without mTLS.
    fn access_decided(
        &self,
        app_id: &str,
        trust_domain: &str,
        namespace: &str,
        allowed: bool,
        by_app_policy: bool,
    ) {
        let _ = (app_id, trust_domain, namespace, allowed, by_app_policy);
    }
}

/// The kind of policy a resiliency metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// A circuit breaker.
    CircuitBreaker,
    /// Retries.
    Retry,
    /// A timeout.
    Timeout,
}

impl PolicyKind {
    /// The label's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::CircuitBreaker => "circuitbreaker",
            Self::Retry => "retry",
            Self::Timeout => "timeout",
        }
    }
}

/// The labels of one resiliency series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyLabels<'a> {
    /// Name of the resource.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Kind of policy.
    pub policy: PolicyKind,
    /// `inbound` or `outbound`
    pub flow_direction: &'static str,
    /// For instance `app_orders` or `Statestore_redis`.
    pub target: &'a str,
    /// State of a circuit breaker; empty otherwise.
    pub status: &'static str,
}

/// Resiliency policies at work.
pub trait ResiliencyMetrics: Send + Sync + 'static {
    /// A resource was loaded (`resiliency_loaded`).
    fn loaded(&self, name: &str, namespace: &str) {
        let _ = (name, namespace);
    }

    /// A policy wraps an execution (`resiliency_count`).
    fn wrapped(&self, labels: PolicyLabels<'_>) {
        let _ = labels;
    }

    /// A policy acted: a retry, a timeout that fired, a breaker that changed state
    /// (`resiliency_activations_total`).
    fn activated(&self, labels: PolicyLabels<'_>) {
        let _ = labels;
    }

    /// The state of a breaker after a call (`resiliency_cb_state`); `labels.status` is the current one.
    fn breaker_state(&self, labels: PolicyLabels<'_>) {
        let _ = labels;
    }
}

/// Metrics that go nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Off;

impl ComponentMetrics for Off {}
impl InvokeMetrics for Off {}
impl ResiliencyMetrics for Off {}
