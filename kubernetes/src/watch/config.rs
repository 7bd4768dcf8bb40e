//! What a watcher can be told, and the defaults with their reasons.

use std::time::Duration;

use super::pace::Pace;

/// How one kind is listed and watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Only objects with these labels. A minimal server may ignore it.
    pub labels: Option<String>,
    /// Only objects with these fields. A minimal server may ignore it.
    pub fields: Option<String>,
    /// How many objects a page of a list has, where the server pages: 500.
    pub page: u32,
    /// How long a page may take: 60 s.
    pub list_timeout: Duration,
    /// How long a watch lasts at least: 2 min. Each takes up to half as long again, so that the watches of many
    /// processes do not end together.
    pub watch_timeout: Duration,
    /// How long after its time a watch may still end by itself: 10 s. A connection that says nothing any more is given
    /// up after `1.5 × watch_timeout + grace`, 190 s by default, unless TCP notices first.
    pub grace: Duration,
    /// Pauses after failures: from 0.5 s, doubled each time, to 30 s; half of it is random.
    pub backoff: Pace,
    /// Pauses between lists of a server without versions: from 1 s, half as long again while nothing changes, to 3 s.
    /// Such a server is listed once for each watch it opens, and all the time while it refuses to watch.
    pub relist: Pace,
    /// Pauses between watches the server ends at once, without having told anything new: from 50 ms, doubled, to 1 s.
    /// After news the next watch opens immediately.
    pub reopen: Pace,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            labels: None,
            fields: None,
            page: 500,
            list_timeout: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(120),
            grace: Duration::from_secs(10),
            backoff: Pace::new(Duration::from_millis(500), Duration::from_secs(30)),
            relist: Pace::new(Duration::from_secs(1), Duration::from_secs(3)),
            reopen: Pace::new(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }
}
