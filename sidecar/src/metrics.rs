//! The series of the process itself, under upstream's names: components and the own identity.

use std::sync::Arc;

use dapr_security::Renewals;
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::sync::watch;

/// Counts what happens to components and to the identity. Series appear with their first record.
#[derive(Debug)]
pub struct RuntimeMetrics {
    app_id: String,
    loaded: IntCounterVec,
    initialized: IntCounterVec,
    failed: IntCounterVec,
    mtls_initialized: IntCounterVec,
    rotated: IntCounterVec,
    not_rotated: IntCounterVec,
}

impl RuntimeMetrics {
    /// Registers the series with `registry`; fails when one of the names is taken.
    pub fn new(registry: &Registry, app_id: &str) -> Result<Self, prometheus::Error> {
        Ok(Self {
            app_id: app_id.to_owned(),
            loaded: counter(
                registry,
                "component_loaded",
                "The number of successfully loaded components.",
                &["app_id"],
            )?,
            initialized: counter(
                registry,
                "component_init_total",
                "The number of initialized components.",
                &["app_id", "component"],
            )?,
            failed: counter(
                registry,
                "component_init_fail_total",
                "The number of component initialization failures.",
                &["app_id", "component", "componentName", "reason"],
            )?,
            mtls_initialized: counter(
                registry,
                "mtls_init_total",
                "The number of successful mTLS authenticator initializations.",
                &["app_id"],
            )?,
            rotated: counter(
                registry,
                "mtls_workload_cert_rotated_total",
                "The number of successful workload certificate rotations.",
                &["app_id"],
            )?,
            not_rotated: counter(
                registry,
                "mtls_workload_cert_rotated_fail_total",
                "The number of failed workload certificate rotations.",
                &["app_id", "reason"],
            )?,
        })
    }

    /// A component of this type is open.
    pub fn component_loaded(&self, component_type: &str) {
        self.loaded.with_label_values(&[&self.app_id]).inc();
        self.initialized
            .with_label_values(&[self.app_id.as_str(), component_type])
            .inc();
    }

    /// A component cannot be opened; `reason` is the step that failed.
    pub fn component_failed(&self, component_type: &str, name: &str, reason: &str) {
        self.failed
            .with_label_values(&[self.app_id.as_str(), component_type, name, reason])
            .inc();
    }

    /// The first identity is there.
    pub fn mtls_initialized(&self) {
        self.mtls_initialized
            .with_label_values(&[&self.app_id])
            .inc();
    }

    /// Counts renewals of the identity until nobody renews it any more.
    pub async fn follow(self: Arc<Self>, mut renewals: watch::Receiver<Renewals>) {
        let mut counted = Renewals::default();
        loop {
            let now = *renewals.borrow_and_update();
            self.renewed(counted, now);
            counted = now;
            if renewals.changed().await.is_err() {
                return;
            }
        }
    }

    fn renewed(&self, before: Renewals, now: Renewals) {
        let succeeded = now.succeeded - before.succeeded;
        if succeeded > 0 {
            self.rotated
                .with_label_values(&[&self.app_id])
                .inc_by(succeeded);
        }
        for (reason, failed) in [
            ("sentry_conn", now.unreachable - before.unreachable),
            ("sentry_token", now.no_token - before.no_token),
            ("jwt_parse", now.bad_jwt - before.bad_jwt),
            ("sign", now.failed - before.failed),
        ] {
            if failed > 0 {
                self.not_rotated
                    .with_label_values(&[self.app_id.as_str(), reason])
                    .inc_by(failed);
            }
        }
    }
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let vector = IntCounterVec::new(Opts::new(format!("dapr_runtime_{name}"), help), labels)?;
    registry.register(Box::new(vector.clone()))?;
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(registry: &Registry) -> String {
        String::from_utf8_lossy(&dapr_kit::metrics::encode(&registry.gather()).into_bytes())
            .into_owned()
    }

    #[test]
    fn series_appear_with_their_first_record_under_upstreams_names() {
        let registry = Registry::new();
        let metrics = RuntimeMetrics::new(&registry, "shop").expect("names are free");
        assert!(registry.gather().is_empty());
        metrics.component_loaded("state.redis");
        metrics.component_failed("state.nope", "x", "creation");
        metrics.mtls_initialized();
        let text = text(&registry);
        for line in [
            "dapr_runtime_component_loaded{app_id=\"shop\"} 1\n",
            "dapr_runtime_component_init_total{app_id=\"shop\",component=\"state.redis\"} 1\n",
            "dapr_runtime_component_init_fail_total{app_id=\"shop\",component=\"state.nope\",componentName=\"x\",reason=\"creation\"} 1\n",
            "dapr_runtime_mtls_init_total{app_id=\"shop\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[tokio::test]
    async fn renewals_are_counted_once() {
        let registry = Registry::new();
        let metrics = Arc::new(RuntimeMetrics::new(&registry, "shop").expect("names are free"));
        let renewals = watch::Sender::new(Renewals {
            succeeded: 2,
            ..Renewals::default()
        });
        let following = tokio::spawn(metrics.follow(renewals.subscribe()));
        renewals.send_modify(|count| count.unreachable += 1);
        renewals.send_modify(|count| count.succeeded += 1);
        drop(renewals);
        following.await.expect("ends with its source");
        let text = text(&registry);
        assert!(
            text.contains("dapr_runtime_mtls_workload_cert_rotated_total{app_id=\"shop\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("rotated_fail_total{app_id=\"shop\",reason=\"sentry_conn\"} 1\n"),
            "{text}"
        );
    }
}
