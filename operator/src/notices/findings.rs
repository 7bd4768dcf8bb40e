//! What is wrong with resources. Pure; every text is made of names alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dapr_crds::in_scope;
use dapr_crds::meta::{V1ALPHA1, V2ALPHA1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::objects::{Component, Subscription, SubscriptionNotes};

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
    /// `None` while they are not known.
    pub(super) apps: Option<&'a Apps>,
    pub(super) is_secret: &'a dyn Fn(&str, &str) -> bool,
}

/// Everything that is wrong.
pub(super) fn findings(world: &World<'_>) -> BTreeSet<Finding> {
    let mut found = BTreeSet::new();
    for component in world.components {
        let about = About::component(&component.metadata);
        match &component.content {
            Err(error) => found.extend(about.unreadable(error)),
            Ok(notes) => {
                found.extend(about.unknown_apps(&notes.scopes, world.apps));
                let missing = notes.secrets.iter();
                let missing: Vec<&str> = missing
                    .map(String::as_str)
                    .filter(|name| !(world.is_secret)(about.namespace(), name))
                    .collect();
                found.extend(about.missing_secrets(&missing));
            }
        }
    }
    for subscription in world.subscriptions {
        let about = About::subscription(&subscription.metadata);
        match &subscription.content {
            Err(error) => found.extend(about.unreadable(error)),
            Ok(notes) => found.extend(about.unknown_apps(&notes.scopes, world.apps)),
        }
    }
    found.extend(duplicates(world.subscriptions));
    found
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

    fn unreadable(&self, error: &str) -> Option<Finding> {
        let message = format!("sidecars do not get this {}: {error}", self.kind);
        Some(self.finding("Unreadable", message))
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

    fn missing_secrets(&self, missing: &[&str]) -> Option<Finding> {
        if missing.is_empty() {
            return None;
        }
        let names = list(missing.iter().copied());
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
    type Entry<'a> = (&'a ObjectMeta, &'a SubscriptionNotes);
    let mut topics: BTreeMap<Topic<'_>, Vec<Entry<'_>>> = BTreeMap::new();
    for subscription in subscriptions {
        if let Ok(notes) = &subscription.content {
            let namespace = subscription.metadata.namespace.as_deref();
            let topic = (namespace.unwrap_or_default(), &*notes.pubsub, &*notes.topic);
            topics
                .entry(topic)
                .or_default()
                .push((&subscription.metadata, notes));
        }
    }
    let mut found = Vec::new();
    for ((_, pubsub, topic), entries) in topics {
        for (at, (metadata, notes)) in entries.iter().enumerate() {
            let others = entries.iter().enumerate().filter(|(other, _)| *other != at);
            let shared = others.map(|(_, other)| other).find_map(|(other, theirs)| {
                let path = notes.paths.intersection(&theirs.paths).next()?;
                overlap(&notes.scopes, &theirs.scopes).then_some((other, path))
            });
            if let Some((other, path)) = shared {
                let name = other.name.as_deref().unwrap_or_default();
                let message = format!(
                    "the Subscription {name} brings topic {topic} of {pubsub} to the route {path} of the same apps"
                );
                found.push(About::subscription(metadata).finding("DuplicateRoute", message));
            }
        }
    }
    found
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
        Arc::new(serde_json::from_value(object).expect("noted"))
    }

    fn subscription(name: &str, topic: &str, routes: &Value, scopes: &[&str]) -> Arc<Subscription> {
        let object = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"pubsubname": "p", "topic": topic, "routes": routes}, "scopes": scopes,
        });
        Arc::new(serde_json::from_value(object).expect("noted"))
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
    fn components_that_cannot_be_read() {
        let object =
            json!({"metadata": {"name": "x", "namespace": "n"}, "spec": {"metadata": [1]}});
        let broken = Arc::new(serde_json::from_value(object).expect("noted"));
        let found = look(&[broken], &[], None);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("Component x Unreadable: sidecars do not get"),
            "{found:?}"
        );
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
