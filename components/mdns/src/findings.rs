//! What a response says about instances of apps.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{Name, RData, Record};

use crate::names;

/// One thing learned from a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// An instance and where it is.
    Seen {
        app_id: String,
        instance: String,
        address: SocketAddr,
    },
    /// An instance that says goodbye.
    Gone { app_id: String, instance: String },
}

/// Instances whose text record is their app id and which carry an address, as upstream accepts them.
pub(crate) fn read(message: &Message) -> Vec<Finding> {
    if message.metadata.message_type != MessageType::Response {
        return Vec::new();
    }
    let findings = message
        .all_sections()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => {
                let app_id = app_id(message, &record.name)?;
                // Containers on one host network can share hostname and pid, so the port is part of the identity.
                let instance = format!("{} {}", record.name.to_lowercase(), srv.port);
                if record.ttl == 0 {
                    return Some(Finding::Gone { app_id, instance });
                }
                let address = SocketAddr::new(address(message, &srv.target)?, srv.port);
                Some(Finding::Seen {
                    app_id,
                    instance,
                    address,
                })
            }
            _ => None,
        });
    findings.collect()
}

fn app_id(message: &Message, instance: &Name) -> Option<String> {
    message
        .all_sections()
        .filter(|record| record.name == *instance)
        .find_map(|record| {
            let RData::TXT(txt) = &record.data else {
                return None;
            };
            let [text] = &*txt.txt_data else { return None };
            let app_id = std::str::from_utf8(text).ok()?;
            let service = names::service(app_id).ok()?;
            service.zone_of(instance).then(|| app_id.to_owned())
        })
}

/// The first IPv4 address of a host, else the first IPv6 address.
fn address(message: &Message, host: &Name) -> Option<IpAddr> {
    let of_host = || message.all_sections().filter(|record| record.name == *host);
    let v4 = |record: &Record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        _ => None,
    };
    let v6 = |record: &Record| match &record.data {
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    of_host().find_map(v4).or_else(|| of_host().find_map(v6))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::service::{Announcement, Querier, Service};

    fn announcement(app_id: &str, addresses: &[&str], announcement: Announcement) -> Vec<u8> {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().expect("address"))
            .collect();
        let service =
            Service::new(app_id, "Box:42", "box.example.com", 50002, addresses).expect("names");
        service.announcement(announcement).expect("encoded")
    }

    fn check(packet: &[u8], expected: &[Finding]) {
        assert_eq!(read(&Message::from_vec(packet).expect("decoded")), expected);
    }

    fn seen(app_id: &str, address: &str) -> Finding {
        Finding::Seen {
            app_id: app_id.to_owned(),
            instance: format!("box\\:42.{app_id}.local. 50002"),
            address: address.parse().expect("address"),
        }
    }

    #[test]
    fn announcements() {
        let hello = |addresses: &[&str]| announcement("orders", addresses, Announcement::Hello);
        check(&hello(&["192.0.2.7"]), &[seen("orders", "192.0.2.7:50002")]);
        check(
            &hello(&["2001:db8::7", "192.0.2.7", "192.0.2.8"]),
            &[seen("orders", "192.0.2.7:50002")],
        );
        check(
            &hello(&["2001:db8::7"]),
            &[seen("orders", "[2001:db8::7]:50002")],
        );
        check(&hello(&[]), &[]);
        let dotted = announcement("my.app", &["192.0.2.7"], Announcement::Hello);
        check(&dotted, &[seen("my.app", "192.0.2.7:50002")]);
        let gone = Finding::Gone {
            app_id: "orders".to_owned(),
            instance: "box\\:42.orders.local. 50002".to_owned(),
        };
        check(
            &announcement("orders", &["192.0.2.7"], Announcement::Goodbye),
            &[gone],
        );
    }

    #[test]
    fn a_text_record_must_be_the_app_id() {
        let packet = announcement("orders", &["192.0.2.7"], Announcement::Hello);
        let mut message = Message::from_vec(&packet).expect("decoded");
        for record in &mut message.answers {
            if let RData::TXT(txt) = &mut record.data {
                *txt = hickory_proto::rr::rdata::TXT::from_bytes(vec![b"payments"]);
            }
        }
        assert_eq!(read(&message), []);
    }

    proptest! {
        #[test]
        fn any_packet_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            survive(&bytes);
        }

        #[test]
        fn any_damage_is_survived(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            end in any::<prop::sample::Index>(),
        ) {
            let mut packet = announcement("orders", &["192.0.2.7", "2001:db8::7"], Announcement::Hello);
            for (index, byte) in flips {
                let at = index.index(packet.len());
                packet[at] = byte;
            }
            survive(&packet);
            survive(&packet[..end.index(packet.len())]);
        }
    }

    fn survive(packet: &[u8]) {
        let service = Service::new(
            "orders",
            "box:42",
            "box",
            50002,
            vec![[192, 0, 2, 7].into()],
        )
        .expect("names");
        if let Ok(message) = Message::from_vec(packet) {
            assert!(read(&message).len() <= packet.len());
            for querier in [Querier::Multicast, Querier::Legacy] {
                if let Some(answer) = service.answer(&message, querier) {
                    assert!(!answer.answers.is_empty());
                    drop(crate::service::encode(&answer)); // A question that cannot be encoded again is an error.
                }
            }
        }
    }
}
