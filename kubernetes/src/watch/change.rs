//! What a watcher tells.

use std::sync::Arc;

/// One change of the store, told after readers can see it.
///
/// Folding the changes of a watcher gives the reader's snapshot at any time.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<K> {
    /// An object is new, or differs from before.
    Applied {
        /// The version before; `None` for a new object.
        old: Option<Arc<K>>,
        /// The version now.
        new: Arc<K>,
    },
    /// An object is gone.
    Deleted {
        /// The last version.
        old: Arc<K>,
    },
    /// The first list is complete. Told once.
    Synced,
}
