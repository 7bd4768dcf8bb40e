//! What the replicas agree on: the hosts of every namespace with their version, and how an entry of the log
//! changes them.
//!
//! Pure: no log, no network. How entries are agreed on is in `raft`; when one is needed decides `dissemination`.

use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A `Host` as protobuf. Cloning shares the bytes, so that log, tables and orders hold one copy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Encoded(pub(crate) Bytes);

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octets;
        impl Visitor<'_> for Octets {
            type Value = Encoded;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Encoded, E> {
                Ok(Encoded(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Encoded, E> {
                Ok(Encoded(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Octets)
    }
}

/// What a new version of a table brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) version: u64,
    pub(crate) replication_factor: i64,
    /// By the id of the stream that reported them first.
    pub(crate) put: BTreeMap<u64, Encoded>,
    pub(crate) removed: BTreeSet<u64>,
}

impl Step {
    /// Adds a step that was taken after this one.
    pub(crate) fn merge(&mut self, later: Self) {
        let Self {
            version,
            replication_factor,
            put,
            removed,
        } = later;
        self.version = version;
        self.replication_factor = replication_factor;
        for id in removed {
            self.put.remove(&id);
            self.removed.insert(id);
        }
        for (id, host) in put {
            self.removed.remove(&id);
            self.put.insert(id, host);
        }
    }
}

/// A change of one namespace. `life` tells a namespace from one that had its name before its last stream left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) namespace: String,
    pub(crate) life: u64,
    /// None ends the life.
    pub(crate) step: Option<Step>,
}

/// An entry of the log: the changes that were waiting when it was proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) changes: Vec<Change>,
    /// When the replica was started whose list of replicas counts from now on.
    pub(crate) roster: Option<u64>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes", self.changes.len())
    }
}

/// One namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespace {
    pub(crate) life: u64,
    pub(crate) version: u64,
    pub(crate) replication_factor: i64,
    pub(crate) hosts: BTreeMap<u64, Encoded>,
}

impl Namespace {
    fn apply(&mut self, step: Step) {
        let Step {
            version,
            replication_factor,
            put,
            removed,
        } = step;
        self.version = version;
        self.replication_factor = replication_factor;
        for id in removed {
            self.hosts.remove(&id);
        }
        self.hosts.extend(put);
    }
}

/// Everything that was agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tables {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// The greatest id of a life or a host so far; those of a new leader start above it.
    pub(crate) last_id: u64,
    /// When the replica was started whose list of replicas counts.
    pub(crate) roster: u64,
}

/// A snapshot is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("snapshot of the tables cannot be read")]
pub(crate) struct Unreadable(#[source] postcard::Error);

impl Tables {
    /// Applies an entry; every replica comes to the same tables.
    pub(crate) fn apply(&mut self, Entry { changes, roster }: Entry) {
        self.roster = self.roster.max(roster.unwrap_or_default());
        for Change {
            namespace,
            life,
            step,
        } in changes
        {
            self.last_id = self.last_id.max(life);
            match (self.namespaces.entry(namespace), step) {
                (place, Some(step)) => {
                    let last_host = step.put.last_key_value().map_or(0, |(id, _)| *id);
                    self.last_id = self.last_id.max(last_host);
                    let known = place.or_default();
                    // A straggler of a life that is over.
                    if known.life > life {
                        continue;
                    }
                    if known.life < life {
                        *known = Namespace {
                            life,
                            ..Namespace::default()
                        };
                    }
                    known.apply(step);
                }
                (Place::Occupied(place), None) if place.get().life == life => {
                    place.remove();
                }
                (Place::Occupied(_) | Place::Vacant(_), None) => {}
            }
        }
    }

    pub(crate) fn encode(&self) -> Result<Bytes, Unreadable> {
        postcard::to_allocvec(self)
            .map(Bytes::from)
            .map_err(Unreadable)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (tables, rest) = postcard::take_from_bytes(bytes).map_err(Unreadable)?;
        if rest.is_empty() {
            Ok(tables)
        } else {
            Err(Unreadable(postcard::Error::custom("bytes are left over")))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(version: u64, put: &[u64], removed: &[u64]) -> Step {
        Step {
            version,
            replication_factor: 100,
            put: put
                .iter()
                .map(|id| (*id, Encoded(Bytes::from(format!("host {id} of {version}")))))
                .collect(),
            removed: removed.iter().copied().collect(),
        }
    }

    fn change(life: u64, step: Option<Step>) -> Change {
        Change {
            namespace: "n".to_owned(),
            life,
            step,
        }
    }

    fn entry(changes: Vec<Change>) -> Entry {
        Entry {
            changes,
            roster: None,
        }
    }

    /// `life:version:ids`, or nothing.
    fn check(changes: &[Change], expected: Option<&str>) {
        let mut tables = Tables::default();
        tables.apply(entry(changes.to_vec()));
        let found = tables.namespaces.get("n").map(|namespace| {
            let ids: Vec<String> = namespace.hosts.keys().map(u64::to_string).collect();
            format!("{}:{}:{}", namespace.life, namespace.version, ids.join(","))
        });
        assert_eq!(found.as_deref(), expected);
        let encoded = tables.encode().expect("encodes");
        assert_eq!(Tables::decode(&encoded).expect("decodes"), tables);
    }

    #[test]
    fn lives() {
        let first = change(1, Some(step(1, &[2, 3], &[])));
        check(&[], None);
        check(std::slice::from_ref(&first), Some("1:1:2,3"));
        let next = change(1, Some(step(2, &[4], &[2])));
        check(&[first.clone(), next.clone()], Some("1:2:3,4"));
        check(&[first.clone(), change(1, None)], None);
        // A new life knows nothing of the one before, which cannot disturb it any more.
        let second = change(9, Some(step(1, &[10], &[])));
        check(&[first.clone(), second.clone()], Some("9:1:10"));
        check(&[first.clone(), second.clone(), next], Some("9:1:10"));
        check(&[first, second, change(1, None)], Some("9:1:10"));
    }

    #[test]
    fn ids_are_never_forgotten() {
        let mut tables = Tables::default();
        tables.apply(entry(vec![change(1, Some(step(1, &[7], &[])))]));
        tables.apply(entry(vec![change(1, None)]));
        assert_eq!(tables.last_id, 7);
    }

    #[test]
    fn a_torn_snapshot_is_refused() {
        let mut tables = Tables::default();
        tables.apply(entry(vec![change(1, Some(step(1, &[7], &[])))]));
        let encoded = tables.encode().expect("encodes");
        assert!(Tables::decode(&encoded[..encoded.len() - 1]).is_err());
        assert!(Tables::decode(&[&encoded[..], b"x"].concat()).is_err());
    }

    proptest! {
        #[test]
        fn merged_steps_lead_where_single_ones_do(
            steps in prop::collection::vec((prop::collection::vec(1u64..6, 0..4), prop::collection::vec(1u64..6, 0..4)), 1..6),
        ) {
            let steps: Vec<Step> = (1..).zip(steps).map(|(version, (put, removed))| {
                // A step does not name one host twice.
                let removed: Vec<u64> = removed.into_iter().filter(|id| !put.contains(id)).collect();
                step(version, &put, &removed)
            }).collect();
            let mut single = Tables::default();
            single.apply(entry(steps.iter().map(|step| change(1, Some(step.clone()))).collect()));
            let mut merged = steps[0].clone();
            steps[1..].iter().for_each(|step| merged.merge(step.clone()));
            let mut at_once = Tables::default();
            at_once.apply(entry(vec![change(1, Some(merged))]));
            prop_assert_eq!(single.namespaces, at_once.namespaces);
        }
    }
}
