//! One kind of object, listed and watched, with the last known state at hand.
//!
//! It wants little of the server: lists and events may lack `resourceVersion`, watches may end after every event, and
//! named GETs are never used. Where versions are given and hold what they promise, a watch goes on where the last one
//! ended, and a full list is read only when the server says that history is gone.
//!
//! What is decided stands in `plan.rs` (when to list, when to watch, from which version) and `store.rs` (what changed);
//! `server.rs` speaks HTTP, `run.rs` connects the three. Nothing is written to the API server here.

mod change;
mod config;
mod failure;
mod frames;
mod health;
mod pace;
mod plan;
mod reader;
mod run;
mod server;
mod store;
mod wire;

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use change::Change;
pub use config::Config;
pub use health::{Health, State};
pub use pace::{Backoff, Pace};
pub use reader::Reader;
pub use store::Unreadable;

/// What can be watched: any kube resource, also a slim one with the few fields its reader needs.
///
/// Equality decides what a change is: two versions that are equal are one, and the reader hears nothing.
/// `metadata.managedFields` is dropped before the comparison, for nobody reads it and it is the larger part of many
/// objects.
pub trait Object:
    kube::Resource<DynamicType = ()>
    + Clone
    + PartialEq
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + PartialEq
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Keeps a [`Reader`] up to date while it runs. There is one per kind and process; it opens one watch at a time.
#[derive(Debug)]
pub struct Watcher<K> {
    server: server::Server,
    config: Config,
    shared: Arc<reader::Shared<K>>,
}

/// A reader of the objects `api` covers, and the watcher that fills it. Nothing is sent before the watcher runs.
pub fn watch<K: Object>(api: kube::Api<K>, config: Config) -> (Reader<K>, Watcher<K>) {
    let shared = Arc::new(reader::Shared::default());
    let watcher = Watcher {
        server: server::Server::new(api, &config),
        config,
        shared: Arc::clone(&shared),
    };
    (Reader::new(shared), watcher)
}

impl<K: Object> Watcher<K> {
    /// Lists and watches until it is dropped; that is the way to stop it, at any point.
    ///
    /// `on` hears of every change in order, after the reader shows it. It must not block: the next event waits.
    /// Failures end up in [`Reader::health`] and the log, and are tried again with back-off.
    pub async fn run(self, on: impl FnMut(Change<K>) + Send) -> Infallible {
        run::Run::new(self.server, self.config, self.shared)
            .forever(on)
            .await
    }
}
