//! One term of leadership: the namespaces that live in it. When it ends, so does every stream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::ledger::Tables as Agreed;
use crate::metrics::Metrics;
use crate::namespace::{Message, Origin, Owner, Settings};
use crate::proposals::Proposals;
use crate::state::{Shown, Tables};

/// Messages of all streams of a namespace that wait for its owner; beyond, readers wait and their sidecars with them.
const UNHANDLED_MESSAGES: usize = 1024;

/// What a replica is given to lead with.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    /// Where changes go to be agreed on.
    pub(crate) proposals: Proposals,
    /// What was agreed on; until the first change of the new term, that is what the one before has left.
    pub(crate) tables: Arc<Mutex<Agreed>>,
}

#[cfg(test)]
impl Lead {
    /// Leads nobody: what is proposed is agreed on at once.
    pub(crate) fn alone() -> Self {
        let lead = Self {
            proposals: Proposals::default(),
            tables: Arc::default(),
        };
        let Self { proposals, tables } = lead.clone();
        tokio::spawn(async move {
            loop {
                let batch = proposals.next().await;
                tables.lock().apply(batch.entry.clone());
                batch.agreed();
            }
        });
        lead
    }
}

#[derive(Debug)]
pub(crate) struct Term {
    settings: Settings,
    proposals: Proposals,
    /// Ids of streams and lives. They grow, beyond one leader too.
    next_id: AtomicU64,
    metrics: Metrics,
    /// Owners and readers of the term.
    pub(crate) tasks: TaskTracker,
    over: CancellationToken,
    status: OnceLock<Status>,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

#[derive(Debug)]
struct Namespace {
    /// Weak, so that the owner ends with the last stream.
    messages: mpsc::WeakSender<Message>,
    shown: Shown,
}

impl Term {
    /// Starts a term, with an owner for every namespace the one before has left.
    pub(crate) fn start(
        settings: Settings,
        metrics: Metrics,
        tasks: TaskTracker,
        lead: &Lead,
    ) -> Arc<Self> {
        // Hosts share their bytes, so this is small.
        let left = lead.tables.lock().clone();
        let term = Arc::new(Self {
            settings,
            proposals: lead.proposals.clone(),
            next_id: AtomicU64::new(left.last_id + 1),
            metrics,
            tasks,
            over: CancellationToken::new(),
            status: OnceLock::new(),
            namespaces: Mutex::default(),
        });
        for (name, left) in &left.namespaces {
            let shown = Shown::default();
            let settings = term.settings.clone();
            let owner = Owner::resume(term.origin(name), settings, shown.clone(), left);
            term.launch(&mut term.namespaces.lock(), owner, name, shown);
        }
        term
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn origin(&self, name: &str) -> Origin {
        Origin {
            name: name.to_owned(),
            proposals: self.proposals.clone(),
        }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Ends the term and all its streams with this status.
    pub(crate) fn end(&self, status: Status) {
        // The first reason stays.
        drop(self.status.set(status));
        self.over.cancel();
    }

    /// Waits for the end of the term and says why it came.
    pub(crate) async fn ended(&self) -> Status {
        self.over.cancelled().await;
        self.status
            .get()
            .cloned()
            .unwrap_or_else(|| Status::unknown("term has ended"))
    }

    /// The inbox of a namespace, whose owner is started if it has none. Hold it as long as the stream lasts.
    pub(crate) fn namespace(self: &Arc<Self>, name: &str) -> mpsc::Sender<Message> {
        let mut namespaces = self.namespaces.lock();
        if let Some(messages) = namespaces
            .get(name)
            .and_then(|namespace| namespace.messages.upgrade())
        {
            return messages;
        }
        let shown = Shown::default();
        let settings = self.settings.clone();
        let owner = Owner::new(self.origin(name), settings, shown.clone(), self.next_id());
        self.launch(&mut namespaces, owner, name, shown)
    }

    /// The inbox of a namespace that is there.
    pub(crate) fn existing(&self, name: &str) -> Option<mpsc::Sender<Message>> {
        let namespaces = self.namespaces.lock();
        namespaces.get(name)?.messages.upgrade()
    }

    fn launch(
        self: &Arc<Self>,
        namespaces: &mut HashMap<String, Namespace>,
        owner: Owner,
        name: &str,
        shown: Shown,
    ) -> mpsc::Sender<Message> {
        let (messages, inbox) = mpsc::channel(UNHANDLED_MESSAGES);
        let life = owner.life();
        namespaces.insert(
            name.to_owned(),
            Namespace {
                messages: messages.downgrade(),
                shown,
            },
        );
        let term = Arc::clone(self);
        let name = name.to_owned();
        let own = Some(messages.clone());
        self.tasks.spawn(async move {
            owner.run(Arc::clone(&term), inbox, own).await;
            term.forget(&name, life);
        });
        messages
    }

    /// Drops a namespace without streams; the entry may be that of a new owner already.
    fn forget(&self, name: &str, life: u64) {
        // What is left when the term ends is for the next leader.
        if self.over.is_cancelled() {
            return;
        }
        if let Entry::Occupied(entry) = self.namespaces.lock().entry(name.to_owned())
            && entry.get().messages.strong_count() == 0
        {
            entry.remove();
        }
        self.proposals.end(name, life);
    }

    /// What `/placement/state` shows.
    pub(crate) fn tables(&self) -> Tables {
        let namespaces = self.namespaces.lock();
        let connected = namespaces
            .iter()
            .filter(|(_, namespace)| namespace.messages.strong_count() > 0);
        Tables {
            tables: connected
                .map(|(name, namespace)| (name.clone(), namespace.shown.get()))
                .collect(),
        }
    }
}
