//! The addresses behind one name: whose turn it is, who failed, and when to look again. Pure; time is an argument.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Addresses of this age are looked up again beside the call that uses them.
const REFRESH: Duration = Duration::from_secs(10);
/// Addresses of this age are not used before they were looked up again, unless the name server is down.
const LIFETIME: Duration = Duration::from_secs(20);
/// How long addresses count while the name server is down: pods that were there are a better guess than none.
const WITHOUT_ANSWER: Duration = Duration::from_secs(5 * 60);
/// How long an address that failed is passed over. It is longer than a name server keeps the address of a pod that
/// is gone, so that it is not tried again before it has left the list.
const PASSED_OVER: Duration = Duration::from_secs(10);
/// Fastest pace of lookups that failures ask for.
const PACE: Duration = Duration::from_millis(500);

/// What is known of one name.
#[derive(Debug)]
pub(super) struct Pods {
    addresses: Vec<Pod>,
    /// When they were looked up, and until when they may be used.
    looked_up: Option<Instant>,
    usable_until: Option<Instant>,
    /// When a lookup was asked for last.
    asked: Option<Instant>,
    used: Option<Instant>,
    turn: usize,
}

#[derive(Debug, Clone, Copy)]
struct Pod {
    address: SocketAddr,
    failed: Option<Instant>,
}

/// Whom to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// This one.
    Fresh(SocketAddr),
    /// This one, and look the name up again.
    Aging(SocketAddr),
    /// Nobody before the name was looked up.
    Nothing,
}

impl Pods {
    /// Nothing yet. Each sidecar begins at another pod, by `turn`.
    pub(super) fn new(turn: u16) -> Self {
        Self {
            addresses: Vec::new(),
            looked_up: None,
            usable_until: None,
            asked: None,
            used: None,
            turn: turn.into(),
        }
    }

    /// When it was used last.
    pub(super) fn used(&self) -> Option<Instant> {
        self.used
    }

    /// The name has these addresses now. What is known of those that stay is kept.
    pub(super) fn found(&mut self, mut addresses: Vec<SocketAddr>, now: Instant) {
        addresses.sort_unstable();
        addresses.dedup();
        let failed = |address: &SocketAddr| {
            let known = self.addresses.iter().find(|pod| pod.address == *address);
            known.and_then(|pod| pod.failed)
        };
        self.addresses = addresses
            .iter()
            .map(|address| Pod {
                address: *address,
                failed: failed(address),
            })
            .collect();
        self.looked_up = Some(now);
        self.usable_until = Some(now + LIFETIME);
    }

    /// There is no such name.
    pub(super) fn gone(&mut self) {
        self.addresses.clear();
        self.usable_until = None;
    }

    /// Nobody could be asked.
    pub(super) fn unknown(&mut self, now: Instant) {
        if let Some(looked_up) = self.looked_up {
            let soon = now + REFRESH;
            self.usable_until = Some(soon.min(looked_up + WITHOUT_ANSWER));
        }
    }

    /// The next one in turn that has not failed lately; if all have, the one whose failure is longest ago.
    pub(super) fn pick(&mut self, now: Instant) -> Answer {
        self.used = Some(now);
        if self.usable_until.is_none_or(|until| now >= until) {
            return Answer::Nothing;
        }
        let Some(address) = self.next(now) else {
            return Answer::Nothing;
        };
        let is_aging = self
            .looked_up
            .is_none_or(|looked_up| now.duration_since(looked_up) >= REFRESH);
        if is_aging && self.ask(now) {
            Answer::Aging(address)
        } else {
            Answer::Fresh(address)
        }
    }

    fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        let count = self.addresses.len();
        for _ in 0..count {
            self.turn = self.turn.wrapping_add(1);
            let pod = self.addresses.get(self.turn % count)?;
            let is_well = pod
                .failed
                .is_none_or(|failed| now.duration_since(failed) >= PASSED_OVER);
            if is_well {
                return Some(pod.address);
            }
        }
        let oldest = self.addresses.iter().min_by_key(|pod| pod.failed)?;
        Some(oldest.address)
    }

    /// A call of `address` failed; whether the name is to be looked up now.
    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) -> bool {
        let Some(pod) = self.addresses.iter_mut().find(|pod| pod.address == address) else {
            return false;
        };
        pod.failed = Some(now);
        self.ask(now)
    }

    fn ask(&mut self, now: Instant) -> bool {
        let is_due = self
            .asked
            .is_none_or(|asked| now.duration_since(asked) >= PACE);
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 50002))
    }

    fn pods(count: u8, now: Instant) -> Pods {
        let mut pods = Pods::new(0);
        pods.found((1..=count).map(address).collect(), now);
        pods
    }

    fn picked(pods: &mut Pods, now: Instant) -> Option<SocketAddr> {
        match pods.pick(now) {
            Answer::Fresh(address) | Answer::Aging(address) => Some(address),
            Answer::Nothing => None,
        }
    }

    #[test]
    fn calls_go_round() {
        let now = Instant::now();
        let mut pods = pods(3, now);
        let seen: Vec<_> = (0..6).filter_map(|_| picked(&mut pods, now)).collect();
        assert_eq!(seen.len(), 6);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(seen[..3], seen[3..]);
    }

    #[test]
    fn one_that_failed_is_passed_over_for_a_while() {
        let now = Instant::now();
        let mut pods = pods(2, now);
        assert!(pods.failed(address(1), now));
        for _ in 0..4 {
            assert_eq!(picked(&mut pods, now), Some(address(2)));
        }
        // A lookup that still has it does not heal it.
        pods.found(vec![address(1), address(2)], now);
        assert_eq!(picked(&mut pods, now), Some(address(2)));
        let later = now + PASSED_OVER;
        let seen: BTreeSet<_> = (0..2).filter_map(|_| picked(&mut pods, later)).collect();
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn if_all_failed_the_oldest_failure_is_tried() {
        let now = Instant::now();
        let mut pods = pods(2, now);
        pods.failed(address(2), now);
        pods.failed(address(1), now + Duration::from_secs(1));
        assert_eq!(
            picked(&mut pods, now + Duration::from_secs(1)),
            Some(address(2))
        );
    }

    #[test]
    fn addresses_age() {
        let now = Instant::now();
        let mut pods = pods(1, now);
        assert_eq!(pods.pick(now), Answer::Fresh(address(1)));
        assert_eq!(pods.pick(now + REFRESH), Answer::Aging(address(1)));
        // One caller is enough.
        assert_eq!(pods.pick(now + REFRESH), Answer::Fresh(address(1)));
        assert_eq!(pods.pick(now + LIFETIME), Answer::Nothing);
        pods.unknown(now + LIFETIME);
        assert!(picked(&mut pods, now + LIFETIME).is_some());
        assert_eq!(pods.pick(now + WITHOUT_ANSWER), Answer::Nothing);
    }

    #[test]
    fn a_name_that_is_gone_has_nobody() {
        let now = Instant::now();
        let mut pods = pods(1, now);
        pods.gone();
        assert_eq!(pods.pick(now), Answer::Nothing);
    }

    #[test]
    fn failures_do_not_ask_all_the_time() {
        let now = Instant::now();
        let mut pods = pods(2, now);
        assert!(pods.failed(address(1), now));
        assert!(!pods.failed(address(2), now));
        assert!(pods.failed(address(2), now + PACE));
        assert!(!pods.failed(address(9), now + PACE * 2));
    }

    proptest! {
        #[test]
        fn a_pod_that_is_gone_is_never_called(steps in proptest::collection::vec((0u8..4, 1u8..6), 1..60)) {
            let start = Instant::now();
            let mut pods = Pods::new(7);
            let mut listed: BTreeSet<SocketAddr> = BTreeSet::new();
            for (index, (what, which)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(index as u64);
                match what {
                    0 => {
                        listed = (1..=which).map(address).collect();
                        pods.found(listed.iter().copied().collect(), now);
                    }
                    1 => {
                        pods.failed(address(which), now);
                    }
                    2 => {
                        listed.clear();
                        pods.gone();
                    }
                    _ => {}
                }
                if let Some(address) = picked(&mut pods, now) {
                    prop_assert!(listed.contains(&address));
                }
            }
        }
    }
}
