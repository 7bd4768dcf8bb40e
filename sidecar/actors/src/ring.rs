//! The consistent hash ring: every sidecar computes it from the table and all must agree bit for bit.

use std::collections::HashMap;
use std::sync::Arc;

use blake2::{Blake2b512, Digest as _};

/// A sidecar that hosts an actor type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    /// `host:port` of its internal API; the ring hashes this text.
    pub name: Arc<str>,
    /// Its app id, which its certificate must show.
    pub app_id: Arc<str>,
    /// Port as reported; only compared.
    pub port: i64,
    /// Whether it is this sidecar.
    pub local: bool,
}

/// BLAKE2b-512 of the text, the first eight bytes as a little-endian number.
pub fn hash(text: &str) -> u64 {
    digest(Blake2b512::new_with_prefix(text))
}

fn digest(state: Blake2b512) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&state.finalize()[..8]);
    u64::from_le_bytes(first)
}

/// Points of hosts on a ring, kept from table to table so that a joining host costs only its own hashes.
#[derive(Debug, Default)]
pub struct Points {
    replication: u32,
    by_host: HashMap<Arc<str>, Arc<[u64]>>,
}

impl Points {
    /// No points yet, for rings of this many virtual nodes per host.
    pub fn new(replication: u32) -> Self {
        Self {
            replication,
            by_host: HashMap::new(),
        }
    }

    /// Virtual nodes per host.
    pub fn replication(&self) -> u32 {
        self.replication
    }

    /// Copies what `previous` knows about `host`, if it counted the same number of virtual nodes.
    pub(crate) fn adopt(&mut self, previous: &Self, host: &Arc<str>) {
        if previous.replication == self.replication
            && let Some(points) = previous.by_host.get(host)
        {
            self.by_host
                .entry(Arc::clone(host))
                .or_insert_with(|| Arc::clone(points));
        }
    }

    fn of(&mut self, host: &Arc<str>) -> Arc<[u64]> {
        let replication = self.replication;
        Arc::clone(self.by_host.entry(Arc::clone(host)).or_insert_with(|| {
            let prefix = Blake2b512::new_with_prefix(host.as_bytes());
            (0..replication)
                .map(|i| digest(prefix.clone().chain_update(i.to_string())))
                .collect()
        }))
    }
}

/// The ring of one actor type, or of several with the same hosts.
#[derive(Debug)]
pub struct Ring {
    hosts: Vec<Host>,
    replication: u32,
    /// Ascending; `owners` has the index into `hosts` at the same place.
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    /// The ring of these hosts. Of two virtual nodes with one value the host that sorts first stays.
    pub fn new(mut hosts: Vec<Host>, points: &mut Points) -> Self {
        hosts.sort();
        let mut nodes = Vec::with_capacity(hosts.len() * points.replication as usize);
        for (index, host) in (0u32..).zip(&hosts) {
            nodes.extend(points.of(&host.name).iter().map(|point| (*point, index)));
        }
        nodes.sort_unstable();
        nodes.dedup_by_key(|(point, _)| *point);
        let (sorted, owners): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        Self {
            hosts,
            replication: points.replication,
            points: sorted.into_boxed_slice(),
            owners: owners.into_boxed_slice(),
        }
    }

    /// The host of an actor: that of the first virtual node at or after its id's hash. `None` on an empty ring.
    pub fn owner(&self, actor_id: &str) -> Option<&Host> {
        self.hosts.get(self.owner_index(actor_id)?)
    }

    /// All hosts, sorted.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Virtual nodes per host.
    pub fn replication(&self) -> u32 {
        self.replication
    }

    fn owner_index(&self, actor_id: &str) -> Option<usize> {
        let key = hash(actor_id);
        let place = self.points.partition_point(|point| *point < key);
        let owner = self.owners.get(place).or_else(|| self.owners.first())?;
        usize::try_from(*owner).ok()
    }
}

#[cfg(test)]
mod tests;
