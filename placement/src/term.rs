//! One term of leadership: the namespaces that live in it. When it ends, so does every stream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::metrics::Metrics;
use crate::namespace::{Message, Owner, Settings};
use crate::state::{Shown, Tables};

/// Messages of all streams of a namespace that wait for its owner; beyond, readers wait and their sidecars with them.
const UNHANDLED_MESSAGES: usize = 1024;

#[derive(Debug)]
pub(crate) struct Term {
    settings: Settings,
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
    pub(crate) fn new(settings: Settings, metrics: Metrics, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            settings,
            metrics,
            tasks,
            over: CancellationToken::new(),
            status: OnceLock::new(),
            namespaces: Mutex::default(),
        })
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
        let (messages, inbox) = mpsc::channel(UNHANDLED_MESSAGES);
        let shown = Shown::default();
        let owner = Owner::new(name.to_owned(), self.settings.clone(), shown.clone());
        namespaces.insert(
            name.to_owned(),
            Namespace {
                messages: messages.downgrade(),
                shown,
            },
        );
        let term = Arc::clone(self);
        let name = name.to_owned();
        self.tasks.spawn(async move {
            owner.run(Arc::clone(&term), inbox).await;
            term.forget(&name);
        });
        messages
    }

    /// Drops the entry of a namespace without streams, unless a new owner has taken it.
    fn forget(&self, name: &str) {
        if let Entry::Occupied(entry) = self.namespaces.lock().entry(name.to_owned())
            && entry.get().messages.strong_count() == 0
        {
            entry.remove();
        }
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
