//! The API as sidecars see it, before an API server that does what a test tells it.

use dapr_e2e_apiserver::scripted::{Fault, Options, Server, Versions};
use dapr_proto::dapr::proto::operator::v1 as wire;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Code;

use crate::authority::Authority;
use crate::support::{
    OPERATOR, Operator, SOON, component_stream, components, connect, eventually, names, next, read,
};

mod access;
mod bounds;
mod faults;
mod kinds;

/// An API server with the kinds of Dapr, and an operator beside it.
struct Place {
    server: Server,
    folder: TempDir,
}

impl Place {
    async fn new(options: Options) -> Self {
        Self {
            server: Server::start(options).await.expect("a server"),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    async fn complete() -> Self {
        Self::new(Options::complete()).await
    }

    fn kubeconfig(&self) -> std::path::PathBuf {
        self.server.kubeconfig(self.folder.path()).expect("written")
    }

    async fn operator(&self) -> Operator {
        Operator::ready(self.kubeconfig(), None).await
    }

    fn put(&self, object: Value) {
        self.server.put(object);
    }

    fn secret(&self, namespace: &str, name: &str, value: &str) {
        // `value` is in base64, as the API server keeps it.
        self.put(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace}, "data": {"k": value},
        }));
    }
}

fn component(name: &str, version: &str, scopes: &[&str]) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "state.redis", "version": version, "metadata": []},
        "scopes": scopes,
    })
}

fn with_secret(name: &str, secret: &str) -> Value {
    let mut component = component(name, "v1", &[]);
    component["spec"]["metadata"] = json!([
        {"name": "host", "value": "redis"},
        {"name": "password", "secretKeyRef": {"name": secret, "key": "k"}},
    ]);
    component
}

#[tokio::test]
async fn components_are_listed_and_streamed_by_scope() {
    let place = Place::complete().await;
    place.put(component("ours", "v1", &["shop"]));
    place.put(component("theirs", "v1", &["cart"]));
    place.put(component("all", "v1", &[]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(names(&list), ["all", "ours"]);
    assert_eq!(list[0]["kind"], "Component");
    assert_eq!(list[0]["auth"], json!({"secretStore": ""}));

    let mut stream = component_stream(&mut shop, "default").await;
    place.put(component("theirs", "v1", &["cart", "shop"]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["metadata"]["name"]), (1, &json!("theirs")));
    assert_eq!((object.get("kind"), object.get("apiVersion")), (None, None));
    // A label edit and a status write are nothing; the next event is the one after them.
    let mut labelled = component("all", "v1", &[]);
    labelled["metadata"]["labels"] = json!({"team": "a"});
    labelled["status"] = json!({"phase": "fine"});
    place.put(labelled);
    place.put(component("all", "v2", &[]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["spec"]["version"]), (2, &json!("v2")));
    place.server.delete(&component("ours", "v1", &[]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["metadata"]["name"]), (3, &json!("ours")));
    place.put(component("theirs", "v1", &["cart"]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!(
        (r#type, object["scopes"].clone()),
        (3, json!(["cart", "shop"]))
    );
}

#[tokio::test]
async fn secrets_are_put_in_and_a_new_value_is_an_update() {
    let place = Place::complete().await;
    place.secret("default", "redis", "b25l");
    place.put(with_secret("store", "redis"));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let list = components(&mut shop, "default").await.expect("a list");
    let password = &list[0]["spec"]["metadata"][1];
    let expected = json!({
        "name": "password", "value": "b25l", "secretKeyRef": {"name": "redis", "key": "k"},
    });
    assert_eq!(password, &expected);
    let mut stream = component_stream(&mut shop, "default").await;
    place.secret("default", "redis", "dHdv");
    let (r#type, object) = next(&mut stream).await;
    assert_eq!(
        (r#type, &object["spec"]["metadata"][1]["value"]),
        (2, &json!("dHdv"))
    );
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(list[0]["spec"]["metadata"][1]["value"], "dHdv");
}

#[tokio::test]
async fn a_missing_secret_fails_whom_it_concerns() {
    let place = Place::complete().await;
    let mut concerned = with_secret("store", "absent");
    concerned["scopes"] = json!(["shop"]);
    place.put(concerned.clone());
    place.put(component("other", "v1", &["cart"]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut cart = operator.app("default", "cart").await;
    let refused = (Code::Unknown, "Secret \"absent\" not found".to_owned());
    assert_eq!(components(&mut shop, "default").await, Err(refused));
    let list = components(&mut cart, "default").await.expect("a list");
    assert_eq!(names(&list), ["other"]);
    let mut ended = component_stream(&mut shop, "default").await;
    let mut goes_on = component_stream(&mut cart, "default").await;
    concerned["spec"]["version"] = json!("v2");
    place.put(concerned);
    let status = timeout(SOON, ended.message()).await.expect("in time");
    let status = status.expect_err("it ends");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "Secret \"absent\" not found")
    );
    place.put(component("other", "v2", &["cart"]));
    assert_eq!(next(&mut goes_on).await.0, 2);
    place.secret("default", "absent", "YQ==");
    eventually("the list comes", async || {
        components(&mut shop, "default").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_certificate_says_who_may_see_what() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let denied = |text: &str| Err((Code::PermissionDenied, text.to_owned()));
    let mismatch = "identity does not match requested namespace exp=other got=default";
    assert_eq!(components(&mut shop, "other").await, denied(mismatch));
    let empty = "identity does not match requested namespace exp= got=default";
    assert_eq!(components(&mut shop, "").await, denied(empty));
    let mut odd = operator.client("spiffe://public/sa/default/shop").await;
    let unknown = "failed to determine identity";
    assert_eq!(components(&mut odd, "default").await, denied(unknown));
    let mut elsewhere = operator.client("spiffe://else.org/ns/default/shop/x").await;
    assert_eq!(
        components(&mut elsewhere, "default")
            .await
            .map(|it| it.len()),
        Ok(1)
    );

    let request = wire::ComponentUpdateRequest {
        namespace: "other".to_owned(),
    };
    let status = shop.component_update(request).await.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, mismatch)
    );
    let request = wire::ConfigurationUpdateRequest {
        namespace: "other".to_owned(),
    };
    let status = shop
        .configuration_update(request)
        .await
        .expect_err("refused");
    let prefix = "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = ";
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), format!("{prefix}{mismatch}"));
    let status = shop.list_subscriptions(()).await.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, empty)
    );
}

#[tokio::test]
async fn the_end_of_the_operator_ends_streams_well() {
    let place = Place::complete().await;
    let mut operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut shop, "default").await;
    operator.token.cancel();
    let end = timeout(SOON, stream.message()).await.expect("in time");
    assert!(matches!(end, Ok(None)), "{end:?}");
    drop((stream, shop));
    let drained = timeout(SOON, async {
        while operator.tasks.join_next().await.is_some() {}
    });
    assert!(drained.await.is_ok());
}
