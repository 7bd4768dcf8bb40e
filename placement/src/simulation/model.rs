//! The log of the replicas as Raft promises it, without its messages for elections.
//!
//! Elections are made by an oracle that keeps Raft's rules: a majority that can talk and may vote, the best log
//! among it, a term of its own. Appends travel as messages that are late, lost, doubled and out of order.

use std::sync::Arc;

use crate::ledger::{Entry, Tables};

/// Entries with the term they were proposed in.
pub(super) type Log = Arc<Vec<(u64, Arc<Entry>)>>;

/// The log of one replica.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) up: bool,
    /// It may vote: it has a log, or was brought up to date since it lost it.
    pub(super) whole: bool,
    /// Counts how often it has lost its log: what it said before is not its word any more.
    pub(super) life: u64,
    /// Replicas with the same number can talk.
    pub(super) island: u64,
    pub(super) term: u64,
    pub(super) log: Log,
    pub(super) committed: usize,
    pub(super) tables: Tables,
    pub(super) applied: usize,
}

impl Replica {
    pub(super) fn applies(&mut self) {
        while self.applied < self.committed {
            let (_, entry) = &self.log[self.applied];
            self.tables.apply(Entry::clone(entry));
            self.applied += 1;
        }
    }

    /// How good its log is.
    pub(super) fn rank(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |(term, _)| *term), self.log.len())
    }

    /// Takes what a leader sends; true when it is not one of before.
    pub(super) fn append(&mut self, append: &Append) -> bool {
        if append.term < self.term {
            return false;
        }
        self.term = append.term;
        // Late messages of one term carry less.
        let prefix = self.log.iter().zip(append.log.iter());
        let same = prefix.take_while(|(own, sent)| own.0 == sent.0).count();
        if same < append.log.len() || self.rank().0 < append.term {
            assert!(
                same >= self.committed.min(append.log.len()),
                "what was agreed on is contradicted"
            );
            self.log = Arc::clone(&append.log);
        }
        self.committed = self.committed.max(append.committed.min(append.log.len()));
        self.applies();
        // A leader counts as heard with all it had agreed on.
        self.whole = true;
        true
    }

    /// Loses everything but its place.
    pub(super) fn forget(&mut self) {
        *self = Self {
            island: self.island,
            life: self.life + 1,
            ..Self::default()
        };
    }
}

/// What a leader sends: all it has.
#[derive(Clone, Debug)]
pub(super) struct Append {
    pub(super) from: usize,
    /// When it was sent: what is acknowledged binds from here on.
    pub(super) sent: u64,
    pub(super) term: u64,
    pub(super) log: Log,
    pub(super) committed: usize,
}

/// A replica that was elected.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) replica: usize,
    pub(super) term: u64,
    /// How much of its log each replica has.
    pub(super) matched: Vec<usize>,
    /// When a quorum held on to it last.
    pub(super) acked: Vec<u64>,
}

impl Leader {
    /// What a majority has.
    pub(super) fn quorum(&self) -> usize {
        let mut matched = self.matched.clone();
        matched.sort_unstable();
        matched[(matched.len() - 1) / 2]
    }

    /// When a majority was heard of last.
    pub(super) fn heard(&self) -> u64 {
        let mut acked = self.acked.clone();
        acked.sort_unstable();
        acked[(acked.len() - 1) / 2]
    }
}
