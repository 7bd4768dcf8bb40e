//! What of a pod decides about its sidecar; every other field is read past, so nothing of the pod is copied.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A pod as the API server shows it at admission.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its name and annotations.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// Its containers and volumes.
    #[serde(deserialize_with = "or_default")]
    pub spec: Spec,
}

/// The metadata of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Empty at admission when the pod has a `generateName`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// What the name will begin with.
    #[serde(deserialize_with = "or_default")]
    pub generate_name: String,
    /// Its labels; of interest is only whether there are any.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// What users ask for.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// The specification of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// The regular containers.
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    /// The init containers, native sidecars among them.
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
    /// The volumes.
    #[serde(deserialize_with = "or_default")]
    pub volumes: Vec<Named>,
    /// The taints of nodes it tolerates.
    #[serde(deserialize_with = "or_default")]
    pub tolerations: Vec<Toleration>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The names of its variables.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<Named>,
    /// What is mounted where.
    #[serde(deserialize_with = "or_default")]
    pub volume_mounts: Vec<Mount>,
}

/// Something with a name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// A mount of a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mount {
    /// The volume.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The path in the container.
    #[serde(deserialize_with = "or_default")]
    pub mount_path: String,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// `Equal` or `Exists`.
    #[serde(deserialize_with = "or_default")]
    pub operator: String,
    /// Value of the taint.
    #[serde(deserialize_with = "or_default")]
    pub value: String,
    /// Effect of the taint.
    #[serde(deserialize_with = "or_default")]
    pub effect: String,
    /// For how long.
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether both say the same. One with a limit of time never does: an upstream quirk.
    pub(super) fn matches(&self, other: &Self) -> bool {
        self.toleration_seconds.is_none() && self == other
    }
}

impl Container {
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.env.iter().any(|variable| variable.name == name)
    }

    /// Whether a mount of this volume, or at this path, is there already.
    pub(super) fn has_mount(&self, volume: &str, path: &str) -> bool {
        let taken = |mount: &Mount| mount.name == volume || mount.mount_path == path;
        self.volume_mounts.iter().any(taken)
    }
}

impl Spec {
    pub(super) fn has_volume(&self, name: &str) -> bool {
        self.volumes.iter().any(|volume| volume.name == name)
    }
}

/// `null` is what is absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
