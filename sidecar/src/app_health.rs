//! Health checks of the application: one success makes it healthy, several failures in a row unhealthy.

use std::sync::Arc;

use dapr_sidecar_core::app::AppChannel;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::settings::AppHealth;

/// What is known about the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not probed with success yet.
    Unknown,
    /// Takes calls.
    Healthy,
    /// Takes none.
    Unhealthy,
}

/// Counts results; pure, so that the rule stands in one place.
#[derive(Debug)]
struct Counter {
    health: Health,
    failures: u32,
    threshold: u32,
}

impl Counter {
    fn new(threshold: u32) -> Self {
        Self {
            health: Health::Unknown,
            failures: 0,
            threshold,
        }
    }

    /// The health after a probe.
    fn record(&mut self, success: bool) -> Health {
        if success {
            self.failures = 0;
            self.health = Health::Healthy;
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.threshold {
                self.health = Health::Unhealthy;
            }
        }
        self.health
    }
}

/// Probes `app` for ever and reports each change. Drop the future to stop.
pub async fn run(settings: AppHealth, app: Arc<dyn AppChannel>, report: watch::Sender<Health>) {
    let mut counter = Counter::new(settings.threshold);
    let mut ticks = tokio::time::interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let health = counter.record(app.probe().await);
        report.send_if_modified(|current| std::mem::replace(current, health) != health);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_success_heals_and_only_a_row_of_failures_hurts() {
        let mut counter = Counter::new(3);
        let mut check =
            |success: bool, expected: Health| assert_eq!(counter.record(success), expected);
        check(false, Health::Unknown);
        check(true, Health::Healthy);
        check(false, Health::Healthy);
        check(false, Health::Healthy);
        check(true, Health::Healthy);
        check(false, Health::Healthy);
        check(false, Health::Healthy);
        check(false, Health::Unhealthy);
        check(false, Health::Unhealthy);
        check(true, Health::Healthy);
    }
}
