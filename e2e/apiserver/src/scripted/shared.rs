//! What the handle of the server and its connections share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::discovery::{self, Kind};
use super::fault::{Fault, Faults};
use super::object::Stored;
use super::record::Record;
use super::store::{Store, Versions};

/// How the server behaves all the time.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether lists, objects and events carry versions.
    pub versions: Versions,
    /// Whether a watch without a version begins with an event for every object, as a real server's does.
    pub initial_events: bool,
    /// After so many events a watch ends.
    pub events_per_watch: Option<usize>,
    /// How often a quiet watch tells its version, if at all.
    pub bookmarks: Option<Duration>,
    /// Whether a GET of one object finds it.
    pub named_gets: bool,
    /// Whether lists and watches of one namespace exist.
    pub namespaced_lists: bool,
    /// Whether `limit` is heeded.
    pub paging: bool,
    /// Whether the head of a watch's answer waits for the first event.
    pub late_heads: bool,
    /// How long every answer takes at least.
    pub latency: Option<Duration>,
    /// The bearer token every request needs.
    pub token: Option<String>,
    /// Whether the server tells which kinds it has.
    pub discovery: bool,
}

impl Options {
    /// A server that does all a real one does, without bookmarks.
    pub fn complete() -> Self {
        Self {
            versions: Versions::On,
            initial_events: true,
            events_per_watch: None,
            bookmarks: None,
            named_gets: true,
            namespaced_lists: true,
            paging: true,
            late_heads: false,
            latency: None,
            token: None,
            discovery: true,
        }
    }

    /// As little as a server can do and still be watched: no versions, a watch ends after one event, named GETs and
    /// lists of one namespace are not found, lists come whole, a watch begins with what happens next, and which kinds there
    /// are is not told.
    pub fn minimal() -> Self {
        Self {
            versions: Versions::Off,
            initial_events: false,
            events_per_watch: Some(1),
            named_gets: false,
            namespaced_lists: false,
            paging: false,
            discovery: false,
            ..Self::complete()
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::complete()
    }
}

pub(super) type Handler = Arc<dyn Fn(Value) -> (u16, Value) + Send + Sync>;

/// The rest of a list, as it was when the first page was read.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) version: u64,
    pub(super) items: Arc<[Arc<Stored>]>,
}

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) store: Mutex<Store>,
    pub(super) record: Mutex<Record>,
    pub(super) faults: Mutex<Faults>,
    pub(super) handlers: Mutex<BTreeMap<String, Handler>>,
    /// Lists that are read page by page.
    pub(super) pages: Mutex<Vec<(u64, Rest)>>,
    /// What clients are told there is.
    pub(super) kinds: Mutex<BTreeSet<Kind>>,
    /// Plurals that answer 404, like the CRD that is not installed.
    pub(super) absent: Mutex<BTreeSet<String>>,
    /// The number of the last change.
    pub(super) moved: watch::Sender<u64>,
    /// What open watches have to suffer.
    pub(super) disturbed: watch::Sender<Option<Fault>>,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        let store = Store::new(options.versions);
        Self {
            options,
            moved: watch::Sender::new(store.last()),
            store: Mutex::new(store),
            record: Mutex::default(),
            faults: Mutex::default(),
            handlers: Mutex::default(),
            pages: Mutex::default(),
            kinds: Mutex::new(discovery::ordinary()),
            absent: Mutex::default(),
            disturbed: watch::Sender::new(None),
        }
    }

    /// Changes the store and wakes the watches.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.lock();
        let result = change(&mut store);
        self.moved.send_replace(store.last());
        result
    }
}
