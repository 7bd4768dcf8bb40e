//! The reconcilers at work: takes what changed from the watches, and lets a bounded number of reconciliations run.

use std::collections::BTreeSet;
use std::sync::Arc;

use dapr_kubernetes::{Change, Reader};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::Resource as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::app;
use super::apply::Writer;
use super::desired::desired;
use super::objects::{Kind, Live, Workload};
use super::queue::{Outcome, Queue};
use super::workloads::{Key, Of, Workloads, claim};

/// Reconciliations at the same time, as upstream has them: enough to keep the API server busy.
const CONCURRENCY: usize = 100;

/// Keys that wait to be queued. Each is there once, so there are never more than workloads.
#[derive(Debug, Default)]
pub(super) struct Pending {
    keys: Mutex<BTreeSet<Key>>,
    news: Notify,
}

impl Pending {
    pub(super) fn add(&self, key: Key) {
        self.keys.lock().insert(key);
        self.news.notify_one();
    }

    fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *self.keys.lock())
    }
}

/// Keeps Services like the workloads want them.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) workloads: Workloads,
    pub(super) services: Reader<Live>,
    pub(super) writer: Writer,
    pub(super) pending: Arc<Pending>,
}

impl Work {
    /// A workload changed or is gone: its Service is looked at, and whoever else wants the one it has given up gets that,
    /// before the API server collects it as garbage.
    pub(super) fn hear_workload<K: Kind>(&self, of: &Of, change: &Change<Workload<K>>) {
        let (old, new) = match change {
            Change::Applied { old, new } => (old.as_deref(), Some(&**new)),
            Change::Deleted { old } => (Some(&**old), None),
            Change::Synced => return,
        };
        if let Some(new) = new.filter(|new| app::is_enabled(&new.annotations)) {
            let metadata = new.meta();
            self.pending.add(Key {
                of: of.clone(),
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
            });
        }
        let Some((namespace, service)) = old.and_then(claim) else {
            return;
        };
        if new.and_then(claim).is_none_or(|claim| claim.1 != service) {
            for key in self.workloads.claimants(namespace, &service) {
                self.pending.add(key);
            }
        }
    }

    /// A Service changed or is gone: who it belongs to looks at it, or whoever else wants one of that name.
    pub(super) fn hear(&self, change: &Change<Live>) {
        let service = match change {
            Change::Applied { new, .. } => new,
            Change::Deleted { old } => old,
            Change::Synced => return,
        };
        let (namespace, name) = (service.namespace(), service.name());
        let owner = service.controller();
        if let Some(owner) = owner.filter(|it| self.workloads.is_claimed(namespace, name, it)) {
            self.pending.add(Key {
                of: Of::owner(owner),
                namespace: namespace.to_owned(),
                name: owner.name.clone(),
            });
            return;
        }
        for key in self.workloads.claimants(namespace, name) {
            self.pending.add(key);
        }
    }

    /// Reconciles until it is dropped.
    pub(super) async fn run(&self) {
        let mut queue = Queue::default();
        let mut running = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            for key in self.pending.take() {
                queue.add(key, now);
            }
            while running.len() < CONCURRENCY
                && let Some(key) = queue.take(now)
            {
                running.push(async move {
                    let outcome = self.reconcile(&key).await;
                    (key, outcome)
                });
            }
            let next = queue.next().filter(|_| running.len() < CONCURRENCY);
            tokio::select! {
                () = self.pending.news.notified() => {}
                Some((key, outcome)) = running.next() => {
                    queue.done(key, outcome, Instant::now(), rand::random());
                }
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Outcome {
        let Some(wish) = self.workloads.wish(key) else {
            return Outcome::Done;
        };
        let app = match wish.app {
            Ok(app) => app,
            Err(error) => {
                // Only the user can mend that, and then the workload changes.
                tracing::error!(
                    %error,
                    kind = ?key.of,
                    namespace = key.namespace,
                    name = key.name,
                    "the workload gets no Service"
                );
                return Outcome::Done;
            }
        };
        if !app.ignored.is_empty() {
            tracing::warn!(
                app_id = app.id,
                annotations = ?app.ignored,
                "the annotations are no integers, the defaults are used"
            );
        }
        let live = self.services.get(&key.namespace, &app.service_name());
        if let Some(owner) = live.as_ref().and_then(|live| live.controller())
            && owner.uid != wish.owner.uid
            && self
                .workloads
                .is_claimed(&key.namespace, &app.service_name(), owner)
        {
            tracing::warn!(
                app_id = app.id,
                namespace = key.namespace,
                name = key.name,
                owner = owner.name,
                "another workload has this app id too, and keeps the Service as long as it is there"
            );
            return Outcome::Done;
        }
        let service = desired(&app, &key.namespace, wish.owner, &wish.selector);
        self.writer.apply(&app.id, service, live.as_deref()).await
    }
}
