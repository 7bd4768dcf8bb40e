//! What one sidecar has not yet been told: every step, in the order of the changes; a slow one is told the latest state
//! of each object.
//!
//! The bound is [`STEPS`] and the number of objects the sidecar knows or will know: of later changes, one that comes and
//! goes unseen leaves nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::version::Shipment;
use crate::kinds::Kind;

/// How many changes wait one by one. From there on those of one object become one.
const STEPS: usize = 10;

/// The queue of one stream.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// What is told first.
    steps: VecDeque<Pending<K>>,
    /// What came when there was no room among the steps, by the order of arrival.
    rest: BTreeMap<u64, (Box<str>, Pending<K>)>,
    /// Where the objects are in the rest.
    places: BTreeMap<Box<str>, u64>,
    /// How many came when there was no room.
    arrivals: u64,
    is_closed: bool,
}

/// What a sidecar knows of an object, and what it should know.
#[derive(Debug)]
pub(crate) struct Pending<K> {
    pub(crate) before: Option<Arc<Shipment<K>>>,
    pub(crate) after: Option<Arc<Shipment<K>>>,
    /// Whether there is something to tell although the object is the same: values of its secrets.
    pub(crate) has_news: bool,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                steps: VecDeque::new(),
                rest: BTreeMap::new(),
                places: BTreeMap::new(),
                arrivals: 0,
                is_closed: false,
            }),
            wake: Notify::new(),
        }
    }
}

impl<K: Kind> Queue<K> {
    /// Adds a change. When many wait, one of the same object is continued, and dropped if it comes back to where it began.
    pub(crate) fn push(&self, name: &str, change: Pending<K>) {
        let mut state = self.state.lock();
        if state.push(name, change) {
            self.wake.notify_one();
        }
    }

    /// Drops what waits.
    pub(crate) fn clear(&self) {
        self.state.lock().clear();
    }

    /// Ends the stream, after what was taken already.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.clear();
        self.wake.notify_one();
    }

    /// The next change; `None` once the queue is closed. For one reader.
    pub(crate) async fn next(&self) -> Option<Pending<K>> {
        loop {
            {
                let mut state = self.state.lock();
                if state.is_closed {
                    return None;
                }
                if let Some(next) = state.pop() {
                    return Some(next);
                }
            }
            self.wake.notified().await;
        }
    }
}

impl<K: Kind> State<K> {
    /// Whether there is something to tell.
    fn push(&mut self, name: &str, change: Pending<K>) -> bool {
        if self.rest.is_empty() && self.steps.len() < STEPS {
            let is_news = !change.is_void();
            if is_news {
                self.steps.push_back(change);
            }
            return is_news;
        }
        let waiting = self.places.remove(name);
        let waiting = waiting.and_then(|at| Some((at, self.rest.remove(&at)?.1)));
        let (at, merged) = match waiting {
            Some((at, waiting)) => {
                let merged = Pending {
                    before: waiting.before,
                    after: change.after,
                    has_news: waiting.has_news || change.has_news,
                };
                (at, merged)
            }
            None => {
                self.arrivals += 1;
                (self.arrivals, change)
            }
        };
        if merged.is_void() {
            return false;
        }
        self.rest.insert(at, (name.into(), merged));
        self.places.insert(name.into(), at);
        true
    }
}

impl<K> State<K> {
    fn pop(&mut self) -> Option<Pending<K>> {
        if let Some(step) = self.steps.pop_front() {
            if self.steps.is_empty() {
                // Thousands of silent streams have no room for what one once needed.
                self.steps = VecDeque::new();
            }
            return Some(step);
        }
        let (_, (name, next)) = self.rest.pop_first()?;
        self.places.remove(&name);
        Some(next)
    }

    fn clear(&mut self) {
        self.steps = VecDeque::new();
        self.rest.clear();
        self.places.clear();
    }
}

impl<K: Kind> Pending<K> {
    /// Whether there is nothing to tell.
    fn is_void(&self) -> bool {
        match (&self.before, &self.after) {
            (None, None) => true,
            (Some(before), Some(after)) => {
                let (before, after) = (before.version().object(), after.version().object());
                !self.has_news && before.is_same(after)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use dapr_crds::Component;
    use futures::FutureExt as _;
    use serde_json::json;

    use super::super::version::Version;
    use super::*;

    fn shipment(version: &str) -> Option<Arc<Shipment<Component>>> {
        let object: Component =
            serde_json::from_value(json!({"spec": {"version": version}})).expect("a component");
        let version = Version::new(Arc::new(object)).expect("JSON");
        Some(Shipment::new(Arc::new(version)))
    }

    fn push(queue: &Queue<Component>, name: &str, before: &str, after: &str) {
        let side = |text: &str| (!text.is_empty()).then(|| shipment(text)).flatten();
        let change = Pending {
            before: side(before),
            after: side(after),
            has_news: false,
        };
        queue.push(name, change);
    }

    fn pop(queue: &Queue<Component>) -> Option<(String, String)> {
        let pending = queue.next().now_or_never()??;
        let text = |side: Option<Arc<Shipment<Component>>>| {
            side.map_or_else(String::new, |it| it.version().object().spec.version.clone())
        };
        Some((text(pending.before), text(pending.after)))
    }

    /// Fills the steps, so that what follows has to wait.
    fn full() -> Queue<Component> {
        let queue = Queue::default();
        for step in 0..STEPS {
            push(&queue, &format!("step{step}"), "", "1");
        }
        queue
    }

    #[track_caller]
    fn check(changes: &[(&str, &str)], expected: Option<(&str, &str)>) {
        let queue = full();
        for (before, after) in changes {
            push(&queue, "a", before, after);
        }
        for _ in 0..STEPS {
            assert!(pop(&queue).is_some());
        }
        let expected = expected.map(|(before, after)| (before.to_owned(), after.to_owned()));
        assert_eq!(pop(&queue), expected, "{changes:?}");
        assert_eq!(pop(&queue), None);
    }

    #[test]
    fn of_many_the_latest_state_counts() {
        check(&[("", "1")], Some(("", "1")));
        check(&[("", "1"), ("1", "2"), ("2", "3")], Some(("", "3")));
        check(&[("1", "2"), ("2", "3")], Some(("1", "3")));
        check(&[("1", "2"), ("2", "")], Some(("1", "")));
        check(&[("1", ""), ("", "2")], Some(("1", "2")));
        check(&[("", "1"), ("1", "")], None);
        check(&[("1", "2"), ("2", "1")], None);
        check(&[("1", ""), ("", "1")], None);
        check(&[("1", "1")], None);
    }

    #[test]
    fn every_step_is_told_in_the_order_of_the_changes() {
        let queue = Queue::default();
        let steps = [
            ("z", "", "1"),
            ("a", "", "1"),
            ("z", "1", "2"),
            ("z", "2", ""),
        ];
        for (name, before, after) in steps {
            push(&queue, name, before, after);
        }
        push(&queue, "z", "2", "2");
        for (_, before, after) in steps {
            assert_eq!(pop(&queue), Some((before.to_owned(), after.to_owned())));
        }
        assert_eq!(pop(&queue), None);
    }

    #[test]
    fn the_rest_is_told_by_arrival_and_after_the_steps() {
        let queue = full();
        for name in ["z", "y", "gone", "x"] {
            push(&queue, name, "", name);
        }
        push(&queue, "gone", "gone", "");
        push(&queue, "z", "z", "zz");
        // There is room among the steps again, but not before what waits.
        assert!(pop(&queue).is_some());
        push(&queue, "w", "", "w");
        push(&queue, "y", "y", "yy");
        for _ in 1..STEPS {
            assert_eq!(pop(&queue), Some((String::new(), "1".to_owned())));
        }
        for expected in ["zz", "yy", "x", "w"] {
            assert_eq!(pop(&queue), Some((String::new(), expected.to_owned())));
        }
        assert_eq!(pop(&queue), None);
        let state = queue.state.lock();
        assert!(state.places.is_empty() && state.rest.is_empty());
    }

    #[test]
    fn news_are_told_although_the_object_is_the_same() {
        let queue = Queue::default();
        let change = Pending {
            before: shipment("1"),
            after: shipment("1"),
            has_news: true,
        };
        queue.push("a", change);
        push(&queue, "a", "1", "1");
        assert!(pop(&queue).is_some());
        assert!(pop(&queue).is_none());
    }

    #[test]
    fn closed_is_over() {
        let queue = Queue::<Component>::default();
        push(&queue, "a", "", "1");
        queue.close();
        assert!(matches!(queue.next().now_or_never(), Some(None)));
    }
}
