//! Idle timeouts: one queue for all actors. A call only stores the time; the queue looks when it is due.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::host::{HostedType, Instance};

/// Entries of actors that left early are swept out when they are the majority of at least this many.
const SWEEP_FROM: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct IdleQueue {
    state: Mutex<State>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct State {
    heap: BinaryHeap<Entry>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    /// Milliseconds of the clock.
    due: u64,
    hosted: Arc<HostedType>,
    instance: Weak<Instance>,
}

impl Ord for Entry {
    /// The earliest is the greatest, for the heap is a maximum heap.
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Entry {}

/// An actor that has been idle for its timeout.
pub(crate) type Expired = (Arc<HostedType>, Arc<Instance>);

impl IdleQueue {
    /// Watches an actor from now on.
    pub(crate) fn watch(&self, hosted: &Arc<HostedType>, instance: &Arc<Instance>) {
        let due = due(hosted, instance.last_used());
        let mut state = self.state.lock();
        let is_earliest = state.heap.peek().is_none_or(|first| due < first.due);
        state.heap.push(Entry {
            due,
            hosted: Arc::clone(hosted),
            instance: Arc::downgrade(instance),
        });
        if state.heap.len() >= state.sweep_at.max(SWEEP_FROM) {
            state.heap.retain(|entry| entry.instance.strong_count() > 0);
            state.sweep_at = state.heap.len() * 2;
        }
        drop(state);
        if is_earliest {
            self.earlier.notify_one();
        }
    }

    /// Takes out those whose time is over; actors used meanwhile are put back.
    pub(crate) fn expired(&self, now: u64) -> Vec<Expired> {
        let mut expired = Vec::new();
        let mut state = self.state.lock();
        while state.heap.peek().is_some_and(|first| first.due <= now) {
            let Some(mut entry) = state.heap.pop() else {
                break;
            };
            let Some(instance) = entry.instance.upgrade() else {
                continue;
            };
            let due = due(&entry.hosted, instance.last_used());
            if due > now {
                entry.due = due;
                state.heap.push(entry);
            } else {
                expired.push((entry.hosted, instance));
            }
        }
        expired
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<u64> {
        self.state.lock().heap.peek().map(|first| first.due)
    }

    /// Resolves when an earlier time than the last [`Self::next`] may have come in.
    pub(crate) async fn changed(&self) {
        self.earlier.notified().await;
    }
}

fn due(hosted: &HostedType, last_used: u64) -> u64 {
    let timeout = hosted.settings.idle_timeout.max(Duration::from_millis(1));
    let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    // Far enough away to never come, near enough for the timer.
    last_used.saturating_add(timeout.min(1 << 40))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use dapr_sidecar_core::actors::{Call, Reply};
    use dapr_sidecar_core::app::Config;
    use dapr_sidecar_core::peer::ReminderCall;

    use super::*;
    use crate::app_host::{AppHost, Error};
    use crate::host::{Activation, TypeSettings};

    struct Nobody;

    #[async_trait]
    impl AppHost for Nobody {
        async fn invoke(&self, _: &Call) -> Result<Reply, Error> {
            Err(Error::NotConnected)
        }

        async fn remind(&self, _: &ReminderCall) -> Result<(), Error> {
            Ok(())
        }

        async fn timer(&self, _: &ReminderCall, _: &str) -> Result<(), Error> {
            Ok(())
        }

        async fn deactivate(&self, _: &str, _: &str) -> Result<(), Error> {
            Ok(())
        }
    }

    fn hosted(idle_timeout: Duration) -> Arc<HostedType> {
        let config = Config {
            actor_idle_timeout: Some(idle_timeout),
            ..Config::default()
        };
        let settings = TypeSettings::of(&config, "t", Duration::from_secs(30));
        Arc::new(HostedType::new("t".into(), settings, Arc::new(Nobody)))
    }

    async fn instance(hosted: &HostedType, id: &str, now: u64) -> Arc<Instance> {
        match hosted.activate(id, now).await {
            Activation::Active(instance) | Activation::Fresh(instance) => instance,
        }
    }

    #[tokio::test]
    async fn who_was_used_meanwhile_stays() {
        let hosted = hosted(Duration::from_secs(1));
        let queue = IdleQueue::default();
        let used = instance(&hosted, "used", 0).await;
        let idle = instance(&hosted, "idle", 0).await;
        queue.watch(&hosted, &used);
        queue.watch(&hosted, &idle);
        assert_eq!(queue.next(), Some(1000));
        used.touch(600);
        let expired = queue.expired(1000);
        assert_eq!(expired.len(), 1);
        assert_eq!(&*expired[0].1.id, "idle");
        assert_eq!(queue.next(), Some(1600));
        assert!(queue.expired(1599).is_empty());
        assert_eq!(queue.expired(1600).len(), 1);
        assert_eq!(queue.next(), None);
    }

    #[tokio::test]
    async fn those_that_left_early_do_not_pile_up() {
        let hosted = hosted(Duration::from_secs(3600));
        let queue = IdleQueue::default();
        let stays = instance(&hosted, "stays", 0).await;
        queue.watch(&hosted, &stays);
        for id in 0..5 * SWEEP_FROM {
            let gone = instance(&hosted, &id.to_string(), 0).await;
            queue.watch(&hosted, &gone);
            drop(hosted.departure(&gone));
        }
        assert!(queue.state.lock().heap.len() <= SWEEP_FROM);
        assert_eq!(hosted.active(), 1);
    }
}
