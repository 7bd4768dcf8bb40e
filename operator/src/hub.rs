//! The resources of one kind: what lists show, and who is told of changes.
//!
//! A watcher writes, by [`Hub::apply`]; lists and streams read. Everything that must agree stands under one lock, which
//! is held for no longer than it takes to hand a change to the streams of a namespace. Secrets are fetched outside of it,
//! by the first stream that needs them.

mod message;
mod queue;
mod recent;
mod subscription;
#[cfg(test)]
mod tests;
mod version;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use dapr_kubernetes::Change;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::kinds::Kind;
use crate::secrets::Error;
use crate::vault::Vault;

use queue::{Pending, Queue};
use recent::{Forgotten, Missed, Opening, Recent};
use version::{Resolved, Shipment, Version};

pub use message::Event;
pub use subscription::Subscription;

/// How many objects of a list wait for their secrets at a time.
const AT_ONCE: usize = 16;

/// The resources of one kind. Clones see the same.
#[derive(Debug)]
pub struct Hub<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    vault: Vault,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    namespaces: BTreeMap<Box<str>, Namespace<K>>,
    recent: Recent<K>,
    /// Number of the last stream.
    streams: u64,
    /// Whether it is known what there is. Until then what comes is no change.
    is_filled: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct Namespace<K> {
    objects: BTreeMap<Box<str>, Arc<Version<K>>>,
    subscribers: BTreeMap<u64, Subscriber<K>>,
}

#[derive(Debug)]
struct Subscriber<K> {
    view: View,
    connection: Option<SocketAddr>,
    queue: Arc<Queue<K>>,
}

/// Which objects of its namespace a stream shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Those that admit an app.
    App(Box<str>),
    /// The one of this name, if any, which is assigned to an app.
    Assigned {
        /// The app.
        app_id: Box<str>,
        /// The name.
        name: Option<Box<str>>,
    },
}

/// Why there is no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The process is ending.
    #[error("operator is shutting down")]
    Closed,
    /// Too much has changed since the list of its reader, who has to list again.
    #[error("changes since the last list are not known any more")]
    Forgotten,
}

impl View {
    fn shows<K: Kind>(&self, object: &K) -> bool {
        match self {
            Self::App(app_id) => object.admits(app_id),
            Self::Assigned { name, .. } => name.as_deref() == Some(object.name()),
        }
    }

    /// The object that is assigned in place of the one its reader has.
    fn replaces(&self, has: Option<&str>) -> Option<&str> {
        match self {
            Self::Assigned { name, .. } => {
                has.and_then(|has| name.as_deref().filter(|it| *it != has))
            }
            Self::App(_) => None,
        }
    }
}

impl<K> Clone for Hub<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K> Default for Namespace<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            subscribers: BTreeMap::new(),
        }
    }
}

impl<K: Kind> Hub<K> {
    /// No resources yet.
    pub fn new(vault: Vault) -> Self {
        let state = State {
            namespaces: BTreeMap::new(),
            recent: Recent::default(),
            streams: 0,
            is_filled: false,
            is_closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                vault,
                state: Mutex::new(state),
            }),
        }
    }

    /// Takes a change of the watcher and hands it to the streams it concerns.
    pub fn apply(&self, change: Change<K>) {
        match change {
            Change::Applied { new, .. } => {
                let (namespace, name) = (new.namespace().to_owned(), new.name().to_owned());
                match Version::new(new) {
                    Ok(version) => self.put(&namespace, &name, Some(Arc::new(version))),
                    Err(error) => {
                        let kind = <K as dapr_crds::meta::Object>::KIND;
                        tracing::warn!(kind, namespace, name, %error, "cannot be written as JSON, skipped");
                    }
                }
            }
            Change::Deleted { old } => self.put(old.namespace(), old.name(), None),
            Change::Synced => self.shared.state.lock().is_filled = true,
        }
    }

    fn put(&self, namespace: &str, name: &str, new: Option<Arc<Version<K>>>) {
        let mut state = self.shared.state.lock();
        let is_filled = state.is_filled;
        let place = state.namespaces.entry(namespace.into()).or_default();
        let old = match &new {
            Some(version) => place.objects.insert(name.into(), Arc::clone(version)),
            None => place.objects.remove(name),
        };
        if let (Some(old), Some(new)) = (&old, &new)
            && old.object().is_same(new.object())
        {
            // Lists show the new labels; nobody is told. Sidecars hold the values they were given for the old one.
            new.inherit(old);
            return;
        }
        if !is_filled {
            state.drop_if_empty(namespace);
            return;
        }
        place.tell(
            name,
            old.clone().map(Shipment::new),
            new.map(Shipment::new),
            false,
        );
        state.drop_if_empty(namespace);
        let place = (namespace, name);
        state.recent.changed(place, old, false, Instant::now());
    }

    /// The objects of a namespace an app may see, in order of their names. `connection` is who asks: a stream it opens
    /// next begins here.
    pub async fn list(
        &self,
        namespace: &str,
        app_id: &str,
        connection: Option<SocketAddr>,
    ) -> Result<Vec<Bytes>, Failed> {
        let versions: Vec<Arc<Version<K>>> = {
            let mut state = self.shared.state.lock();
            if let Some(connection) = connection {
                state.recent.listed(connection, None, Instant::now());
            }
            let objects = state
                .namespaces
                .get(namespace)
                .map(|it| it.objects.values());
            let objects = objects.into_iter().flatten();
            let admits = |version: &&Arc<Version<K>>| version.object().admits(app_id);
            objects.filter(admits).cloned().collect()
        };
        // Collected first: a lazy stream of futures that borrow is no future that can be sent between threads.
        let waits = versions.iter().filter(|version| version.open().is_none());
        let waits: Vec<_> = waits.map(|version| self.resolved(version)).collect();
        let mut resolved = stream::iter(waits).buffered(AT_ONCE);
        let mut list = Vec::with_capacity(versions.len());
        for version in &versions {
            match version.open() {
                Some(open) => list.push(open.clone()),
                None => list.extend(resolved.next().await.transpose()?),
            }
        }
        Ok(list)
    }

    /// One object; `None` if there is none. For `connection` see [`Hub::list`].
    pub async fn get(
        &self,
        namespace: &str,
        name: &str,
        connection: Option<SocketAddr>,
    ) -> Result<Option<Bytes>, Failed> {
        let version = {
            let mut state = self.shared.state.lock();
            if let Some(connection) = connection {
                state.recent.listed(connection, Some(name), Instant::now());
            }
            let place = state.namespaces.get(namespace);
            place.and_then(|place| place.objects.get(name)).cloned()
        };
        match version {
            Some(version) => self.resolved(&version).await.map(Some),
            None => Ok(None),
        }
    }

    async fn resolved(&self, version: &Version<K>) -> Result<Bytes, Failed> {
        let resolved = version.resolved(&self.shared.vault).await;
        resolved.map_err(|source| Failed {
            context: version.object().secret_context(),
            source,
        })
    }

    /// A stream of what changes from now on, and of what changed since the connection's last list.
    ///
    /// `view` is asked under the lock, so that [`Hub::reassign`] comes before or after it, and given the name of the one
    /// object that the connection has asked for. A stream that shows another one begins with that.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn subscribe(
        &self,
        namespace: &str,
        view: impl FnOnce(Option<&str>) -> View,
        connection: Option<SocketAddr>,
    ) -> Result<Subscription<K>, Refused> {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        if state.is_closed {
            return Err(Refused::Closed);
        }
        let opening = match connection {
            Some(connection) => state.recent.opened(connection, namespace),
            None => Ok(Opening::default()),
        };
        let Opening { missed, only } = opening.map_err(|Forgotten| Refused::Forgotten)?;
        let view = view(only.as_deref());
        state.streams += 1;
        let (id, queue) = (state.streams, Arc::new(Queue::default()));
        let place = state.namespaces.entry(namespace.into()).or_default();
        let current = |name: &str| {
            let version = place.objects.get(name).filter(|it| view.shows(it.object()));
            version.cloned().map(Shipment::new)
        };
        match view.replaces(only.as_deref()) {
            Some(name) => {
                let change = Pending {
                    before: None,
                    after: current(name),
                    has_news: false,
                };
                queue.push(name, change);
            }
            None => {
                for (name, Missed { before, has_news }) in missed {
                    let before = before.filter(|it| view.shows(it.object()));
                    let change = Pending {
                        before: before.map(Shipment::new),
                        after: current(&name),
                        has_news,
                    };
                    queue.push(&name, change);
                }
            }
        }
        let subscriber = Subscriber {
            view,
            connection,
            queue: Arc::clone(&queue),
        };
        place.subscribers.insert(id, subscriber);
        Ok(Subscription::new(self.clone(), namespace, id, queue))
    }

    fn unsubscribe(&self, namespace: &str, id: u64) {
        let mut state = self.shared.state.lock();
        let Some(place) = state.namespaces.get_mut(namespace) else {
            return;
        };
        let subscriber = place.subscribers.remove(&id);
        if let Some(connection) = subscriber.and_then(|it| it.connection) {
            state.recent.closed(connection);
        }
        state.drop_if_empty(namespace);
    }

    /// Asks again which object is assigned to an app, given the name it has now. Streams are shown the new one, and no
    /// more of the old one.
    pub fn reassign(
        &self,
        namespace: &str,
        app: &str,
        assigned: impl Fn(Option<&str>) -> Option<Box<str>>,
    ) {
        let mut state = self.shared.state.lock();
        let Some(place) = state.namespaces.get_mut(namespace) else {
            return;
        };
        // Made once, however many streams of the app there are.
        let mut shipment: Option<Arc<Shipment<K>>> = None;
        for subscriber in place.subscribers.values_mut() {
            let View::Assigned { app_id, name } = &mut subscriber.view else {
                continue;
            };
            if &**app_id != app {
                continue;
            }
            let new = assigned(name.as_deref());
            if *name == new {
                continue;
            }
            subscriber.queue.clear();
            if let Some(new) = new.as_deref()
                && let Some(version) = place.objects.get(new)
            {
                let known = shipment.filter(|it| Arc::ptr_eq(it.version(), version));
                let known = known.unwrap_or_else(|| Shipment::new(Arc::clone(version)));
                let change = Pending {
                    before: None,
                    after: Some(Arc::clone(&known)),
                    has_news: false,
                };
                subscriber.queue.push(new, change);
                shipment = Some(known);
            }
            *name = new;
        }
    }

    /// A Secret changed: streams are told of the objects whose values are other ones now.
    pub async fn secret_changed(&self, namespace: &str, secret: &str) {
        let affected: Vec<Arc<Version<K>>> = {
            let state = self.shared.state.lock();
            let Some(place) = state.namespaces.get(namespace) else {
                return;
            };
            let is_streamed = !place.subscribers.is_empty();
            let objects = place.objects.values();
            let concerns = |version: &&Arc<Version<K>>| {
                version.refers_to(secret) && (is_streamed || version.was_given())
            };
            objects.filter(concerns).cloned().collect()
        };
        for version in affected {
            match version.resolved_anew(&self.shared.vault).await {
                Ok(resolved) => self.secret_resolved(namespace, &version, &resolved),
                Err(error) => {
                    let name = version.object().name();
                    let kind = <K as dapr_crds::meta::Object>::KIND;
                    // Sidecars keep the values they have.
                    tracing::warn!(kind, namespace, name, %error, "a secret changed and cannot be had");
                }
            }
        }
    }

    fn secret_resolved(&self, namespace: &str, version: &Arc<Version<K>>, resolved: &Resolved) {
        let mut state = self.shared.state.lock();
        let Some(place) = state.namespaces.get_mut(namespace) else {
            return;
        };
        let name = version.object().name();
        let current = place.objects.get(name);
        // An object that changed meanwhile is told with the new values anyway.
        let is_current = current.is_some_and(|current| Arc::ptr_eq(current, version));
        if !is_current || !version.announce(resolved) {
            return;
        }
        let shipment = Shipment::ready(Arc::clone(version), resolved);
        place.tell(name, Some(Arc::clone(&shipment)), Some(shipment), true);
        let (place, before) = ((namespace, name), Some(Arc::clone(version)));
        state.recent.changed(place, before, true, Instant::now());
    }

    /// Ends every stream, and lets none begin.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        let places = state.namespaces.values();
        places
            .flat_map(|place| place.subscribers.values())
            .for_each(|subscriber| subscriber.queue.close());
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        let state = self.shared.state.lock();
        let places = state.namespaces.values();
        places.map(|place| place.subscribers.len()).sum()
    }
}

impl<K> State<K> {
    fn drop_if_empty(&mut self, namespace: &str) {
        let place = self.namespaces.get(namespace);
        if place.is_some_and(|it| it.objects.is_empty() && it.subscribers.is_empty()) {
            self.namespaces.remove(namespace);
        }
    }
}

impl<K: Kind> Namespace<K> {
    /// Hands a change to the streams that saw the object before or see it now.
    fn tell(
        &self,
        name: &str,
        before: Option<Arc<Shipment<K>>>,
        after: Option<Arc<Shipment<K>>>,
        has_news: bool,
    ) {
        for subscriber in self.subscribers.values() {
            let shown =
                |shipment: &&Arc<Shipment<K>>| subscriber.view.shows(shipment.version().object());
            let change = Pending {
                before: before.as_ref().filter(shown).cloned(),
                after: after.as_ref().filter(shown).cloned(),
                has_news,
            };
            if let Some(after) = &change.after {
                after.version().tell();
            }
            subscriber.queue.push(name, change);
        }
    }
}

/// A resource cannot be shown, for want of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{context}{source}")]
pub struct Failed {
    context: String,
    source: Error,
}
