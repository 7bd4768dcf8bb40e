//! How much a reader can trust what it sees.

use std::sync::Arc;

use tokio::time::Instant;

/// The state of a watcher, for health checks and logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Whether the store follows the server.
    pub state: State,
    /// When the server last said something that was understood.
    pub last_contact: Option<Instant>,
    /// What went wrong last. It stays when things are well again.
    pub last_error: Option<Arc<str>>,
    /// Whether the server says that there is no such kind: its definition is not installed, or not any more.
    pub is_absent: bool,
}

/// Whether the store follows the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No list was complete yet.
    Starting,
    /// The last attempt succeeded.
    Synced,
    /// The last attempt failed. The store keeps what was known.
    Stale {
        /// The last moment the store is known to have been right.
        since: Instant,
    },
}

/// What a failure says of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing.
    Unsaid,
    /// That the server does not know it.
    Absent,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: State::Starting,
            last_contact: None,
            last_error: None,
            is_absent: false,
        }
    }
}

impl Health {
    /// Something was heard; `complete` says whether any list is. Says whether the state changed: readers are not woken
    /// for every event.
    pub(super) fn heard(&mut self, now: Instant, complete: bool) -> bool {
        self.last_contact = Some(now);
        let is_back = std::mem::take(&mut self.is_absent);
        let is_synced = complete && self.state != State::Synced;
        if is_synced {
            self.state = State::Synced;
        }
        is_synced || is_back
    }

    /// An attempt failed. Says whether that is news.
    pub(super) fn failed(&mut self, error: &str, presence: Presence, now: Instant) -> bool {
        let is_absent = presence == Presence::Absent;
        let known = self.last_error.as_deref() == Some(error) && self.is_absent == is_absent;
        if !known {
            self.last_error = Some(error.into());
            self.is_absent = is_absent;
        }
        if self.state == State::Synced {
            let since = self.last_contact.unwrap_or(now);
            self.state = State::Stale { since };
            return true;
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_counts_from_the_last_contact() {
        let start = Instant::now();
        let later = |seconds| start + std::time::Duration::from_secs(seconds);
        let mut health = Health::default();
        assert!(health.failed("down", Presence::Unsaid, start));
        assert_eq!(health.state, State::Starting);
        assert!(
            !health.failed("down", Presence::Unsaid, later(1)),
            "the same failure is no news"
        );
        assert!(!health.heard(later(2), false), "one page is not a list");
        assert!(health.heard(later(3), true));
        assert!(!health.heard(later(4), true));
        assert!(health.failed("down", Presence::Unsaid, later(9)));
        assert_eq!(health.state, State::Stale { since: later(4) });
        assert!(health.heard(later(10), true));
        assert_eq!(health.state, State::Synced);
        assert_eq!(health.last_error.as_deref(), Some("down"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_is_absent_as_long_as_the_server_says_so() {
        let now = Instant::now();
        let mut health = Health::default();
        assert!(health.failed("404", Presence::Absent, now));
        assert!(health.is_absent);
        assert!(!health.failed("404", Presence::Absent, now));
        assert!(health.failed("down", Presence::Unsaid, now));
        assert!(!health.is_absent, "nobody says so any more");
        assert!(health.failed("404", Presence::Absent, now));
        assert!(health.heard(now, false) && !health.is_absent);
    }
}
