//! Where everything Sentry must not lose is kept: files of a directory, or a Secret and a ConfigMap.
//!
//! What the items mean, and what is to be done when some are missing, is decided in [`crate::material`].

use std::collections::BTreeMap;

use dapr_security::certificate;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

mod cluster;
mod directory;
mod file;

pub(crate) use cluster::{Cluster, NAME as BUNDLE};
pub(crate) use directory::Directory;

/// One thing that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// PEM of the trust anchors.
    Root,
    /// PEM of the issuer's chain, leaf first.
    Chain,
    /// PEM of the issuer's private key.
    Key,
    /// PEM of the key JWTs are signed with.
    JwtKey,
    /// The JWKS that publishes it.
    JwtKeys,
    /// The chain that comes next while the root is being rotated.
    NextChain,
    /// The private key that belongs to it.
    NextKey,
    /// How far the rotation is, see [`crate::rotation::Record`].
    Rotation,
    /// Seconds of the longest TTL that certificates of this authority were issued with.
    LongestTtl,
}

impl Item {
    const ALL: [Self; 9] = [
        Self::Root,
        Self::Chain,
        Self::Key,
        Self::JwtKey,
        Self::JwtKeys,
        Self::NextChain,
        Self::NextKey,
        Self::Rotation,
        Self::LongestTtl,
    ];
}

/// Why the material cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    File(#[from] file::Error),
    #[error(
        "unfinished write {0:?} is damaged: restore the files it names from a backup, or remove it"
    )]
    Journal(std::path::PathBuf),
    #[error("{object} cannot be read")]
    Get { object: String, source: kube::Error },
    #[error("{0} does not exist: it comes with the installation, empty, and sentry fills it")]
    Missing(String),
    #[error("{object} cannot be updated")]
    Update { object: String, source: kube::Error },
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    #[error("the certificate authority changes faster than it can be read")]
    Busy,
    #[error("{object}: key {key:?} is missing or no text")]
    Key { object: String, key: String },
}

impl Error {
    /// Whether the same may work in a moment: it says nothing about the material itself.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::File(_)
            | Self::Get { .. }
            | Self::Missing(_)
            | Self::Update { .. }
            | Self::Conflict(_)
            | Self::Busy => true,
            Self::Journal(_) | Self::Key { .. } => false,
        }
    }
}

/// What is published beside the Secret, in the ConfigMap every pod of the control plane mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) root: Option<Vec<u8>>,
    pub(crate) keys: Option<Vec<u8>>,
    /// How far the rotation is. Not for readers of the bundle: a step that changes nothing else is seen by the other
    /// replicas, which may not watch the Secret.
    pub(crate) phase: Option<String>,
}

/// What was found at one moment.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    pub(crate) items: BTreeMap<Item, Vec<u8>>,
    /// Only in Kubernetes.
    pub(crate) published: Option<Published>,
    /// Somebody asked for a new root; the text tells one request from another.
    pub(crate) request: Option<String>,
    /// Chain and key stand under the names that cert-manager gives them, and it will replace them.
    pub(crate) is_foreign: bool,
    objects: Option<Box<(Secret, ConfigMap)>>,
}

impl Kept {
    pub(crate) fn get(&self, item: Item) -> Option<&[u8]> {
        self.items.get(&item).map(Vec::as_slice)
    }

    /// Takes chain and key from under the names that cert-manager gives them, if they are an authority: the certificate
    /// of a server may lie there as well.
    fn adopt(&mut self, [chain, key]: [Option<Vec<u8>>; 2]) {
        let has_own = self.get(Item::Chain).is_some() || self.get(Item::Key).is_some();
        if has_own || self.get(Item::Root).is_none() {
            return;
        }
        if let (Some(chain), Some(key)) = (chain, key)
            && !is_of_server(&chain)
        {
            self.items.insert(Item::Chain, chain);
            self.items.insert(Item::Key, key);
            self.is_foreign = true;
        }
    }
}

/// Names of chain and key where they are not Sentry's own.
const FOREIGN: [&str; 2] = ["tls.crt", "tls.key"];

/// Whether the first certificate signs no others. What cannot be read is not judged here: it is refused later, by name.
fn is_of_server(chain: &[u8]) -> bool {
    let Ok(chain) = certificate::chain_from_pem(chain) else {
        return false;
    };
    let first = chain.first().map(|der| certificate::parse(der));
    let Some(Ok(first)) = first else { return false };
    let constraints = first.basic_constraints().ok().flatten();
    let usage = first.key_usage().ok().flatten();
    !constraints.is_some_and(|it| it.value.ca) && !usage.is_some_and(|it| it.value.key_cert_sign())
}

/// What is to be written, and with `None` removed.
pub(crate) type Changes = BTreeMap<Item, Option<Vec<u8>>>;

/// One of the two places.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    Directory(Directory),
    Cluster(Box<Cluster>),
}

impl Storage {
    pub(crate) async fn load(&self) -> Result<Kept, Error> {
        match self {
            Self::Directory(directory) => directory.load().await,
            Self::Cluster(cluster) => cluster.load().await,
        }
    }

    /// What is there, for a second process: the running Sentry alone may write.
    pub(crate) async fn look(&self) -> Result<Kept, Error> {
        match self {
            Self::Directory(directory) => directory.look().await,
            Self::Cluster(cluster) => cluster.load().await,
        }
    }

    /// Writes all changes or none, and returns what is there then; fails with [`Error::Conflict`] if what was loaded is
    /// no longer the newest.
    pub(crate) async fn save(&self, kept: &Kept, changes: &Changes) -> Result<Kept, Error> {
        match self {
            Self::Directory(directory) => {
                directory.save(changes).await?;
                directory.look().await
            }
            Self::Cluster(cluster) => cluster.save(kept, changes).await,
        }
    }

    /// Makes the bundle and the key set visible to everybody, and returns what is there then.
    pub(crate) async fn publish(&self, kept: Kept, published: &Published) -> Result<Kept, Error> {
        match self {
            Self::Directory(_) => Ok(kept),
            Self::Cluster(cluster) => cluster.publish(&kept, published).await,
        }
    }

    /// Says where this replica is, for those who cannot be led to it yet, and returns what is there then.
    pub(crate) async fn announce(&self, kept: Kept) -> Result<Kept, Error> {
        match self {
            Self::Directory(_) => Ok(kept),
            Self::Cluster(cluster) => cluster.announce(kept).await,
        }
    }

    /// Asks the running Sentry for a new root.
    pub(crate) async fn request(&self, text: &str) -> Result<(), Error> {
        match self {
            Self::Directory(directory) => directory.request(text).await,
            Self::Cluster(cluster) => cluster.request(text).await,
        }
    }

    /// Takes the request away once it was heard, and returns what is there then.
    pub(crate) async fn acknowledge(&self, kept: &Kept) -> Result<Kept, Error> {
        match self {
            Self::Directory(directory) => {
                directory.acknowledge().await?;
                directory.look().await
            }
            Self::Cluster(cluster) => cluster.acknowledge(kept).await,
        }
    }

    /// What a person has to look at to see an item.
    pub(crate) fn describe(&self, item: Item) -> String {
        match self {
            Self::Directory(directory) => format!("file {:?}", directory.path(item)),
            Self::Cluster(cluster) => cluster.describe(item),
        }
    }

    /// What a person has to look at to see an item that was found, which may have a foreign name.
    pub(crate) fn describe_found(&self, kept: &Kept, item: Item) -> String {
        let name = match item {
            Item::Chain if kept.is_foreign => FOREIGN[0],
            Item::Key if kept.is_foreign => FOREIGN[1],
            item => return self.describe(item),
        };
        match self {
            Self::Directory(directory) => format!("file {:?}", directory.foreign(name)),
            Self::Cluster(cluster) => cluster.describe_key(name),
        }
    }

    /// What a person has to look at to see what is published.
    pub(crate) fn describe_published(&self) -> String {
        match self {
            Self::Directory(_) => String::new(),
            Self::Cluster(cluster) => cluster.describe_published(),
        }
    }
}
