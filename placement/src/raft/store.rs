//! The log in memory: nothing is written, and a restart forgets it all.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;

use super::{Kind, Types};

/// The log; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LogStore {
    log: Arc<Mutex<Log>>,
}

#[derive(Clone, Debug, Default)]
struct Log {
    entries: BTreeMap<u64, EntryOf<Types>>,
    vote: Option<VoteOf<Types>>,
    committed: Option<LogIdOf<Types>>,
    purged: Option<LogIdOf<Types>>,
}

impl LogStore {
    /// The same entries again, for what writes to the one does not reach the other.
    #[cfg(test)]
    pub(super) fn copy(&self) -> Self {
        Self {
            log: Arc::new(Mutex::new(self.log.lock().clone())),
        }
    }

    /// Whether somebody else has another entry where this log knows a quorum to have agreed. That cannot be as long
    /// as a majority remembers.
    pub(super) fn contradicts(&self, sent: &[LogIdOf<Types>]) -> bool {
        let log = self.log.lock();
        let agreed = log.committed.map_or(0, |committed| committed.index() + 1);
        sent.iter()
            .filter(|sent| sent.index() < agreed)
            .any(|sent| {
                log.entries
                    .get(&sent.index())
                    .is_some_and(|entry| entry.log_id() != *sent)
            })
    }
}

impl<C: Kind> RaftLogReader<C> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<EntryOf<Types>>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self
            .log
            .lock()
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.log.lock().vote)
    }
}

impl<C: Kind> RaftLogStorage<C> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let log = self.log.lock();
        let last = log.entries.values().next_back().map(RaftEntry::log_id);
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: last.or(log.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.log.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.log
            .lock()
            .entries
            .extend(entries.into_iter().map(|entry| (entry.index(), entry)));
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let first_gone = last.map_or(0, |last| last.index() + 1);
        drop(self.log.lock().entries.split_off(&first_gone));
        Ok(())
    }

    async fn purge(&mut self, last: LogIdOf<Types>) -> Result<(), io::Error> {
        let mut log = self.log.lock();
        log.entries = log.entries.split_off(&(last.index() + 1));
        log.purged = Some(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use openraft::impls::leader_id_adv::LeaderId;

    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> LogIdOf<Types> {
        LogIdOf::<Types>::new(
            LeaderId {
                term,
                node_id: node,
            },
            index,
        )
    }

    #[tokio::test]
    async fn contradictions() {
        let mut store = LogStore::default();
        let entries =
            [log_id(0, 1, 0), log_id(1, 1, 1), log_id(1, 1, 2)].map(EntryOf::<Types>::new_blank);
        store
            .append(entries, IOFlushed::<Types>::noop())
            .await
            .expect("in memory");
        let check = |store: &LogStore, sent: &[LogIdOf<Types>], expected| {
            assert_eq!(store.contradicts(sent), expected, "{sent:?}");
        };
        // Nothing is agreed on yet.
        check(&store, &[log_id(0, 2, 0), log_id(3, 2, 1)], false);
        RaftLogStorage::<Types>::save_committed(&mut store, Some(log_id(1, 1, 1)))
            .await
            .expect("in memory");
        check(&store, &[log_id(0, 2, 0)], true);
        check(&store, &[log_id(0, 1, 0), log_id(3, 2, 1)], true);
        check(&store, &[log_id(1, 1, 1), log_id(3, 2, 2)], false);
        check(&store, &[log_id(3, 2, 9)], false);
        check(&store, &[], false);
    }
}
