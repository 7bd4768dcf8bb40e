//! Everything the server holds: objects, and the history watches go on from. Pure; the clock of this world is the
//! number of its last change.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{Name, Resource, Stored, set, unset};

/// How many changes are remembered. A watch that is further behind starts over.
const HISTORY: usize = 50_000;

/// Whether objects and lists carry versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// As a real server: `resourceVersion`, `uid`, `creationTimestamp` and `generation` are the server's.
    On,
    /// Nowhere, and metadata is what the client wrote.
    Off,
}

#[derive(Debug)]
pub(super) struct Store {
    versions: Versions,
    collections: BTreeMap<Resource, BTreeMap<Name, Arc<Stored>>>,
    kinds: BTreeMap<Resource, String>,
    history: VecDeque<Arc<Event>>,
    last: u64,
    /// Changes up to this one are forgotten.
    forgotten: u64,
}

/// A change.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) number: u64,
    pub(super) resource: Resource,
    pub(super) name: Name,
    pub(super) old: Option<Arc<Stored>>,
    /// For a deletion the last state, at the version of the deletion.
    pub(super) new: Arc<Stored>,
    pub(super) deleted: bool,
}

/// Why a write is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    Exists,
    Conflict,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Nothing,
    Something,
    Whatever,
}

impl Store {
    pub(super) fn new(versions: Versions) -> Self {
        Self {
            versions,
            collections: BTreeMap::new(),
            kinds: BTreeMap::new(),
            history: VecDeque::new(),
            last: 1,
            forgotten: 1,
        }
    }

    pub(super) fn versions(&self) -> Versions {
        self.versions
    }

    /// The number of the last change.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn get(&self, resource: &Resource, name: &Name) -> Option<&Arc<Stored>> {
        self.collections.get(resource)?.get(name)
    }

    /// The objects of a collection; an empty namespace means all.
    pub(super) fn list<'a>(
        &'a self,
        resource: &Resource,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a Arc<Stored>)> {
        let objects = self.collections.get(resource).into_iter().flatten();
        objects.filter(move |(name, _)| namespace.is_empty() || name.namespace == namespace)
    }

    /// The kind of a resource, if an object told it.
    pub(super) fn kind(&self, resource: &Resource) -> Option<String> {
        self.kinds.get(resource).cloned()
    }

    /// Changes after `number`, in order.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.history.partition_point(|event| event.number <= number);
        self.history.iter().skip(start)
    }

    /// Forgets all history: watches from an older version are refused.
    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.forgotten = self.last;
    }

    /// Forgets everything, numbers included, like a server on a new disk.
    pub(super) fn wipe(&mut self) {
        *self = Self::new(self.versions);
    }

    /// Writes an object. A version in its metadata must be the current one, where there are versions.
    pub(super) fn write(
        &mut self,
        resource: &Resource,
        mut object: Value,
        expect: Expect,
    ) -> Result<Arc<Stored>, Refusal> {
        let name = Name::of(&object);
        let old = self.get(resource, &name).cloned();
        match (&old, expect) {
            (Some(_), Expect::Nothing) => return Err(Refusal::Exists),
            (None, Expect::Something) => return Err(Refusal::NotFound),
            _ => {}
        }
        if self.versions == Versions::On {
            let wanted = object["metadata"]["resourceVersion"]
                .as_str()
                .filter(|version| !version.is_empty());
            let current = old.as_ref().and_then(|old| old.metadata("resourceVersion"));
            if let (Some(wanted), Some(current)) = (wanted, current)
                && wanted != current
            {
                return Err(Refusal::Conflict);
            }
        }
        if let Some(kind) = object["kind"].as_str() {
            self.kinds
                .entry(resource.clone())
                .or_insert_with(|| kind.to_owned());
        }
        self.stamp(&mut object, old.as_deref());
        if let Some(old) = &old
            && unstamped(&old.value) == unstamped(&object)
        {
            // A real server keeps the version of an object that a write does not change.
            return Ok(Arc::clone(old));
        }
        let new = Arc::new(Stored::new(object));
        self.remember(resource.clone(), name.clone(), old, Arc::clone(&new), false);
        self.collections
            .entry(resource.clone())
            .or_default()
            .insert(name, Arc::clone(&new));
        Ok(new)
    }

    pub(super) fn delete(&mut self, resource: &Resource, name: &Name) -> Option<Arc<Stored>> {
        let old = self.collections.get_mut(resource)?.remove(name)?;
        let last = match self.versions {
            Versions::On => Arc::new(old.deleted_at(self.last + 1)),
            Versions::Off => Arc::clone(&old),
        };
        self.remember(
            resource.clone(),
            name.clone(),
            Some(Arc::clone(&old)),
            last,
            true,
        );
        Some(old)
    }

    fn remember(
        &mut self,
        resource: Resource,
        name: Name,
        old: Option<Arc<Stored>>,
        new: Arc<Stored>,
        deleted: bool,
    ) {
        self.last += 1;
        self.history.push_back(Arc::new(Event {
            number: self.last,
            resource,
            name,
            old,
            new,
            deleted,
        }));
        if self.history.len() > HISTORY
            && let Some(event) = self.history.pop_front()
        {
            self.forgotten = event.number;
        }
    }

    /// Sets what is the server's to set.
    fn stamp(&self, object: &mut Value, old: Option<&Stored>) {
        let number = self.last + 1;
        if self.versions == Versions::Off {
            unset(object, "resourceVersion");
            return;
        }
        let kept = |field: &str| old.and_then(|old| old.value["metadata"].get(field).cloned());
        let uid =
            kept("uid").unwrap_or_else(|| json!(format!("00000000-0000-4000-8000-{number:012x}")));
        let generation = old
            .and_then(|old| old.value["metadata"]["generation"].as_u64())
            .unwrap_or(0);
        let same_spec = old.is_some_and(|old| old.value.get("spec") == object.get("spec"));
        set(object, "resourceVersion", json!(number.to_string()));
        set(object, "uid", uid);
        set(
            object,
            "creationTimestamp",
            kept("creationTimestamp").unwrap_or_else(|| json!("2026-01-01T00:00:00Z")),
        );
        set(
            object,
            "generation",
            json!(if same_spec {
                generation
            } else {
                generation + 1
            }),
        );
    }
}

fn unstamped(object: &Value) -> Value {
    let mut object = object.clone();
    unset(&mut object, "resourceVersion");
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, image: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": name}, "spec": {"image": image}})
    }

    fn write(store: &mut Store, object: Value, expect: Expect) -> Result<Arc<Stored>, Refusal> {
        store.write(&Resource::of(&object), object, expect)
    }

    #[test]
    fn every_change_has_a_version() {
        let mut store = Store::new(Versions::On);
        let first = write(&mut store, pod("x", "1"), Expect::Nothing).expect("written");
        let same = write(&mut store, pod("x", "1"), Expect::Something).expect("written");
        assert_eq!(
            first.metadata("resourceVersion"),
            same.metadata("resourceVersion")
        );
        let second = write(&mut store, pod("x", "2"), Expect::Something).expect("written");
        assert_eq!(second.metadata("resourceVersion"), Some("3"));
        assert_eq!(first.metadata("uid"), second.metadata("uid"));
        assert_eq!(second.value["metadata"]["generation"], json!(2));
        let name = Name::of(&second.value);
        store
            .delete(&Resource::of(&second.value), &name)
            .expect("deleted");
        let numbers: Vec<_> = store
            .since(2)
            .map(|event| (event.number, event.deleted))
            .collect();
        assert_eq!(numbers, [(3, false), (4, true)]);
        let last = store.since(3).next().expect("the deletion");
        assert_eq!(last.new.metadata("resourceVersion"), Some("4"));
        assert_eq!(store.last(), 4);
    }

    #[test]
    fn writes_are_refused_for_a_reason() {
        let mut store = Store::new(Versions::On);
        assert_eq!(
            write(&mut store, pod("x", "1"), Expect::Something).err(),
            Some(Refusal::NotFound)
        );
        let first = write(&mut store, pod("x", "1"), Expect::Nothing).expect("written");
        assert_eq!(
            write(&mut store, pod("x", "2"), Expect::Nothing).err(),
            Some(Refusal::Exists)
        );
        write(&mut store, pod("x", "2"), Expect::Whatever).expect("last write wins");
        let mut stale = first.value.clone();
        stale["spec"]["image"] = json!("3");
        assert_eq!(
            write(&mut store, stale, Expect::Something).err(),
            Some(Refusal::Conflict)
        );
    }

    #[test]
    fn without_versions_there_are_none() {
        let mut store = Store::new(Versions::Off);
        let stored = write(&mut store, pod("x", "1"), Expect::Whatever).expect("written");
        assert_eq!(stored.value, pod("x", "1"));
        assert!(!stored.item.contains("kind"));
    }

    #[test]
    fn history_is_forgotten_on_demand() {
        let mut store = Store::new(Versions::On);
        write(&mut store, pod("x", "1"), Expect::Whatever).expect("written");
        store.compact();
        assert_eq!((store.forgotten(), store.last()), (2, 2));
        assert_eq!(store.since(0).count(), 0);
        store.wipe();
        assert_eq!(store.list(&Resource::of(&pod("x", "1")), "").count(), 0);
    }
}
