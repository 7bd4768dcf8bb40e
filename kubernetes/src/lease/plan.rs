//! What to do about a Lease, from what was seen of it and when. No clock, no server.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

/// The Lease as it was seen last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    lease: Lease,
    /// When it was first seen like this, by our clock: its holder was alive at that time at the latest.
    since: Instant,
}

/// The next step of somebody who wants to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// There is no Lease.
    Create,
    /// It is free, ours, or was held by somebody who is gone.
    Take,
    /// It is held, at least until then.
    Wait(Instant),
}

impl Seen {
    /// What is known after a look. Everything that differs is a sign of life; what its holder wrote as time is not read.
    pub(super) fn update(before: Option<Self>, lease: Option<Lease>, now: Instant) -> Option<Self> {
        let lease = lease?;
        let since = match before {
            Some(before) if before.is_same(&lease) => before.since,
            _ => now,
        };
        Some(Self { lease, since })
    }

    fn is_same(&self, lease: &Lease) -> bool {
        self.lease.spec == lease.spec && self.lease.metadata.uid == lease.metadata.uid
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn holder(&self) -> &str {
        let spec = self.lease.spec.as_ref();
        spec.and_then(|spec| spec.holder_identity.as_deref())
            .unwrap_or_default()
    }

    pub(super) fn is_versioned(&self) -> bool {
        let version = self.lease.metadata.resource_version.as_deref();
        version.is_some_and(|version| !version.is_empty() && version != "0")
    }
}

/// What `me` should do at `now`. A Lease that names no duration is believed to last `own`.
pub(super) fn plan(seen: Option<&Seen>, me: &str, own: Duration, now: Instant) -> Plan {
    let Some(seen) = seen else {
        return Plan::Create;
    };
    if seen.holder().is_empty() || seen.holder() == me {
        return Plan::Take;
    }
    let spec = seen.lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let promised = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = promised
        .filter(|seconds| *seconds > 0)
        .map_or(own, Duration::from_secs);
    let end = seen.since + duration;
    if now < end {
        Plan::Wait(end)
    } else {
        Plan::Take
    }
}

/// The Lease with `me` as its holder at the time `wall`, which only people read.
pub(super) fn held(before: Option<&Seen>, me: &str, duration: Duration, wall: &MicroTime) -> Lease {
    let mut lease = before.map(|seen| seen.lease.clone()).unwrap_or_default();
    let old = lease.spec.take().unwrap_or_default();
    let is_mine = old.holder_identity.as_deref() == Some(me);
    let transitions = old.lease_transitions.unwrap_or_default();
    let seconds = i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(seconds.max(1)),
        acquire_time: old
            .acquire_time
            .filter(|_| is_mine)
            .or_else(|| Some(wall.clone())),
        renew_time: Some(wall.clone()),
        lease_transitions: Some(match before {
            Some(_) if !is_mine => transitions.saturating_add(1),
            _ => transitions,
        }),
        preferred_holder: old.preferred_holder,
        strategy: old.strategy,
    });
    lease
}

/// The Lease given back: nobody needs to wait for its end.
pub(super) fn released(before: &Seen, wall: &MicroTime) -> Lease {
    let mut lease = before.lease.clone();
    let old = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(wall.clone()),
        renew_time: Some(wall.clone()),
        ..old
    });
    lease
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    const OWN: Duration = Duration::from_secs(15);

    fn lease(spec: &Value) -> Lease {
        let metadata = json!({"name": "l", "namespace": "n", "uid": "u", "resourceVersion": "1"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a lease")
    }

    fn wall(second: i64) -> MicroTime {
        MicroTime(Timestamp::from_second(second).expect("a time"))
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_silent_holder_is_followed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let check = |spec: Value, after: u64, expected: Plan| {
            let seen = Seen::update(None, Some(lease(&spec)), start);
            assert_eq!(
                plan(seen.as_ref(), "me", OWN, at(after)),
                expected,
                "{spec} after {after}s"
            );
        };
        assert_eq!(plan(None, "me", OWN, start), Plan::Create);
        let other = json!({"holderIdentity": "other", "leaseDurationSeconds": 15});
        check(other.clone(), 0, Plan::Wait(at(15)));
        check(other.clone(), 14, Plan::Wait(at(15)));
        check(other, 15, Plan::Take);
        check(
            json!({"holderIdentity": "other", "leaseDurationSeconds": 40}),
            20,
            Plan::Wait(at(40)),
        );
        for odd in [json!(null), json!(0), json!(-5)] {
            let spec = json!({"holderIdentity": "other", "leaseDurationSeconds": odd});
            check(spec.clone(), 14, Plan::Wait(at(15)));
            check(spec, 15, Plan::Take);
        }
        for free in [
            json!(null),
            json!({}),
            json!({"holderIdentity": ""}),
            json!({"holderIdentity": "me"}),
        ] {
            check(free, 0, Plan::Take);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_a_holder_writes_means_nothing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Years ahead or behind: only the change counts, and when it was seen.
        let spec = |renewed: &str| json!({"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": renewed});
        let seen = Seen::update(
            None,
            Some(lease(&spec("2001-01-01T00:00:00.000000Z"))),
            start,
        );
        assert_eq!(
            plan(seen.as_ref(), "me", OWN, at(14)),
            Plan::Wait(at(15)),
            "long ago"
        );
        let seen = Seen::update(
            seen,
            Some(lease(&spec("2001-01-01T00:00:02.000000Z"))),
            at(14),
        );
        assert_eq!(
            plan(seen.as_ref(), "me", OWN, at(28)),
            Plan::Wait(at(29)),
            "renewed"
        );
        let seen = Seen::update(
            seen,
            Some(lease(&spec("2001-01-01T00:00:02.000000Z"))),
            at(28),
        );
        assert_eq!(
            plan(seen.as_ref(), "me", OWN, at(29)),
            Plan::Take,
            "silent since"
        );
        let ahead = Seen::update(
            None,
            Some(lease(&spec("2999-01-01T00:00:00.000000Z"))),
            start,
        );
        assert_eq!(
            plan(ahead.as_ref(), "me", OWN, at(15)),
            Plan::Take,
            "far ahead"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_content_is_what_every_controller_writes() {
        let now = Instant::now();
        let spec = |lease: &Lease| serde_json::to_value(&lease.spec).expect("a spec");
        let first = held(None, "me", OWN, &wall(10));
        assert_eq!(
            spec(&first),
            json!({
                "holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 0,
                "acquireTime": "1970-01-01T00:00:10.000000Z", "renewTime": "1970-01-01T00:00:10.000000Z",
            })
        );
        let seen = Seen::update(None, Some(first), now);
        let renewed = held(seen.as_ref(), "me", OWN, &wall(12));
        assert_eq!(spec(&renewed)["acquireTime"], "1970-01-01T00:00:10.000000Z");
        assert_eq!(spec(&renewed)["renewTime"], "1970-01-01T00:00:12.000000Z");
        assert_eq!(spec(&renewed)["leaseTransitions"], 0);
        let seen = Seen::update(seen, Some(renewed), now).expect("seen");
        let free = released(&seen, &wall(14));
        assert_eq!(spec(&free)["holderIdentity"], "");
        assert_eq!(spec(&free)["leaseDurationSeconds"], 1);
        let seen = Seen::update(Some(seen), Some(free), now);
        let next = held(seen.as_ref(), "other", OWN, &wall(20));
        assert_eq!(spec(&next)["leaseTransitions"], 1);
        assert_eq!(spec(&next)["acquireTime"], "1970-01-01T00:00:20.000000Z");
        assert_eq!(spec(&next)["leaseDurationSeconds"], 15);
    }

    #[test]
    fn foreign_metadata_is_kept() {
        let mut foreign = lease(&json!({"holderIdentity": ""}));
        foreign.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let seen = Seen {
            lease: foreign,
            since: Instant::now(),
        };
        assert!(seen.is_versioned());
        let lease = held(Some(&seen), "me", OWN, &wall(1));
        assert_eq!(lease.metadata, seen.lease.metadata);
    }
}
