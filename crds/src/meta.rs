//! What all kinds share at the top of an object: group, version, kind, metadata and scopes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The API group of every kind.
pub const GROUP: &str = "dapr.io";
/// `apiVersion` of every kind but the storage version of Subscription.
pub const V1ALPHA1: &str = "dapr.io/v1alpha1";
/// `apiVersion` of the storage version of Subscription.
pub const V2ALPHA1: &str = "dapr.io/v2alpha1";

/// Every kind there is; all exist in `v1alpha1`, Subscription in `v2alpha1` too.
pub const KINDS: [&str; 7] = [
    "Component",
    "Configuration",
    "HTTPEndpoint",
    "MCPServer",
    "Resiliency",
    "Subscription",
    "WorkflowAccessPolicy",
];

/// Whether an app may use an object with these `scopes`: a list that is empty admits every app, any other
/// admits exactly the ids it names (case-sensitive).
pub fn in_scope<S: AsRef<str>>(scopes: &[S], app_id: &str) -> bool {
    scopes.is_empty() || scopes.iter().any(|scope| scope.as_ref() == app_id)
}

/// What is common to the objects of all kinds.
pub trait Object: Clone + Default + Serialize + serde::de::DeserializeOwned {
    /// The kind as it is written in a manifest.
    const KIND: &'static str;
    /// The `apiVersion` as it is written in a manifest.
    const API_VERSION: &'static str;

    /// The object's metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// The app ids the object is limited to; empty means all. A Configuration has none.
    fn scopes(&self) -> &[String];

    /// The object's name, empty when it has none.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The object's namespace, empty when the manifest leaves it open.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// Whether the app may use this object.
    fn admits(&self, app_id: &str) -> bool {
        in_scope(self.scopes(), app_id)
    }
}

macro_rules! api_version {
    ($(#[$doc:meta])* $marker:ident = $text:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $marker;

        impl Serialize for $marker {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($text)
            }
        }

        impl<'de> Deserialize<'de> for $marker {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // Streamed objects come without a version, so the field is written but never trusted:
                // whoever reads knows from the call which kind and version it asked for.
                serde::de::IgnoredAny::deserialize(deserializer)?;
                Ok(Self)
            }
        }
    };
}

api_version! {
    /// The text `dapr.io/v1alpha1` in an object's `apiVersion`.
    V1Alpha1 = V1ALPHA1
}
api_version! {
    /// The text `dapr.io/v2alpha1` in an object's `apiVersion`.
    V2Alpha1 = V2ALPHA1
}

/// Implements [`Object`] and `kube::Resource` for a kind, which is what a typed API client asks for.
macro_rules! resource {
    ($object:ty, $kind:literal, $version:literal, $plural:literal, |$this:ident| $scopes:expr) => {
        impl $crate::meta::Object for $object {
            const KIND: &'static str = $kind;
            const API_VERSION: &'static str = concat!("dapr.io/", $version);

            fn metadata(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn scopes(&self) -> &[String] {
                let $this = self;
                $scopes
            }
        }

        impl kube::Resource for $object {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $crate::meta::GROUP.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(
                &mut self,
            ) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use resource;

/// Reads an explicit `null` like an absent field. Go writes nil lists and maps as `null`, and upstream's
/// control plane sends such objects.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// As [`or_default`] for a map whose values may be `null` as well: in Go a name with nothing behind it is an entry.
pub(crate) fn or_default_values<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    let entries: BTreeMap<String, Option<T>> = or_default(deserializer)?;
    let entries = entries.into_iter();
    Ok(entries
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .collect())
}

pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

pub(crate) fn is_zero(value: &i32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::in_scope;

    #[test]
    fn scopes_admit_everybody_or_exactly_those_named() {
        let check = |scopes: &[&str], app: &str, expected: bool| {
            assert_eq!(in_scope(scopes, app), expected, "{scopes:?} {app}");
        };
        check(&[], "orders", true);
        check(&["orders"], "orders", true);
        check(&["shipping", "orders"], "orders", true);
        check(&["Orders"], "orders", false);
        check(&["order"], "orders", false);
        check(&[""], "orders", false);
    }
}
