//! What the Service reconciler counts. Names are upstream's.

use prometheus::{IntCounterVec, Opts, Registry};

/// The counters of Services, by app.
#[derive(Clone, Debug)]
pub struct Metrics {
    created: IntCounterVec,
    updated: IntCounterVec,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["app_id"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        // Upstream's third one: the operator deletes no Service, so it never gets a series.
        counter(
            "dapr_operator_service_deleted_total",
            "Services deleted; never any.",
        )?;
        Ok(Self {
            created: counter("dapr_operator_service_created_total", "Services created.")?,
            updated: counter(
                "dapr_operator_service_updated_total",
                "Reconciliations of Services that were there, whether they had to be written or not.",
            )?,
        })
    }

    pub(super) fn created(&self, app_id: &str) {
        self.created.with_label_values(&[app_id]).inc();
    }

    pub(super) fn updated(&self, app_id: &str) {
        self.updated.with_label_values(&[app_id]).inc();
    }
}
