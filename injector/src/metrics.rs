//! What the injector counts. Names are upstream's, and one is ours: whether the API server is followed.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::admission::Outcome;

/// Apps that are counted by name. Ids come from whoever reaches the port, and each takes memory for good.
const APPS: usize = 10_000;
/// Bytes of an id that is counted by name: those of any name in Kubernetes.
const APP_ID: usize = 253;

/// The counters of admissions.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounter,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
    watches: IntGaugeVec,
    apps: Arc<Mutex<BTreeSet<String>>>,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounter::new(
                "dapr_injector_sidecar_injection_requests_total",
                "Requests for a sidecar.",
            )?,
            succeeded: IntCounterVec::new(
                Opts::new(
                    "dapr_injector_sidecar_injection_succeeded_total",
                    "Pods that got a sidecar.",
                ),
                &["app_id"],
            )?,
            failed: IntCounterVec::new(
                Opts::new(
                    "dapr_injector_sidecar_injection_failed_total",
                    "Pods that got none though they asked, and requests that could not be read.",
                ),
                &["app_id", "reason"],
            )?,
            watches: IntGaugeVec::new(
                Opts::new(
                    "dapr_injector_watch_followed",
                    "Whether what is known of a kind is current: 0 while a watch is cold or stale.",
                ),
                &["kind"],
            )?,
            apps: Arc::default(),
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.succeeded.clone()))?;
        registry.register(Box::new(metrics.failed.clone()))?;
        registry.register(Box::new(metrics.watches.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn request(&self) {
        self.requests.inc();
    }

    pub(crate) fn watch(&self, kind: &str, is_followed: bool) {
        let gauge = self.watches.with_label_values(&[kind]);
        gauge.set(i64::from(is_followed));
    }

    pub(crate) fn outcome(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Ignored => {}
            Outcome::Injected { app_id } => {
                self.succeeded.with_label_values(&[self.app(app_id)]).inc();
            }
            Outcome::Failed { app_id, reason, .. } => {
                self.failed
                    .with_label_values(&[self.app(app_id), reason.label()])
                    .inc();
            }
        }
    }

    /// The label of an app; beyond the bound it is empty.
    fn app<'a>(&self, app_id: &'a str) -> &'a str {
        if app_id.len() > APP_ID {
            return "";
        }
        let mut apps = self.apps.lock();
        if apps.contains(app_id) {
            return app_id;
        }
        if apps.len() >= APPS {
            return "";
        }
        apps.insert(app_id.to_owned());
        app_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_make_labels_without_end() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.outcome(&Outcome::Injected {
            app_id: "a".repeat(APP_ID + 1),
        });
        for number in 0..APPS + 10 {
            metrics.outcome(&Outcome::Injected {
                app_id: format!("app-{number}"),
            });
        }
        metrics.outcome(&Outcome::Injected {
            app_id: "app-0".to_owned(),
        });
        let count = |app: &str| metrics.succeeded.with_label_values(&[app]).get();
        assert_eq!((count("app-0"), count(""), count("app-9999")), (2, 11, 1));
        let families = registry.gather();
        assert!(
            families
                .iter()
                .all(|family| family.get_metric().len() <= APPS + 1)
        );
    }
}
