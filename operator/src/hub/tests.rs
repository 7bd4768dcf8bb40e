//! Stories of lists and streams, with Secrets from a map.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use dapr_crds::{Component, Configuration};
use futures::FutureExt as _;
use serde_json::{Value, json};

use super::*;
use crate::events::Type;
use crate::secrets::Data;
use crate::vault::Source;

/// Secrets with one key `k` each, and how often they were fetched.
#[derive(Clone, Default)]
struct Secrets {
    values: Arc<Mutex<BTreeMap<String, String>>>,
    fetched: Arc<AtomicUsize>,
}

impl Secrets {
    fn set(&self, name: &str, value: &str) {
        self.values.lock().insert(name.to_owned(), value.to_owned());
    }
}

#[async_trait]
impl Source for Secrets {
    async fn fetch(&self, _: &str, name: &str) -> Result<Data, Error> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let value = self.values.lock().get(name).cloned();
        let value = value.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        Ok(Data::from_iter([("k".to_owned(), value.into_bytes())]))
    }
}

/// A hub of Components in `default`, fed as a watcher feeds it.
struct Place {
    hub: Hub<Component>,
    vault: Vault,
    secrets: Secrets,
    known: BTreeMap<String, Arc<Component>>,
}

impl Place {
    fn new() -> Self {
        let secrets = Secrets::default();
        let vault = Vault::new(secrets.clone());
        let hub = Hub::new(vault.clone());
        hub.apply(Change::Synced);
        Self {
            hub,
            vault,
            secrets,
            known: BTreeMap::new(),
        }
    }

    /// Puts an object of a version, `0` for none, with these scopes.
    fn put(&mut self, name: &str, version: u32, scopes: &[&str]) {
        self.put_object(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"version": version.to_string()}, "scopes": scopes,
        }));
    }

    fn put_object(&mut self, object: Value) {
        let new: Arc<Component> = Arc::new(serde_json::from_value(object).expect("a component"));
        let name = dapr_crds::meta::Object::name(&*new).to_owned();
        let old = self.known.insert(name, Arc::clone(&new));
        self.hub.apply(Change::Applied { old, new });
    }

    fn delete(&mut self, name: &str) {
        let old = self.known.remove(name).expect("it is there");
        self.hub.apply(Change::Deleted { old });
    }

    fn open(&self, app_id: &str) -> Subscription<Component> {
        self.open_from(app_id, None)
    }

    fn open_from(&self, app_id: &str, connection: Option<SocketAddr>) -> Subscription<Component> {
        let view = |_: Option<&str>| View::App(app_id.into());
        self.hub
            .subscribe("default", view, connection)
            .expect("open")
    }

    async fn secret(&self, name: &str, value: &str) {
        self.secrets.set(name, value);
        self.vault.forget("default", name);
        self.hub.secret_changed("default", name).await;
    }
}

/// A component with a secret.
fn with_secret(name: &str, secret: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"metadata": [{"name": "p", "secretKeyRef": {"name": secret, "key": "k"}}]},
    })
}

/// Everything that waits: type, name, and version or value of the first pair.
async fn told<K: Kind>(stream: &mut Subscription<K>) -> Vec<(Type, String, String)> {
    let mut told = Vec::new();
    // Secrets come after some turns of the scheduler.
    while let Ok(Some(event)) =
        tokio::time::timeout(std::time::Duration::from_millis(1), stream.next()).await
    {
        let event = event.expect("a change");
        let object: Value = serde_json::from_slice(&event.object).expect("JSON");
        assert!(object.get("kind").is_none(), "{object}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let spec = &object["spec"];
        let content = match spec["metadata"].get(0) {
            Some(pair) => text(&pair["value"]),
            None => text(&spec["version"]),
        };
        told.push((event.r#type, text(&object["metadata"]["name"]), content));
    }
    told
}

fn expect(events: &[(Type, &str, &str)]) -> Vec<(Type, String, String)> {
    let own = |(r#type, name, version): &(Type, &str, &str)| {
        (*r#type, (*name).to_owned(), (*version).to_owned())
    };
    events.iter().map(own).collect()
}

#[tokio::test(start_paused = true)]
async fn only_what_changes_for_an_app_is_told() {
    let mut place = Place::new();
    place.put("before", 1, &[]);
    let (mut shop, mut cart) = (place.open("shop"), place.open("cart"));
    assert!(told(&mut shop).await.is_empty(), "nothing is told anew");
    place.put("all", 1, &[]);
    place.put("one", 1, &["shop"]);
    let created = expect(&[(Type::Created, "all", "1"), (Type::Created, "one", "1")]);
    assert_eq!(told(&mut shop).await, created);
    assert_eq!(told(&mut cart).await, created[..1]);
    place.put("one", 2, &["cart"]);
    assert_eq!(
        told(&mut shop).await,
        expect(&[(Type::Deleted, "one", "1")])
    );
    assert_eq!(
        told(&mut cart).await,
        expect(&[(Type::Created, "one", "2")])
    );
    place.put("all", 2, &[]);
    assert_eq!(
        told(&mut shop).await,
        expect(&[(Type::Updated, "all", "2")])
    );
    place.delete("all");
    place.delete("one");
    assert_eq!(
        told(&mut shop).await,
        expect(&[(Type::Deleted, "all", "2")])
    );
}

#[tokio::test(start_paused = true)]
async fn labels_and_versions_are_no_change_but_lists_show_them() {
    let mut place = Place::new();
    place.put("a", 1, &[]);
    let mut stream = place.open("shop");
    place.put_object(json!({
        "metadata": {
            "name": "a", "namespace": "default", "resourceVersion": "9", "labels": {"x": "y"},
            "annotations": {"z": "1"}, "generation": 4,
        },
        "spec": {"version": "1"},
    }));
    assert!(told(&mut stream).await.is_empty());
    let list = place
        .hub
        .list("default", "shop", None)
        .await
        .expect("a list");
    let shown: Value = serde_json::from_slice(&list[0]).expect("JSON");
    assert_eq!(shown["metadata"]["labels"], json!({"x": "y"}));
    assert_eq!(shown["kind"], "Component");
}

#[tokio::test(start_paused = true)]
async fn another_namespace_is_another_world() {
    let mut place = Place::new();
    let view = |_: Option<&str>| View::App("shop".into());
    let mut other = place.hub.subscribe("other", view, None).expect("open");
    place.put("a", 1, &[]);
    assert!(told(&mut other).await.is_empty());
    assert!(
        place
            .hub
            .list("other", "shop", None)
            .await
            .expect("a list")
            .is_empty()
    );
    assert_eq!(place.hub.get("other", "a", None).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_the_latest_state() {
    let mut place = Place::new();
    let (mut slow, mut quick) = (place.open("shop"), place.open("shop"));
    for version in 1..=100 {
        place.put("a", version, &[]);
        assert_eq!(told(&mut quick).await.len(), 1);
    }
    place.put("b", 1, &[]);
    place.delete("b");
    let told = told(&mut slow).await;
    assert_eq!(told[0], (Type::Created, "a".to_owned(), "1".to_owned()));
    assert!(told.len() < 20, "{told:?}");
    let last = (Type::Updated, "a".to_owned(), "100".to_owned());
    assert_eq!(told.last(), Some(&last));
}

#[tokio::test(start_paused = true)]
async fn quick_changes_are_told_step_by_step() {
    let mut place = Place::new();
    let mut stream = place.open("shop");
    place.put("b", 1, &[]);
    place.put("a", 1, &[]);
    place.put("b", 2, &[]);
    place.delete("b");
    place.put("b", 2, &[]);
    let expected = expect(&[
        (Type::Created, "b", "1"),
        (Type::Created, "a", "1"),
        (Type::Updated, "b", "2"),
        (Type::Deleted, "b", "2"),
        (Type::Created, "b", "2"),
    ]);
    assert_eq!(told(&mut stream).await, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_there_at_the_start_is_no_change() {
    let hub = Hub::<Component>::new(Vault::new(Secrets::default()));
    let view = |_: Option<&str>| View::App("shop".into());
    let mut stream = hub.subscribe("default", view, None).expect("open");
    let put = |version: &str| {
        let new = json!({
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"version": version},
        });
        let new = Arc::new(serde_json::from_value(new).expect("fine"));
        hub.apply(Change::Applied { old: None, new });
    };
    put("1");
    hub.apply(Change::Synced);
    assert!(told(&mut stream).await.is_empty());
    put("2");
    let expected = expect(&[(Type::Updated, "a", "2")]);
    assert_eq!(told(&mut stream).await, expected);
}

/// What a sidecar knows: its list, and then what it is told.
async fn known(list: Vec<Bytes>, stream: &mut Subscription<Component>) -> BTreeMap<String, String> {
    let read = |bytes: &Bytes| -> Component { serde_json::from_slice(bytes).expect("JSON") };
    let listed = list.iter().map(read);
    let mut known: BTreeMap<String, String> = listed
        .map(|object| {
            (
                object.metadata.name.clone().unwrap_or_default(),
                object.spec.version,
            )
        })
        .collect();
    for (r#type, name, version) in told(stream).await {
        match r#type {
            Type::Created => assert_eq!(known.insert(name, version), None, "told of it twice"),
            Type::Updated => {
                assert_ne!(
                    known.insert(name, version.clone()),
                    Some(version),
                    "no news"
                );
            }
            Type::Deleted => assert!(known.remove(&name).is_some(), "it never heard of it"),
        }
    }
    known
}

type Step = Box<dyn Fn(&mut Place)>;

/// Changes from the first to the last, with scopes that let objects come and go.
fn changes() -> Vec<Step> {
    vec![
        Box::new(|place| place.put("a", 1, &[])),
        Box::new(|place| place.put("b", 1, &["shop"])),
        Box::new(|place| place.put("a", 2, &[])),
        Box::new(|place| place.put("b", 2, &["cart"])),
        Box::new(|place| place.put("c", 1, &["cart"])),
        Box::new(|place| place.delete("a")),
        Box::new(|place| place.put("c", 1, &["cart", "shop"])),
        Box::new(|place| place.put("a", 2, &[])),
        Box::new(|place| place.put("a", 3, &["shop"])),
        Box::new(|place| place.delete("c")),
    ]
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_between_list_and_stream() {
    let changes = changes();
    let connection = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
    for listed in 0..=changes.len() {
        for opened in listed..=changes.len() {
            let mut place = Place::new();
            for change in &changes[..listed] {
                change(&mut place);
            }
            let list = place.hub.list("default", "shop", connection).await;
            for change in &changes[listed..opened] {
                change(&mut place);
            }
            let mut stream = place.open_from("shop", connection);
            for change in &changes[opened..] {
                change(&mut place);
            }
            let known = known(list.expect("a list"), &mut stream).await;
            let expected = BTreeMap::from([("a".to_owned(), "3".to_owned())]);
            assert_eq!(
                known, expected,
                "listed after {listed}, opened after {opened}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_open_is_not_told_twice_after_a_list() {
    let mut place = Place::new();
    let connection = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
    let mut first = place.open_from("shop", connection);
    drop(place.hub.list("default", "shop", connection).await);
    place.put("a", 1, &[]);
    assert_eq!(told(&mut first).await.len(), 1);
    let mut second = place.open_from("shop", connection);
    assert!(told(&mut second).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn secrets_are_fetched_once_for_all_streams() {
    let mut place = Place::new();
    place.secrets.set("s", "secret");
    let mut streams: Vec<_> = (0..100).map(|_| place.open("shop")).collect();
    place.put_object(with_secret("a", "s"));
    for stream in &mut streams {
        let expected = expect(&[(Type::Created, "a", "c2VjcmV0")]);
        assert_eq!(told(stream).await, expected);
    }
    assert_eq!(place.secrets.fetched.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_ends_the_streams_it_concerns() {
    let mut place = Place::new();
    let (mut shop, mut cart) = (place.open("shop"), place.open("cart"));
    let mut object = with_secret("a", "absent");
    object["scopes"] = json!(["shop"]);
    place.put_object(object);
    place.put("b", 1, &[]);
    let failed = shop.next().await.expect("an event").expect_err("no secret");
    assert_eq!(failed.to_string(), "Secret \"absent\" not found");
    assert_eq!(told(&mut cart).await, expect(&[(Type::Created, "b", "1")]));
    let mut again = place.open("shop");
    place.delete("a");
    assert_eq!(told(&mut again).await, expect(&[(Type::Deleted, "a", "")]));
    let list = place.hub.list("default", "shop", None).await;
    assert_eq!(list.map(|list| list.len()), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_updates_who_uses_it() {
    let mut place = Place::new();
    place.secrets.set("s", "one");
    place.put_object(with_secret("a", "s"));
    place.put_object(with_secret("b", "other"));
    let mut stream = place.open("shop");
    // Nobody was given the first value, so it may be news.
    place.secret("s", "one").await;
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "a", "b25l")])
    );
    place.secret("s", "one").await;
    assert!(told(&mut stream).await.is_empty(), "labels of a Secret");
    place.secret("s", "two").await;
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "a", "dHdv")])
    );
    place.secrets.values.lock().clear();
    place.vault.forget("default", "s");
    place.hub.secret_changed("default", "s").await;
    assert!(told(&mut stream).await.is_empty(), "what is gone is kept");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_comes_with_its_user_is_told_once() {
    let mut place = Place::new();
    let mut stream = place.open("shop");
    place.secrets.set("s", "old");
    place.put_object(with_secret("a", "s"));
    // The values that the stream waits for are fetched when the watch of Secrets says that they are others.
    let mut next = Box::pin(stream.next());
    assert!((&mut next).now_or_never().is_none());
    place.secret("s", "new").await;
    let event = next.await.expect("an event").expect("a change");
    let object: Value = serde_json::from_slice(&event.object).expect("JSON");
    assert_eq!(object["spec"]["metadata"][0]["value"], "bmV3");
    assert_eq!(event.r#type, Type::Created);
    assert!(told(&mut stream).await.is_empty());
    place.secret("s", "next").await;
    let expected = expect(&[(Type::Updated, "a", "bmV4dA==")]);
    assert_eq!(told(&mut stream).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_list_with_the_new_value_does_not_hide_it_from_streams() {
    let mut place = Place::new();
    place.secrets.set("s", "one");
    place.put_object(with_secret("a", "s"));
    drop(place.hub.list("default", "shop", None).await);
    let mut stream = place.open("shop");
    place.secrets.set("s", "two");
    place.vault.forget("default", "s");
    // The list is quicker than the watch of Secrets.
    drop(place.hub.list("default", "shop", None).await);
    place.hub.secret_changed("default", "s").await;
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "a", "dHdv")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_between_list_and_stream_is_told() {
    let mut place = Place::new();
    let connection = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
    place.secrets.set("s", "one");
    place.put_object(with_secret("a", "s"));
    drop(place.hub.list("default", "shop", connection).await);
    place.secret("s", "two").await;
    let mut stream = place.open_from("shop", connection);
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "a", "dHdv")])
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_ends_streams_well() {
    let mut place = Place::new();
    let mut stream = place.open("shop");
    place.put("a", 1, &[]);
    place.hub.close();
    assert_eq!(stream.next().now_or_never(), Some(None));
    let view = |_: Option<&str>| View::App("shop".into());
    let refused = place.hub.subscribe("default", view, None);
    assert_eq!(
        refused.expect_err("closed").to_string(),
        "operator is shutting down"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_streams_and_objects() {
    let mut place = Place::new();
    let stream = place.open("shop");
    place.put("a", 1, &[]);
    assert_eq!(place.hub.streams(), 1);
    drop(stream);
    assert_eq!(place.hub.streams(), 0);
    place.delete("a");
    assert!(place.hub.shared.state.lock().namespaces.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_app_is_told_of_the_configuration_it_is_assigned() {
    let hub = Hub::<Configuration>::new(Vault::new(Secrets::default()));
    hub.apply(Change::Synced);
    let known = Mutex::new(BTreeMap::new());
    let put = |name: &str, rate: &str| {
        let new = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"features": [{"name": rate, "enabled": true}]},
        });
        let new: Arc<Configuration> = Arc::new(serde_json::from_value(new).expect("fine"));
        let old = known.lock().insert(name.to_owned(), Arc::clone(&new));
        hub.apply(Change::Applied { old, new });
    };
    put("one", "a");
    put("two", "a");
    let view = |name: &str| View::Assigned {
        app_id: "shop".into(),
        name: (!name.is_empty()).then(|| name.into()),
    };
    let mut stream = hub
        .subscribe("default", |_| view("one"), None)
        .expect("open");
    let mut none = hub.subscribe("default", |_| view(""), None).expect("open");
    put("one", "b");
    put("two", "b");
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "one", "")])
    );
    assert!(told(&mut none).await.is_empty());
    // The app's pods name another one now, and the other stream is of another app.
    put("one", "c");
    hub.reassign("default", "cart", |_| Some("two".into()));
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "one", "")])
    );
    put("one", "d");
    hub.reassign("default", "shop", |_| Some("two".into()));
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Created, "two", "")])
    );
    assert_eq!(told(&mut none).await, expect(&[(Type::Created, "two", "")]));
    put("one", "e");
    put("two", "c");
    assert_eq!(
        told(&mut stream).await,
        expect(&[(Type::Updated, "two", "")])
    );
    hub.reassign("default", "shop", |current| current.map(Box::from));
    assert!(told(&mut stream).await.is_empty());
    hub.reassign("default", "shop", |_| None);
    put("two", "d");
    assert!(told(&mut stream).await.is_empty());
}
