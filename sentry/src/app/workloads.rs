//! Who has to be waited for while the root is rotated.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dapr_kubernetes::Reader;

use crate::rotation::ledger::{Ledger, Wanted};
use crate::validator::kubernetes::Pod;

/// The same process: only the clock's seconds are rounded.
const OWN_LAG: Duration = Duration::from_secs(2);

/// What is known about workloads beside what was issued to them.
pub(super) enum Workloads {
    /// Processes of which only their certificates are known. Those issued before this start have run out by then.
    Processes { known_from: SystemTime },
    /// The pods of the cluster.
    Pods {
        pods: Reader<Pod>,
        /// Whether there are others besides.
        has_others: bool,
        /// Where Sentry's own pods are.
        namespace: String,
        /// How long another replica may take to hear of a step.
        replica_lag: Duration,
    },
}

impl Workloads {
    /// How many workloads have no such certificate yet; none if nobody can tell, and only time helps.
    pub(super) fn pending(
        &self,
        ledger: &Ledger,
        wanted: Wanted,
        now: SystemTime,
    ) -> Option<usize> {
        let outstanding = ledger.pending(wanted, now);
        match self {
            Self::Processes { known_from } => (now >= *known_from).then_some(outstanding),
            Self::Pods {
                pods, has_others, ..
            } => {
                // Another replica may have issued to workloads that are no pods.
                if !pods.is_synced() || *has_others {
                    return None;
                }
                let is_pending = |pod: &Pod| {
                    pod.is_workload() && pod.uid().is_none_or(|uid| !ledger.has(uid, wanted))
                };
                let pods = pods.snapshot();
                Some(outstanding.max(pods.iter().filter(|pod| is_pending(pod)).count()))
            }
        }
    }

    /// How long after a step a certificate may still be issued as before it.
    pub(super) fn lag(&self) -> Duration {
        self.replica_lag().max(OWN_LAG)
    }

    /// How long other replicas may go on as before a step; nothing if there are none.
    pub(super) fn replica_lag(&self) -> Duration {
        match self {
            Self::Processes { .. } => Duration::ZERO,
            Self::Pods {
                pods,
                namespace,
                replica_lag,
                ..
            } => {
                // One that starts later reads the state that the step has left.
                let is_alone = pods.is_synced() && is_alone(&pods.in_namespace(namespace));
                if is_alone {
                    Duration::ZERO
                } else {
                    *replica_lag
                }
            }
        }
    }
}

/// Whether these pods have one Sentry among them. None means that it is not known how many there are: one that runs
/// outside of the cluster, or pods that are not called so.
fn is_alone(pods: &[Arc<Pod>]) -> bool {
    pods.iter().filter(|pod| pod.is_sentry()).count() == 1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_replica_is_known_by_its_pod() {
        let pod = |service: &str, phase: &str| {
            let pod = serde_json::from_value(json!({
                "metadata": {"name": "a", "annotations": {"dapr.io/control-plane": service}},
                "status": {"phase": phase},
            }));
            Arc::new(pod.unwrap())
        };
        let check = |pods: &[Arc<Pod>], expected: bool| {
            assert_eq!(is_alone(pods), expected, "{pods:?}");
        };
        let (sentry, other) = (pod("sentry", "Running"), pod("operator", "Running"));
        check(&[], false);
        check(&[Arc::clone(&other)], false);
        check(&[Arc::clone(&sentry), other], true);
        check(&[Arc::clone(&sentry), pod("sentry", "Failed")], true);
        check(&[sentry, pod("sentry", "Pending")], false);
    }
}
