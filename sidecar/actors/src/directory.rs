//! Where an actor lives right now: the table in force and the types that wait for a round to end.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::ring::Host;
use crate::table::Table;

/// What is published to callers.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) table: Arc<Table>,
    /// Types in the middle of a round.
    pub(crate) blocked: BTreeSet<Arc<str>>,
    /// A stream is up.
    pub(crate) connected: bool,
    /// The stream has completed a round; without one all types wait.
    pub(crate) ready: bool,
    /// The runtime stops: nobody waits any more.
    pub(crate) closed: bool,
}

/// Where an actor was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Host(Host),
    /// No host has reported the type.
    NoType,
    /// The type's ring is empty.
    NoHosts,
    /// The type is being disseminated.
    Blocked,
    Closed,
}

/// The published view. Reading it takes no lock; one writer, the placement client, replaces it.
#[derive(Debug)]
pub(crate) struct Directory {
    view: ArcSwap<View>,
    changes: watch::Sender<()>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            view: ArcSwap::default(),
            changes: watch::Sender::new(()),
        }
    }
}

impl Directory {
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Publishes a changed view and wakes those who wait.
    pub(crate) fn publish(&self, change: impl Fn(&mut View)) {
        self.view.rcu(|view| {
            let mut view = View::clone(view);
            change(&mut view);
            view
        });
        self.changes.send_replace(());
    }

    /// One look, without waiting.
    pub(crate) fn find(&self, actor_type: &str, actor_id: &str) -> Found {
        let view = self.view.load();
        if view.closed {
            return Found::Closed;
        }
        if !view.ready || view.blocked.contains(actor_type) {
            return Found::Blocked;
        }
        match view.table.ring(actor_type) {
            None => Found::NoType,
            Some(ring) => match ring.owner(actor_id) {
                None => Found::NoHosts,
                Some(host) => Found::Host(host.clone()),
            },
        }
    }

    /// Whether actors of a type may be touched now.
    pub(crate) fn is_open(&self, actor_type: &str) -> bool {
        let view = self.view.load();
        view.ready && !view.closed && !view.blocked.contains(actor_type)
    }

    /// Waits until the type is no longer blocked, or the runtime stops.
    pub(crate) async fn unblocked(&self, actor_type: &str) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if self.view.load().closed || self.is_open(actor_type) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Whether `name` is this sidecar: the same text, or loopback spellings with the same port.
pub(crate) fn is_local(name: &str, own: &str) -> bool {
    if name == own {
        return true;
    }
    match (name.rsplit_once(':'), own.rsplit_once(':')) {
        (Some((host, port)), Some((own_host, own_port))) => {
            port == own_port && is_loopback(host) && is_loopback(own_host)
        }
        (_, _) => false,
    }
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_spellings_are_one_host() {
        let check = |name: &str, own: &str, expected: bool| {
            assert_eq!(is_local(name, own), expected, "{name} {own}");
        };
        check("10.0.0.1:50002", "10.0.0.1:50002", true);
        check("10.0.0.1:50002", "10.0.0.1:50003", false);
        check("localhost:1", "127.0.0.1:1", true);
        check("[::1]:1", "localhost:1", true);
        check("localhost:1", "127.0.0.1:2", false);
        check("localhost:1", "10.0.0.1:1", false);
    }

    #[tokio::test]
    async fn lookups_wait_until_the_round_ends() {
        let directory = Arc::new(Directory::default());
        assert_eq!(directory.find("t", "1"), Found::Blocked);
        let waiting = tokio::spawn({
            let directory = Arc::clone(&directory);
            async move {
                directory.unblocked("t").await;
                directory.find("t", "1")
            }
        });
        directory.publish(|view| {
            view.ready = true;
            view.blocked.insert("t".into());
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(directory.is_open("other"));
        directory.publish(|view| view.blocked.clear());
        assert_eq!(waiting.await.expect("task"), Found::NoType);
    }
}
