//! What Sentry counts. Names are upstream's.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounter,
    signed: IntCounter,
    failed: IntCounterVec,
    pub(crate) server_certificate_failed: IntCounter,
    pub(crate) issuer_changed: IntCounter,
    pub(crate) issuer_expiry: IntGauge,
    /// Not one of upstream's: see [`crate::rotation::Phase::number`].
    pub(crate) rotation_phase: IntGauge,
    /// Not one of upstream's.
    pub(crate) rotation_pending: IntGauge,
}

/// A request that was received. It counts as failed unless it is told to have succeeded, whatever becomes of it.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    metrics: &'a Metrics,
    is_signed: bool,
}

impl Received<'_> {
    pub(crate) fn signed(mut self) {
        self.is_signed = true;
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        if self.is_signed {
            self.metrics.signed.inc();
        } else {
            self.metrics.failed.with_label_values(&["sign"]).inc();
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub(crate) fn received(&self) -> Received<'_> {
        self.requests.inc();
        Received {
            metrics: self,
            is_signed: false,
        }
    }

    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounter::new(
                "dapr_sentry_cert_sign_request_received_total",
                "Certificate requests received.",
            )?,
            signed: IntCounter::new(
                "dapr_sentry_cert_sign_success_total",
                "Certificates issued.",
            )?,
            failed: IntCounterVec::new(
                Opts::new(
                    "dapr_sentry_cert_sign_failure_total",
                    "Certificates that could not be issued.",
                ),
                &["reason"],
            )?,
            server_certificate_failed: IntCounter::new(
                "dapr_sentry_servercert_issue_failed_total",
                "Failures to issue the server's own certificate.",
            )?,
            issuer_changed: IntCounter::new(
                "dapr_sentry_issuercert_changed_total",
                "Changes of the issuer's files.",
            )?,
            issuer_expiry: IntGauge::new(
                "dapr_sentry_issuercert_expiry_timestamp",
                "End of the issuer certificate's validity in seconds since the epoch.",
            )?,
            rotation_phase: IntGauge::new(
                "dapr_sentry_root_rotation_phase",
                "Rotation of the root: 0 none, 1 new root published, 2 new issuer signs, 3 old root taken out.",
            )?,
            rotation_pending: IntGauge::new(
                "dapr_sentry_root_rotation_pending",
                "Workloads that have to renew before the rotation goes on.",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.signed.clone()))?;
        registry.register(Box::new(metrics.failed.clone()))?;
        registry.register(Box::new(metrics.server_certificate_failed.clone()))?;
        registry.register(Box::new(metrics.issuer_changed.clone()))?;
        registry.register(Box::new(metrics.issuer_expiry.clone()))?;
        registry.register(Box::new(metrics.rotation_phase.clone()))?;
        registry.register(Box::new(metrics.rotation_pending.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn show_expiry(&self, not_after: SystemTime) {
        let seconds = not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        self.issuer_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_succeeds_or_fails() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        metrics.received().signed();
        drop(metrics.received());
        // As one whose client is gone: nobody waits for its end.
        let cancelled = async {
            let _received = metrics.received();
            std::future::pending::<()>().await;
        };
        let mut cancelled = Box::pin(cancelled);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(cancelled.as_mut().poll(&mut context).is_pending());
        drop(cancelled);
        let failed = metrics.failed.with_label_values(&["sign"]).get();
        assert_eq!(
            (metrics.requests.get(), metrics.signed.get(), failed),
            (3, 1, 2)
        );
    }
}
