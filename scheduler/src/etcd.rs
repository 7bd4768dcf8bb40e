//! The settings of the job store. Upstream keeps jobs in etcd, so the flags are etcd's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::args::Secret;

/// Where jobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Etcd {
    /// In the replicas of this service.
    Embedded(Embedded),
    /// In an etcd somebody else runs.
    External(External),
}

/// The store inside this service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// The peer URL of every replica by its id; holds this replica's.
    pub initial_cluster: BTreeMap<String, String>,
    /// Folder of the data.
    pub data_dir: PathBuf,
    /// Address and port of the etcd client API.
    pub client: (String, u16),
    /// How many bytes the store may take.
    pub space_quota: i64,
    /// `periodic` or `revision`.
    pub compaction_mode: String,
    /// How much history compaction keeps.
    pub compaction_retention: String,
    /// Changes between two snapshots.
    pub snapshot_count: u64,
    /// Snapshots to keep.
    pub max_snapshots: u32,
    /// Write-ahead logs to keep.
    pub max_wals: u32,
    /// Changes per batch written to disk.
    pub backend_batch_limit: i64,
    /// Longest time until a batch is written.
    pub backend_batch_interval: Duration,
    /// Operations per transaction.
    pub max_txn_ops: u32,
    /// Free megabytes from which the store is defragmented at the start.
    pub bootstrap_defrag_threshold_megabytes: u32,
    /// Whether to elect a leader sooner after the start.
    pub initial_election_tick_advance: bool,
    /// `basic` or `extensive`.
    pub metrics: String,
}

/// An external etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Its client endpoints.
    pub endpoints: Vec<String>,
    /// The user; empty for none.
    pub username: String,
    /// The password of the user.
    pub password: Secret,
}

/// The flags of the store contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Both stores are asked for.
    #[error(
        "--etcd-client-endpoints, --etcd-client-username and --etcd-client-password need --etcd-embed=false"
    )]
    ExternalWithEmbed,
    /// No store is asked for.
    #[error("--etcd-embed=false needs --etcd-client-endpoints")]
    NoEndpoints,
    /// An entry of `--etcd-initial-cluster` is not `id=url`.
    #[error("invalid entry {0:?} in --etcd-initial-cluster: must be <id>=<url>")]
    ClusterEntry(String),
    /// This replica is none of the initial ones.
    #[error(
        "--id {id:?} is not in --etcd-initial-cluster: add {id}=<url> to it or give one of its ids"
    )]
    UnknownId {
        /// The value of `--id`.
        id: String,
    },
}

impl External {
    /// An external etcd cannot be given beside the embedded one.
    pub(crate) fn refuse_if_given(&self) -> Result<(), Error> {
        let Self {
            endpoints,
            username,
            password,
        } = self;
        let given = !endpoints.is_empty() || !username.is_empty() || *password != Secret::default();
        if given {
            Err(Error::ExternalWithEmbed)
        } else {
            Ok(())
        }
    }

    /// An external etcd needs an address.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        if self.endpoints.is_empty() {
            Err(Error::NoEndpoints)
        } else {
            Ok(self)
        }
    }
}

/// Reads `id=url` entries, among which `id` must be.
pub(crate) fn parse_initial_cluster(
    entries: &[String],
    id: &str,
) -> Result<BTreeMap<String, String>, Error> {
    let entry = |text: &String| match text.split_once('=') {
        Some((id, url)) if !id.is_empty() && !url.is_empty() => Ok((id.to_owned(), url.to_owned())),
        _ => Err(Error::ClusterEntry(text.clone())),
    };
    let cluster: BTreeMap<_, _> = entries.iter().map(entry).collect::<Result<_, _>>()?;
    if cluster.contains_key(id) {
        Ok(cluster)
    } else {
        Err(Error::UnknownId { id: id.to_owned() })
    }
}
