//! The items with their indexes, free of locks and clocks: time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use dapr_components_core::state::Item;
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

/// When an item ends: on the clock that decides, and on the one that users are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    pub(super) at: Instant,
    pub(super) told: Timestamp,
}

/// What must hold for a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    None,
    /// There is no entry. An expired one that is not purged yet still counts, as upstream has it.
    Absent,
    /// There is a live entry with this etag.
    Etag(String),
}

#[derive(Debug)]
pub(super) enum Write {
    Upsert {
        key: String,
        data: Bytes,
        expiry: Option<Expiry>,
        condition: Condition,
    },
    Delete {
        key: String,
        condition: Condition,
    },
}

/// A condition did not hold. The texts are the original's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("item already exists and no etag was passed")]
    Exists,
    #[error("state not exist or expired for key={0}")]
    Missing(String),
    #[error("state etag not match for key={key}: current={current}, expect={expected}")]
    Other {
        key: String,
        current: String,
        expected: String,
    },
}

#[derive(Debug)]
struct Entry {
    data: Bytes,
    etag: String,
    expiry: Option<Expiry>,
    /// Place in the order of insertion; a rewrite keeps it.
    index: u64,
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expiry.is_none_or(|expiry| now < expiry.at)
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Arc<str>, Entry>,
    by_index: BTreeMap<u64, Arc<str>>,
    by_expiry: BTreeSet<(Instant, Arc<str>)>,
    next_index: u64,
}

impl Table {
    pub(super) fn get(&self, key: &str, now: Instant) -> Option<Item> {
        let entry = self.entries.get(key).filter(|entry| entry.is_live(now))?;
        let expiry = entry.expiry.map(|expiry| {
            let text = expiry.told.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            ("ttlExpireTime".to_owned(), text)
        });
        Some(Item {
            data: entry.data.clone(),
            etag: Some(entry.etag.clone()),
            metadata: expiry.into_iter().collect(),
        })
    }

    /// Applies all writes in order, or none when a condition does not hold before the first.
    pub(super) fn apply(&mut self, writes: Vec<Write>, now: Instant) -> Result<(), Mismatch> {
        for write in &writes {
            self.check(write, now)?;
        }
        for write in writes {
            match write {
                Write::Upsert {
                    key, data, expiry, ..
                } => self.upsert(key, data, expiry),
                Write::Delete { key, .. } => self.remove(&key),
            }
        }
        Ok(())
    }

    fn check(&self, write: &Write, now: Instant) -> Result<(), Mismatch> {
        let (Write::Upsert { key, condition, .. } | Write::Delete { key, condition }) = write;
        let entry = self.entries.get(key.as_str());
        match condition {
            Condition::None => Ok(()),
            Condition::Absent if entry.is_none() => Ok(()),
            Condition::Absent => Err(Mismatch::Exists),
            Condition::Etag(expected) => match entry.filter(|entry| entry.is_live(now)) {
                None => Err(Mismatch::Missing(key.clone())),
                Some(entry) if entry.etag == *expected => Ok(()),
                Some(entry) => Err(Mismatch::Other {
                    key: key.clone(),
                    current: entry.etag.clone(),
                    expected: expected.clone(),
                }),
            },
        }
    }

    fn upsert(&mut self, key: String, data: Bytes, expiry: Option<Expiry>) {
        let etag = Uuid::new_v4().to_string();
        if let Some((key, entry)) = self.entries.get_key_value(key.as_str()) {
            let key = Arc::clone(key);
            self.index_expiry(&key, entry.expiry, expiry);
            if let Some(entry) = self.entries.get_mut(&key) {
                *entry = Entry {
                    data,
                    etag,
                    expiry,
                    index: entry.index,
                };
            }
            return;
        }
        let key: Arc<str> = key.into();
        let index = self.next_index;
        self.next_index += 1;
        self.by_index.insert(index, Arc::clone(&key));
        self.index_expiry(&key, None, expiry);
        self.entries.insert(
            key,
            Entry {
                data,
                etag,
                expiry,
                index,
            },
        );
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.by_index.remove(&entry.index);
            self.index_expiry(&key, entry.expiry, None);
        }
    }

    fn index_expiry(&mut self, key: &Arc<str>, old: Option<Expiry>, new: Option<Expiry>) {
        if let Some(old) = old {
            self.by_expiry.remove(&(old.at, Arc::clone(key)));
        }
        if let Some(new) = new {
            self.by_expiry.insert((new.at, Arc::clone(key)));
        }
    }

    /// Removes what has expired.
    pub(super) fn purge(&mut self, now: Instant) {
        while let Some((at, key)) = self.by_expiry.first() {
            if *at > now {
                return;
            }
            let key = Arc::clone(key);
            self.remove(&key);
        }
    }

    /// At most `limit` live keys from index `from` on, and the index of the next one.
    pub(super) fn list(
        &self,
        matches: impl Fn(&str) -> bool,
        from: u64,
        limit: usize,
        now: Instant,
    ) -> (Vec<String>, Option<u64>) {
        let is_live = |key: &Arc<str>| {
            self.entries
                .get(key)
                .is_some_and(|entry| entry.is_live(now))
        };
        let mut found = self
            .by_index
            .range(from..)
            .filter(|(_, key)| matches(key) && is_live(key));
        let keys = found
            .by_ref()
            .take(limit)
            .map(|(_, key)| key.to_string())
            .collect();
        (keys, found.next().map(|(index, _)| *index))
    }

    /// Deletes the keys for which `matches` holds and counts them.
    pub(super) fn delete_where(&mut self, matches: impl Fn(&str) -> bool) -> u64 {
        let keys: Vec<_> = self
            .entries
            .keys()
            .filter(|key| matches(key))
            .map(Arc::clone)
            .collect();
        for key in &keys {
            self.remove(key);
        }
        keys.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn upsert(key: &str, ttl: Option<u64>, now: Instant, condition: Condition) -> Write {
        let expiry = ttl.map(|ttl| Expiry {
            at: now + Duration::from_secs(ttl),
            told: Timestamp::UNIX_EPOCH,
        });
        Write::Upsert {
            key: key.to_owned(),
            data: Bytes::from_static(b"1"),
            expiry,
            condition,
        }
    }

    #[test]
    fn an_expired_entry_is_missing_but_blocks_a_first_write_until_the_purge() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let mut table = Table::default();
        table
            .apply(vec![upsert("a", Some(5), start, Condition::None)], start)
            .expect("no condition");
        let etag = table
            .get("a", start)
            .and_then(|item| item.etag)
            .expect("etag");
        assert_eq!(table.get("a", later), None);
        let by_etag = upsert("a", None, later, Condition::Etag(etag));
        assert_eq!(
            table.apply(vec![by_etag], later),
            Err(Mismatch::Missing("a".to_owned()))
        );
        let first = || vec![upsert("a", None, later, Condition::Absent)];
        assert_eq!(table.apply(first(), later), Err(Mismatch::Exists));
        table.purge(later);
        assert_eq!(table.apply(first(), later), Ok(()));
    }

    #[test]
    fn conditions_hold_before_the_first_write_or_nothing_is_applied() {
        let now = Instant::now();
        let mut table = Table::default();
        let twice = || {
            vec![
                upsert("a", None, now, Condition::Absent),
                upsert("a", None, now, Condition::Absent),
            ]
        };
        assert_eq!(
            table.apply(twice(), now),
            Ok(()),
            "both look at the state before"
        );
        let mixed = vec![
            upsert("b", None, now, Condition::None),
            upsert("a", None, now, Condition::Absent),
        ];
        assert_eq!(table.apply(mixed, now), Err(Mismatch::Exists));
        assert_eq!(table.get("b", now), None);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Upsert(u8, Option<u64>),
        Delete(u8),
        Wait(u64),
        Purge,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..6u8, proptest::option::of(1..5u64)).prop_map(|(key, ttl)| Event::Upsert(key, ttl)),
            (0..6u8).prop_map(Event::Delete),
            (1..4u64).prop_map(Event::Wait),
            Just(Event::Purge),
        ]
    }

    proptest! {
        #[test]
        fn the_indexes_agree_with_the_entries(events in proptest::collection::vec(event(), 0..60)) {
            let mut now = Instant::now();
            let mut table = Table::default();
            for event in events {
                match event {
                    Event::Upsert(key, ttl) => {
                        let write = upsert(&key.to_string(), ttl, now, Condition::None);
                        prop_assert_eq!(table.apply(vec![write], now), Ok(()));
                    }
                    Event::Delete(key) => table.remove(&key.to_string()),
                    Event::Wait(seconds) => now += Duration::from_secs(seconds),
                    Event::Purge => {
                        table.purge(now);
                        prop_assert!(table.entries.values().all(|entry| entry.is_live(now)));
                    }
                }
                prop_assert_eq!(table.by_index.len(), table.entries.len());
                let expiring = table.entries.values().filter(|entry| entry.expiry.is_some()).count();
                prop_assert_eq!(table.by_expiry.len(), expiring);
                for (index, key) in &table.by_index {
                    prop_assert_eq!(table.entries.get(key).map(|entry| entry.index), Some(*index));
                }
            }
        }
    }
}
