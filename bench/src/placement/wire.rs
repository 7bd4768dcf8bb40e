//! Orders as bytes: decoding a table of a thousand hosts a thousand times would cost more than what is measured.

use dapr_proto::dapr::proto::placement::v1::PlacementOrder;
use prost::Message as _;

/// What counts of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `lock`, `update` or `unlock`.
    pub operation: String,
    /// Its version.
    pub version: u64,
    /// Entries of the first table it has.
    pub hosts: usize,
}

/// Reads an order without building its tables; none when it is no order.
pub fn scan(order: &[u8]) -> Option<Seen> {
    let mut seen = Seen {
        operation: String::new(),
        version: 0,
        hosts: 0,
    };
    for field in Fields(order) {
        match field? {
            (1, Value::Bytes(tables)) => seen.hosts = hosts(tables)?,
            (2, Value::Bytes(operation)) => {
                seen.operation = std::str::from_utf8(operation).ok()?.to_owned();
            }
            (3, Value::Number(version)) => seen.version = version,
            _ => {}
        }
    }
    Some(seen)
}

/// As [`scan`], by decoding everything.
pub fn decode(order: &[u8]) -> Option<Seen> {
    let order = PlacementOrder::decode(order).ok()?;
    let first = order
        .tables
        .iter()
        .flat_map(|tables| tables.entries.values());
    Some(Seen {
        hosts: first.map(|table| table.load_map.len()).next().unwrap_or(0),
        operation: order.operation,
        version: order.version,
    })
}

fn hosts(tables: &[u8]) -> Option<usize> {
    let entry = Fields(tables).find_map(|field| match field? {
        (1, Value::Bytes(entry)) => Some(entry),
        _ => None,
    });
    let Some(entry) = entry else { return Some(0) };
    let table = Fields(entry).find_map(|field| match field? {
        (2, Value::Bytes(table)) => Some(table),
        _ => None,
    });
    let table = table.unwrap_or_default();
    let load_map = Fields(table).filter(|field| matches!(field, Some((3, _))));
    Some(load_map.count())
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; none for what cannot be read, which is the last.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn number(&mut self) -> Option<u64> {
        prost::encoding::decode_varint(&mut self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use dapr_proto::dapr::proto::placement::v1::{Host, PlacementTable, PlacementTables};

    use super::*;

    #[test]
    fn scanning_sees_what_decoding_does() {
        let hosts = (0..3).map(|number| (format!("h{number}"), Host::default()));
        let table = PlacementTable {
            load_map: hosts.collect(),
            ..PlacementTable::default()
        };
        let order = PlacementOrder {
            tables: Some(PlacementTables {
                entries: HashMap::from([("t".to_owned(), table)])
                    .into_iter()
                    .collect(),
                ..PlacementTables::default()
            }),
            operation: "update".to_owned(),
            version: 700,
        };
        let bytes = order.encode_to_vec();
        let seen = scan(&bytes).expect("an order");
        assert_eq!((seen.version, seen.hosts), (700, 3));
        assert_eq!(Some(seen), decode(&bytes));
        assert_eq!(scan(&bytes[..bytes.len() / 2]), None);
    }
}
