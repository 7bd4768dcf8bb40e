//! A sidecar that does what the protocol says, well or badly.

use bytes::Bytes;
use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};
use dapr_security::{Identity, TrustDomain};

use crate::dissemination::StreamId;
use crate::table::{Operation, Order};

/// Where a stream leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) replica: usize,
    pub(super) term: u64,
    /// Which time of serving.
    pub(super) spell: u64,
    pub(super) stream: StreamId,
}

#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) number: usize,
    pub(super) namespace: &'static str,
    pub(super) entities: Vec<&'static str>,
    /// Answers nothing from now on, on this stream.
    pub(super) silent: bool,
    /// Milliseconds it takes for each order.
    pub(super) pace: u64,
    pub(super) link: Option<Link>,
    /// Counts connects: what belongs to another one is late.
    pub(super) epoch: u64,
    /// When its last order is due: a stream keeps its order.
    pub(super) due: u64,
    /// The same for what it says.
    pub(super) said: u64,
    pub(super) locked: u64,
    pub(super) installed: Option<(u64, Bytes)>,
    /// It serves, with the table of this version.
    pub(super) unlocked: Option<u64>,
    /// The version it served with before its stream was gone, and the term that was in.
    pub(super) left: Option<(u64, u64)>,
    pub(super) rounds: u64,
}

impl Sidecar {
    pub(super) fn new(number: usize, namespace: &'static str) -> Self {
        Self {
            number,
            namespace,
            entities: Vec::new(),
            silent: false,
            pace: 1,
            link: None,
            epoch: 0,
            due: 0,
            said: 0,
            locked: 0,
            installed: None,
            unlocked: None,
            left: None,
            rounds: 0,
        }
    }

    /// What its certificate says.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            trust_domain: TrustDomain::new("elsewhere").expect("a valid trust domain"),
            namespace: self.namespace.to_owned(),
            app_id: format!("app-{}", self.number),
        }
    }

    pub(super) fn report(&self) -> Host {
        Host {
            name: format!("10.0.{}.{}:50002", self.number / 250, self.number % 250),
            namespace: self.namespace.to_owned(),
            id: format!("app-{}", self.number),
            entities: self
                .entities
                .iter()
                .map(|entity| (*entity).to_owned())
                .collect(),
            operation: HostOperation::Report.into(),
            ..Host::default()
        }
    }

    /// The stream is gone: nothing is served before the next table.
    pub(super) fn halt(&mut self) {
        if let (Some(link), Some(version)) = (self.link, self.unlocked) {
            self.left = Some((link.term, version));
        }
        self.link = None;
        self.silent = false;
        self.epoch += 1;
        self.locked = 0;
        self.installed = None;
        self.unlocked = None;
    }

    /// Handles an order and returns the answer.
    pub(super) fn obey(&mut self, order: &Order) -> Host {
        assert!(
            order.version >= self.locked,
            "versions of a stream never go back"
        );
        let operation = match order.operation {
            Operation::Lock => {
                self.locked = order.version;
                self.unlocked = None;
                HostOperation::Lock
            }
            Operation::Update => {
                assert_eq!(self.locked, order.version, "an update follows its lock");
                self.installed = Some((order.version, order.bytes.clone()));
                HostOperation::Update
            }
            Operation::Unlock => {
                let installed = self.installed.as_ref().map(|(version, _)| *version);
                assert_eq!(
                    installed,
                    Some(order.version),
                    "an unlock follows its update"
                );
                self.unlocked = installed;
                self.rounds += 1;
                HostOperation::Unlock
            }
        };
        Host {
            namespace: self.namespace.to_owned(),
            id: format!("app-{}", self.number),
            operation: operation.into(),
            version: Some(order.version),
            ..Host::default()
        }
    }
}
