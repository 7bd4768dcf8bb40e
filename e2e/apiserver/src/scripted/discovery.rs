//! What the server says it has. Clients in Go ask for it before they ask for anything else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::object::Resource;

/// A kind that is told of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) resource: Resource,
    pub(super) kind: String,
    pub(super) scope: Scope,
}

/// Where the objects of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In namespaces.
    Namespaced,
    /// In none.
    Cluster,
}

impl Kind {
    pub(super) fn new(api_version: &str, kind: &str, scope: Scope) -> Self {
        Self {
            resource: Resource::of(&json!({"apiVersion": api_version, "kind": kind})),
            kind: kind.to_owned(),
            scope,
        }
    }
}

/// What every cluster has, as far as the tests need it.
pub(super) fn ordinary() -> BTreeSet<Kind> {
    let namespaced = [
        ("v1", "Pod"),
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("v1", "Event"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "ReplicaSet"),
        ("coordination.k8s.io/v1", "Lease"),
    ];
    let cluster = [
        ("v1", "Namespace"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        (
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
        ),
        ("authentication.k8s.io/v1", "TokenReview"),
    ];
    let of = |scope| move |(version, kind): (&str, &str)| Kind::new(version, kind, scope);
    let namespaced = namespaced.into_iter().map(of(Scope::Namespaced));
    let cluster = cluster.into_iter().map(of(Scope::Cluster));
    namespaced.chain(cluster).collect()
}

/// The kind of a resource.
pub(super) fn kind<'a>(resource: &Resource, kinds: &'a BTreeSet<Kind>) -> Option<&'a str> {
    let known = kinds.iter().find(|kind| kind.resource == *resource);
    known.map(|kind| kind.kind.as_str())
}

/// The document of a path, if it is one of these.
pub(super) fn document(path: &str, kinds: &BTreeSet<Kind>) -> Option<Value> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let groups = groups(kinds);
    match parts.as_slice() {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => {
            let groups = groups.iter().filter(|(name, _)| !name.is_empty());
            let groups: Vec<Value> = groups
                .map(|(name, versions)| group(name, versions))
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => groups.get(name).map(|versions| group(name, versions)),
        ["api", version] => resources("", version, kinds),
        ["apis", group, version] => resources(group, version, kinds),
        _ => None,
    }
}

fn groups(kinds: &BTreeSet<Kind>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Kind { resource, .. } in kinds {
        let versions = groups.entry(&resource.group).or_default();
        versions.insert(&resource.version);
    }
    groups
}

fn group(name: &str, versions: &BTreeSet<&str>) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name,
        "preferredVersion": versions.first(), "versions": versions,
    })
}

fn resources(group: &str, version: &str, kinds: &BTreeSet<Kind>) -> Option<Value> {
    let kinds = kinds.iter().filter(|kind| {
        let Resource {
            group: its_group,
            version: its_version,
            ..
        } = &kind.resource;
        its_group == group && its_version == version
    });
    let resources: Vec<Value> = kinds
        .clone()
        .map(|kind| {
            json!({
                "name": kind.resource.plural, "singularName": kind.kind.to_lowercase(), "kind": kind.kind,
                "namespaced": kind.scope == Scope::Namespaced,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            })
        })
        .collect();
    let api_version = kinds.map(|kind| kind.resource.api_version()).next()?;
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_tell_of_every_kind() {
        let mut kinds = ordinary();
        for version in ["v1alpha1", "v2alpha1"] {
            let version = format!("dapr.io/{version}");
            kinds.insert(Kind::new(&version, "Subscription", Scope::Namespaced));
        }
        let document = |path| document(path, &kinds).unwrap_or_default();
        let core = document("/api/v1");
        let pod = core["resources"].as_array().into_iter().flatten();
        let pod = pod.clone().find(|it| it["kind"] == "Pod");
        assert_eq!(pod.map(|it| &it["namespaced"]), Some(&json!(true)));
        let group = document("/apis/dapr.io");
        assert_eq!(group["versions"][1]["groupVersion"], "dapr.io/v2alpha1");
        let list = document("/apis");
        let groups = list["groups"].as_array().into_iter().flatten();
        assert!(groups.into_iter().any(|it| *it == group), "{list}");
        let subscriptions = document("/apis/dapr.io/v2alpha1");
        assert_eq!(subscriptions["resources"][0]["name"], "subscriptions");
        let resource = |kind: &str| Kind::new("dapr.io/v2alpha1", kind, Scope::Namespaced).resource;
        let known = kind(&resource("Subscription"), &kinds);
        assert_eq!(known, Some("Subscription"));
        assert_eq!(kind(&resource("Component"), &kinds), None);
        for path in ["/apis/other.io", "/apis/dapr.io/v9", "/version"] {
            assert_eq!(document(path), Value::Null, "{path}");
        }
    }
}
