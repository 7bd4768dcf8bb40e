//! The replicas, from `--id` and `--initial-cluster`.

use std::collections::{BTreeMap, BTreeSet};

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: String,
    /// Empty where the list has a port alone: every interface to itself, this machine to the others.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Peer {
    /// Reads `id=host:port`.
    fn parse(text: &str) -> Option<Self> {
        let (id, address) = text.split_once('=')?;
        let id = id.trim();
        let (host, port) = address.trim().rsplit_once(':')?;
        let host = host
            .trim_start_matches(|of: char| of == '[' || of.is_whitespace())
            .trim_end_matches(|of: char| of == ']' || of.is_whitespace());
        if id.is_empty() {
            return None;
        }
        Some(Self {
            id: id.to_owned(),
            host: host.to_owned(),
            port: port.parse().ok()?,
        })
    }

    /// Where the others reach it.
    fn target(&self) -> String {
        if self.host.is_empty() {
            format!("localhost:{}", self.port)
        } else {
            self.address()
        }
    }

    /// `host:port` as in the list, with brackets around an IPv6 address.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The command line names no usable set of replicas.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("--id {id:?} is not in --initial-cluster {cluster:?}: add {id}=host:port to the list")]
    UnknownId { id: String, cluster: String },
    #[error("ids {0:?} and {1:?} in --initial-cluster cannot be told apart: rename one of them")]
    SameNumber(String, String),
}

/// All replicas, and which of them this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    own: String,
    /// By id, so that nothing depends on how the list is written.
    peers: BTreeMap<String, Peer>,
}

impl Cluster {
    /// Reads the flags. Entries that are not `id=host:port` are skipped; of two with one id the later counts.
    pub(crate) fn parse(id: &str, cluster: &str) -> Result<Self, Error> {
        let peers: BTreeMap<String, Peer> = cluster
            .split(',')
            .filter_map(Peer::parse)
            .map(|peer| (peer.id.clone(), peer))
            .collect();
        if !peers.contains_key(id) {
            return Err(Error::UnknownId {
                id: id.to_owned(),
                cluster: cluster.to_owned(),
            });
        }
        let mut numbers = BTreeMap::new();
        for id in peers.keys() {
            if let Some(other) = numbers.insert(number(id), id) {
                return Err(Error::SameNumber(other.clone(), id.clone()));
            }
        }
        Ok(Self {
            own: id.to_owned(),
            peers,
        })
    }

    pub(crate) fn is_single(&self) -> bool {
        self.peers.len() == 1
    }

    pub(crate) fn own(&self) -> &Peer {
        &self.peers[&self.own]
    }

    /// The number of this replica.
    pub(crate) fn own_id(&self) -> u64 {
        number(&self.own)
    }

    /// Where all replicas are reached, by their numbers.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, String> {
        self.peers
            .iter()
            .map(|(id, peer)| (number(id), peer.target()))
            .collect()
    }

    /// The ids of replicas, for people; of those that are not in the list only the number is known.
    pub(crate) fn names(&self, numbers: &BTreeSet<u64>) -> String {
        let name = |of: &u64| {
            let known = self.peers.keys().find(|id| number(id) == *of);
            known.cloned().unwrap_or_else(|| format!("#{of}"))
        };
        numbers.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// The same text on all replicas that have the same list.
    pub(crate) fn fingerprint(&self) -> String {
        let peers: Vec<String> = self
            .peers
            .values()
            .map(|peer| format!("{}={}", peer.id, peer.address()))
            .collect();
        peers.join(",")
    }
}

/// The number of a replica, which it keeps whatever the list looks like: FNV-1a of its id.
fn number(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(id: &str, cluster: &str, expected: Option<&str>) {
        let found = Cluster::parse(id, cluster)
            .ok()
            .map(|cluster| cluster.fingerprint());
        assert_eq!(found.as_deref(), expected, "{id} {cluster}");
    }

    #[test]
    fn a_number_depends_on_the_id_alone() {
        let alone = Cluster::parse("p0", "p0=a:1").expect("in the list");
        let among = Cluster::parse("p0", "o=x:1,p0=b:2,p1=c:3").expect("in the list");
        assert_eq!(alone.own_id(), among.own_id());
        assert_eq!(among.addresses()[&among.own_id()], "b:2");
        // FNV-1a of nothing and of "a", from its specification.
        assert_eq!(number(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(number("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn lists() {
        check("p0", "p0=127.0.0.1:8201", Some("p0=127.0.0.1:8201"));
        check("p1", "p1=b.svc:2,p0=a.svc:1", Some("p0=a.svc:1,p1=b.svc:2"));
        check(
            "p0",
            " p0=a:1 ,junk,=b:2,p3=,p4=c,p5=:6,p6=d:x,p7=e:70000",
            Some("p0=a:1,p5=:6"),
        );
        check("p0", "p0 = a:1 , p1\t= b:2", Some("p0=a:1,p1=b:2"));
        check("p0", "p0=[::1]:8201", Some("p0=[::1]:8201"));
        check("p0", "p0=a:1,p0=b:2", Some("p0=b:2"));
        check("p9", "p0=a:1", None);
        check("", "p0=a:1", None);
        check("p0", "", None);
    }

    #[test]
    fn an_entry_without_a_host_is_reached_on_this_machine() {
        let cluster = Cluster::parse("p0", "p0=:8201,p1=b:2").expect("in the list");
        assert_eq!(cluster.own().address(), ":8201");
        let reached: Vec<_> = cluster.addresses().into_values().collect();
        assert!(
            reached.contains(&"localhost:8201".to_owned()),
            "{reached:?}"
        );
    }

    #[test]
    fn replicas_are_named_as_in_the_list() {
        let cluster = Cluster::parse("p0", "p0=a:1,p1=b:2").expect("in the list");
        let numbers = BTreeSet::from([number("p1"), 7]);
        assert_eq!(cluster.names(&numbers), "#7, p1");
        assert_eq!(cluster.names(&BTreeSet::new()), "");
    }

    #[test]
    fn an_unknown_id_says_what_to_do() {
        let error = Cluster::parse("p9", "p0=a:1").expect_err("not in the list");
        let expected =
            "--id \"p9\" is not in --initial-cluster \"p0=a:1\": add p9=host:port to the list";
        assert_eq!(error.to_string(), expected);
    }

    proptest! {
        #[test]
        fn any_list_parses_or_fails(id in "[a-c=]{0,3}", cluster in "[a-c0-9=:,\\[\\] ]{0,60}") {
            if let Ok(cluster) = Cluster::parse(&id, &cluster) {
                prop_assert_eq!(&cluster.own().id, &id);
                prop_assert!(cluster.addresses().contains_key(&cluster.own_id()));
                prop_assert_eq!(Cluster::parse(&id, &cluster.fingerprint()), Ok(cluster));
            }
        }
    }
}
