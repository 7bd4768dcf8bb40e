//! The hosts of one namespace and the orders built from them.
//!
//! Every order is encoded once, here, and then shared by all streams that get it. A host is encoded once per
//! report, though the table has it under each of its actor types.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};
use prost::Message;

use crate::dissemination::StreamId;

/// What an order asks of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Lock,
    Update,
    Unlock,
}

impl Operation {
    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Update => "update",
            Self::Unlock => "unlock",
        }
    }
}

/// An order as it goes to sidecars; cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) operation: Operation,
    pub(crate) version: u64,
    /// The encoded `PlacementOrder`.
    pub(crate) bytes: Bytes,
}

impl Order {
    /// An order without tables.
    pub(crate) fn bare(operation: Operation, version: u64) -> Self {
        Self::encode(operation, version, None)
    }

    fn encode(operation: Operation, version: u64, tables: Option<EncodedTables>) -> Self {
        let order = EncodedOrder {
            tables,
            operation: operation.as_str().to_owned(),
            version,
        };
        Self {
            operation,
            version,
            bytes: order.encode_to_vec().into(),
        }
    }
}

/// `PlacementOrder`, with hosts that are encoded already: on the wire a message is its bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedOrder {
    #[prost(message, optional, tag = "1")]
    tables: Option<EncodedTables>,
    #[prost(string, tag = "2")]
    operation: String,
    #[prost(uint64, tag = "3")]
    version: u64,
}

/// `PlacementTables`, without the field nobody fills.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedTables {
    #[prost(btree_map = "string, message", tag = "1")]
    entries: BTreeMap<String, EncodedTable>,
    /// Sidecars of older releases read the version here.
    #[prost(string, tag = "2")]
    version: String,
    #[prost(int64, tag = "4")]
    replication_factor: i64,
}

/// `PlacementTable`, without the fields nobody fills.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedTable {
    #[prost(btree_map = "string, bytes", tag = "3")]
    load_map: BTreeMap<String, Bytes>,
}

/// A host as its stream reported it.
#[derive(Debug)]
struct Reported {
    host: Host,
    encoded: Bytes,
}

impl Reported {
    fn new(host: Host) -> Self {
        let encoded = host.encode_to_vec().into();
        Self { host, encoded }
    }
}

/// The reported hosts of one namespace, one per stream that has actor types.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    by_stream: BTreeMap<StreamId, Reported>,
}

impl Hosts {
    /// Takes a report and says whether the table is another one now.
    ///
    /// A host without actor types is not kept. The name alone does not make a difference: a changed one is
    /// taken over together with the next change of types or app id.
    pub(crate) fn report(&mut self, stream: StreamId, mut host: Host) -> bool {
        if host.entities.is_empty() {
            return self.remove(stream);
        }
        host.entities.sort();
        host.operation = HostOperation::Report.into();
        host.version = None;
        match self.by_stream.entry(stream) {
            Entry::Vacant(entry) => {
                entry.insert(Reported::new(host));
                true
            }
            Entry::Occupied(mut entry) => {
                let known = &entry.get().host;
                let changed = known.entities != host.entities || known.id != host.id;
                if changed {
                    entry.insert(Reported::new(host));
                }
                changed
            }
        }
    }

    /// Forgets the host of a stream and says whether there was one.
    pub(crate) fn remove(&mut self, stream: StreamId) -> bool {
        self.by_stream.remove(&stream).is_some()
    }

    pub(crate) fn contains(&self, stream: StreamId) -> bool {
        self.by_stream.contains_key(&stream)
    }

    /// All hosts, sorted by name; streams that report the same name each have their element.
    pub(crate) fn sorted(&self) -> Vec<Host> {
        let mut hosts: Vec<Host> = self
            .by_stream
            .values()
            .map(|reported| reported.host.clone())
            .collect();
        hosts.sort_by(|left, right| left.name.cmp(&right.name));
        hosts
    }

    /// The update order with the table of all hosts. Of streams with one name, the youngest is in the table.
    pub(crate) fn update(&self, version: u64, replication_factor: i64) -> Order {
        let mut entries: BTreeMap<String, EncodedTable> = BTreeMap::new();
        for Reported { host, encoded } in self.by_stream.values() {
            for entity in &host.entities {
                // Looked up first: most types are hosted often and a key is only owned once.
                let table = match entries.get_mut(entity) {
                    Some(table) => table,
                    None => entries.entry(entity.clone()).or_default(),
                };
                table.load_map.insert(host.name.clone(), encoded.clone());
            }
        }
        let tables = EncodedTables {
            entries,
            version: version.to_string(),
            replication_factor,
        };
        Order::encode(Operation::Update, version, Some(tables))
    }
}

#[cfg(test)]
mod tests {
    use dapr_proto::dapr::proto::placement::v1::{PlacementOrder, PlacementTable, PlacementTables};
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> impl Strategy<Value = Vec<Host>> {
        let host = (
            "[a-c]?",
            prop::collection::vec("[t-z]?", 0..4),
            "[a-c]?",
            any::<u32>(),
            any::<i64>(),
        );
        let host = host.prop_map(|(name, entities, id, api_level, port)| {
            #[expect(deprecated, reason = "sidecars still send it")]
            Host {
                name,
                entities,
                id,
                api_level,
                port,
                ..Host::default()
            }
        });
        prop::collection::vec(host, 0..6)
    }

    proptest! {
        #[test]
        #[expect(deprecated, reason = "the wire still has these fields")]
        fn orders_read_as_the_messages_they_stand_for(reports in hosts(), version: u64, replication_factor: i64) {
            let mut hosts = Hosts::default();
            let mut expected: BTreeMap<String, PlacementTable> = BTreeMap::new();
            for (stream, mut host) in (0..).zip(reports) {
                hosts.report(StreamId(stream), host.clone());
                host.entities.sort();
                host.operation = HostOperation::Report.into();
                for entity in &host.entities {
                    expected.entry(entity.clone()).or_default().load_map.insert(host.name.clone(), host.clone());
                }
            }
            let update = hosts.update(version, replication_factor);
            let tables = PlacementTables { entries: expected, version: version.to_string(), api_level: 0, replication_factor };
            let expected = PlacementOrder { tables: Some(tables), operation: "update".to_owned(), version };
            prop_assert_eq!(PlacementOrder::decode(update.bytes), Ok(expected));

            let lock = Order::bare(Operation::Lock, version);
            let expected = PlacementOrder { tables: None, operation: "lock".to_owned(), version };
            prop_assert_eq!(PlacementOrder::decode(lock.bytes), Ok(expected));
        }
    }
}
