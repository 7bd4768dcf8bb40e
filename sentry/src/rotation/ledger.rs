//! Who holds which certificate, as far as this process knows: what was issued and not yet replaced or run out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::SystemTime;

use super::seconds;

/// Most certificates that are remembered one by one. Beyond, only the last moment at which one of them runs out is.
const LIMIT: usize = 100_000;

/// Who a certificate was issued to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A pod, by UID: it has one certificate, and a new one replaces the old.
    Pod(String),
    /// Somebody who is known by the serial number of the certificate only.
    Serial(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    owner: u64,
    authority: u64,
    issued: SystemTime,
    not_after: SystemTime,
}

/// What a workload must have been seen with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// [`crate::ca::Authority::fingerprint`].
    pub(crate) authority: u64,
    /// Seconds since the epoch from which on it must have been issued: whoever got it before may have got something else
    /// from another replica since.
    pub(crate) from: u64,
}

impl Held {
    fn is(&self, wanted: Wanted) -> bool {
        self.authority == wanted.authority && seconds(self.issued) >= wanted.from
    }
}

/// The certificates that were issued and may still be in use.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    held: HashMap<Holder, Held>,
    /// Authority and end of those that were too many to remember.
    forgotten: HashMap<u64, SystemTime>,
    /// Size at which the next clean-up is due, so that it costs nothing per certificate.
    clean_at: usize,
}

/// What was issued to whom.
#[derive(Clone, Debug)]
pub(crate) struct Issue {
    pub(crate) holder: Holder,
    /// The identity, as a hash.
    pub(crate) owner: u64,
    /// The serial number the holder says it replaces. Believed only of a certificate of the same identity: nobody
    /// speaks for others.
    pub(crate) replaces: Option<Vec<u8>>,
    /// [`crate::ca::Authority::fingerprint`].
    pub(crate) authority: u64,
    pub(crate) not_after: SystemTime,
}

impl Ledger {
    pub(crate) fn issued(&mut self, issue: Issue, now: SystemTime) {
        if let Some(serial) = issue.replaces {
            let replaced = Holder::Serial(serial);
            if self
                .held
                .get(&replaced)
                .is_some_and(|held| held.owner == issue.owner)
            {
                self.held.remove(&replaced);
            }
        }
        if self.held.len() >= self.clean_at {
            self.held.retain(|_, held| held.not_after > now);
            self.forgotten.retain(|_, not_after| *not_after > now);
            self.clean_at = (self.held.len() * 2).clamp(1024, LIMIT);
        }
        let held = Held {
            owner: issue.owner,
            authority: issue.authority,
            issued: now,
            not_after: issue.not_after,
        };
        let is_full = self.held.len() >= LIMIT;
        match self.held.entry(issue.holder) {
            Entry::Occupied(mut entry) => {
                entry.insert(held);
            }
            Entry::Vacant(entry) if !is_full => {
                entry.insert(held);
            }
            Entry::Vacant(_) => {
                let end = self
                    .forgotten
                    .entry(held.authority)
                    .or_insert(held.not_after);
                *end = held.not_after.max(*end);
            }
        }
    }

    /// A pod that is gone holds nothing.
    pub(crate) fn gone(&mut self, uid: &str) {
        self.held.remove(&Holder::Pod(uid.to_owned()));
    }

    /// How many other certificates may still be in use.
    pub(crate) fn pending(&self, wanted: Wanted, now: SystemTime) -> usize {
        let is_old = |held: &&Held| !held.is(wanted) && held.not_after > now;
        let forgotten = self.forgotten.iter();
        self.held.values().filter(is_old).count()
            + forgotten
                .filter(|(its, not_after)| **its != wanted.authority && **not_after > now)
                .count()
    }

    /// Whether this pod's last certificate is one of those.
    pub(crate) fn has(&self, uid: &str, wanted: Wanted) -> bool {
        self.held
            .get(&Holder::Pod(uid.to_owned()))
            .is_some_and(|held| held.is(wanted))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn of(authority: u64) -> Wanted {
        Wanted { authority, from: 0 }
    }

    fn issue(holder: Holder, replaces: Option<u8>, authority: u64, end: u64) -> Issue {
        Issue {
            holder,
            owner: 1,
            replaces: replaces.map(|serial| vec![serial]),
            authority,
            not_after: at(end),
        }
    }

    fn serial(number: u8) -> Holder {
        Holder::Serial(vec![number])
    }

    fn pod(uid: &str) -> Holder {
        Holder::Pod(uid.to_owned())
    }

    #[test]
    fn a_certificate_counts_until_it_is_replaced_or_runs_out() {
        let mut ledger = Ledger::default();
        ledger.issued(issue(serial(1), None, 7, 100), at(0));
        ledger.issued(issue(serial(2), None, 7, 50), at(0));
        ledger.issued(issue(pod("a"), None, 7, 100), at(0));
        assert_eq!(ledger.pending(of(8), at(1)), 3);
        assert_eq!(ledger.pending(of(7), at(1)), 0);
        assert_eq!(ledger.pending(of(8), at(50)), 2);
        ledger.issued(issue(serial(3), Some(1), 8, 200), at(60));
        assert_eq!(ledger.pending(of(8), at(60)), 1);
        ledger.issued(issue(pod("a"), None, 8, 200), at(60));
        assert!(ledger.has("a", of(8)) && !ledger.has("a", of(7)));
        assert_eq!(ledger.pending(of(8), at(60)), 0);
    }

    #[test]
    fn nobody_speaks_for_another_identity() {
        let mut ledger = Ledger::default();
        ledger.issued(issue(serial(1), None, 7, 100), at(0));
        let mut foreign = issue(serial(2), Some(1), 8, 100);
        foreign.owner = 2;
        ledger.issued(foreign, at(1));
        assert_eq!(ledger.pending(of(8), at(2)), 1);
    }

    #[test]
    fn a_second_process_of_one_identity_does_not_speak_for_the_first() {
        let mut ledger = Ledger::default();
        ledger.issued(issue(serial(1), None, 7, 100), at(0));
        ledger.issued(issue(serial(2), None, 8, 100), at(1));
        ledger.issued(issue(serial(3), Some(2), 8, 100), at(2));
        assert_eq!(ledger.pending(of(8), at(3)), 1);
    }

    /// Another replica, which has not heard of the new authority, may have issued to it in between.
    #[test]
    fn what_was_issued_too_early_does_not_count() {
        let mut ledger = Ledger::default();
        let wanted = Wanted {
            authority: 8,
            from: 20,
        };
        for (moment, pending) in [(19, 1), (20, 0)] {
            ledger.issued(issue(pod("a"), None, 8, 100), at(moment));
            assert_eq!(ledger.pending(wanted, at(30)), pending);
            assert_eq!(ledger.has("a", wanted), pending == 0);
        }
    }

    #[test]
    fn a_pod_that_is_gone_is_not_waited_for() {
        let mut ledger = Ledger::default();
        ledger.issued(issue(pod("a"), None, 7, 100), at(0));
        ledger.gone("a");
        assert_eq!(ledger.pending(of(8), at(1)), 0);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_forgotten_too_early() {
        let mut ledger = Ledger::default();
        let total = LIMIT + 1000;
        for number in 0..total {
            let holder = Holder::Serial(number.to_be_bytes().to_vec());
            ledger.issued(issue(holder, None, 7, 100), at(0));
        }
        assert_eq!(ledger.held.len(), LIMIT);
        assert_eq!(ledger.pending(of(8), at(99)), LIMIT + 1);
        assert_eq!(ledger.pending(of(8), at(100)), 0);
        ledger.issued(issue(serial(1), None, 8, 300), at(200));
        assert_eq!(ledger.held.len(), 1);
    }
}
