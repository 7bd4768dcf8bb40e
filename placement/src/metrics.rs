//! The metrics of placement.

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// The gauges; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    runtimes: IntGaugeVec,
    actor_runtimes: IntGaugeVec,
    leader: IntGauge,
    raft_leader: IntGauge,
    raft_voter: IntGauge,
    raft_voters: IntGauge,
}

impl Metrics {
    /// Makes the gauges and registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by_namespace =
            |name, help| IntGaugeVec::new(Opts::new(name, help), &["host_namespace"]);
        let metrics = Self {
            runtimes: by_namespace("dapr_placement_runtimes_total", "Connected sidecars.")?,
            actor_runtimes: by_namespace(
                "dapr_placement_actor_runtimes_total",
                "Connected sidecars that host actors.",
            )?,
            leader: IntGauge::new(
                "dapr_placement_leader_status",
                "1 while this replica serves sidecars.",
            )?,
            raft_leader: IntGauge::new(
                "dapr_placement_raft_leader_status",
                "1 while this replica leads the replicas.",
            )?,
            raft_voter: IntGauge::new(
                "dapr_placement_raft_voter",
                "1 while this replica knows all it promised to the others, and votes.",
            )?,
            raft_voters: IntGauge::new(
                "dapr_placement_raft_voters",
                "Replicas that decide, as far as this one knows.",
            )?,
        };
        registry.register(Box::new(metrics.runtimes.clone()))?;
        registry.register(Box::new(metrics.actor_runtimes.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.raft_leader.clone()))?;
        registry.register(Box::new(metrics.raft_voter.clone()))?;
        registry.register(Box::new(metrics.raft_voters.clone()))?;
        Ok(metrics)
    }

    /// Counts a stream until the guard is dropped. The series of a namespace stays, at 0, after its last stream.
    pub(crate) fn connected(&self, namespace: &str, hosts_actors: bool) -> Connected {
        let runtimes = self.runtimes.with_label_values(&[namespace]);
        runtimes.inc();
        let actor_runtimes = self.actor_runtimes.with_label_values(&[namespace]);
        actor_runtimes.add(i64::from(hosts_actors));
        Connected {
            runtimes,
            actor_runtimes: hosts_actors.then_some(actor_runtimes),
        }
    }

    pub(crate) fn set_leader(&self, serves: bool) {
        self.leader.set(i64::from(serves));
    }

    pub(crate) fn set_raft_leader(&self, leads: bool) {
        self.raft_leader.set(i64::from(leads));
    }
}

impl Metrics {
    pub(crate) fn set_raft_voter(&self, votes: bool) {
        self.raft_voter.set(i64::from(votes));
    }

    pub(crate) fn set_raft_voters(&self, voters: usize) {
        self.raft_voters
            .set(i64::try_from(voters).unwrap_or(i64::MAX));
    }
}

/// One connected stream in the gauges.
#[derive(Debug)]
pub(crate) struct Connected {
    runtimes: IntGauge,
    actor_runtimes: Option<IntGauge>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.runtimes.dec();
        if let Some(actor_runtimes) = &self.actor_runtimes {
            actor_runtimes.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_by_namespace() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("names are valid");
        let check = |expected: &[&str]| {
            let text = dapr_kit::metrics::encode(&registry.gather());
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(lines, expected);
        };
        let host = metrics.connected("a", true);
        let client = metrics.connected("a", false);
        metrics.set_leader(true);
        check(&[
            "dapr_placement_actor_runtimes_total{host_namespace=\"a\"} 1",
            "dapr_placement_leader_status 1",
            "dapr_placement_raft_leader_status 0",
            "dapr_placement_raft_voter 0",
            "dapr_placement_raft_voters 0",
            "dapr_placement_runtimes_total{host_namespace=\"a\"} 2",
        ]);
        drop((host, client));
        metrics.set_leader(false);
        metrics.set_raft_leader(true);
        check(&[
            "dapr_placement_actor_runtimes_total{host_namespace=\"a\"} 0",
            "dapr_placement_leader_status 0",
            "dapr_placement_raft_leader_status 1",
            "dapr_placement_raft_voter 0",
            "dapr_placement_raft_voters 0",
            "dapr_placement_runtimes_total{host_namespace=\"a\"} 0",
        ]);
    }
}
