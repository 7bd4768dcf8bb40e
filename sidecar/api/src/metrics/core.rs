//! What the core's services report.

use std::time::Duration;

use dapr_sidecar_core::metrics::{
    Block, ComponentMetrics, InvokeMetrics, PolicyLabels, ProcessStatus, ResiliencyMetrics,
};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::ApiMetrics;
use super::family::{Builder, Latency, observe_long_with};

/// A call counter with its latencies.
struct Calls {
    count: IntCounterVec,
    latency: HistogramVec,
}

impl Calls {
    fn new(builder: &Builder<'_>, name: &str, labels: &[&str]) -> prometheus::Result<Self> {
        Ok(Self {
            count: builder.counter(
                &format!("{name}_count"),
                "The number of operations performed.",
                labels,
            )?,
            latency: builder.latency(
                &format!("{name}_latencies"),
                "The latency of the response in milliseconds.",
                labels,
            )?,
        })
    }

    fn record(&self, labels: &[&str], elapsed: Duration) {
        self.count.with_label_values(labels).inc();
        observe_long_with(&self.latency, labels, elapsed);
    }
}

/// Access decisions, with the caller's app id where other series have the own one.
struct Access {
    app_allowed: IntCounterVec,
    global_allowed: IntCounterVec,
    app_blocked: IntCounterVec,
    global_blocked: IntCounterVec,
}

/// Series of the core.
pub(super) struct Series {
    state: Calls,
    secret: Calls,
    egress: Calls,
    egress_bulk: Calls,
    ingress: Calls,
    ingress_bulk: Calls,
    ingress_bulk_events: IntCounterVec,
    request_sent: IntCounterVec,
    request_received: IntCounterVec,
    response_sent: IntCounterVec,
    response_received: IntCounterVec,
    response_latency: HistogramVec,
    access: Access,
    resiliency_loaded: IntCounterVec,
    resiliency_count: IntCounterVec,
    resiliency_activations: IntCounterVec,
    breaker_state: IntGaugeVec,
}

impl Series {
    pub(super) fn new(
        plain: &Builder<'_>,
        component: &Builder<'_>,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let bulk_labels = ["component", "process_status", "topic"];
        let policy_labels = [
            "name",
            "policy",
            "namespace",
            "flow_direction",
            "target",
            "status",
        ];
        let counter = |name: &str, help: &str, labels: &[&str]| plain.counter(name, help, labels);
        Ok(Self {
            state: Calls::new(
                component,
                "component_state",
                &["component", "operation", "success"],
            )?,
            secret: Calls::new(
                component,
                "component_secret",
                &["component", "operation", "success"],
            )?,
            egress: Calls::new(
                component,
                "component_pubsub_egress",
                &["component", "success", "topic"],
            )?,
            egress_bulk: Calls::new(
                component,
                "component_pubsub_egress_bulk",
                &["component", "success", "topic"],
            )?,
            ingress: Calls::new(
                component,
                "component_pubsub_ingress",
                &["component", "process_status", "topic", "status"],
            )?,
            ingress_bulk: Calls::new(component, "component_pubsub_ingress_bulk", &bulk_labels)?,
            ingress_bulk_events: component.counter(
                "component_pubsub_ingress_bulk_event_count",
                "Total number of individual messages arriving from the bulk pub/sub component.",
                &bulk_labels,
            )?,
            request_sent: counter(
                "runtime_service_invocation_req_sent_total",
                "The number of requests sent via service invocation.",
                &["dst_app_id", "type"],
            )?,
            request_received: counter(
                "runtime_service_invocation_req_recv_total",
                "The number of requests received via service invocation.",
                &["src_app_id"],
            )?,
            response_sent: counter(
                "runtime_service_invocation_res_sent_total",
                "The number of responses sent via service invocation.",
                &["dst_app_id", "status"],
            )?,
            response_received: counter(
                "runtime_service_invocation_res_recv_total",
                "The number of responses received via service invocation.",
                &["src_app_id", "status", "type"],
            )?,
            response_latency: plain.latency(
                "runtime_service_invocation_res_recv_latency_ms",
                "The latency of service invocation response in milliseconds.",
                &["src_app_id", "status"],
            )?,
            access: Access::new(registry)?,
            resiliency_loaded: counter(
                "resiliency_loaded",
                "Number of resiliency policies loaded.",
                &["name", "namespace"],
            )?,
            resiliency_count: counter(
                "resiliency_count",
                "Number of times a resiliency policy has been applied to a building block.",
                &policy_labels,
            )?,
            resiliency_activations: counter(
                "resiliency_activations_total",
                "Number of times a resiliency policy has been activated.",
                &policy_labels,
            )?,
            breaker_state: plain.gauge(
                "resiliency_cb_state",
                "A circuit breaker's current state; 1 for the active state, 0 otherwise.",
                &policy_labels,
            )?,
        })
    }
}

impl Access {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let builder = Builder::new(registry, Latency::new(&[]), &[]);
        let counter = |name: &str, help: &str| {
            builder.counter(
                &format!("runtime_acl_{name}_total"),
                help,
                &["app_id", "trustDomain", "namespace"],
            )
        };
        Ok(Self {
            app_allowed: counter(
                "app_policy_action_allowed",
                "Requests allowed by the app specific action of the access control policy.",
            )?,
            global_allowed: counter(
                "global_policy_action_allowed",
                "Requests allowed by the global action of the access control policy.",
            )?,
            app_blocked: counter(
                "app_policy_action_blocked",
                "Requests blocked by the app specific action of the access control policy.",
            )?,
            global_blocked: counter(
                "global_policy_action_blocked",
                "Requests blocked by the global action of the access control policy.",
            )?,
        })
    }
}

fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl ComponentMetrics for ApiMetrics {
    fn record(
        &self,
        block: Block,
        component: &str,
        operation: &str,
        success: bool,
        elapsed: Duration,
    ) {
        match block {
            Block::State => self
                .core
                .state
                .record(&[component, operation, flag(success)], elapsed),
            Block::Secret => self
                .core
                .secret
                .record(&[component, operation, flag(success)], elapsed),
            // Publishing has a topic and is reported by `published`.
            Block::Pubsub => {}
        }
    }

    fn published(&self, component: &str, topic: &str, success: bool, elapsed: Duration) {
        self.core
            .egress
            .record(&[component, flag(success), topic], elapsed);
    }

    fn published_bulk(&self, component: &str, topic: &str, success: bool, elapsed: Duration) {
        self.core
            .egress_bulk
            .record(&[component, flag(success), topic], elapsed);
    }

    fn delivered(
        &self,
        component: &str,
        topic: &str,
        process_status: ProcessStatus,
        status: &str,
        elapsed: Duration,
    ) {
        let process_status = process_status.name();
        let status = if status.is_empty() {
            process_status
        } else {
            status
        };
        self.core
            .ingress
            .record(&[component, process_status, topic, status], elapsed);
    }

    fn delivered_bulk(
        &self,
        component: &str,
        topic: &str,
        outcomes: &[ProcessStatus],
        elapsed: Duration,
    ) {
        self.core
            .ingress_bulk
            .record(&[component, "", topic], elapsed);
        for outcome in outcomes {
            let status = outcome.name().to_uppercase();
            self.core
                .ingress_bulk_events
                .with_label_values(&[component, &status, topic])
                .inc();
        }
    }
}

impl InvokeMetrics for ApiMetrics {
    fn request_sent(&self, app_id: &str, streaming: bool) {
        self.core
            .request_sent
            .with_label_values(&[app_id, kind(streaming)])
            .inc();
    }

    fn request_received(&self, caller: &str) {
        self.core
            .request_received
            .with_label_values(&[caller])
            .inc();
    }

    fn response_sent(&self, caller: &str, status: i32) {
        let status = Decimal::new(status);
        self.core
            .response_sent
            .with_label_values(&[caller, status.text()])
            .inc();
    }

    fn response_received(&self, app_id: &str, status: i32, streaming: bool, elapsed: Duration) {
        let status = Decimal::new(status);
        self.core
            .response_received
            .with_label_values(&[app_id, status.text(), kind(streaming)])
            .inc();
        observe_long_with(
            &self.core.response_latency,
            &[app_id, status.text()],
            elapsed,
        );
    }

    fn access_decided(
        &self,
        app_id: &str,
        trust_domain: &str,
        namespace: &str,
        allowed: bool,
        by_app_policy: bool,
    ) {
        let access = &self.core.access;
        let family = match (allowed, by_app_policy) {
            (true, true) => &access.app_allowed,
            (true, false) => &access.global_allowed,
            (false, true) => &access.app_blocked,
            (false, false) => &access.global_blocked,
        };
        family
            .with_label_values(&[app_id, trust_domain, namespace])
            .inc();
    }
}

fn kind(streaming: bool) -> &'static str {
    if streaming { "streaming" } else { "unary" }
}

impl ResiliencyMetrics for ApiMetrics {
    fn loaded(&self, name: &str, namespace: &str) {
        self.core
            .resiliency_loaded
            .with_label_values(&[name, namespace])
            .inc();
    }

    fn wrapped(&self, labels: PolicyLabels<'_>) {
        self.core
            .resiliency_count
            .with_label_values(&policy(&labels))
            .inc();
    }

    fn activated(&self, labels: PolicyLabels<'_>) {
        self.core
            .resiliency_activations
            .with_label_values(&policy(&labels))
            .inc();
    }

    fn breaker_state(&self, labels: PolicyLabels<'_>) {
        for status in ["closed", "half-open", "open", "unknown"] {
            let series = policy(&PolicyLabels { status, ..labels });
            self.core
                .breaker_state
                .with_label_values(&series)
                .set(i64::from(status == labels.status));
        }
    }
}

fn policy<'a>(labels: &PolicyLabels<'a>) -> [&'a str; 6] {
    [
        labels.name,
        labels.policy.name(),
        labels.namespace,
        labels.flow_direction,
        labels.target,
        labels.status,
    ]
}

/// A number as text on the stack.
struct Decimal {
    digits: [u8; 11],
    start: usize,
}

impl Decimal {
    fn new(number: i32) -> Self {
        let mut digits = [b'0'; 11];
        let mut start = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            start -= 1;
            digits[start] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            start -= 1;
            digits[start] = b'-';
        }
        Self { digits, start }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.digits[self.start..]).unwrap_or_default()
    }
}
