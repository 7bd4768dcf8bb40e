//! The last changes: what a sidecar missed between its list and its stream is told when the stream opens. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::version::Version;
use crate::kinds::Kind;

/// How long changes and lists are remembered: a sidecar opens its streams once its application is up. One that takes
/// longer is helped by its own list every minute.
const AGE: Duration = Duration::from_secs(600);
/// How many changes are remembered; most objects have some kilobytes.
const CHANGES: usize = 1024;
/// How many bytes the objects of these changes may have together; some objects have a megabyte.
const BYTES: usize = 8 << 20;
/// How many connections that listed are remembered; more than sidecars start within [`AGE`].
const CONNECTIONS: usize = 16_384;

/// The last changes of one kind, numbered.
#[derive(Debug)]
pub(super) struct Recent<K> {
    /// Number of the last change.
    number: u64,
    changes: VecDeque<Change<K>>,
    bytes: usize,
    connections: HashMap<SocketAddr, Seen>,
}

#[derive(Debug)]
struct Change<K> {
    number: u64,
    at: Instant,
    namespace: Box<str>,
    name: Box<str>,
    before: Option<Arc<Version<K>>>,
    has_news: bool,
}

/// What a connection has seen.
#[derive(Clone, Debug)]
enum Seen {
    /// A list that shows everything up to this change, or just the object of this name.
    Listed {
        number: u64,
        at: Instant,
        only: Option<Box<str>>,
    },
    /// So many streams are open: they are told.
    Streams(u32),
}

/// What a stream has to begin with.
#[derive(Debug)]
pub(super) struct Opening<K> {
    /// What changed since the connection's last list, by names.
    pub(super) missed: BTreeMap<Box<str>, Missed<K>>,
    /// The one object that the connection has asked for, if it has not asked for all.
    pub(super) only: Option<Box<str>>,
}

impl<K> Default for Opening<K> {
    fn default() -> Self {
        Self {
            missed: BTreeMap::new(),
            only: None,
        }
    }
}

/// It is not known any more what changed since a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forgotten;

/// What was missed of one object.
#[derive(Debug)]
pub(super) struct Missed<K> {
    pub(super) before: Option<Arc<Version<K>>>,
    pub(super) has_news: bool,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self {
            number: 0,
            changes: VecDeque::new(),
            bytes: 0,
            connections: HashMap::new(),
        }
    }
}

impl<K: Kind> Recent<K> {
    /// Notes a change; `has_news` if the object is the same, and values of its secrets are not.
    pub(super) fn changed(
        &mut self,
        place: (&str, &str),
        before: Option<Arc<Version<K>>>,
        has_news: bool,
        now: Instant,
    ) {
        self.number += 1;
        self.bytes += before.as_ref().map_or(0, |it| it.size());
        self.expire(now);
        self.changes.push_back(Change {
            number: self.number,
            at: now,
            namespace: place.0.into(),
            name: place.1.into(),
            before,
            has_news,
        });
    }

    /// Notes that a connection is shown everything up to now, or just the object `only`.
    pub(super) fn listed(&mut self, connection: SocketAddr, only: Option<&str>, now: Instant) {
        self.expire(now);
        let seen = Seen::Listed {
            number: self.number,
            at: now,
            only: only.map(Box::from),
        };
        if self.connections.len() >= CONNECTIONS {
            self.connections.retain(|_, seen| match seen {
                Seen::Listed { at, .. } => now < *at + AGE,
                Seen::Streams(_) => true,
            });
        }
        let is_full = self.connections.len() >= CONNECTIONS;
        match self.connections.get_mut(&connection) {
            Some(Seen::Streams(_)) => {}
            // One object more is no news of the others.
            Some(Seen::Listed { only: None, .. }) if only.is_some() => {}
            Some(known) => *known = seen,
            None if is_full => {}
            None => {
                self.connections.insert(connection, seen);
            }
        }
    }

    /// Notes a stream of a connection, and tells what it has to begin with. Without a list it begins with nothing.
    ///
    /// # Errors
    /// There may be changes that nobody can tell any more. The connection's next stream is as one without a list.
    pub(super) fn opened(
        &mut self,
        connection: SocketAddr,
        namespace: &str,
    ) -> Result<Opening<K>, Forgotten> {
        let (streams, opening) = match self.connections.remove(&connection) {
            None => (0, Opening::default()),
            Some(Seen::Listed { number, only, .. }) => {
                let missed = self.since(number, namespace)?;
                (0, Opening { missed, only })
            }
            Some(Seen::Streams(count)) => (count, Opening::default()),
        };
        self.connections
            .insert(connection, Seen::Streams(streams + 1));
        Ok(opening)
    }

    /// Notes that a stream of a connection ended.
    pub(super) fn closed(&mut self, connection: SocketAddr) {
        match self.connections.get_mut(&connection) {
            Some(Seen::Streams(count)) if *count > 1 => *count -= 1,
            Some(Seen::Streams(_)) => {
                self.connections.remove(&connection);
            }
            Some(Seen::Listed { .. }) | None => {}
        }
    }

    fn since(
        &self,
        number: u64,
        namespace: &str,
    ) -> Result<BTreeMap<Box<str>, Missed<K>>, Forgotten> {
        let mut missed = BTreeMap::<Box<str>, Missed<K>>::new();
        let forgotten = self.changes.front().map_or(self.number, |it| it.number - 1);
        if number < forgotten {
            return Err(Forgotten);
        }
        let changes = self.changes.iter().rev();
        let changes = changes.take_while(|change| change.number > number);
        // From the latest to the first, so that what was there before the first stays.
        for change in changes.filter(|change| &*change.namespace == namespace) {
            let has_news = missed.get(&change.name).is_some_and(|it| it.has_news);
            let found = Missed {
                before: change.before.clone(),
                has_news: has_news || change.has_news,
            };
            missed.insert(change.name.clone(), found);
        }
        Ok(missed)
    }

    fn expire(&mut self, now: Instant) {
        let is_over = |this: &Self, first: &Change<K>| {
            this.changes.len() >= CHANGES || this.bytes > BYTES || now >= first.at + AGE
        };
        while self
            .changes
            .front()
            .is_some_and(|first| is_over(self, first))
        {
            let first = self.changes.pop_front().and_then(|change| change.before);
            self.bytes -= first.map_or(0, |it| it.size());
        }
    }
}

#[cfg(test)]
mod tests {
    use dapr_crds::Component;
    use serde_json::json;

    use super::*;

    const PLACE: (&str, &str) = ("default", "store");

    fn version(text: &str) -> Option<Arc<Version<Component>>> {
        let object: Component =
            serde_json::from_value(json!({"spec": {"version": text}})).expect("a component");
        Some(Arc::new(Version::new(Arc::new(object)).expect("JSON")))
    }

    fn connection(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Names of what was missed, and the versions before.
    fn opened(recent: &mut Recent<Component>, port: u16, namespace: &str) -> Vec<(String, String)> {
        let opening = recent.opened(connection(port), namespace);
        let missed = opening.expect("it is known").missed;
        let text = |before: Option<Arc<Version<Component>>>| {
            before.map_or_else(String::new, |it| it.object().spec.version.clone())
        };
        let missed = missed.into_iter();
        missed
            .map(|(name, it)| (name.into(), text(it.before)))
            .collect()
    }

    #[test]
    fn what_came_between_list_and_stream_is_missed() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        recent.changed(PLACE, None, false, now);
        recent.listed(connection(1), None, now);
        recent.changed(PLACE, version("1"), false, now);
        recent.changed(PLACE, version("2"), false, now);
        recent.changed(("other", "store"), None, false, now);
        recent.listed(connection(2), None, now);
        let missed = [("store".to_owned(), "1".to_owned())];
        assert_eq!(opened(&mut recent, 1, "default"), missed);
        assert!(opened(&mut recent, 2, "default").is_empty(), "listed after");
        assert!(opened(&mut recent, 3, "default").is_empty(), "never listed");
    }

    #[test]
    fn one_object_is_no_list() {
        let (mut recent, now) = (Recent::<Component>::default(), Instant::now());
        let only = |recent: &mut Recent<Component>| {
            let opening = recent
                .opened(connection(1), "default")
                .expect("it is known");
            recent.closed(connection(1));
            (opening.missed.len(), opening.only)
        };
        recent.listed(connection(1), Some("store"), now);
        recent.changed(PLACE, None, false, now);
        assert_eq!(only(&mut recent), (1, Some("store".into())));
        recent.listed(connection(1), None, now);
        recent.changed(PLACE, None, false, now);
        recent.listed(connection(1), Some("store"), now);
        assert_eq!(only(&mut recent), (1, None));
    }

    #[test]
    fn an_open_stream_misses_nothing() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        recent.listed(connection(1), None, now);
        opened(&mut recent, 1, "default");
        recent.listed(connection(1), None, now);
        recent.changed(PLACE, None, false, now);
        assert!(opened(&mut recent, 1, "default").is_empty());
        recent.closed(connection(1));
        recent.closed(connection(1));
        assert!(recent.connections.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_not_told_in_parts() {
        let mut recent = Recent::default();
        recent.listed(connection(1), None, Instant::now());
        recent.listed(connection(2), None, Instant::now());
        for _ in 0..CHANGES {
            recent.changed(PLACE, version("1"), false, Instant::now());
        }
        assert_eq!(opened(&mut recent, 1, "default").len(), 1);
        recent.changed(PLACE, version("1"), false, Instant::now());
        let refused = recent.opened(connection(2), "default").expect_err("gone");
        assert_eq!(refused, Forgotten);
        // It lists again, and the stream before that tells what comes.
        assert!(opened(&mut recent, 2, "default").is_empty());
        tokio::time::advance(AGE).await;
        recent.changed(PLACE, version("1"), false, Instant::now());
        assert_eq!(recent.changes.len(), 1);
        let size = recent.bytes;
        recent.changed(PLACE, version(&"x".repeat(BYTES)), false, Instant::now());
        assert_eq!((recent.changes.len(), recent.bytes > BYTES), (1, true));
        recent.changed(PLACE, version("1"), false, Instant::now());
        assert_eq!((recent.changes.len(), recent.bytes), (1, size));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_forgotten() {
        let mut recent = Recent::<Component>::default();
        for index in 0..u32::try_from(CONNECTIONS).expect("fits") + 5 {
            let address = SocketAddr::from((index.to_be_bytes(), 1));
            recent.listed(address, None, Instant::now());
        }
        assert_eq!(recent.connections.len(), CONNECTIONS);
        tokio::time::advance(AGE).await;
        recent.listed(connection(1), None, Instant::now());
        assert_eq!(recent.connections.len(), 1);
    }
}
