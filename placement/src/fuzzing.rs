//! What the fuzz target calls: messages of sidecars, as they come, against the promises of a round. Compiled for it only.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use dapr_proto::dapr::proto::placement::v1::Host;
use prost::Message;

use crate::admission;
use crate::dissemination::{Action, Coalescing, Event, Rounds, StreamId, Timer};
use crate::ledger::{self, Change, Tables};
use crate::table::{Hosts, Operation};

/// Streams that speak.
const STREAMS: u8 = 5;

/// Messages, one after the other: which stream, how long, and the bytes.
pub fn messages(mut data: &[u8]) {
    let mut rounds = Rounds::new(100, Coalescing::Off);
    let mut sent: BTreeMap<StreamId, u64> = BTreeMap::new();
    let mut tables = Tables::default();
    let mut proposed = 0;
    while let [kind, length, rest @ ..] = data {
        let (message, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let stream = StreamId(u64::from(kind % STREAMS) + 1);
        let event = match kind / STREAMS {
            0 => {
                sent.remove(&stream);
                Event::Disconnected(stream)
            }
            1 => Event::Fired(Timer::Round),
            2 => Event::Fired(Timer::Patience),
            3 => Event::Fired(Timer::Grace),
            4 => Event::Committed(proposed),
            _ => {
                let Ok(host) = Host::decode(message) else {
                    continue;
                };
                if admission::check(&host, None).is_err() {
                    continue;
                }
                match sent.entry(stream) {
                    Entry::Occupied(_) => Event::Message(stream, host),
                    Entry::Vacant(place) => {
                        place.insert(0);
                        Event::Connected(stream, host)
                    }
                }
            }
        };
        for action in rounds.handle(event) {
            match action {
                Action::Propose(step) => {
                    proposed = step.version;
                    tables.apply(ledger::Entry {
                        changes: vec![Change {
                            namespace: String::new(),
                            life: 1,
                            step: Some(step),
                        }],
                        roster: None,
                    });
                }
                Action::Send { to, order } => {
                    if order.operation == Operation::Update {
                        assert!(
                            order.version <= rounds.agreed_version(),
                            "no table leaves before it is agreed on"
                        );
                        let left = tables.namespaces.get("");
                        let hosts =
                            left.map_or_else(Hosts::default, |left| Hosts::inherit(&left.hosts));
                        assert_eq!(
                            hosts.update(order.version, 100).bytes,
                            order.bytes,
                            "the next leader has the same table"
                        );
                    }
                    for stream in to {
                        let last = sent
                            .get_mut(&stream)
                            .expect("orders go to connected streams");
                        assert!(order.version >= *last, "versions of a stream never go back");
                        *last = order.version;
                    }
                }
                Action::Close { stream, .. } | Action::Refuse { stream, .. } => {
                    assert!(sent.remove(&stream).is_some(), "a stream is closed once");
                }
                Action::Arm(_) | Action::Disarm(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(events in prop::collection::vec(
            (0u8..40, prop::option::of((0u8..4, 0u8..6, prop::option::of(0u64..9), prop::collection::vec("[a-c]", 0..3)))),
            0..60,
        )) {
            let mut data = Vec::new();
            for (kind, host) in events {
                let host = host.map(|(name, operation, version, entities)| Host {
                    name: name.to_string(),
                    id: "a".to_owned(),
                    namespace: "n".to_owned(),
                    operation: operation.into(),
                    version,
                    entities,
                    ..Host::default()
                });
                let bytes = host.map_or_else(|| vec![0xff; 3], |host| host.encode_to_vec());
                data.extend([kind, u8::try_from(bytes.len()).expect("short")]);
                data.extend(bytes);
            }
            messages(&data);
        }
    }
}
