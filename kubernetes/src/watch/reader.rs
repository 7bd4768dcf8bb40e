//! What readers hold: the objects, and signals that something changed.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::health::Health;
use super::store::{Store, Unreadable};

/// The last known objects of one kind. Clones are cheap and see the same.
///
/// No method but [`Reader::synced`] waits for anything but a short lock.
#[derive(Debug)]
pub struct Reader<K>(Arc<Shared<K>>);

/// What a watcher writes and its readers read.
#[derive(Debug)]
pub(super) struct Shared<K> {
    pub(super) store: RwLock<Store<K>>,
    /// Made when somebody asks, dropped by the next change.
    snapshot: Mutex<Option<Arc<[Arc<K>]>>>,
    version: watch::Sender<u64>,
    synced: watch::Sender<bool>,
    pub(super) health: watch::Sender<Health>,
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        Self {
            store: RwLock::new(Store::default()),
            snapshot: Mutex::new(None),
            version: watch::Sender::new(0),
            synced: watch::Sender::new(false),
            health: watch::Sender::new(Health::default()),
        }
    }
}

impl<K> Shared<K> {
    /// Tells readers that the store differs from before.
    pub(super) fn changed(&self) {
        *self.snapshot.lock() = None;
        self.version.send_modify(|version| *version += 1);
    }

    /// Tells readers that the first list is complete. Says whether it is the first.
    pub(super) fn complete(&self) -> bool {
        self.synced
            .send_if_modified(|synced| !std::mem::replace(synced, true))
    }
}

impl<K> Clone for Reader<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Reader<K> {
    pub(super) fn new(shared: Arc<Shared<K>>) -> Self {
        Self(shared)
    }

    /// One object; the namespace of cluster-wide objects is empty. Takes two look-ups in a tree.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0.store.read().get(namespace, name)
    }

    /// All objects, in order of namespace and name. Made at most once per change, whoever asks.
    pub fn snapshot(&self) -> Arc<[Arc<K>]> {
        let mut snapshot = self.0.snapshot.lock();
        // The store is read under the lock of the snapshot: a change in between drops what was made.
        Arc::clone(snapshot.get_or_insert_with(|| self.0.store.read().iter().cloned().collect()))
    }

    /// The objects of one namespace, in order of their names.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0
            .store
            .read()
            .in_namespace(namespace)
            .cloned()
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.store.read().len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many objects the server has that cannot be read. Where an earlier version could, it is still served.
    pub fn unreadable(&self) -> usize {
        self.0.store.read().unreadable().len()
    }

    /// The objects that cannot be read, in order of namespace and name, and why. [`Reader::subscribe`] tells of them too.
    pub fn all_unreadable(&self) -> Vec<Unreadable> {
        self.0.store.read().unreadable().collect()
    }

    /// Whether the first list is complete. It stays so: see [`Reader::health`] for what happened since.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits for the first complete list; forever, when no watcher runs.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives as long as this reader, so there is no other end.
        drop(synced.wait_for(|synced| *synced).await);
    }

    /// A number that grows with every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// How far the objects can be trusted. It is signalled when the state or the error changes; `last_contact` is
    /// current whenever it is read.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }
}
