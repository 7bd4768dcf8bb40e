//! Types for watches that keep only what their reader needs: thousands of pods must cost little.
//!
//! A slim type has a field `metadata: ObjectMeta`, read through [`metadata`], whatever else its reader wants, and is made
//! a kube resource by [`resource!`](crate::resource).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

/// What of an object's metadata is kept besides name, namespace, UID, version and the times of its life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// Names of annotations.
    pub annotations: &'static [&'static str],
    /// Names of labels.
    pub labels: &'static [&'static str],
    /// Whether the owners are kept.
    pub owners: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    annotations: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// Reads an object's metadata and drops everything that `keep` does not name.
///
/// # Errors
///
/// Those of the deserializer.
pub fn metadata<'de, D: Deserializer<'de>>(from: D, keep: Keep) -> Result<ObjectMeta, D::Error> {
    let meta = Meta::deserialize(from)?;
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        creation_timestamp: meta.creation_timestamp,
        deletion_timestamp: meta.deletion_timestamp,
        annotations: only(meta.annotations, keep.annotations),
        labels: only(meta.labels, keep.labels),
        owner_references: meta.owner_references.filter(|_| keep.owners),
        ..ObjectMeta::default()
    })
}

fn only(
    pairs: Option<BTreeMap<String, String>>,
    names: &[&str],
) -> Option<BTreeMap<String, String>> {
    let mut pairs = pairs?;
    pairs.retain(|name, _| names.contains(&name.as_str()));
    (!pairs.is_empty()).then_some(pairs)
}

/// Makes a type with a field `metadata: ObjectMeta` a namespaced kube resource of one fixed kind. With `metadata only`
/// at the end the API server is asked for nothing else of it.
///
/// ```
/// use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
/// use serde::{Deserialize, Deserializer};
///
/// #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
/// struct Account {
///     #[serde(deserialize_with = "slim")]
///     metadata: ObjectMeta,
/// }
///
/// fn slim<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
///     dapr_kubernetes::slim::metadata(from, dapr_kubernetes::slim::Keep::default())
/// }
///
/// dapr_kubernetes::resource!(Account, "ServiceAccount", "", "v1", "serviceaccounts");
/// ```
#[macro_export]
macro_rules! resource {
    ($type:ty, $kind:literal, $group:literal, $version:literal, $plural:literal) => {
        $crate::resource!(@ $type, $kind, $group, $version, $plural, false);
    };
    ($type:ty, $kind:literal, $group:literal, $version:literal, $plural:literal, metadata only) => {
        $crate::resource!(@ $type, $kind, $group, $version, $plural, true);
    };
    (@ $type:ty, $kind:literal, $group:literal, $version:literal, $plural:literal, $metadata_only:literal) => {
        impl ::kube::Resource for $type {
            type DynamicType = ();
            type Scope = ::kube::core::NamespaceResourceScope;

            fn kind((): &()) -> ::std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> ::std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> ::std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> ::std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn metadata_api() -> bool {
                $metadata_only
            }

            fn meta(&self) -> &::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(
                &mut self,
            ) -> &mut ::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_named_is_kept() {
        let object = json!({
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-01T03:04:05Z",
            "deletionTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": "a", "tier": "x"}, "annotations": {"one": "1", "two": "2"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "w"}],
            "managedFields": [{"manager": "m"}],
        });
        let keep = Keep {
            annotations: &["two", "three"],
            labels: &[],
            owners: true,
        };
        let read = metadata(&object, keep).expect("readable");
        assert_eq!(
            serde_json::to_value(&read).expect("writable"),
            json!({
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T03:04:05Z", "deletionTimestamp": "2026-01-02T03:04:05Z",
                "annotations": {"two": "2"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "w"}],
            })
        );
        let read = metadata(&object, Keep::default()).expect("readable");
        assert_eq!((read.annotations, read.owner_references), (None, None));
    }
}
