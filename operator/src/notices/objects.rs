//! What is kept of resources to see what is wrong with them: names and texts that no secret is in.

use std::collections::BTreeSet;

use dapr_crds::annotations::APP_ID;
use dapr_crds::subscription::v2alpha1;
use dapr_kubernetes::slim::{self, Keep};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What of a resource decides, or why it cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noted<T> {
    pub(super) metadata: ObjectMeta,
    pub(super) content: Result<T, String>,
}

/// A Component.
pub(super) type Component = Noted<ComponentNotes>;
/// A Subscription.
pub(super) type Subscription = Noted<SubscriptionNotes>;

/// What of a Component decides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ComponentNotes {
    pub(super) scopes: Vec<String>,
    /// Names of the Kubernetes Secrets it refers to.
    pub(super) secrets: BTreeSet<String>,
}

/// What of a Subscription decides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SubscriptionNotes {
    pub(super) scopes: Vec<String>,
    pub(super) pubsub: String,
    pub(super) topic: String,
    pub(super) paths: BTreeSet<String>,
}

/// What can be noted of an object.
trait Notes: Sized {
    fn read(object: Value) -> Result<Self, serde_json::Error>;
}

impl Notes for ComponentNotes {
    fn read(object: Value) -> Result<Self, serde_json::Error> {
        let component: dapr_crds::Component = serde_json::from_value(object)?;
        let pairs = component.spec.metadata.iter();
        let names = pairs.map(|pair| pair.secret_key_ref.name.clone());
        let is_kubernetes = matches!(component.auth.secret_store.as_str(), "" | "kubernetes");
        Ok(Self {
            secrets: names
                .filter(|name| is_kubernetes && !name.is_empty())
                .collect(),
            scopes: component.scopes,
        })
    }
}

impl Notes for SubscriptionNotes {
    fn read(object: Value) -> Result<Self, serde_json::Error> {
        let subscription: v2alpha1::Subscription = serde_json::from_value(object)?;
        let spec = subscription.spec;
        let rules = spec.routes.rules.into_iter().map(|rule| rule.path);
        let paths = rules.chain([spec.routes.default]);
        Ok(Self {
            scopes: subscription.scopes,
            pubsub: spec.pubsubname,
            topic: spec.topic,
            paths: paths.filter(|path| !path.is_empty()).collect(),
        })
    }
}

impl<'de, T: Notes> Deserialize<'de> for Noted<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(from)?;
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        let mut metadata =
            slim::metadata(metadata, Keep::default()).map_err(serde::de::Error::custom)?;
        metadata.resource_version = None;
        let content = T::read(object).map_err(|error| without_values(&error.to_string()));
        Ok(Self { metadata, content })
    }
}

/// An error of the reader without what it quotes of the object: that may be a password.
fn without_values(text: &str) -> String {
    let mut kept = String::new();
    for quote in ['"', '`'] {
        let rest = if kept.is_empty() { text } else { &kept };
        let outside = rest.split(quote).step_by(2);
        kept = outside.collect::<Vec<_>>().join("…");
    }
    kept
}

macro_rules! noted {
    ($notes:ty, $kind:literal, $version:literal, $plural:literal) => {
        dapr_kubernetes::resource!(Noted<$notes>, $kind, "dapr.io", $version, $plural);
    };
}

noted!(ComponentNotes, "Component", "v1alpha1", "components");
noted!(
    SubscriptionNotes,
    "Subscription",
    "v2alpha1",
    "subscriptions"
);

/// Makes a type of metadata alone, for which the API server is asked for no more.
macro_rules! bare {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $plural:literal, $keep:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct $name {
            metadata: ObjectMeta,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                struct Raw {
                    #[serde(deserialize_with = "own")]
                    metadata: ObjectMeta,
                }
                fn own<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
                    slim::metadata(from, $keep)
                }
                let mut metadata = Raw::deserialize(from)?.metadata;
                metadata.resource_version = None;
                Ok(Self { metadata })
            }
        }

        dapr_kubernetes::resource!($name, $kind, "", "v1", $plural, metadata only);
    };
}

bare!(
    /// That a Secret is there.
    Secret,
    "Secret",
    "secrets",
    Keep::default()
);
bare!(
    /// The Service of an app.
    AppService,
    "Service",
    "services",
    Keep {
        annotations: &[APP_ID],
        ..Keep::default()
    }
);

impl AppService {
    pub(super) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn app_id(&self) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(APP_ID).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_component_keeps_names_alone() {
        let read = |auth: &str| -> Component {
            let object = json!({
                "metadata": {"name": "c", "namespace": "n", "uid": "u"},
                "spec": {"type": "state.redis", "version": "v1", "metadata": [
                    {"name": "host", "value": "hidden"},
                    {"name": "password", "secretKeyRef": {"name": "redis", "key": "password"}},
                ]},
                "auth": {"secretStore": auth}, "scopes": ["a"],
            });
            serde_json::from_value(object).expect("readable")
        };
        let notes = read("").content.expect("a component");
        assert_eq!(notes.secrets, ["redis".to_owned()].into());
        assert_eq!(notes.scopes, ["a"]);
        assert!(
            read("kubernetes")
                .content
                .expect("a component")
                .secrets
                .contains("redis")
        );
        assert!(
            read("vault")
                .content
                .expect("a component")
                .secrets
                .is_empty()
        );
        assert!(!format!("{:?}", read("")).contains("hidden"));
    }

    #[test]
    fn why_an_object_cannot_be_read_quotes_nothing_of_it() {
        let object = json!({
            "metadata": {"name": "c"},
            "spec": {"ignoreErrors": "hidden", "metadata": []},
        });
        let component: Component = serde_json::from_value(object).expect("noted");
        let error = component.content.expect_err("no component");
        assert!(
            !error.contains("hidden") && error.contains("expected"),
            "{error}"
        );
        assert_eq!(without_values("a `b` c \"d\" e"), "a … c … e");
        assert_eq!(without_values("plain"), "plain");
    }

    #[test]
    fn a_subscription_keeps_its_paths() {
        let object = json!({
            "metadata": {"name": "s"},
            "spec": {"pubsubname": "p", "topic": "t", "routes": {
                "rules": [{"match": "x", "path": "/a"}, {"match": "y", "path": "/b"}], "default": "/c",
            }},
        });
        let subscription: Subscription = serde_json::from_value(object).expect("readable");
        let notes = subscription.content.expect("a subscription");
        assert_eq!(notes.paths.len(), 3);
    }

    #[test]
    fn of_secrets_only_metadata_is_asked_for() {
        assert!(<Secret as kube::Resource>::metadata_api());
        let object = json!({"metadata": {"name": "s", "annotations": {"a": "hidden"}}, "data": {"k": "hidden"}});
        let secret: Secret = serde_json::from_value(object).expect("readable");
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
