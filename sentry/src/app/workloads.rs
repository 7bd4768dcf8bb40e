//! Who has to be waited for while the root is rotated.

use std::time::{Duration, SystemTime};

use dapr_kubernetes::Reader;

use crate::rotation::ledger::Ledger;
use crate::validator::kubernetes::Pod;

/// How long another replica may take to hear of a change, by its mounted Secret at the latest.
const REPLICA_LAG: Duration = Duration::from_secs(120);
/// The same process: only the clock's seconds are rounded.
const OWN_LAG: Duration = Duration::from_secs(2);

/// What is known about workloads beside what was issued to them.
pub(super) enum Workloads {
    /// Processes of which only their certificates are known. Those issued before this start have run out by then.
    Processes { known_from: SystemTime },
    /// The pods of the cluster, and whether there are others besides.
    Pods { pods: Reader<Pod>, has_others: bool },
}

impl Workloads {
    /// How many workloads have no certificate of this authority yet; none if nobody can tell, and only time helps.
    pub(super) fn pending(
        &self,
        ledger: &Ledger,
        authority: u64,
        now: SystemTime,
    ) -> Option<usize> {
        let outstanding = ledger.pending(authority, now);
        match self {
            Self::Processes { known_from } => (now >= *known_from).then_some(outstanding),
            Self::Pods { pods, has_others } => {
                // Another replica may have issued to workloads that are no pods.
                if !pods.is_synced() || *has_others {
                    return None;
                }
                let is_pending = |pod: &Pod| {
                    pod.is_workload() && pod.uid().is_none_or(|uid| !ledger.has(uid, authority))
                };
                let pods = pods.snapshot();
                Some(outstanding.max(pods.iter().filter(|pod| is_pending(pod)).count()))
            }
        }
    }

    pub(super) fn lag(&self) -> Duration {
        match self {
            Self::Processes { .. } => OWN_LAG,
            Self::Pods { .. } => REPLICA_LAG,
        }
    }
}
