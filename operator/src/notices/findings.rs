//! What is wrong with resources. Pure; every text is made of names alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dapr_crds::in_scope;
use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_kubernetes::Unreadable;

use crate::kinds::Kind;
use crate::secrets;

/// App ids, by namespace.
pub(super) type Apps = BTreeMap<String, BTreeSet<String>>;

/// Something that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Finding {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What the objects refer to.
pub(super) struct World<'a> {
    /// `None` while they are not known.
    pub(super) apps: Option<&'a Apps>,
    pub(super) is_secret: &'a dyn Fn(&str, &str) -> bool,
}

/// Everything that is wrong with the objects of a kind one by one.
pub(super) fn findings<K: Kind>(
    objects: &[Arc<K>],
    unreadable: &[Unreadable],
    world: &World<'_>,
) -> BTreeSet<Finding> {
    let mut found: BTreeSet<Finding> = unreadable.iter().map(self::unreadable::<K>).collect();
    for object in objects {
        found.extend(unknown_apps(&**object, world.apps));
        found.extend(missing_secrets(&**object, world.is_secret));
    }
    found
}

fn unreadable<K: Kind>(object: &Unreadable) -> Finding {
    let kind = <K as dapr_crds::meta::Object>::KIND;
    Finding {
        api_version: <K as dapr_crds::meta::Object>::API_VERSION,
        kind,
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        uid: object.uid.as_deref().unwrap_or_default().to_owned(),
        reason: "Unreadable",
        message: format!("sidecars do not get this {kind}: {}", object.reason),
    }
}

fn finding<K: Kind>(object: &K, reason: &'static str, message: String) -> Finding {
    let metadata = dapr_crds::meta::Object::metadata(object);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Finding {
        api_version: <K as dapr_crds::meta::Object>::API_VERSION,
        kind: <K as dapr_crds::meta::Object>::KIND,
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
        uid: text(&metadata.uid),
        reason,
        message,
    }
}

fn unknown_apps<K: Kind>(object: &K, apps: Option<&Apps>) -> Option<Finding> {
    let here = apps?.get(object.namespace());
    let scopes = dapr_crds::meta::Object::scopes(object).iter();
    let unknown: BTreeSet<&str> = scopes
        .map(String::as_str)
        .filter(|scope| !here.is_some_and(|apps| apps.contains(*scope)))
        .collect();
    if unknown.is_empty() {
        return None;
    }
    let names = list(unknown);
    let message = format!("scopes name apps that are not in this namespace: {names}");
    Some(finding(object, "UnknownApp", message))
}

fn missing_secrets<K: Kind>(object: &K, is_secret: &dyn Fn(&str, &str) -> bool) -> Option<Finding> {
    let names = secrets::names(object);
    let namespace = object.namespace();
    let mut missing = names
        .iter()
        .map(|name| &**name)
        .filter(|name| !is_secret(namespace, name))
        .peekable();
    missing.peek()?;
    let names = list(missing);
    let message = format!("secrets it refers to are not in this namespace: {names}");
    Some(finding(object, "SecretNotFound", message))
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Subscriptions of one topic that bring its messages to the same path of the same app twice. Each names the first other.
pub(super) fn duplicates(subscriptions: &[Arc<Subscription>]) -> Vec<Finding> {
    type Topic<'a> = (&'a str, &'a str, &'a str);
    type Entry<'a> = (&'a Subscription, BTreeSet<&'a str>);
    let mut topics: BTreeMap<Topic<'_>, Vec<Entry<'_>>> = BTreeMap::new();
    for subscription in subscriptions {
        let namespace = subscription.metadata.namespace.as_deref();
        let spec = &subscription.spec;
        let topic = (
            namespace.unwrap_or_default(),
            &*spec.pubsubname,
            &*spec.topic,
        );
        let entry = (&**subscription, paths(subscription));
        topics.entry(topic).or_default().push(entry);
    }
    let mut found = Vec::new();
    for ((_, pubsub, topic), entries) in topics {
        for (at, (subscription, own)) in entries.iter().enumerate() {
            let others = entries.iter().enumerate().filter(|(other, _)| *other != at);
            let shared = others.map(|(_, other)| other).find_map(|(other, theirs)| {
                let path = own.intersection(theirs).next()?;
                overlap(&subscription.scopes, &other.scopes).then_some((other, path))
            });
            if let Some((other, path)) = shared {
                let name = other.metadata.name.as_deref().unwrap_or_default();
                let message = format!(
                    "the Subscription {name} brings topic {topic} of {pubsub} to the route {path} of the same apps"
                );
                found.push(finding(*subscription, "DuplicateRoute", message));
            }
        }
    }
    found
}

/// The routes of an app that a Subscription brings messages to.
fn paths(subscription: &Subscription) -> BTreeSet<&str> {
    let routes = &subscription.spec.routes;
    let rules = routes.rules.iter().map(|rule| rule.path.as_str());
    let paths = rules.chain([routes.default.as_str()]);
    paths.filter(|path| !path.is_empty()).collect()
}

/// Whether some app is in both scopes.
fn overlap(one: &[String], other: &[String]) -> bool {
    one.is_empty() || other.is_empty() || one.iter().any(|app| in_scope(other, app))
}

#[cfg(test)]
mod tests {
    use dapr_crds::{
        Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy,
    };
    use serde_json::{Value, json};

    use super::*;

    fn component(name: &str, scopes: &[&str], secret: &str) -> Arc<Component> {
        let object = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"type": "state.x", "version": "v1", "metadata": [
                {"name": "a", "secretKeyRef": {"name": secret, "key": "k"}},
            ]},
            "scopes": scopes,
        });
        Arc::new(serde_json::from_value(object).expect("readable"))
    }

    fn subscription(name: &str, topic: &str, routes: &Value, scopes: &[&str]) -> Arc<Subscription> {
        let object = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"pubsubname": "p", "topic": topic, "routes": routes}, "scopes": scopes,
        });
        Arc::new(serde_json::from_value(object).expect("readable"))
    }

    /// Everything in `n` that is wrong with objects, where `there` is the only Secret.
    fn look<K: Kind>(objects: &[Arc<K>], apps: Option<&[&str]>) -> Vec<String> {
        let apps = apps.map(|apps| {
            let apps = apps.iter().map(|app| (*app).to_owned()).collect();
            Apps::from([("n".to_owned(), apps)])
        });
        let world = World {
            apps: apps.as_ref(),
            is_secret: &|namespace, name| namespace == "n" && name == "there",
        };
        texts(findings(objects, &[], &world))
    }

    fn texts(found: impl IntoIterator<Item = Finding>) -> Vec<String> {
        let text = |it: Finding| format!("{} {} {}: {}", it.kind, it.name, it.reason, it.message);
        found.into_iter().map(text).collect()
    }

    #[test]
    fn scopes_without_an_app() {
        let all = [
            component("a", &[], "there"),
            component("b", &["shop"], "there"),
            component("c", &["shop", "sohp", "other"], "there"),
        ];
        assert_eq!(
            look(&all, Some(&["shop"])),
            [
                "Component c UnknownApp: scopes name apps that are not in this namespace: other, sohp"
            ]
        );
        assert!(look(&all, None).is_empty(), "not known is not missing");
    }

    #[test]
    fn secrets_that_are_missing() {
        let all = [
            component("a", &[], "there"),
            component("b", &[], "gone"),
            component("c", &[], ""),
        ];
        assert_eq!(
            look(&all, None),
            ["Component b SecretNotFound: secrets it refers to are not in this namespace: gone"]
        );
    }

    #[test]
    fn every_kind_is_looked_at() {
        fn check<K: Kind>(spec: &Value, expected: &[&str]) {
            let object = json!({
                "metadata": {"name": "a", "namespace": "n", "uid": "a"}, "spec": spec, "scopes": ["sohp"],
            });
            let object: K = serde_json::from_value(object).expect("readable");
            let kind = <K as dapr_crds::meta::Object>::KIND;
            let expected: Vec<String> =
                expected.iter().map(|it| format!("{kind} a {it}")).collect();
            assert_eq!(look(&[Arc::new(object)], Some(&["shop"])), expected);
        }
        let headers = json!([{"name": "h", "secretKeyRef": {"name": "gone", "key": "k"}}]);
        let secret = "SecretNotFound: secrets it refers to are not in this namespace: gone";
        let app = "UnknownApp: scopes name apps that are not in this namespace: sohp";
        check::<HttpEndpoint>(&json!({"headers": headers}), &[secret, app]);
        let server = json!({"endpoint": {"sse": {"url": "u", "headers": headers}}});
        check::<McpServer>(&server, &[secret, app]);
        let configuration = json!({"tracing": {"otel": {"headers": headers}}});
        check::<Configuration>(&configuration, &[secret]);
        check::<Resiliency>(&json!({}), &[app]);
        check::<WorkflowAccessPolicy>(&json!({}), &[app]);
    }

    #[test]
    fn what_cannot_be_read() {
        let broken = [Unreadable {
            namespace: "n".into(),
            name: "x".into(),
            uid: Some("u".into()),
            reason: "no object".into(),
        }];
        let world = World {
            apps: None,
            is_secret: &|_, _| true,
        };
        let found: Vec<Finding> = findings::<Component>(&[], &broken, &world)
            .into_iter()
            .chain(findings::<Subscription>(&[], &broken, &world))
            .collect();
        let told = found
            .iter()
            .map(|it| (it.api_version, &*it.uid, &*it.message));
        let expected = [
            (
                "dapr.io/v1alpha1",
                "u",
                "sidecars do not get this Component: no object",
            ),
            (
                "dapr.io/v2alpha1",
                "u",
                "sidecars do not get this Subscription: no object",
            ),
        ];
        assert!(told.eq(expected), "{found:?}");
    }

    #[test]
    fn secrets_of_other_stores_are_not_looked_for() {
        let with_store = |store: &str| {
            let mut component = Component::clone(&component("a", &[], "gone"));
            component.auth.secret_store = store.to_owned();
            look(&[Arc::new(component)], None).len()
        };
        assert_eq!((with_store(""), with_store("kubernetes")), (1, 1));
        assert_eq!(with_store("vault"), 0);
    }

    #[test]
    fn two_subscriptions_on_one_route() {
        let check = |one: (&str, Value, &[&str]), other: (&str, Value, &[&str]), expected: bool| {
            let all = [
                subscription("a", one.0, &one.1, one.2),
                subscription("b", other.0, &other.1, other.2),
            ];
            let found = texts(duplicates(&all));
            assert_eq!(found.len(), if expected { 2 } else { 0 }, "{found:?}");
            assert_eq!(
                found
                    .first()
                    .is_some_and(|it| it.contains("Subscription b brings")),
                expected
            );
        };
        let to = |path: &str| json!({"default": path});
        let rule =
            |path: &str| json!({"rules": [{"match": "x", "path": path}], "default": "/else"});
        check(("t", to("/a"), &[]), ("t", to("/a"), &[]), true);
        check(("t", to("/a"), &["x"]), ("t", to("/a"), &[]), true);
        check(
            ("t", to("/a"), &["x", "y"]),
            ("t", rule("/a"), &["y"]),
            true,
        );
        check(("t", to("/a"), &["x"]), ("t", to("/a"), &["y"]), false);
        check(("t", to("/a"), &[]), ("t", to("/b"), &[]), false);
        check(("t", to("/a"), &[]), ("u", to("/a"), &[]), false);
        check(("t", to(""), &[]), ("t", to(""), &[]), false);
    }
}
