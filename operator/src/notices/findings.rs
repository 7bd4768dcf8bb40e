//! What is wrong with resources. Pure; every text is made of names alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dapr_crds::meta::{Object, V1ALPHA1, V2ALPHA1};
use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_crds::{Component, in_scope};
use dapr_kubernetes::Unreadable;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

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

/// What is known.
pub(super) struct World<'a> {
    pub(super) components: &'a [Arc<Component>],
    pub(super) subscriptions: &'a [Arc<Subscription>],
    pub(super) unreadable: Unreadables<'a>,
    /// `None` while they are not known.
    pub(super) apps: Option<&'a Apps>,
    pub(super) is_secret: &'a dyn Fn(&str, &str) -> bool,
}

/// What cannot be read.
#[derive(Clone, Copy, Default)]
pub(super) struct Unreadables<'a> {
    pub(super) components: &'a [Unreadable],
    pub(super) subscriptions: &'a [Unreadable],
}

/// Everything that is wrong.
pub(super) fn findings(world: &World<'_>) -> BTreeSet<Finding> {
    let mut found = BTreeSet::new();
    for component in world.components {
        let about = About::component(&component.metadata);
        found.extend(about.unknown_apps(&component.scopes, world.apps));
        let missing = secrets(component)
            .filter(|name| !(world.is_secret)(about.namespace(), name))
            .collect();
        found.extend(about.missing_secrets(missing));
    }
    for subscription in world.subscriptions {
        let about = About::subscription(&subscription.metadata);
        found.extend(about.unknown_apps(&subscription.scopes, world.apps));
    }
    let Unreadables {
        components,
        subscriptions,
    } = world.unreadable;
    found.extend(components.iter().map(unreadable::<Component>));
    found.extend(subscriptions.iter().map(unreadable::<Subscription>));
    found.extend(duplicates(world.subscriptions));
    found
}

/// Names of the Kubernetes Secrets a Component refers to.
fn secrets(component: &Component) -> impl Iterator<Item = &str> {
    let pairs = component.spec.metadata.iter();
    let names = pairs.map(|pair| pair.secret_key_ref.name.as_str());
    let is_kubernetes = component.auth.is_kubernetes();
    names.filter(move |name| is_kubernetes && !name.is_empty())
}

fn unreadable<K: Object>(object: &Unreadable) -> Finding {
    Finding {
        api_version: K::API_VERSION,
        kind: K::KIND,
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        uid: object.uid.as_deref().unwrap_or_default().to_owned(),
        reason: "Unreadable",
        message: format!("sidecars do not get this {}: {}", K::KIND, object.reason),
    }
}

/// The object something is about.
#[derive(Clone, Copy)]
struct About<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: &'a ObjectMeta,
}

impl<'a> About<'a> {
    fn component(metadata: &'a ObjectMeta) -> Self {
        Self {
            api_version: V1ALPHA1,
            kind: "Component",
            metadata,
        }
    }

    fn subscription(metadata: &'a ObjectMeta) -> Self {
        Self {
            api_version: V2ALPHA1,
            kind: "Subscription",
            metadata,
        }
    }

    fn namespace(&self) -> &'a str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn finding(&self, reason: &'static str, message: String) -> Finding {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Finding {
            api_version: self.api_version,
            kind: self.kind,
            namespace: text(&self.metadata.namespace),
            name: text(&self.metadata.name),
            uid: text(&self.metadata.uid),
            reason,
            message,
        }
    }

    fn unknown_apps(&self, scopes: &[String], apps: Option<&Apps>) -> Option<Finding> {
        let apps = apps?;
        let here = apps.get(self.namespace());
        let unknown: BTreeSet<&str> = scopes
            .iter()
            .map(String::as_str)
            .filter(|scope| !here.is_some_and(|apps| apps.contains(*scope)))
            .collect();
        if unknown.is_empty() {
            return None;
        }
        let names = list(unknown);
        let message = format!("scopes name apps that are not in this namespace: {names}");
        Some(self.finding("UnknownApp", message))
    }

    fn missing_secrets(&self, missing: BTreeSet<&str>) -> Option<Finding> {
        if missing.is_empty() {
            return None;
        }
        let names = list(missing);
        let message = format!("secrets it refers to are not in this namespace: {names}");
        Some(self.finding("SecretNotFound", message))
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Subscriptions of one topic that bring its messages to the same path of the same app twice. Each names the first other.
fn duplicates(subscriptions: &[Arc<Subscription>]) -> Vec<Finding> {
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
                let about = About::subscription(&subscription.metadata);
                found.push(about.finding("DuplicateRoute", message));
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

    fn look(
        components: &[Arc<Component>],
        subscriptions: &[Arc<Subscription>],
        apps: Option<&[&str]>,
    ) -> Vec<String> {
        let apps = apps.map(|apps| {
            let apps = apps.iter().map(|app| (*app).to_owned()).collect();
            Apps::from([("n".to_owned(), apps)])
        });
        let found = findings(&World {
            components,
            subscriptions,
            unreadable: Unreadables::default(),
            apps: apps.as_ref(),
            is_secret: &|namespace, name| namespace == "n" && name == "there",
        });
        found
            .into_iter()
            .map(|it| format!("{} {} {}: {}", it.kind, it.name, it.reason, it.message))
            .collect()
    }

    #[test]
    fn scopes_without_an_app() {
        let all = [
            component("a", &[], "there"),
            component("b", &["shop"], "there"),
            component("c", &["shop", "sohp", "other"], "there"),
        ];
        assert_eq!(
            look(&all, &[], Some(&["shop"])),
            [
                "Component c UnknownApp: scopes name apps that are not in this namespace: other, sohp"
            ]
        );
        assert!(look(&all, &[], None).is_empty(), "not known is not missing");
    }

    #[test]
    fn secrets_that_are_missing() {
        let all = [
            component("a", &[], "there"),
            component("b", &[], "gone"),
            component("c", &[], ""),
        ];
        assert_eq!(
            look(&all, &[], None),
            ["Component b SecretNotFound: secrets it refers to are not in this namespace: gone"]
        );
    }

    #[test]
    fn what_cannot_be_read() {
        let broken = [Unreadable {
            namespace: "n".into(),
            name: "x".into(),
            uid: Some("u".into()),
            reason: "no object".into(),
        }];
        let found = findings(&World {
            components: &[],
            subscriptions: &[],
            unreadable: Unreadables {
                components: &broken,
                subscriptions: &broken,
            },
            apps: None,
            is_secret: &|_, _| true,
        });
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
            look(&[Arc::new(component)], &[], None).len()
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
            let found = look(&[], &all, None);
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
