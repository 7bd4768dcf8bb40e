//! What one sidecar has not yet been told. A slow one is told the latest state of each object, not every step.
//!
//! The bound is the number of objects the sidecar knows or will know: one that comes and goes unseen leaves nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::version::Shipment;
use crate::kinds::Kind;

/// The queue of one stream.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    pending: BTreeMap<Box<str>, Pending<K>>,
    /// The object told last: the next one in order follows, so that none waits for ever.
    last: Box<str>,
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
                pending: BTreeMap::new(),
                last: Box::default(),
                is_closed: false,
            }),
            wake: Notify::new(),
        }
    }
}

impl<K: Kind> Queue<K> {
    /// Adds a change; one that is waiting is continued, and dropped if it comes back to where it began.
    pub(crate) fn push(&self, name: &str, change: Pending<K>) {
        let mut state = self.state.lock();
        let merged = match state.pending.remove(name) {
            Some(waiting) => Pending {
                before: waiting.before,
                after: change.after,
                has_news: waiting.has_news || change.has_news,
            },
            None => change,
        };
        if !merged.is_void() {
            state.pending.insert(name.into(), merged);
            self.wake.notify_one();
        }
    }

    /// Drops what waits.
    pub(crate) fn clear(&self) {
        self.state.lock().pending.clear();
    }

    /// Ends the stream, after what was taken already.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.pending.clear();
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

impl<K> State<K> {
    fn pop(&mut self) -> Option<Pending<K>> {
        let after_last = (Bound::Excluded(&*self.last), Bound::Unbounded);
        let mut following = self.pending.range::<str, _>(after_last);
        let next = following.next().or_else(|| self.pending.iter().next());
        let name = next.map(|(name, _)| name.clone())?;
        let pending = self.pending.remove(&name);
        self.last = name;
        pending
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

    #[track_caller]
    fn check(changes: &[(&str, &str)], expected: Option<(&str, &str)>) {
        let queue = Queue::default();
        for (before, after) in changes {
            push(&queue, "a", before, after);
        }
        let expected = expected.map(|(before, after)| (before.to_owned(), after.to_owned()));
        assert_eq!(pop(&queue), expected, "{changes:?}");
        assert_eq!(pop(&queue), None);
    }

    #[test]
    fn the_latest_state_counts() {
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
    fn every_object_has_its_turn() {
        let queue = Queue::default();
        for name in ["a", "b"] {
            push(&queue, name, "", "1");
        }
        assert!(pop(&queue).is_some());
        push(&queue, "a", "1", "2");
        assert_eq!(pop(&queue), Some((String::new(), "1".to_owned())), "b");
        assert_eq!(pop(&queue), Some(("1".to_owned(), "2".to_owned())), "a");
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
    }

    #[test]
    fn closed_is_over() {
        let queue = Queue::<Component>::default();
        push(&queue, "a", "", "1");
        queue.close();
        assert!(matches!(queue.next().now_or_never(), Some(None)));
    }
}
