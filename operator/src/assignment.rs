//! Which Configuration an app has: the one its pods name. Pure: told of every pod, it asks nobody.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pods::Pod;

/// The Configurations pods name, by namespace and app id.
#[derive(Debug, Default)]
pub struct Assignments(HashMap<Box<str>, HashMap<Box<str>, Claims>>);

/// What the pods of one app say, by the names of the pods.
type Claims = BTreeMap<Box<str>, Claim>;

#[derive(Debug)]
struct Claim {
    config: Box<str>,
    is_ending: bool,
    created: Option<Time>,
}

/// An app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its id.
    pub id: Box<str>,
}

impl Assignments {
    /// Takes what a pod says now in place of what it said before, and tells whose assignment may differ.
    pub fn change(&mut self, old: Option<&Pod>, new: Option<&Pod>) -> Vec<App> {
        let (old, new) = (old.and_then(App::of), new.and_then(App::of));
        if let Some((app, pod)) = &old {
            self.remove(app, pod.name());
        }
        if let Some((app, pod)) = &new {
            self.insert(app, pod);
        }
        let mut apps: Vec<App> = old.into_iter().chain(new).map(|(app, _)| app).collect();
        apps.dedup();
        apps
    }

    /// The Configuration of an app. One that the app has already is kept as long as a pod names it: while pods are
    /// replaced, the old ones must not be given what only the new ones want. Else the newest pod counts.
    pub fn of(&self, namespace: &str, app_id: &str, current: Option<&str>) -> Option<&str> {
        let claims = self.0.get(namespace)?.get(app_id)?;
        let kept = claims.values().find(|it| Some(&*it.config) == current);
        let newest = || {
            claims
                .values()
                .max_by_key(|it| (!it.is_ending, &it.created))
        };
        kept.or_else(newest).map(|claim| &*claim.config)
    }

    fn insert(&mut self, app: &App, pod: &Pod) {
        let Some(config) = pod.config() else {
            return;
        };
        let claim = Claim {
            config: config.into(),
            is_ending: pod.is_ending(),
            created: pod.created().cloned(),
        };
        let apps = self.0.entry(app.namespace.clone()).or_default();
        let claims = apps.entry(app.id.clone()).or_default();
        claims.insert(pod.name().into(), claim);
    }

    fn remove(&mut self, app: &App, pod: &str) {
        let Some(apps) = self.0.get_mut(&app.namespace) else {
            return;
        };
        if let Some(claims) = apps.get_mut(&app.id) {
            claims.remove(pod);
            if claims.is_empty() {
                apps.remove(&app.id);
            }
        }
        if apps.is_empty() {
            self.0.remove(&app.namespace);
        }
    }
}

impl App {
    /// The app of a pod that has a say.
    fn of(pod: &Pod) -> Option<(Self, &Pod)> {
        (pod.is_enabled() && pod.config().is_some()).then(|| {
            let app = Self {
                namespace: pod.namespace().into(),
                id: pod.app_id().into(),
            };
            (app, pod)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, app_id: &str, config: &str, second: u32) -> Pod {
        annotated(name, "true", app_id, config, second)
    }

    fn annotated(name: &str, enabled: &str, app_id: &str, config: &str, second: u32) -> Pod {
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "default",
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            "annotations": {"dapr.io/enabled": enabled, "dapr.io/app-id": app_id, "dapr.io/config": config},
        }}))
        .expect("a pod")
    }

    fn of(pods: &[Pod], app_id: &str, current: Option<&str>) -> Option<String> {
        let mut assignments = Assignments::default();
        for pod in pods {
            assignments.change(None, Some(pod));
        }
        let found = assignments.of("default", app_id, current);
        assert_eq!(assignments.of("other", app_id, current), None);
        found.map(str::to_owned)
    }

    #[test]
    fn a_pod_names_it() {
        let check = |pods: &[Pod], app_id: &str, expected: Option<&str>| {
            assert_eq!(of(pods, app_id, None).as_deref(), expected, "{pods:?}");
        };
        check(&[], "shop", None);
        check(&[pod("p", "shop", "c", 0)], "shop", Some("c"));
        check(&[pod("p", "shop", "c", 0)], "cart", None);
        check(&[pod("shop", "", "c", 0)], "shop", Some("c"));
        check(&[pod("p", "shop", "", 0)], "shop", None);
        check(&[annotated("p", "no", "shop", "c", 0)], "shop", None);
        let (old, new) = (pod("a", "shop", "old", 1), pod("b", "shop", "new", 2));
        check(&[old.clone(), new.clone()], "shop", Some("new"));
        check(&[pod("z", "shop", "", 9), old, new], "shop", Some("new"));
    }

    #[test]
    fn what_an_app_has_is_kept_while_a_pod_names_it() {
        let pods = [pod("a", "shop", "old", 1), pod("b", "shop", "new", 2)];
        assert_eq!(of(&pods, "shop", Some("old")).as_deref(), Some("old"));
        assert_eq!(of(&pods, "shop", Some("gone")).as_deref(), Some("new"));
        assert_eq!(of(&pods[1..], "shop", Some("old")).as_deref(), Some("new"));
    }

    #[test]
    fn changes_tell_whom_they_concern() {
        let mut assignments = Assignments::default();
        let ids =
            |apps: Vec<App>| -> Vec<String> { apps.iter().map(|app| app.id.to_string()).collect() };
        let first = pod("p", "shop", "c", 0);
        assert_eq!(ids(assignments.change(None, Some(&first))), ["shop"]);
        let other = pod("p", "shop", "d", 0);
        assert_eq!(
            ids(assignments.change(Some(&first), Some(&other))),
            ["shop"]
        );
        assert_eq!(assignments.of("default", "shop", Some("c")), Some("d"));
        let moved = pod("p", "cart", "d", 0);
        assert_eq!(
            ids(assignments.change(Some(&other), Some(&moved))),
            ["shop", "cart"]
        );
        assert_eq!(ids(assignments.change(Some(&moved), None)), ["cart"]);
        assert!(assignments.0.is_empty());
        let plain = annotated("p", "", "shop", "", 0);
        assert!(assignments.change(None, Some(&plain)).is_empty());
    }
}
