//! Timers of actors: kept in memory, one queue for all. They outlive the activation of their actor and
//! follow it to other hosts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dapr_sidecar_core::actors::Timer;
use dapr_sidecar_core::peer::ReminderCall;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::app_host::pack;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::schedule::{self, Schedule};

/// Which timer: type, id, name.
type Key = (String, String, String);

/// A registered timer; when it fires next is part of the queue.
#[derive(Debug)]
struct Entry {
    number: u64,
    call: ReminderCall,
    callback: String,
}

impl Entry {
    fn key(&self) -> Key {
        let call = &self.call;
        (
            call.actor_type.clone(),
            call.actor_id.clone(),
            call.name.clone(),
        )
    }
}

/// A timer taken out of the queue because it is due.
#[derive(Debug)]
struct Due {
    entry: Arc<Entry>,
    schedule: Schedule,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// Number and due time of the entry under each key; the latter only while it is queued.
    keys: HashMap<Key, (u64, Option<Timestamp>)>,
    queue: BTreeMap<(Timestamp, u64), Due>,
}

/// All timers of this sidecar.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    state: Mutex<State>,
    earlier: Notify,
}

impl Timers {
    /// Registers a timer in place of one with its name.
    pub(crate) fn create(
        &self,
        timer: Timer,
        now: Timestamp,
        metrics: &dyn Metrics,
    ) -> Result<(), schedule::Error> {
        let key = format!("{}||{}||{}", timer.actor_type, timer.actor_id, timer.name);
        let schedule = Schedule::parse(&key, &timer.due_time, &timer.period, &timer.ttl, now)?;
        let call = ReminderCall {
            data: pack(&timer.data),
            actor_type: timer.actor_type,
            actor_id: timer.actor_id,
            name: timer.name,
            due_time: timer.due_time,
            period: timer.period,
            registered_time: Some(now.into()),
            expiration_time: schedule.expires().map(Into::into),
            is_timer: true,
            skip_lock: false,
        };
        let mut state = self.state.lock();
        state.last += 1;
        let entry = Arc::new(Entry {
            number: state.last,
            call,
            callback: timer.callback,
        });
        let replaces = state.forget(&entry.key());
        if schedule.is_over() {
            if replaces {
                metrics.timers(&entry.call.actor_type, -1);
            }
            return Ok(());
        }
        if !replaces {
            metrics.timers(&entry.call.actor_type, 1);
        }
        let is_first = state.insert(Due { entry, schedule });
        drop(state);
        if is_first {
            self.earlier.notify_one();
        }
        Ok(())
    }

    /// Removes a timer; one that fires right now does not fire again.
    pub(crate) fn delete(
        &self,
        actor_type: &str,
        actor_id: &str,
        name: &str,
        metrics: &dyn Metrics,
    ) {
        let key = (actor_type.to_owned(), actor_id.to_owned(), name.to_owned());
        if self.state.lock().forget(&key) {
            metrics.timers(actor_type, -1);
        }
    }

    /// Fires timers until dropped. Of one timer only one fire runs at a time; fires of one actor come one
    /// after the other through its turns.
    pub(crate) async fn run(&self, router: &Arc<Router>) {
        let mut fires = JoinSet::new();
        loop {
            for due in self.take_due(router.clock.now()) {
                let router = Arc::clone(router);
                fires.spawn(async move {
                    fire(&router, &due.entry).await;
                    due
                });
            }
            tokio::select! {
                () = sleep_until(router.clock, self.next()) => {}
                () = self.earlier.notified() => {}
                Some(fired) = fires.join_next() => {
                    if let Ok(due) = fired {
                        self.fired(due, router.clock.now(), &*router.metrics);
                    }
                }
            }
        }
    }

    fn take_due(&self, now: Timestamp) -> Vec<Due> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        while let Some(first) = state.queue.first_entry() {
            if first.key().0 > now {
                break;
            }
            taken.push(first.remove());
        }
        for due in &taken {
            state.keys.insert(due.entry.key(), (due.entry.number, None));
        }
        taken
    }

    fn next(&self) -> Option<Timestamp> {
        self.state.lock().queue.keys().next().map(|(due, _)| *due)
    }

    /// Queues the next fire, unless the timer was replaced or removed meanwhile.
    fn fired(&self, due: Due, now: Timestamp, metrics: &dyn Metrics) {
        let Due { entry, schedule } = due;
        let next = schedule.advance(now);
        let mut state = self.state.lock();
        let key = entry.key();
        if state.keys.get(&key).map(|(number, _)| *number) != Some(entry.number) {
            return;
        }
        match next {
            Some(schedule) => {
                state.insert(Due { entry, schedule });
            }
            None => {
                state.keys.remove(&key);
                metrics.timers(&entry.call.actor_type, -1);
            }
        }
    }
}

impl State {
    /// Queues a timer; says whether it is the first to fire.
    fn insert(&mut self, due: Due) -> bool {
        let time = due.schedule.due();
        let number = due.entry.number;
        self.keys.insert(due.entry.key(), (number, Some(time)));
        self.queue.insert((time, number), due);
        self.queue.keys().next() == Some(&(time, number))
    }

    fn forget(&mut self, key: &Key) -> bool {
        let Some((number, queued)) = self.keys.remove(key) else {
            return false;
        };
        if let Some(time) = queued {
            self.queue.remove(&(time, number));
        }
        true
    }
}

async fn sleep_until(clock: Clock, time: Option<Timestamp>) {
    match time {
        // The timer counts whole milliseconds: one more, so that it is not early.
        Some(time) => {
            tokio::time::sleep(clock.until(time) + std::time::Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}

async fn fire(router: &Router, entry: &Entry) {
    match router.fire(&entry.call, &entry.callback).await {
        Ok(()) => {}
        Err(Failure::Halted) => {
            tracing::debug!(timer = entry.call.name, "timer was cut off");
        }
        Err(error) => {
            tracing::warn!(
                actor_type = entry.call.actor_type,
                actor_id = entry.call.actor_id,
                timer = entry.call.name,
                %error,
                "timer failed, later fires go on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NoMetrics;

    fn timer(name: &str, due_time: &str, period: &str) -> Timer {
        Timer {
            actor_type: "t".to_owned(),
            actor_id: "1".to_owned(),
            name: name.to_owned(),
            due_time: due_time.to_owned(),
            period: period.to_owned(),
            ..Timer::default()
        }
    }

    fn names(due: &[Due]) -> Vec<&str> {
        due.iter().map(|due| due.entry.call.name.as_str()).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("valid")
    }

    #[test]
    fn due_timers_come_in_order_and_only_once_until_fired() {
        let timers = Timers::default();
        for (name, due) in [("b", "2s"), ("a", "1s"), ("c", "9s")] {
            timers
                .create(timer(name, due, "10s"), at(0), &NoMetrics)
                .expect("valid");
        }
        let mut due = timers.take_due(at(3));
        assert_eq!(names(&due), ["a", "b"]);
        assert!(timers.take_due(at(3)).is_empty());
        timers.fired(due.remove(0), at(3), &NoMetrics);
        assert_eq!(timers.next(), Some(at(9)));
        assert_eq!(names(&timers.take_due(at(11))), ["c", "a"], "due + period");
    }

    #[test]
    fn a_replaced_or_removed_timer_does_not_come_back() {
        let timers = Timers::default();
        timers
            .create(timer("a", "", "1s"), at(0), &NoMetrics)
            .expect("valid");
        let due = timers.take_due(at(0)).remove(0);
        timers
            .create(timer("a", "50s", ""), at(0), &NoMetrics)
            .expect("valid");
        timers.fired(due, at(0), &NoMetrics);
        assert_eq!(timers.next(), Some(at(50)));
        timers.delete("t", "1", "a", &NoMetrics);
        timers.delete("t", "1", "unknown", &NoMetrics);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_life_of_nothing_ends_the_timer_it_replaces() {
        let timers = Timers::default();
        for ttl in ["", "0s"] {
            let timer = Timer {
                ttl: ttl.to_owned(),
                ..timer("a", "1s", "1s")
            };
            timers.create(timer, at(0), &NoMetrics).expect("valid");
        }
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_single_fire_is_forgotten() {
        let timers = Timers::default();
        timers
            .create(timer("a", "", ""), at(0), &NoMetrics)
            .expect("valid");
        let due = timers.take_due(at(0)).remove(0);
        timers.fired(due, at(0), &NoMetrics);
        assert!(timers.state.lock().keys.is_empty());
    }
}
