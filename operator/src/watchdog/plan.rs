//! Which pod the watchdog looks at next, and when. Pure: no client, no clock.
//!
//! Pods that were there when the injector became ready may have been made without it, and go together, only limited by
//! the rate of the flag. One that appears without a sidecar while the injector is ready shows that deleting may not help.
//! Each workload loses pods of either sort a few times at once, and then ever more seldom, so that neither a pod that can
//! get no sidecar nor an injector that comes and goes costs more than next to nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dapr_crds::annotations::{LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED};
use dapr_kubernetes::watch::Pace;
use tokio::time::Instant;

use crate::pods::Pod;

/// How often a workload loses pods without a pause in between.
const AT_ONCE: u32 = 3;
/// The pauses after those.
const LATER: Pace = Pace::new(Duration::from_secs(60), Duration::from_secs(3600));
/// A workload that lost no pod for so long begins anew.
const FORGIVEN: Duration = Duration::from_secs(2 * 3600);
/// The pauses after a failure.
const RETRY: Pace = Pace::new(Duration::from_secs(1), Duration::from_secs(60));

/// What to do.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// Look at this pod.
    Look(&'a Pod),
    /// Wait until then, or for a change.
    Wait(Instant),
    /// Every pod was seen.
    Nothing,
}

/// What a look at a pod came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It needs nothing.
    Fine,
    /// It had no sidecar, and was deleted.
    Deleted,
    /// It is gone or another one now; the watch tells more.
    Changed,
    /// The API server did not answer, or refused.
    Failed,
}

/// What was seen and done.
#[derive(Debug)]
pub(super) struct Plan {
    /// Between two deletions.
    spacing: Duration,
    /// When the next pod may be deleted.
    free: Instant,
    injector: Injector,
    /// How often the injector became ready.
    round: u64,
    /// Pods that were there when it became so, and may go whatever their workload has lost.
    before: BTreeSet<String>,
    /// Pods that need nothing any more.
    seen: BTreeSet<String>,
    /// Pods that could not be looked at: how often, and when they can again.
    failed: BTreeMap<String, (u32, Instant)>,
    /// Workloads that lost pods.
    strikes: BTreeMap<Workload, Strikes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Injector {
    Away,
    Ready,
}

/// Who makes a pod anew: namespace, kind and name.
type Workload = (String, String, String);

#[derive(Clone, Copy, Debug)]
struct Strikes {
    count: u32,
    last: Instant,
    next: Instant,
    /// The round of the last one.
    round: u64,
}

impl Strikes {
    /// When the workload may lose the next pod.
    fn due(&self, now: Instant) -> Instant {
        if now < self.last + FORGIVEN {
            self.next
        } else {
            now
        }
    }
}

fn workload(pod: &Pod) -> Workload {
    let namespace = pod.namespace().to_owned();
    match pod.controller() {
        Some(owner) => (namespace, owner.kind.clone(), owner.name.clone()),
        None => (namespace, "Pod".to_owned(), pod.name().to_owned()),
    }
}

fn uid(pod: &Pod) -> &str {
    pod.uid().unwrap_or_default()
}

/// Whether a pod may lack a sidecar, as far as its metadata tells.
fn is_candidate(pod: &Pod) -> bool {
    pod.is_enabled()
        && !pod.is_ending()
        && !pod.has_label(LABEL_SIDECAR_INJECTED)
        && !pod.has_label(LABEL_WATCHDOG_PATCHED)
}

impl Plan {
    pub(super) fn new(per_minute: Option<u32>, now: Instant) -> Self {
        let spacing = per_minute.and_then(|count| Duration::from_secs(60).checked_div(count));
        Self {
            spacing: spacing.unwrap_or_default(),
            free: now,
            injector: Injector::Away,
            round: 0,
            before: BTreeSet::new(),
            seen: BTreeSet::new(),
            failed: BTreeMap::new(),
            strikes: BTreeMap::new(),
        }
    }

    /// No injector is ready.
    pub(super) fn injector_is_away(&mut self) {
        self.injector = Injector::Away;
    }

    /// An injector is ready; these are the pods now.
    pub(super) fn injector_is_ready(&mut self, pods: &[Arc<Pod>], now: Instant) {
        if self.injector == Injector::Ready {
            return;
        }
        self.injector = Injector::Ready;
        self.round += 1;
        // A workload that an injector has not helped is not helped by one that came back. What is left from an earlier
        // round was never made anew, so it goes without delay.
        let is_old = |pod: &Pod| {
            let strikes = self.strikes.get(&workload(pod));
            self.before.contains(uid(pod)) || strikes.is_none_or(|it| it.due(now) <= now)
        };
        let old = pods.iter().filter(|pod| is_candidate(pod) && is_old(pod));
        self.before = old.map(|pod| uid(pod).to_owned()).collect();
    }

    /// The next step. Only while the injector is ready.
    pub(super) fn next<'a>(&self, pods: &'a [Arc<Pod>], now: Instant) -> Next<'a> {
        let mut first: Option<(Instant, &Pod)> = None;
        for pod in pods.iter().filter(|pod| is_candidate(pod)) {
            if self.seen.contains(uid(pod)) {
                continue;
            }
            let at = self.due(pod, now);
            if first.is_none_or(|(earliest, _)| at < earliest) {
                first = Some((at, pod));
            }
            if at <= now {
                break;
            }
        }
        match first {
            None => Next::Nothing,
            Some((at, pod)) if at.max(self.free) <= now => Next::Look(pod),
            Some((at, _)) => Next::Wait(at.max(self.free)),
        }
    }

    fn due(&self, pod: &Pod, now: Instant) -> Instant {
        let retry = self.failed.get(uid(pod)).map_or(now, |(_, at)| *at);
        if self.before.contains(uid(pod)) {
            return retry;
        }
        let strikes = self.strikes.get(&workload(pod));
        strikes.map_or(retry, |strikes| strikes.due(now).max(retry))
    }

    /// A pod was looked at. `share` between 0 and 1 spreads what failed together.
    pub(super) fn looked(&mut self, pod: &Pod, found: Found, now: Instant, share: f64) {
        let id = uid(pod).to_owned();
        match found {
            Found::Fine => {
                self.failed.remove(&id);
                self.seen.insert(id);
            }
            Found::Deleted => {
                self.free = now + self.spacing;
                self.strike(pod, now);
                self.failed.remove(&id);
                self.seen.insert(id);
            }
            Found::Changed | Found::Failed => {
                let (count, _) = self.failed.get(&id).copied().unwrap_or((0, now));
                let pause = RETRY.after(count, 2.0).mul_f64(0.5 + share / 2.0);
                self.failed
                    .insert(id, (count.saturating_add(1), now + pause));
            }
        }
    }

    /// Counts a deletion; those of old pods of a workload once per round, however many replicas it has.
    fn strike(&mut self, pod: &Pod, now: Instant) {
        self.strikes
            .retain(|_, strikes| now < strikes.last + FORGIVEN);
        let (is_old, round) = (self.before.contains(uid(pod)), self.round);
        let strikes = match self.strikes.entry(workload(pod)) {
            Entry::Occupied(known) if is_old && known.get().round == round => return,
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Strikes {
                count: 0,
                last: now,
                next: now,
                round,
            }),
        };
        strikes.count = strikes.count.saturating_add(1);
        strikes.round = round;
        strikes.last = now;
        strikes.next = match strikes.count.checked_sub(AT_ONCE) {
            None => now,
            Some(more) => now + LATER.after(more, 2.0),
        };
    }

    /// Forgets pods that are gone.
    pub(super) fn forget(&mut self, pods: &[Arc<Pod>]) {
        let present: BTreeSet<&str> = pods.iter().map(|pod| uid(pod)).collect();
        self.seen.retain(|id| present.contains(id.as_str()));
        self.failed.retain(|id, _| present.contains(id.as_str()));
        self.before.retain(|id| present.contains(id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod_of(owner: &str, id: &str, labels: &[&str], enabled: &str) -> Arc<Pod> {
        let labels: BTreeMap<_, _> = labels.iter().map(|label| (*label, "true")).collect();
        let pod = serde_json::from_value(json!({"metadata": {
            "name": id, "namespace": "n", "uid": id, "labels": labels,
            "annotations": {"dapr.io/enabled": enabled},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true,
            }],
        }}));
        Arc::new(pod.expect("a pod"))
    }

    fn pod(owner: &str, id: &str) -> Arc<Pod> {
        pod_of(owner, id, &[], "true")
    }

    /// Does what the plan says until it has nothing to do; tells which pods were deleted and when, in seconds.
    fn play(
        plan: &mut Plan,
        pods: &mut Vec<Arc<Pod>>,
        start: Instant,
        limit: u64,
    ) -> Vec<(u64, String)> {
        let mut deleted = Vec::new();
        let mut now = start;
        let end = start + Duration::from_secs(limit);
        loop {
            plan.injector_is_ready(pods, now);
            match plan.next(pods, now) {
                Next::Look(pod) => {
                    let id = uid(pod).to_owned();
                    plan.looked(pod, Found::Deleted, now, 0.5);
                    pods.retain(|pod| uid(pod) != id);
                    deleted.push(((now - start).as_secs(), id));
                }
                Next::Wait(until) if until <= end => now = until,
                Next::Wait(_) | Next::Nothing => return deleted,
            }
        }
    }

    #[test]
    fn only_annotated_pods_without_labels_are_looked_at() {
        let now = Instant::now();
        for (labels, enabled, expected) in [
            (&[][..], "true", true),
            (&[], "On", true),
            (&[], "false", false),
            (&[], "", false),
            (&[LABEL_SIDECAR_INJECTED], "true", false),
            (&[LABEL_WATCHDOG_PATCHED], "true", false),
        ] {
            let pods = [pod_of("a", "1", labels, enabled)];
            let plan = Plan::new(None, now);
            let looks = matches!(plan.next(&pods, now), Next::Look(_));
            assert_eq!(looks, expected, "{labels:?} {enabled:?}");
        }
    }

    #[test]
    fn pods_from_before_go_at_the_rate_of_the_flag() {
        let now = Instant::now();
        let all = || -> Vec<_> { (0..6).map(|it| pod("a", &it.to_string())).collect() };
        let times = |per_minute| -> Vec<u64> {
            let mut plan = Plan::new(per_minute, now);
            let deleted = play(&mut plan, &mut all(), now, 3600);
            deleted.into_iter().map(|(at, _)| at).collect()
        };
        assert_eq!(times(None), [0; 6]);
        assert_eq!(times(Some(20)), [0, 3, 6, 9, 12, 15]);
        assert_eq!(times(Some(1)), [0, 60, 120, 180, 240, 300]);
    }

    #[test]
    fn a_workload_that_cannot_be_helped_costs_ever_less() {
        let start = Instant::now();
        let mut plan = Plan::new(None, start);
        plan.injector_is_ready(&[], start);
        let (mut now, mut deleted) = (start, 0);
        let mut pods = vec![pod("a", "0")];
        while now < start + Duration::from_secs(24 * 3600) {
            match plan.next(&pods, now) {
                Next::Look(pod_now) => {
                    plan.looked(pod_now, Found::Deleted, now, 0.5);
                    deleted += 1;
                    // Made anew at once, and without a sidecar again; and the injector comes and goes.
                    pods = vec![pod("a", &deleted.to_string())];
                    plan.injector_is_away();
                    plan.injector_is_ready(&pods, now);
                }
                Next::Wait(until) => now = until,
                Next::Nothing => panic!("there is always one"),
            }
        }
        assert!((20..=36).contains(&deleted), "{deleted} in a day");
    }

    #[test]
    fn an_injector_that_comes_and_goes_costs_ever_less() {
        let start = Instant::now();
        let check = |replicas: u64, pause: u64| {
            let mut plan = Plan::new(None, start);
            let mut pods: Vec<_> = (0..replicas).map(|it| pod("a", &it.to_string())).collect();
            let (mut made, mut deleted) = (replicas, 0);
            for at in (0..24 * 3600).step_by(usize::try_from(pause).expect("it fits")) {
                plan.injector_is_away();
                let now = start + Duration::from_secs(at);
                deleted += play(&mut plan, &mut pods, now, 0).len();
                // Made anew at once, and without a sidecar again.
                while pods.len() < usize::try_from(replicas).expect("it fits") {
                    pods.push(pod("a", &made.to_string()));
                    made += 1;
                }
            }
            deleted
        };
        for pause in [1, 10, 600] {
            let deleted = check(1, pause);
            assert!((20..=36).contains(&deleted), "{deleted} in a day, {pause}");
            let deleted = check(5, pause);
            assert!(
                (20..=5 * 36).contains(&deleted),
                "{deleted} of five, {pause}"
            );
        }
    }

    #[test]
    fn what_is_left_from_before_goes_although_the_injector_was_away_again() {
        let now = Instant::now();
        let mut plan = Plan::new(Some(20), now);
        let mut pods: Vec<_> = (0..10).map(|it| pod("a", &it.to_string())).collect();
        let mut deleted = 0;
        for round in 0..5 {
            plan.injector_is_away();
            let start = now + Duration::from_secs(6 * round);
            deleted += play(&mut plan, &mut pods, start, 5).len();
        }
        assert_eq!(deleted, 10);
    }

    #[test]
    fn one_workload_does_not_hold_up_another() {
        let now = Instant::now();
        let mut plan = Plan::new(None, now);
        plan.injector_is_ready(&[], now);
        for round in 0..5 {
            play(&mut plan, &mut vec![pod("a", &format!("a{round}"))], now, 0);
        }
        let mut pods = vec![pod("a", "late"), pod("b", "first")];
        assert_eq!(
            play(&mut plan, &mut pods, now, 0),
            [(0, "first".to_owned())]
        );
    }

    #[test]
    fn what_failed_is_tried_again_later_and_what_is_fine_is_not() {
        let now = Instant::now();
        let pods = [pod("a", "1")];
        let mut plan = Plan::new(None, now);
        plan.injector_is_ready(&pods, now);
        plan.looked(&pods[0], Found::Failed, now, 1.0);
        let Next::Wait(until) = plan.next(&pods, now) else {
            panic!("it waits");
        };
        assert_eq!(until, now + Duration::from_secs(1));
        assert!(matches!(plan.next(&pods, until), Next::Look(_)));
        plan.looked(&pods[0], Found::Changed, until, 1.0);
        assert!(matches!(plan.next(&pods, until), Next::Wait(_)));
        plan.looked(&pods[0], Found::Fine, until, 1.0);
        assert!(matches!(plan.next(&pods, until), Next::Nothing));
        plan.forget(&[]);
        assert!(plan.seen.is_empty() && plan.failed.is_empty());
    }
}
