//! The series of the actor runtime, under upstream's names.

use dapr_sidecar_actors::metrics::Metrics;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counts what the actor runtime reports. Series appear with their first record.
#[derive(Debug)]
pub struct ActorMetrics {
    app_id: String,
    pending: IntGaugeVec,
    timers: IntGaugeVec,
    timers_fired: IntCounterVec,
    reminders_fired: IntCounterVec,
    deactivated: IntCounterVec,
    deactivated_failed: IntCounterVec,
    rebalanced: IntCounterVec,
    reported: IntCounterVec,
    ordered: IntCounterVec,
}

impl ActorMetrics {
    /// Registers the series with `registry`; fails when one of the names is taken.
    pub fn new(registry: &Registry, app_id: &str) -> Result<Self, prometheus::Error> {
        let by_type = &["app_id", "actor_type"];
        let fired = &["app_id", "actor_type", "success"];
        let operations = &["app_id", "actor_type", "operation"];
        Ok(Self {
            app_id: app_id.to_owned(),
            pending: gauge(
                registry,
                "pending_actor_calls",
                "The number of pending actor calls waiting to acquire the per-actor lock.",
                by_type,
            )?,
            timers: gauge(
                registry,
                "timers",
                "The number of actor timers requests.",
                by_type,
            )?,
            timers_fired: counter(
                registry,
                "timers_fired_total",
                "The number of actor timers fired requests.",
                fired,
            )?,
            reminders_fired: counter(
                registry,
                "reminders_fired_total",
                "The number of actor reminders fired requests.",
                fired,
            )?,
            deactivated: counter(
                registry,
                "deactivated_total",
                "The number of successful actor deactivations.",
                by_type,
            )?,
            deactivated_failed: counter(
                registry,
                "deactivated_failed_total",
                "The number of failed actor deactivations.",
                by_type,
            )?,
            rebalanced: counter(
                registry,
                "rebalanced_total",
                "The number of actors moved to another host.",
                by_type,
            )?,
            reported: counter(
                registry,
                "status_report_total",
                "The number of status reports sent to placement.",
                operations,
            )?,
            ordered: counter(
                registry,
                "table_operation_recv_total",
                "The number of orders received from placement.",
                operations,
            )?,
        })
    }
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let vector = IntCounterVec::new(
        Opts::new(format!("dapr_runtime_actor_{name}"), help),
        labels,
    )?;
    registry.register(Box::new(vector.clone()))?;
    Ok(vector)
}

fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let vector = IntGaugeVec::new(
        Opts::new(format!("dapr_runtime_actor_{name}"), help),
        labels,
    )?;
    registry.register(Box::new(vector.clone()))?;
    Ok(vector)
}

fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl Metrics for ActorMetrics {
    fn pending(&self, actor_type: &str, change: i64) {
        self.pending
            .with_label_values(&[self.app_id.as_str(), actor_type])
            .add(change);
    }

    fn timers(&self, actor_type: &str, change: i64) {
        self.timers
            .with_label_values(&[self.app_id.as_str(), actor_type])
            .add(change);
    }

    fn timer_fired(&self, actor_type: &str, success: bool) {
        self.timers_fired
            .with_label_values(&[self.app_id.as_str(), actor_type, flag(success)])
            .inc();
    }

    fn reminder_fired(&self, actor_type: &str, success: bool) {
        self.reminders_fired
            .with_label_values(&[self.app_id.as_str(), actor_type, flag(success)])
            .inc();
    }

    fn deactivated(&self, actor_type: &str, success: bool) {
        let counter = if success {
            &self.deactivated
        } else {
            &self.deactivated_failed
        };
        counter
            .with_label_values(&[self.app_id.as_str(), actor_type])
            .inc();
    }

    fn rebalanced(&self, actor_type: &str) {
        self.rebalanced
            .with_label_values(&[self.app_id.as_str(), actor_type])
            .inc();
    }

    fn reported(&self, actor_type: &str) {
        self.reported
            .with_label_values(&[self.app_id.as_str(), actor_type, "report"])
            .inc();
    }

    fn ordered(&self, actor_type: &str, operation: &str) {
        self.ordered
            .with_label_values(&[self.app_id.as_str(), actor_type, operation])
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_appear_with_their_first_record_under_upstreams_names() {
        let registry = Registry::new();
        let metrics = ActorMetrics::new(&registry, "shop").expect("names are free");
        assert!(registry.gather().is_empty());
        metrics.timer_fired("T", true);
        let families = registry.gather();
        assert_eq!(families.len(), 1);
        assert_eq!(families[0].name(), "dapr_runtime_actor_timers_fired_total");
    }
}
