//! One stream of changes, from its opening to its end.

use std::sync::Arc;

use bytes::Bytes;

use super::queue::{Pending, Queue};
use super::{Failed, Hub};
use crate::events::{Type, transition};
use crate::kinds::Kind;

/// A change as it is told to one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object as JSON, without kind and version.
    pub object: Bytes,
    /// What happened to it.
    pub r#type: Type,
}

/// A stream of changes. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription<K: Kind> {
    hub: Hub<K>,
    namespace: Box<str>,
    id: u64,
    queue: Arc<Queue<K>>,
}

impl<K: Kind> Subscription<K> {
    pub(super) fn new(hub: Hub<K>, namespace: &str, id: u64, queue: Arc<Queue<K>>) -> Self {
        Self {
            hub,
            namespace: namespace.into(),
            id,
            queue,
        }
    }

    /// The next change; `None` once the process is ending.
    ///
    /// # Errors
    /// A secret cannot be had. The stream must then end: its reader lists anew and misses nothing.
    pub async fn next(&mut self) -> Option<Result<Event, Failed>> {
        loop {
            let change = self.queue.next().await?;
            if let Some(event) = self.event(&change).await.transpose() {
                return Some(event);
            }
        }
    }

    async fn event(&self, change: &Pending<K>) -> Result<Option<Event>, Failed> {
        let vault = &self.hub.shared.vault;
        let (before, after) = (&change.before, &change.after);
        let Some(r#type) = transition(before.is_some(), after.is_some()) else {
            return Ok(None);
        };
        let object = match (before, after) {
            (_, Some(after)) => {
                let bytes = after.bytes(vault).await;
                bytes.map_err(|source| Failed {
                    context: after.version().object().secret_context(),
                    source,
                })?
            }
            // Its secrets may be gone with it, and whoever forgets it does not need them.
            (Some(before), None) => before.bytes(vault).await.unwrap_or_else(|_| before.bare()),
            (None, None) => return Ok(None),
        };
        Ok(Some(Event { object, r#type }))
    }
}

impl<K: Kind> Drop for Subscription<K> {
    fn drop(&mut self) {
        self.hub.unsubscribe(&self.namespace, self.id);
    }
}
