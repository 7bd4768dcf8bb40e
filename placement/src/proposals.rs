//! Changes that wait for the replicas to agree on them.
//!
//! Every namespace has at most one waiting change: what it adds while the replicas are busy is merged. So however
//! many sidecars come at once, one entry of the log brings them all, and nothing here can grow without end.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::ledger::{Change, Entry, Step};

/// Changes of one term of leadership; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proposals {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By namespace and life, so that the end of one life comes before the next one begins.
    waiting: Mutex<BTreeMap<(String, u64), Waiting>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Waiting {
    /// None ends the life.
    step: Option<Step>,
    agreed: Option<Agreed>,
}

/// Where a namespace is told which version was agreed on.
pub(crate) type Agreed = Arc<watch::Sender<u64>>;

/// What goes into the log at once, and who wants to know that it is there.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) entry: Entry,
    told: Vec<(Agreed, u64)>,
}

impl Batch {
    /// The replicas agree.
    pub(crate) fn agreed(self) {
        for (agreed, version) in self.told {
            agreed.send_replace(version);
        }
    }
}

impl Proposals {
    /// Proposes the next step of a namespace.
    pub(crate) fn step(&self, namespace: &str, life: u64, step: Step, agreed: &Agreed) {
        self.insert(namespace, life, |waiting| {
            let merged = match waiting.step.take() {
                Some(mut earlier) => {
                    earlier.merge(step);
                    earlier
                }
                None => step,
            };
            waiting.step = Some(merged);
            waiting.agreed = Some(Arc::clone(agreed));
        });
    }

    /// Proposes the end of a namespace. What it wanted before is of no interest any more.
    pub(crate) fn end(&self, namespace: &str, life: u64) {
        self.insert(namespace, life, |waiting| {
            *waiting = Waiting {
                step: None,
                agreed: None,
            };
        });
    }

    fn insert(&self, namespace: &str, life: u64, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.shared.waiting.lock();
        let place = waiting.entry((namespace.to_owned(), life));
        change(place.or_insert(Waiting {
            step: None,
            agreed: None,
        }));
        drop(waiting);
        self.shared.arrived.notify_one();
    }

    /// Waits for changes and takes all there are.
    pub(crate) async fn next(&self) -> Batch {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Takes all changes that wait now.
    pub(crate) fn take(&self) -> Option<Batch> {
        let waiting = std::mem::take(&mut *self.shared.waiting.lock());
        if waiting.is_empty() {
            return None;
        }
        let mut told = Vec::new();
        let changes = waiting
            .into_iter()
            .map(|((namespace, life), Waiting { step, agreed })| {
                if let (Some(step), Some(agreed)) = (&step, agreed) {
                    told.push((agreed, step.version));
                }
                Change {
                    namespace,
                    life,
                    step,
                }
            });
        Some(Batch {
            entry: Entry {
                changes: changes.collect(),
                roster: None,
            },
            told,
        })
    }

    /// Whether the other handle is of the same term.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(version: u64) -> Step {
        Step {
            version,
            ..Step::default()
        }
    }

    #[tokio::test]
    async fn what_arrives_together_is_one_entry() {
        let proposals = Proposals::default();
        let agreed = Agreed::new(watch::Sender::new(0));
        let other = Agreed::new(watch::Sender::new(0));
        proposals.step("a", 1, step(1), &agreed);
        proposals.step("a", 1, step(2), &agreed);
        proposals.step("b", 2, step(5), &other);
        let batch = proposals.next().await;
        assert_eq!(batch.entry.changes.len(), 2, "{:?}", batch.entry);
        assert_eq!(*agreed.borrow(), 0, "nothing is agreed on yet");
        batch.agreed();
        assert_eq!((*agreed.borrow(), *other.borrow()), (2, 5));
        assert!(proposals.take().is_none());
    }

    #[test]
    fn an_end_replaces_what_the_life_wanted() {
        let proposals = Proposals::default();
        let agreed = Agreed::new(watch::Sender::new(0));
        proposals.step("a", 1, step(1), &agreed);
        proposals.end("a", 1);
        proposals.step("a", 7, step(1), &agreed);
        let batch = proposals.take().expect("changes wait");
        let lives: Vec<(u64, bool)> = batch
            .entry
            .changes
            .iter()
            .map(|change| (change.life, change.step.is_some()))
            .collect();
        assert_eq!(lives, [(1, false), (7, true)]);
    }
}
