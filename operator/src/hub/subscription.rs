//! One stream of changes, from its opening to its end.

use std::sync::Arc;

use super::message::Event;
use super::queue::{Pending, Queue};
use super::{Failed, Hub};
use crate::events::transition;
use crate::kinds::Kind;

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
        match (before, after) {
            (_, Some(after)) => {
                let event = after.event(r#type, vault).await;
                event.map(Some).map_err(|source| Failed {
                    context: after.version().object().secret_context(),
                    source,
                })
            }
            // Its secrets may be gone with it, and whoever forgets it does not need them.
            (Some(before), None) => match before.event(r#type, vault).await {
                Ok(event) => Ok(Some(event)),
                Err(_) => Ok(Some(before.bare(r#type))),
            },
            (None, None) => Ok(None),
        }
    }
}

impl<K: Kind> Drop for Subscription<K> {
    fn drop(&mut self) {
        self.hub.unsubscribe(&self.namespace, self.id);
    }
}
