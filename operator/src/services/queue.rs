//! What has to be reconciled, and when: each key once, never twice at the same time, failures later and later. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dapr_kubernetes::watch::{Backoff, Pace};
use tokio::time::Instant;

/// Writes of the same object within this time are part of one dispute with another writer.
const DISPUTE: Duration = Duration::from_secs(120);
/// Writes of a dispute that follow at once; a user who edits a few times in a row waits for nothing.
const FREE: u32 = 3;
/// The pauses after those: who else keeps writing the object costs one write a minute.
const CALM: Pace = Pace::new(Duration::from_secs(1), Duration::from_secs(60));
/// How long a Service that was made may stay unseen by the watch. One that is deleted before the watch has shown it is
/// never told of, so whoever wants it looks again.
const UNSEEN: Duration = Duration::from_secs(5);
/// Old disputes are forgotten when there are so many.
const DISPUTES: usize = 256;

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing to do before the next change.
    Done,
    /// An object was made. That it is seen is the next change; if it is not, its maker looks again.
    Created,
    /// An object that was there had to be written.
    Overwritten,
    /// It failed, and is tried again at this pace; the server may want a longer pause.
    Failed { pace: Pace, asked: Option<Duration> },
}

/// Keys, and when their turn is.
#[derive(Debug)]
pub(super) struct Queue<K> {
    due: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
    /// Keys at work, and whether they have to be looked at once more.
    running: BTreeMap<K, bool>,
    failures: BTreeMap<K, Backoff>,
    disputes: BTreeMap<K, Dispute>,
}

#[derive(Clone, Copy, Debug)]
struct Dispute {
    writes: u32,
    last: Instant,
    until: Instant,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            due: BTreeMap::new(),
            order: BTreeSet::new(),
            running: BTreeMap::new(),
            failures: BTreeMap::new(),
            disputes: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Something about `key` changed: it is due now, whatever it waits for, but for the calm of a dispute.
    pub(super) fn add(&mut self, key: K, now: Instant) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
            return;
        }
        let calm = self.disputes.get(&key).map(|dispute| dispute.until);
        self.schedule(key, calm.map_or(now, |until| until.max(now)));
    }

    fn schedule(&mut self, key: K, at: Instant) {
        match self.due.get_mut(&key) {
            Some(due) if *due <= at => return,
            Some(due) => {
                self.order.remove(&(*due, key.clone()));
                *due = at;
            }
            None => {
                self.due.insert(key.clone(), at);
            }
        }
        self.order.insert((at, key));
    }

    /// The next key whose turn it is. It has to come back through [`Queue::done`].
    pub(super) fn take(&mut self, now: Instant) -> Option<K> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        self.running.insert(key.clone(), false);
        Some(key)
    }

    /// When the next turn is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A key was at work. `share` between 0 and 1 spreads what failed together.
    pub(super) fn done(&mut self, key: K, outcome: Outcome, now: Instant, share: f64) {
        let again = self.running.remove(&key).unwrap_or_default();
        match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
            }
            Outcome::Created => {
                self.failures.remove(&key);
                self.schedule(key.clone(), now + UNSEEN);
            }
            Outcome::Overwritten => {
                self.failures.remove(&key);
                self.dispute(&key, now);
            }
            Outcome::Failed { pace, asked } => {
                let backoff = self.failures.entry(key.clone()).or_default();
                let pause = backoff.fail(pace, asked, share);
                self.schedule(key.clone(), now + pause);
            }
        }
        if again {
            self.add(key, now);
        }
    }

    fn dispute(&mut self, key: &K, now: Instant) {
        if self.disputes.len() >= DISPUTES {
            self.disputes
                .retain(|_, dispute| now < dispute.last + DISPUTE);
        }
        let dispute = self.disputes.entry(key.clone()).or_insert(Dispute {
            writes: 0,
            last: now,
            until: now,
        });
        if now >= dispute.last + DISPUTE {
            dispute.writes = 0;
        }
        dispute.writes = dispute.writes.saturating_add(1);
        dispute.last = now;
        let pause = match dispute.writes.checked_sub(FREE) {
            None | Some(0) => Duration::ZERO,
            Some(steps) => CALM.after(steps - 1, 2.0),
        };
        dispute.until = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace::new(Duration::from_secs(1), Duration::from_secs(8));

    fn failed() -> Outcome {
        Outcome::Failed {
            pace: PACE,
            asked: None,
        }
    }

    #[test]
    fn a_key_is_there_once_and_works_once() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for key in ["b", "a", "b", "a"] {
            queue.add(key, now);
        }
        assert_eq!((queue.take(now), queue.take(now)), (Some("a"), Some("b")));
        assert_eq!(queue.take(now), None);
        queue.add("a", now);
        queue.add("a", now);
        assert_eq!(queue.take(now), None, "it is at work");
        queue.done("a", Outcome::Done, now, 0.5);
        assert_eq!(queue.take(now), Some("a"), "once more");
        queue.done("a", Outcome::Done, now, 0.5);
        queue.done("b", Outcome::Done, now, 0.5);
        assert_eq!((queue.take(now), queue.next()), (None, None));
    }

    #[test]
    fn failures_wait_longer_and_longer_but_not_for_a_change() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.add("a", now);
        for seconds in [1, 2, 4, 8, 8] {
            assert_eq!(queue.take(now), Some("a"));
            queue.done("a", failed(), now, 1.0);
            assert_eq!(queue.next(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert_eq!(queue.take(now), Some("a"));
        queue.done("a", failed(), now, 1.0);
        queue.add("a", now);
        assert_eq!(queue.take(now), Some("a"), "a change is looked at");
        queue.done("a", Outcome::Done, now, 1.0);
        queue.add("a", now);
        assert_eq!(queue.take(now), Some("a"));
        queue.done("a", failed(), now, 1.0);
        assert_eq!(
            queue.next(),
            Some(now + Duration::from_secs(1)),
            "success forgets failures"
        );
    }

    #[test]
    fn what_was_made_is_looked_for_unless_it_is_seen() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for key in ["a", "b", "c"] {
            queue.add(key, now);
            assert_eq!(queue.take(now), Some(key));
        }
        queue.add("c", now);
        for key in ["a", "b", "c"] {
            queue.done(key, Outcome::Created, now, 0.5);
        }
        queue.add("b", now);
        for key in ["b", "c"] {
            assert_eq!(queue.take(now), Some(key), "the watch shows it");
            queue.done(key, Outcome::Done, now, 0.5);
        }
        assert_eq!(queue.next(), Some(now + UNSEEN));
        assert_eq!(queue.take(now + UNSEEN), Some("a"));
        queue.done("a", Outcome::Done, now, 0.5);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add("a", now);
        assert_eq!(queue.take(now), Some("a"));
        let outcome = Outcome::Failed {
            pace: PACE,
            asked: Some(Duration::from_secs(20)),
        };
        queue.done("a", outcome, now, 0.0);
        assert_eq!(queue.next(), Some(now + Duration::from_secs(20)));
    }

    #[test]
    fn a_dispute_costs_a_write_a_minute() {
        let mut now = Instant::now();
        let start = now;
        let mut queue = Queue::default();
        let mut writes = 0;
        // Whatever is written, somebody else overwrites at once.
        queue.add("a", now);
        while now < start + Duration::from_secs(3600) {
            while let Some(key) = queue.take(now) {
                writes += 1;
                queue.done(key, Outcome::Overwritten, now, 0.5);
                queue.add(key, now);
            }
            now = queue.next().expect("it goes on");
        }
        assert!((60..75).contains(&writes), "{writes}");
        // And is forgotten when it is over.
        now += DISPUTE * 2;
        assert_eq!(queue.take(now), Some("a"));
        queue.done("a", Outcome::Overwritten, now, 0.5);
        queue.add("a", now);
        assert_eq!(queue.take(now), Some("a"));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_runs_twice(steps: Vec<(u8, u8, u8)>) {
            let mut now = Instant::now();
            let mut queue = Queue::default();
            let mut running: Vec<u8> = Vec::new();
            let mut wanted: BTreeSet<u8> = BTreeSet::new();
            for (step, key, millis) in steps {
                now += Duration::from_millis(u64::from(millis));
                let key = key % 8;
                match step % 4 {
                    0 | 1 => {
                        queue.add(key, now);
                        wanted.insert(key);
                    }
                    2 => if let Some(key) = queue.take(now) {
                        prop_assert!(!running.contains(&key), "twice at work");
                        running.push(key);
                        wanted.remove(&key);
                    }
                    _ => if let Some(key) = running.pop() {
                        let outcome = match millis % 4 {
                            0 => Outcome::Done,
                            1 => Outcome::Overwritten,
                            2 => Outcome::Created,
                            _ => { wanted.insert(key); failed() }
                        };
                        queue.done(key, outcome, now, 0.5);
                    }
                }
            }
            for key in running {
                queue.done(key, Outcome::Done, now, 0.5);
            }
            while let Some(at) = queue.next() {
                now = now.max(at);
                let key = queue.take(now).expect("it is due");
                wanted.remove(&key);
                queue.done(key, Outcome::Done, now, 0.5);
            }
            prop_assert!(wanted.is_empty(), "{wanted:?} were lost");
        }
    }
}
