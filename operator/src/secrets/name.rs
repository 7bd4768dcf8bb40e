//! That a Secret is there, and which version of it: what is watched of Secrets. Values are not asked for.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use dapr_kubernetes::{resource, slim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// Seeded per process, so that a hash says nothing outside of it.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The name of a Secret, and which version of it there is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SecretName {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    /// A hash of what a minimal server sends although only metadata was asked for: it may give no versions.
    #[serde(default, rename = "data", deserialize_with = "hash")]
    hash: Option<u64>,
}

impl SecretName {
    /// Namespace and name.
    pub fn place(&self) -> (&str, &str) {
        let ObjectMeta {
            name, namespace, ..
        } = &self.metadata;
        (
            namespace.as_deref().unwrap_or_default(),
            name.as_deref().unwrap_or_default(),
        )
    }
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    slim::metadata(from, slim::Keep::default())
}

fn hash<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let data = Option::<BTreeMap<String, String>>::deserialize(from)?;
    Ok(data.map(|data| HASHES.hash_one(data)))
}

resource!(SecretName, "Secret", "", "v1", "secrets", metadata only);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_hold_no_value() {
        let secret = |value: &str| -> SecretName {
            serde_json::from_value(json!({
                "metadata": {"name": "s", "namespace": "default"}, "data": {"k": value},
            }))
            .expect("a secret")
        };
        assert_eq!(secret("YQ==").place(), ("default", "s"));
        assert_eq!(secret("YQ=="), secret("YQ=="));
        assert_ne!(secret("YQ=="), secret("Yg=="));
        assert!(!format!("{:?}", secret("YQ==")).contains("YQ=="));
        let bare: SecretName =
            serde_json::from_value(json!({"metadata": {"name": "s"}})).expect("fine");
        assert_eq!(bare.hash, None);
        assert!(<SecretName as kube::Resource>::metadata_api());
    }
}
