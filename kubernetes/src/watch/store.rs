//! The last known objects, and what changes when a new version arrives. Pure: no clock, no server.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::wire::Identity;

/// The objects of one kind by namespace and name.
#[derive(Debug)]
pub(super) struct Store<K> {
    namespaces: BTreeMap<Box<str>, BTreeMap<Box<str>, Entry<K>>>,
    len: usize,
    /// Objects that could not be read, with the reason that was logged.
    unreadable: BTreeMap<Key, Entry<str>>,
    /// Grows with every list; what a complete list did not show is gone.
    list: u64,
}

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

#[derive(Debug)]
struct Entry<K: ?Sized> {
    version: Option<Box<str>>,
    uid: Option<Box<str>>,
    list: u64,
    object: Arc<K>,
}

/// An object that the server has and that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its namespace; empty for cluster-wide objects.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its unique id, if it has one.
    pub uid: Option<Box<str>>,
    /// Why it cannot be read. Nothing of the object's values is in it.
    pub reason: Arc<str>,
}

/// What putting an object changed.
#[derive(Debug, PartialEq)]
pub(super) enum Put<K> {
    Unchanged,
    Changed { old: Option<Arc<K>>, new: Arc<K> },
}

/// How a version relates to the stored one of the same object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Certainly older: the same object, and both versions are numbers.
    Older,
    /// Newer, the same, or not to be compared.
    Current,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            len: 0,
            unreadable: BTreeMap::new(),
            list: 0,
        }
    }
}

impl<K> Store<K> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        Some(Arc::clone(
            &self.namespaces.get(namespace)?.get(name)?.object,
        ))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.namespaces
            .values()
            .flatten()
            .map(|(_, entry)| &entry.object)
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let names = self.namespaces.get(namespace);
        names.into_iter().flatten().map(|(_, entry)| &entry.object)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What cannot be read, in order of namespace and name.
    pub(super) fn unreadable(&self) -> impl ExactSizeIterator<Item = Unreadable> {
        self.unreadable.iter().map(|(key, entry)| Unreadable {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: entry.uid.clone(),
            reason: Arc::clone(&entry.object),
        })
    }

    /// Whether an event repeats what the object was before.
    pub(super) fn age(&self, identity: &Identity) -> Age {
        let names = self.namespaces.get(&identity.key.namespace);
        let Some(entry) = names.and_then(|names| names.get(&identity.key.name)) else {
            return Age::Current;
        };
        let same = entry.uid.is_some() && entry.uid == identity.uid;
        let older = match (
            number(entry.version.as_deref()),
            number(identity.version.as_deref()),
        ) {
            (Some(stored), Some(seen)) => seen < stored,
            _ => false,
        };
        if same && older {
            Age::Older
        } else {
            Age::Current
        }
    }

    /// Starts a list: what is not put or marked before [`Store::gone`] is asked was not in it.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// Takes the newest version of an object.
    pub(super) fn put(&mut self, identity: Identity, object: K) -> Put<K>
    where
        K: PartialEq,
    {
        let Identity { key, version, uid } = identity;
        self.unreadable.remove(&key);
        let new = Arc::new(object);
        let entry = Entry {
            version,
            uid,
            list: self.list,
            object: Arc::clone(&new),
        };
        let old = self
            .namespaces
            .entry(key.namespace)
            .or_default()
            .insert(key.name, entry);
        match old {
            Some(old) if old.object == new => Put::Unchanged,
            Some(old) => Put::Changed {
                old: Some(old.object),
                new,
            },
            None => {
                self.len += 1;
                Put::Changed { old: None, new }
            }
        }
    }

    /// Notes an object that cannot be read; an earlier version stays. Says whether the reason is new.
    pub(super) fn put_unreadable(&mut self, identity: &Identity, reason: String) -> bool {
        let Identity { key, version, uid } = identity;
        let names = self.namespaces.get_mut(&key.namespace);
        if let Some(entry) = names.and_then(|names| names.get_mut(&key.name)) {
            entry.list = self.list;
        }
        let news = self
            .unreadable
            .get(key)
            .is_none_or(|known| *known.object != *reason || known.uid != *uid);
        let entry = Entry {
            version: version.clone(),
            uid: uid.clone(),
            list: self.list,
            object: reason.into(),
        };
        self.unreadable.insert(key.clone(), entry);
        news
    }

    /// Takes an object out; `None` when it was not there.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        self.unreadable.remove(key);
        let names = self.namespaces.get_mut(&key.namespace)?;
        let entry = names.remove(&key.name)?;
        if names.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        self.len -= 1;
        Some(entry.object)
    }

    /// The objects the last list did not show, readable or not.
    pub(super) fn gone(&self) -> Vec<Key> {
        let unreadable = self
            .unreadable
            .iter()
            .filter(|(_, object)| object.list != self.list);
        let mut keys: Vec<Key> = unreadable.map(|(key, _)| key.clone()).collect();
        for (namespace, names) in &self.namespaces {
            let gone = names.iter().filter(|(_, entry)| entry.list != self.list);
            keys.extend(gone.map(|(name, _)| Key {
                namespace: namespace.clone(),
                name: name.clone(),
            }));
        }
        keys
    }
}

/// Versions are opaque unless they are whole numbers, and then a larger one is newer.
pub(super) fn number(version: Option<&str>) -> Option<u64> {
    version?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, version: Option<&str>, uid: Option<&str>) -> Identity {
        Identity {
            key: key(name),
            version: version.map(Into::into),
            uid: uid.map(Into::into),
        }
    }

    fn key(name: &str) -> Key {
        Key {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn put(store: &mut Store<u32>, name: &str, value: u32) -> Put<u32> {
        store.put(identity(name, None, None), value)
    }

    #[test]
    fn equal_content_is_no_change() {
        let mut store = Store::default();
        assert!(matches!(
            put(&mut store, "a", 1),
            Put::Changed { old: None, .. }
        ));
        assert_eq!(put(&mut store, "a", 1), Put::Unchanged);
        let changed = put(&mut store, "a", 2);
        let expected = Put::Changed {
            old: Some(Arc::new(1)),
            new: Arc::new(2),
        };
        assert_eq!(changed, expected);
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_list_shows_what_is_gone() {
        let mut store = Store::default();
        for name in ["a", "b", "c"] {
            put(&mut store, name, 0);
        }
        store.put_unreadable(&identity("d", None, None), "broken".to_owned());
        store.begin_list();
        put(&mut store, "a", 0);
        store.put_unreadable(&identity("b", None, None), "broken".to_owned());
        assert_eq!(store.gone(), [key("d"), key("c")]);
        for key in store.gone() {
            store.remove(&key);
        }
        assert_eq!(store.iter().count(), 2);
        assert_eq!(store.unreadable().len(), 1);
        assert!(
            store.get("default", "b").is_some(),
            "the readable version stays"
        );
        assert_eq!(store.remove(&key("c")), None);
    }

    #[test]
    fn an_unreadable_object_is_news_once_per_reason() {
        let mut store = Store::default();
        assert!(store.put_unreadable(&identity("a", None, None), "no spec".to_owned()));
        assert!(!store.put_unreadable(&identity("a", None, None), "no spec".to_owned()));
        assert!(store.put_unreadable(&identity("a", None, None), "no type".to_owned()));
        put(&mut store, "a", 1);
        assert_eq!(store.unreadable().len(), 0);
        assert!(store.put_unreadable(&identity("a", None, None), "no type".to_owned()));
    }

    #[test]
    fn only_a_smaller_number_of_the_same_object_is_older() {
        let mut store = Store::default();
        store.put(identity("a", Some("10"), Some("u")), 1);
        let check = |name, version, uid, expected| {
            assert_eq!(
                store.age(&identity(name, version, uid)),
                expected,
                "{name} {version:?} {uid:?}"
            );
        };
        check("a", Some("9"), Some("u"), Age::Older);
        check("a", Some("10"), Some("u"), Age::Current);
        check("a", Some("9"), Some("another"), Age::Current);
        check("a", Some("9"), None, Age::Current);
        check("a", Some("old"), Some("u"), Age::Current);
        check("a", None, Some("u"), Age::Current);
        check("b", Some("9"), Some("u"), Age::Current);
    }
}
