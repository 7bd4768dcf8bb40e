//! What this sidecar says about itself, and to which questions.

use std::net::IpAddr;

use dapr_components_core::{Error, ErrorKind};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::names;

/// Seconds that others may keep our records.
const TTL: u32 = 3200;
/// The same for addresses.
const ADDRESS_TTL: u32 = 120;
/// What plain DNS clients, which do not follow changes, may keep.
const LEGACY_TTL: u32 = 10;

/// The records of this sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    app_id: String,
    service: Name,
    instance: Name,
    services: Name,
    host: Name,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// Whether the records begin or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announcement {
    Hello,
    Goodbye,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Querier {
    /// Speaks multicast DNS and hears answers to all.
    Multicast,
    /// A plain DNS client, which waits for an answer to its own port and question.
    Legacy,
}

impl Service {
    pub(crate) fn new(
        app_id: &str,
        instance: &str,
        hostname: &str,
        port: u16,
        addresses: Vec<IpAddr>,
    ) -> Result<Self, Error> {
        Ok(Self {
            app_id: app_id.to_owned(),
            service: names::service(app_id)?,
            instance: names::instance(instance, app_id)?,
            services: names::services()?,
            host: names::host(hostname)?,
            port,
            addresses,
        })
    }

    /// The records, unasked. A goodbye leaves out what is not ours alone: the host's addresses and the
    /// listing of the app, which other sidecars may still need.
    pub(crate) fn announcement(&self, announcement: Announcement) -> Result<Vec<u8>, Error> {
        let mut records = vec![self.srv(), self.txt(), self.ptr()];
        match announcement {
            Announcement::Hello => {
                records.push(self.listing());
                records.extend(self.addresses());
            }
            Announcement::Goodbye => records.iter_mut().for_each(|record| record.ttl = 0),
        }
        let mut message = response(0);
        message.answers = records;
        encode(&message)
    }

    /// The answer to a query, if any of its questions is about us and not answered already.
    pub(crate) fn answer(&self, query: &Message, querier: Querier) -> Option<Message> {
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        for question in &query.queries {
            self.collect(question, &mut answers, &mut additionals);
        }
        answers.retain(|answer| !is_known(query, answer));
        if answers.is_empty() {
            return None;
        }
        additionals.retain(|record| !answers.contains(record));
        let mut message = response(0);
        message.answers = unique(answers);
        message.additionals = unique(additionals);
        if querier == Querier::Legacy {
            message.metadata.id = query.metadata.id;
            message.queries.clone_from(&query.queries);
            for record in message.answers.iter_mut().chain(&mut message.additionals) {
                record.ttl = record.ttl.min(LEGACY_TTL);
                record.mdns_cache_flush = false;
            }
        }
        Some(message)
    }

    fn collect(&self, question: &Query, answers: &mut Vec<Record>, additionals: &mut Vec<Record>) {
        let wants = |kind| question.query_type == kind || question.query_type == RecordType::ANY;
        if question.name == self.service && wants(RecordType::PTR) {
            answers.push(self.ptr());
            additionals.extend([self.srv(), self.txt()]);
            additionals.extend(self.addresses());
        }
        if question.name == self.services && wants(RecordType::PTR) {
            answers.push(self.listing());
        }
        if question.name == self.instance {
            if wants(RecordType::SRV) {
                answers.push(self.srv());
                additionals.extend(self.addresses());
            }
            if wants(RecordType::TXT) {
                answers.push(self.txt());
            }
        }
        if question.name == self.host {
            answers.extend(
                self.addresses()
                    .filter(|record| wants(record.record_type())),
            );
        }
    }

    fn ptr(&self) -> Record {
        Record::from_rdata(
            self.service.clone(),
            TTL,
            RData::PTR(PTR(self.instance.clone())),
        )
    }

    fn listing(&self) -> Record {
        Record::from_rdata(
            self.services.clone(),
            TTL,
            RData::PTR(PTR(self.service.clone())),
        )
    }

    fn srv(&self) -> Record {
        let srv = SRV::new(0, 0, self.port, self.host.clone());
        own(Record::from_rdata(
            self.instance.clone(),
            TTL,
            RData::SRV(srv),
        ))
    }

    fn txt(&self) -> Record {
        let txt = TXT::from_bytes(vec![self.app_id.as_bytes()]);
        own(Record::from_rdata(
            self.instance.clone(),
            TTL,
            RData::TXT(txt),
        ))
    }

    /// Not marked as ours alone: the host's own responder speaks for this name too.
    fn addresses(&self) -> impl Iterator<Item = Record> {
        self.addresses.iter().map(|address| {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            Record::from_rdata(self.host.clone(), ADDRESS_TTL, data)
        })
    }
}

/// Asks for the instances of an app.
pub(crate) fn question(app_id: &str) -> Result<Vec<u8>, Error> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(names::service(app_id)?, RecordType::PTR));
    encode(&message)
}

/// The bytes of a message.
pub(crate) fn encode(message: &Message) -> Result<Vec<u8>, Error> {
    message.to_vec().map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("failed to encode an mDNS packet: {error}"),
        )
        .with_source(error)
    })
}

fn response(id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message
}

/// Marks a record that nobody else has, so that receivers forget older versions.
fn own(mut record: Record) -> Record {
    record.mdns_cache_flush = true;
    record
}

/// Whether the querier already has the record for at least half of its life.
fn is_known(query: &Message, answer: &Record) -> bool {
    query.answers.iter().any(|known| {
        known.name == answer.name && known.data == answer.data && known.ttl >= answer.ttl / 2
    })
}

fn unique(records: Vec<Record>) -> Vec<Record> {
    let mut kept: Vec<Record> = Vec::with_capacity(records.len());
    for record in records {
        if !kept.contains(&record) {
            kept.push(record);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        let addresses = vec![
            IpAddr::from([192, 0, 2, 7]),
            "2001:db8::7".parse().expect("address"),
        ];
        Service::new("orders", "box:42", "box", 50002, addresses).expect("names")
    }

    /// Every record as `name ttl data`; the library prints a colon in a name with an escape.
    fn lines(records: &[Record]) -> Vec<String> {
        records
            .iter()
            .map(|record| format!("{} {} {}", record.name, record.ttl, record.data))
            .collect()
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let labels = name.split('.').map(str::as_bytes);
        message.add_query(Query::query(Name::from_labels(labels).expect("name"), kind));
        message
    }

    #[test]
    fn a_browse_is_answered_with_everything_in_one_packet() {
        let answer = service()
            .answer(&ask("ORDERS.local", RecordType::PTR), Querier::Multicast)
            .expect("about us");
        assert_eq!(
            lines(&answer.answers),
            ["orders.local. 3200 box\\:42.orders.local."]
        );
        assert_eq!(
            lines(&answer.additionals),
            [
                "box\\:42.orders.local. 3200 0 0 50002 box.local.",
                "box\\:42.orders.local. 3200 orders",
                "box.local. 120 192.0.2.7",
                "box.local. 120 2001:db8::7",
            ]
        );
        assert!(answer.metadata.authoritative);
        assert_eq!((answer.metadata.id, answer.queries.len()), (0, 0));
        let flushed: Vec<_> = answer
            .additionals
            .iter()
            .map(|record| record.mdns_cache_flush)
            .collect();
        assert_eq!(flushed, [true, true, false, false]);
    }

    #[test]
    fn questions() {
        let check = |name: &str, kind: RecordType, expected: &[&str]| {
            let answer = service().answer(&ask(name, kind), Querier::Multicast);
            assert_eq!(
                lines(&answer.map(|answer| answer.answers).unwrap_or_default()),
                expected,
                "{name} {kind}"
            );
        };
        check(
            "_services._dns-sd._udp.local",
            RecordType::PTR,
            &["_services._dns-sd._udp.local. 3200 orders.local."],
        );
        check(
            "box:42.orders.local",
            RecordType::TXT,
            &["box\\:42.orders.local. 3200 orders"],
        );
        check(
            "box:42.orders.local",
            RecordType::SRV,
            &["box\\:42.orders.local. 3200 0 0 50002 box.local."],
        );
        check("box.local", RecordType::A, &["box.local. 120 192.0.2.7"]);
        check(
            "box.local",
            RecordType::AAAA,
            &["box.local. 120 2001:db8::7"],
        );
        check("orders.local", RecordType::A, &[]);
        check("other.local", RecordType::PTR, &[]);
    }

    #[test]
    fn known_answers_are_not_repeated() {
        let mut query = ask("orders.local", RecordType::PTR);
        query.answers = vec![service().ptr()];
        assert!(service().answer(&query, Querier::Multicast).is_none());
        query.answers[0].ttl = TTL / 2 - 1;
        assert!(service().answer(&query, Querier::Multicast).is_some());
    }

    #[test]
    fn plain_dns_clients_get_their_question_back() {
        let query = ask("orders.local", RecordType::PTR);
        let answer = service().answer(&query, Querier::Legacy).expect("about us");
        assert_eq!((answer.metadata.id, &answer.queries), (7, &query.queries));
        let records = answer.answers.iter().chain(&answer.additionals);
        assert!(
            records
                .clone()
                .all(|record| record.ttl <= LEGACY_TTL && !record.mdns_cache_flush)
        );
    }

    #[test]
    fn a_goodbye_ends_what_is_ours_alone() {
        let check = |announcement, expected: &[(&str, u32)]| {
            let bytes = service().announcement(announcement).expect("encoded");
            let message = Message::from_vec(&bytes).expect("decoded");
            let kind = |record: &Record| (record.record_type().to_string(), record.ttl);
            let found: Vec<_> = message.answers.iter().map(kind).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(kind, ttl)| ((*kind).to_owned(), *ttl))
                .collect();
            assert_eq!(found, expected, "{announcement:?}");
        };
        let all = [
            ("SRV", 3200),
            ("TXT", 3200),
            ("PTR", 3200),
            ("PTR", 3200),
            ("A", 120),
            ("AAAA", 120),
        ];
        check(Announcement::Hello, &all);
        check(Announcement::Goodbye, &[("SRV", 0), ("TXT", 0), ("PTR", 0)]);
    }
}
