//! The placement table: a ring for each actor type, built so that what did not change is not built again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::ring::{Host, Points, Ring};

/// Most virtual nodes per host; placement's flag has a thousandth of it. Guards the memory of this process.
const MAX_REPLICATION: i64 = 100_000;

/// A table that cannot be installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Negative or absurdly large.
    #[error("replication factor {0} is not between 0 and {MAX_REPLICATION}")]
    Replication(i64),
}

/// Where the actors of each type live.
#[derive(Debug, Default)]
pub struct Table {
    rings: BTreeMap<Arc<str>, Arc<Ring>>,
    points: Points,
}

/// A table with the types whose ring differs from the one before, added and removed ones included.
#[derive(Debug)]
pub struct Next {
    /// The new table.
    pub table: Table,
    /// Types to be locked until the round ends.
    pub changed: BTreeSet<Arc<str>>,
}

impl Table {
    /// The ring of a type; `None` if no host has reported it.
    pub fn ring(&self, actor_type: &str) -> Option<&Arc<Ring>> {
        self.rings.get(actor_type)
    }

    /// The table that follows this one. Types with the same hosts share one ring, and a ring whose hosts
    /// and replication did not change is taken over.
    pub fn next(
        &self,
        entries: impl IntoIterator<Item = (Arc<str>, Vec<Host>)>,
        replication: i64,
    ) -> Result<Next, Error> {
        let replication = u32::try_from(replication)
            .ok()
            .filter(|factor| i64::from(*factor) <= MAX_REPLICATION)
            .ok_or(Error::Replication(replication))?;
        let mut points = Points::new(replication);
        let mut known: HashMap<Vec<Host>, Arc<Ring>> = HashMap::new();
        for ring in self.rings.values() {
            if ring.replication() == replication && !known.contains_key(ring.hosts()) {
                known.insert(ring.hosts().to_vec(), Arc::clone(ring));
            }
        }
        let mut rings = BTreeMap::new();
        for (actor_type, mut hosts) in entries {
            hosts.sort();
            for host in &hosts {
                points.adopt(&self.points, &host.name);
            }
            let ring = match known.get(&hosts) {
                Some(ring) => Arc::clone(ring),
                None => {
                    let ring = Arc::new(Ring::new(hosts.clone(), &mut points));
                    known.insert(hosts, Arc::clone(&ring));
                    ring
                }
            };
            rings.insert(actor_type, ring);
        }
        let changed = changed(&self.rings, &rings);
        Ok(Next {
            table: Self { rings, points },
            changed,
        })
    }
}

/// Equal host sets share a ring, so types differ exactly if their rings are not the same object.
fn changed(
    old: &BTreeMap<Arc<str>, Arc<Ring>>,
    new: &BTreeMap<Arc<str>, Arc<Ring>>,
) -> BTreeSet<Arc<str>> {
    let differs = |name: &Arc<str>| match (old.get(name), new.get(name)) {
        (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
        (_, _) => true,
    };
    old.keys()
        .chain(new.keys())
        .filter(|name| differs(name))
        .map(Arc::clone)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, app_id: &str) -> Host {
        Host {
            name: name.into(),
            app_id: app_id.into(),
            port: 0,
            local: false,
        }
    }

    fn next(table: &Table, entries: &[(&str, &[Host])], replication: i64) -> Next {
        let entries = entries
            .iter()
            .map(|(name, hosts)| (Arc::from(*name), hosts.to_vec()));
        table.next(entries, replication).expect("valid")
    }

    fn names(next: &Next) -> Vec<&str> {
        next.changed.iter().map(|name| &**name).collect()
    }

    #[test]
    fn only_types_with_other_hosts_change() {
        let a = host("a:1", "app");
        let b = host("b:1", "app");
        let first = next(
            &Table::default(),
            &[
                ("x", std::slice::from_ref(&a)),
                ("y", std::slice::from_ref(&a)),
            ],
            10,
        );
        assert_eq!(names(&first), ["x", "y"]);
        let x = first.table.ring("x").expect("x");
        assert!(Arc::ptr_eq(x, first.table.ring("y").expect("y")));

        let second = next(
            &first.table,
            &[
                ("x", std::slice::from_ref(&a)),
                ("y", &[b.clone(), a.clone()]),
            ],
            10,
        );
        assert_eq!(names(&second), ["y"]);
        assert!(Arc::ptr_eq(x, second.table.ring("x").expect("x")));

        let third = next(&second.table, &[("y", &[a, b]), ("z", &[])], 10);
        assert_eq!(names(&third), ["x", "z"]);
    }

    #[test]
    fn another_app_id_or_replication_is_a_change() {
        let first = next(&Table::default(), &[("x", &[host("a:1", "one")])], 10);
        let id = next(&first.table, &[("x", &[host("a:1", "two")])], 10);
        assert_eq!(names(&id), ["x"]);
        let factor = next(&first.table, &[("x", &[host("a:1", "one")])], 11);
        assert_eq!(names(&factor), ["x"]);
        let same = next(&first.table, &[("x", &[host("a:1", "one")])], 10);
        assert!(same.changed.is_empty());
    }

    #[test]
    fn absurd_replication_is_refused() {
        for factor in [-1, MAX_REPLICATION + 1, i64::MAX] {
            let result = Table::default().next([], factor);
            assert_eq!(result.err(), Some(Error::Replication(factor)));
        }
    }
}
