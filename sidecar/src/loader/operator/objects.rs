//! The current objects of one namespace by kind and name, as lists and events leave them. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use dapr_crds::manifest::{self, Manifest};
use dapr_proto::dapr::proto::operator::v1::ResourceEventType;

use super::decode;
use crate::loader::Resources;

/// What the operator lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Resiliency,
    Component,
    HttpEndpoint,
    Subscription,
    McpServer,
    WorkflowAccessPolicy,
}

impl Kind {
    /// In the order upstream asks for them.
    pub(super) const ALL: [Self; 6] = [
        Self::Resiliency,
        Self::Component,
        Self::HttpEndpoint,
        Self::Subscription,
        Self::McpServer,
        Self::WorkflowAccessPolicy,
    ];

    /// What a failed call was about.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Resiliency => "resiliencies",
            Self::Component => "components",
            Self::HttpEndpoint => "HTTP endpoints",
            Self::Subscription => "subscriptions",
            Self::McpServer => "MCP servers",
            Self::WorkflowAccessPolicy => "workflow access policies",
        }
    }

    /// Whether operators of upstream's last version may not have it.
    pub(super) fn is_optional(self) -> bool {
        match self {
            Self::McpServer | Self::WorkflowAccessPolicy => true,
            Self::Resiliency | Self::Component | Self::HttpEndpoint | Self::Subscription => false,
        }
    }
}

/// What has happened to an object.
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) what: ResourceEventType,
    pub(super) object: Bytes,
}

/// All objects but the Configuration.
#[derive(Default)]
pub(super) struct Objects(BTreeMap<(Kind, String), Manifest>);

impl Objects {
    /// Takes a complete list of one kind.
    pub(super) fn replace(&mut self, kind: Kind, sent: &[Bytes]) {
        self.0.retain(|(other, _), _| *other != kind);
        for manifest in sent.iter().filter_map(|json| read(kind, json)) {
            self.0.insert((kind, manifest.name().to_owned()), manifest);
        }
    }

    /// Takes one event; whether anything can have changed.
    pub(super) fn apply(&mut self, event: &Event) -> bool {
        let Some(manifest) = read(event.kind, &event.object) else {
            return false;
        };
        let key = (event.kind, manifest.name().to_owned());
        match event.what {
            ResourceEventType::Created | ResourceEventType::Updated => {
                self.0.insert(key, manifest);
                true
            }
            ResourceEventType::Deleted => self.0.remove(&key).is_some(),
            ResourceEventType::Unknown => false,
        }
    }

    /// What of them concerns `app_id`.
    pub(super) fn resources(&self, app_id: &str) -> Resources {
        let mut resources = Resources::default();
        for manifest in self.0.values() {
            resources.add(manifest.clone(), app_id);
        }
        resources
    }
}

/// An object that can be used; another is named in the log and left out.
fn read(kind: Kind, json: &Bytes) -> Option<Manifest> {
    let what = kind.plural();
    let manifest = match decode::manifest(kind, json) {
        Ok(manifest) => manifest,
        Err(error) => {
            tracing::warn!(target: "dapr.runtime", "one of the {what} the operator sent cannot be read and is left out: {error}");
            return None;
        }
    };
    let name = manifest.name();
    if name.is_empty() {
        return None;
    }
    if let Err(reason) = manifest::check_name(manifest.kind().unwrap_or_default(), name) {
        tracing::warn!(target: "dapr.runtime", "{reason}");
        return None;
    }
    Some(manifest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn component(name: &str, kind: &str, scopes: &[&str]) -> Bytes {
        // As upstream streams it: without kind, with nulls.
        let object = json!({
            "metadata": {"name": name, "namespace": "prod", "creationTimestamp": null},
            "spec": {"type": kind, "version": "v1", "metadata": null, "ignoreErrors": false, "initTimeout": ""},
            "auth": {"secretStore": ""}, "scopes": scopes,
        });
        Bytes::from(object.to_string())
    }

    fn names(objects: &Objects) -> Vec<String> {
        let resources = objects.resources("shop");
        resources
            .components
            .iter()
            .map(dapr_crds::Component::log_name)
            .collect()
    }

    #[test]
    fn lists_replace_and_events_change() {
        let mut objects = Objects::default();
        let event = |what, object| Event {
            kind: Kind::Component,
            what,
            object,
        };
        objects.replace(
            Kind::Component,
            &[
                component("a", "state.x", &[]),
                component("b", "state.x", &["other"]),
            ],
        );
        assert_eq!(names(&objects), ["a (state.x/v1)"]);
        assert!(objects.apply(&event(
            ResourceEventType::Created,
            component("c", "state.y", &[])
        )));
        assert!(objects.apply(&event(
            ResourceEventType::Updated,
            component("a", "state.z", &[])
        )));
        assert_eq!(names(&objects), ["a (state.z/v1)", "c (state.y/v1)"]);
        assert!(objects.apply(&event(
            ResourceEventType::Deleted,
            component("a", "state.z", &[])
        )));
        assert!(!objects.apply(&event(
            ResourceEventType::Deleted,
            component("a", "state.z", &[])
        )));
        objects.replace(Kind::Component, &[component("d", "state.x", &[])]);
        assert_eq!(names(&objects), ["d (state.x/v1)"]);
    }

    #[test]
    fn what_cannot_be_used_leaves_the_rest() {
        let mut objects = Objects::default();
        let sent = [
            Bytes::from_static(b"{"),
            component("a/b", "state.x", &[]),
            component("", "state.x", &[]),
            component("a", "state.x", &[]),
        ];
        objects.replace(Kind::Component, &sent);
        assert_eq!(names(&objects), ["a (state.x/v1)"]);
    }
}
