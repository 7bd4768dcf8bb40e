//! The hosts of one namespace and the orders built from them.
//!
//! Every order is encoded once, here, and then shared by all streams that get it. A host is encoded once per
//! report, though the table has it under each of its actor types and the log of the replicas has it too.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use dapr_proto::dapr::proto::placement::v1::Host;
use prost::Message;

use crate::dissemination::StreamId;
use crate::ledger::{Encoded, Step};

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
    /// The same as gRPC frames it. It goes to all streams as it is: nobody copies a table.
    pub(crate) frame: Bytes,
}

/// What gRPC puts before a message: that it is not compressed, and its length.
const PREFIX: usize = 5;

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
        let length = order.encoded_len();
        let mut frame = BytesMut::with_capacity(PREFIX + length);
        frame.put_u8(0);
        // What does not fit into the length does not fit into memory either: hosts are bounded.
        frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        order.encode_raw(&mut frame);
        let frame = frame.freeze();
        Self {
            operation,
            version,
            bytes: frame.slice(PREFIX..),
            frame,
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

/// The largest table in bytes. It has to fit into the message that gRPC lets a client receive unless it is told
/// otherwise, together with what an order has besides: with a larger one nobody in the namespace would get any.
pub(crate) const TABLE_LIMIT: usize = (4 << 20) - 1024;
/// Tags and lengths around the name and the message of one host under one type, and around that type.
const LENGTHS: usize = 32;

/// What a host takes up in a table at most: it is there under each of its types, as a whole and with its name, so its
/// share grows with the square of its types.
pub(crate) fn share(host: &Host) -> usize {
    let each = host.encoded_len() + host.name.len() + LENGTHS;
    let names: usize = host.entities.iter().map(String::len).sum();
    host.entities.len().saturating_mul(each) + names
}

/// A host as its stream reported it.
#[derive(Clone, Debug)]
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

/// The reported hosts of one namespace, one per stream that has actor types, and those a former leader has left
/// whose sidecars are on their way here: the orphans.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// By the id of the stream that reported them first.
    by_id: BTreeMap<StreamId, Reported>,
    /// Streams that took over an orphan, with its id.
    adopted: BTreeMap<StreamId, StreamId>,
    orphans: BTreeSet<StreamId>,
    /// Orphans by host name, for a report must not look at all of them.
    orphans_by_name: BTreeMap<String, Vec<StreamId>>,
    /// What is not in a step of the log yet.
    put: BTreeSet<StreamId>,
    removed: BTreeSet<StreamId>,
    /// The sum of the shares.
    size: usize,
    /// Types with other hosts than at the end of the last round, and the streams whose reports made it so.
    touched: BTreeSet<String>,
    movers: BTreeSet<StreamId>,
}

impl Hosts {
    /// The hosts a former leader has left. What does not decode was never written by a replica and is left out.
    pub(crate) fn inherit(left: &BTreeMap<u64, Encoded>) -> Self {
        let mut hosts = Self::default();
        for (id, Encoded(encoded)) in left {
            let id = StreamId(*id);
            match Host::decode(encoded.clone()) {
                Ok(host) => {
                    hosts.orphans.insert(id);
                    let namesakes = hosts.orphans_by_name.entry(host.name.clone());
                    namesakes.or_default().push(id);
                    let encoded = encoded.clone();
                    hosts.size += share(&host);
                    hosts.by_id.insert(id, Reported { host, encoded });
                }
                Err(error) => tracing::error!(%error, id = id.0, "Host in the log cannot be read"),
            }
        }
        hosts
    }

    /// Takes a report and says whether the table is another one now.
    ///
    /// A host without actor types is not kept. The name alone does not make a difference: a changed one is
    /// taken over together with the next change of types or app id.
    pub(crate) fn report(&mut self, stream: StreamId, mut host: Host) -> bool {
        host.entities.sort();
        let id = self.id(stream);
        let known = self.by_id.get(&id).map(|known| &known.host);
        let changed = match known {
            Some(known) => known.entities != host.entities || known.id != host.id,
            None => {
                !self.adopt(stream, &host)
                    && (self.drop_namesakes(&host) || !host.entities.is_empty())
            }
        };
        if changed {
            self.movers.insert(stream);
            self.take_out(id);
            if !host.entities.is_empty() {
                self.touched.extend(host.entities.iter().cloned());
                self.removed.remove(&id);
                self.put.insert(id);
                self.size += share(&host);
                self.by_id.insert(id, Reported::new(host));
            }
        }
        changed
    }

    /// The bytes the table has left for the host of a stream, in place of what it has reported before.
    pub(crate) fn room(&self, stream: StreamId) -> usize {
        let known = self.by_id.get(&self.id(stream));
        let others = self.size - known.map_or(0, |known| share(&known.host));
        TABLE_LIMIT.saturating_sub(others)
    }

    /// Forgets the host of a stream and says whether there was one.
    pub(crate) fn remove(&mut self, stream: StreamId) -> bool {
        let id = self.id(stream);
        self.adopted.remove(&stream);
        self.movers.remove(&stream);
        self.take_out(id)
    }

    pub(crate) fn contains(&self, stream: StreamId) -> bool {
        self.by_id.contains_key(&self.id(stream))
    }

    pub(crate) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Nobody comes back for the orphans any more. They stay hosts until they are removed.
    pub(crate) fn give_up_orphans(&mut self) -> BTreeSet<StreamId> {
        self.orphans_by_name.clear();
        std::mem::take(&mut self.orphans)
    }

    /// Whether the actors of this stream can have moved since the last round.
    pub(crate) fn concerns(&self, stream: StreamId) -> bool {
        self.movers.contains(&stream)
            || self.by_id.get(&self.id(stream)).is_some_and(|reported| {
                let mut entities = reported.host.entities.iter();
                entities.any(|entity| self.touched.contains(entity))
            })
    }

    /// A round has ended: what was touched counts no longer.
    pub(crate) fn settle(&mut self) {
        self.touched.clear();
        self.movers.clear();
    }

    /// What has changed since the last step.
    pub(crate) fn step(&mut self, version: u64, replication_factor: i64) -> Step {
        let put = std::mem::take(&mut self.put).into_iter();
        let put = put.filter_map(|id| {
            let reported = self.by_id.get(&id)?;
            Some((id.0, Encoded(reported.encoded.clone())))
        });
        Step {
            version,
            replication_factor,
            put: put.collect(),
            removed: std::mem::take(&mut self.removed)
                .into_iter()
                .map(|id| id.0)
                .collect(),
        }
    }

    /// All hosts, sorted by name; streams that report the same name each have their element.
    pub(crate) fn sorted(&self) -> Vec<Host> {
        let mut hosts: Vec<Host> = self
            .by_id
            .values()
            .map(|reported| reported.host.clone())
            .collect();
        hosts.sort_by(|left, right| left.name.cmp(&right.name));
        hosts
    }

    /// The update order with the table of all hosts. Of streams with one name, the youngest is in the table.
    pub(crate) fn update(&self, version: u64, replication_factor: i64) -> Order {
        let mut entries: BTreeMap<String, EncodedTable> = BTreeMap::new();
        for Reported { host, encoded } in self.by_id.values() {
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

    /// The id a stream's host has, or would have.
    fn id(&self, stream: StreamId) -> StreamId {
        self.adopted.get(&stream).copied().unwrap_or(stream)
    }

    /// Gives a new stream the orphan that is exactly what it reports, if there is one.
    fn adopt(&mut self, stream: StreamId, host: &Host) -> bool {
        let namesakes = self.orphans_by_name.get(&host.name).into_iter().flatten();
        let same = namesakes
            .copied()
            .find(|id| self.by_id.get(id).is_some_and(|known| known.host == *host));
        if let Some(id) = same {
            self.no_orphan(id);
            self.adopted.insert(stream, id);
        }
        same.is_some()
    }

    /// Removes orphans a new stream is the successor of, with something else to report.
    fn drop_namesakes(&mut self, host: &Host) -> bool {
        let namesakes = self.orphans_by_name.get(&host.name).into_iter().flatten();
        let succeeded: Vec<StreamId> = namesakes
            .copied()
            .filter(|id| {
                self.by_id
                    .get(id)
                    .is_some_and(|known| known.host.id == host.id)
            })
            .collect();
        for id in &succeeded {
            self.take_out(*id);
        }
        !succeeded.is_empty()
    }

    fn no_orphan(&mut self, id: StreamId) {
        if self.orphans.remove(&id)
            && let Some(reported) = self.by_id.get(&id)
            && let Entry::Occupied(mut place) =
                self.orphans_by_name.entry(reported.host.name.clone())
        {
            place.get_mut().retain(|other| *other != id);
            if place.get().is_empty() {
                place.remove();
            }
        }
    }

    fn take_out(&mut self, id: StreamId) -> bool {
        self.no_orphan(id);
        let Some(reported) = self.by_id.remove(&id) else {
            return false;
        };
        self.size -= share(&reported.host);
        self.touched.extend(reported.host.entities);
        self.put.remove(&id);
        self.removed.insert(id);
        true
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
            // The oldest sidecars name no operation.
            0..2,
            any::<Option<u64>>(),
        );
        let host = host.prop_map(
            |(name, entities, id, api_level, port, operation, version)| {
                #[expect(deprecated, reason = "sidecars still send it")]
                Host {
                    name,
                    entities,
                    id,
                    api_level,
                    port,
                    operation,
                    version,
                    ..Host::default()
                }
            },
        );
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
                prop_assert_eq!(hosts.room(StreamId(stream)), TABLE_LIMIT - hosts.size + if host.entities.is_empty() { 0 } else { share(&host) });
                host.entities.sort();
                for entity in &host.entities {
                    expected.entry(entity.clone()).or_default().load_map.insert(host.name.clone(), host.clone());
                }
            }
            let update = hosts.update(version, replication_factor);
            prop_assert!(update.bytes.len() <= hosts.size + 1024, "no table is larger than its shares");
            let tables = PlacementTables { entries: expected, version: version.to_string(), api_level: 0, replication_factor };
            let expected = PlacementOrder { tables: Some(tables), operation: "update".to_owned(), version };
            prop_assert_eq!(PlacementOrder::decode(update.bytes), Ok(expected));

            let lock = Order::bare(Operation::Lock, version);
            let expected = PlacementOrder { tables: None, operation: "lock".to_owned(), version };
            prop_assert_eq!(PlacementOrder::decode(lock.bytes), Ok(expected));
        }
    }
}
