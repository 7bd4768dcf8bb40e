//! Both stores through the registry, as the sidecar opens them.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_components_core::conformance::secret_store::{self, Known};
use dapr_components_core::secret_store::{GetRequest, RequestMetadata, SecretStore};
use dapr_components_core::{Error, Metadata, Registries};
use dapr_components_local::secret_store::env::Environment;

struct Variables(BTreeMap<String, String>);

impl Environment for Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn all(&self) -> Vec<(String, String)> {
        self.0.clone().into_iter().collect()
    }
}

async fn open(
    kind: &str,
    properties: &[(&str, &str)],
    variables: &[(&str, &str)],
) -> Result<Arc<dyn SecretStore>, Error> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let mut registries = Registries::default();
    let variables = Variables(variables.iter().map(owned).collect());
    dapr_components_local::register(&mut registries, Arc::new(variables));
    let metadata = Metadata::new("store", kind, "v1", properties.iter().map(owned)).expect("valid");
    registries.secret_stores.open(metadata).await
}

fn known(name: &str, values: &[(&str, &str)]) -> Known {
    let values = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Known {
        name: name.to_owned(),
        values: values.collect(),
    }
}

async fn value(store: &dyn SecretStore, name: &str) -> Result<BTreeMap<String, String>, String> {
    let request = GetRequest {
        name: name.to_owned(),
        metadata: RequestMetadata::new(),
    };
    let found = store.get(request).await;
    found
        .map(|secret| secret.0)
        .map_err(|error| error.to_string())
}

const FILE: &str = r#"{"plain": "p", "nested": {"a": "x", "list": ["y", {"b": "z"}]}, "port": 5, "on": true,
    "long": 12345678901234567890123, "power": 1e3}"#;

#[tokio::test]
async fn single_values_are_named_by_their_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secrets.json");
    std::fs::write(&path, FILE).expect("written");
    let path = path.to_str().expect("UTF-8");
    let store = open("secretstores.local.file", &[("secretsFile", path)], &[])
        .await
        .expect("opens");
    assert_eq!(
        value(&*store, "nested").await,
        Err("secret nested not found".to_owned())
    );
    let all = [
        known("plain", &[("plain", "p")]),
        known("nested:a", &[("nested:a", "x")]),
        known("nested:list:1:b", &[("nested:list:1:b", "z")]),
        known("port", &[("port", "5")]),
        known("on", &[("on", "true")]),
        known("long", &[("long", "12345678901234567890123")]),
        known("power", &[("power", "1e3")]),
    ];
    secret_store::run(&*store, &all, RequestMetadata::new()).await;
}

#[tokio::test]
async fn several_values_stay_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secrets.json");
    std::fs::write(&path, FILE).expect("written");
    let properties = [
        ("secretsFile", path.to_str().expect("UTF-8")),
        ("multiValued", "true"),
        ("nestedSeparator", "."),
    ];
    let store = open("secretstores.local.file", &properties, &[])
        .await
        .expect("opens");
    assert_eq!(
        value(&*store, "port").await,
        Err("secret port not found".to_owned())
    );
    let all = [
        known("plain", &[("plain", "p")]),
        known("nested", &[("a", "x"), ("list.0", "y"), ("list.1.b", "z")]),
    ];
    secret_store::run(&*store, &all, RequestMetadata::new()).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list.json");
    std::fs::write(&list, "[]").expect("written");
    let check = async |file: &str, expected: &str| {
        let opened = open("secretstores.local.file", &[("secretsFile", file)], &[]).await;
        let error = opened.err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("", "missing local secrets file in metadata").await;
    check(
        "/nowhere.json",
        "open /nowhere.json: no such file or directory",
    )
    .await;
    check(list.to_str().expect("UTF-8"), "holds no JSON object").await;
}

#[tokio::test]
async fn variables_are_open_but_for_our_own() {
    let variables = [
        ("SHOP_KEY", "k"),
        ("SHOP_OTHER", "o"),
        ("HOME", "/"),
        ("DAPR_API_TOKEN", "t"),
        ("APP_API_TOKEN", "t"),
    ];
    let store = open("secretstores.local.env", &[("prefix", "SHOP_")], &variables)
        .await
        .expect("opens");
    let all = [
        known("KEY", &[("KEY", "k")]),
        known("OTHER", &[("OTHER", "o")]),
    ];
    secret_store::run(&*store, &all, RequestMetadata::new()).await;

    let store = open("secretstores.local.env", &[], &variables)
        .await
        .expect("opens");
    for ours in ["DAPR_API_TOKEN", "dapr_api_token", "APP_API_TOKEN"] {
        let empty = BTreeMap::from([(ours.to_owned(), String::new())]);
        assert_eq!(value(&*store, ours).await, Ok(empty));
    }
    let bulk = store.bulk_get(RequestMetadata::new()).await.expect("all");
    let names: Vec<&str> = bulk.keys().map(String::as_str).collect();
    assert_eq!(names, ["HOME", "SHOP_KEY", "SHOP_OTHER"]);
}
