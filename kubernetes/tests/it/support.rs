//! A server, a watcher of its ConfigMaps, and what the watcher told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Options, Resource, Server};
use dapr_kubernetes::watch::Pace;
use dapr_kubernetes::{Change, Config, Object, Place, Reader, client, watch};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Long against everything these tests wait for, on a busy machine too.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Where ConfigMaps are.
pub(crate) const PATH: &str = "/api/v1/configmaps";

/// Pauses in which a test need not wait for anything.
pub(crate) fn quick() -> Config {
    let millis =
        |floor, ceiling| Pace::new(Duration::from_millis(floor), Duration::from_millis(ceiling));
    Config {
        list_timeout: Duration::from_millis(500),
        watch_timeout: Duration::from_secs(1),
        grace: Duration::from_millis(200),
        backoff: millis(5, 50),
        relist: millis(20, 60),
        reopen: millis(2, 20),
        ..Config::default()
    }
}

pub(crate) async fn start(options: Options) -> Server {
    Server::start(options).await.expect("a scripted API server")
}

pub(crate) async fn connect(server: &Server) -> kube::Client {
    let folder = tempfile::tempdir().expect("a folder");
    let path = server.kubeconfig(folder.path()).expect("a kubeconfig");
    client(&Place::Kubeconfig(path)).await.expect("a client")
}

/// The changes of a watcher, added up, and what must never have happened.
#[derive(Debug)]
pub(crate) struct Told<K> {
    pub(crate) objects: BTreeMap<(String, String), Arc<K>>,
    pub(crate) applied: usize,
    pub(crate) deleted: Vec<(String, String)>,
    pub(crate) synced: usize,
    pub(crate) wrong: Vec<String>,
}

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            applied: 0,
            deleted: Vec::new(),
            synced: 0,
            wrong: Vec::new(),
        }
    }
}

impl<K: Object> Told<K> {
    fn hear(&mut self, change: Change<K>, reader: &Reader<K>) {
        match change {
            Change::Applied { old, new } => {
                let key = key(&*new);
                if reader.get(&key.0, &key.1).as_ref() != Some(&new) {
                    self.wrong
                        .push(format!("{key:?} is told before it can be read"));
                }
                if old.as_ref() == Some(&new) {
                    self.wrong.push(format!("{key:?} is told without a change"));
                }
                if self.objects.insert(key.clone(), new) != old {
                    self.wrong
                        .push(format!("{key:?} is told with another past"));
                }
                self.applied += 1;
            }
            Change::Deleted { old } => {
                let key = key(&*old);
                if self.objects.remove(&key) != Some(old) {
                    self.wrong
                        .push(format!("{key:?} is deleted without having been there"));
                }
                self.deleted.push(key);
            }
            Change::Synced => self.synced += 1,
        }
    }
}

fn key<K: kube::Resource>(object: &K) -> (String, String) {
    let metadata = object.meta();
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// A running watcher.
#[derive(Debug)]
pub(crate) struct Watched<K: Object = ConfigMap> {
    pub(crate) reader: Reader<K>,
    pub(crate) told: Arc<Mutex<Told<K>>>,
    task: JoinHandle<()>,
}

impl<K: Object> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Watches all ConfigMaps.
    pub(crate) async fn config_maps(server: &Server, config: Config) -> Self {
        Self::run(kube::Api::all(connect(server).await), config)
    }

    /// The value of an object, as the reader sees it.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.reader
            .get("default", name)?
            .data
            .as_ref()?
            .get("value")
            .cloned()
    }

    /// What the reader sees, by name.
    pub(crate) fn seen(&self) -> BTreeMap<String, String> {
        let snapshot = self.reader.snapshot();
        snapshot
            .iter()
            .map(|object| pair(&object.metadata.name, &object.data))
            .collect()
    }

    /// What the changes add up to, by name.
    pub(crate) fn added_up(&self) -> BTreeMap<String, String> {
        let told = self.told.lock();
        told.objects
            .values()
            .map(|object| pair(&object.metadata.name, &object.data))
            .collect()
    }

    /// Waits until reader and changes agree with the server.
    pub(crate) async fn agrees(&self, server: &Server) {
        let held = held(server);
        eventually(&format!("{held:?}"), || {
            let (seen, added_up) = (self.seen(), self.added_up());
            if seen == held && added_up == held {
                Ok(())
            } else {
                Err(format!("read {seen:?}, told {added_up:?}"))
            }
        })
        .await;
    }
}

impl<K: Object> Watched<K> {
    pub(crate) fn run(api: kube::Api<K>, config: Config) -> Self {
        let (reader, watcher) = watch(api, config);
        let told = Arc::new(Mutex::new(Told::default()));
        let (ears, eyes) = (Arc::clone(&told), reader.clone());
        let task = tokio::spawn(async move {
            match watcher
                .run(move |change| ears.lock().hear(change, &eyes))
                .await {}
        });
        Self { reader, told, task }
    }

    pub(crate) async fn synced(self) -> Self {
        tokio::time::timeout(LIMIT, self.reader.synced())
            .await
            .expect("a first list");
        self
    }

    /// Nothing that must not happen was heard.
    pub(crate) fn assert_sound(&self) {
        let told = self.told.lock();
        assert_eq!(told.wrong, Vec::<String>::new());
        assert!(told.synced <= 1, "told to be synced {} times", told.synced);
    }
}

fn pair(name: &Option<String>, data: &Option<BTreeMap<String, String>>) -> (String, String) {
    let value = data.as_ref().and_then(|data| data.get("value")).cloned();
    (name.clone().unwrap_or_default(), value.unwrap_or_default())
}

/// What the server holds, by name.
pub(crate) fn held(server: &Server) -> BTreeMap<String, String> {
    let objects = server.objects(&Resource::of(&config_map("", "")));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    objects
        .iter()
        .map(|object| {
            (
                text(&object["metadata"]["name"]),
                text(&object["data"]["value"]),
            )
        })
        .collect()
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": name},
        "data": {"value": value},
    })
}

/// Waits for what has to become true; the last refusal is part of the failure.
pub(crate) async fn eventually(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + LIMIT;
    loop {
        match look() {
            Ok(()) => return,
            Err(refusal) => assert!(Instant::now() < end, "{what}: {refusal}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || {
        if condition() {
            Ok(())
        } else {
            Err("not so".to_owned())
        }
    })
    .await;
}

/// Waits until `condition` holds while `call` goes on, which must not end before.
pub(crate) async fn until_with<F>(what: &str, call: F, condition: impl FnMut() -> bool)
where
    F: Future,
{
    tokio::select! {
        () = until(what, condition) => {}
        _ = call => panic!("{what}: the call ended"),
    }
}
