//! The log and the state machine of the election, both in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{OptionalSend, RaftLogReader, RaftSnapshotBuilder, StoredMembership};
use parking_lot::Mutex;

use super::Types;

/// The log; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LogStore {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    entries: BTreeMap<u64, EntryOf<Types>>,
    vote: Option<VoteOf<Types>>,
    committed: Option<LogIdOf<Types>>,
    purged: Option<LogIdOf<Types>>,
}

impl LogStore {
    /// Whether a leader of now has other entries where this log knows a quorum to have agreed. That cannot be as
    /// long as a majority remembers.
    pub(super) fn contradicts(&self, request: &AppendEntriesRequest<Types>) -> bool {
        let log = self.log.lock();
        if log.vote.is_some_and(|vote| request.vote < vote) {
            return false;
        }
        let agreed = log.committed.map_or(0, |committed| committed.index() + 1);
        let sent = request
            .entries
            .iter()
            .map(RaftEntry::log_id)
            .chain(request.prev_log_id);
        sent.filter(|sent| sent.index() < agreed).any(|sent| {
            log.entries
                .get(&sent.index())
                .is_some_and(|entry| entry.log_id() != sent)
        })
    }
}

impl RaftLogReader<Types> for LogStore {
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

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
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

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
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

/// What the log has led to: the members.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateMachine {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    /// The last snapshot, shared with the builders.
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<Types>>>>,
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let log_id = entry.log_id();
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(Some(log_id), membership);
            }
            self.applied = Some(log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        (): (),
    ) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        let last = self.snapshot.lock().clone();
        Ok(last.map(|meta| SnapshotOf::<Types, ()> { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = ();

    /// A snapshot has nothing but its description.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        *self.snapshot.lock() = Some(meta.clone());
        Ok(SnapshotOf::<Types, ()> { meta, snapshot: () })
    }
}

#[cfg(test)]
mod tests {
    use openraft::StorageError;
    use openraft::impls::Vote;
    use openraft::impls::leader_id_adv::LeaderId;
    use openraft::testing::log::{StoreBuilder, Suite};

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
            .append(entries, IOFlushed::noop())
            .await
            .expect("in memory");
        store
            .save_vote(&Vote::new_committed(2, 1))
            .await
            .expect("in memory");
        let check = |store: &LogStore, term, prev, entries: &[LogIdOf<Types>], expected| {
            let request = AppendEntriesRequest {
                vote: Vote::new_committed(term, 2),
                prev_log_id: prev,
                entries: entries
                    .iter()
                    .copied()
                    .map(EntryOf::<Types>::new_blank)
                    .collect(),
                leader_commit: None,
            };
            assert_eq!(store.contradicts(&request), expected, "{request:?}");
        };
        // Nothing is agreed on yet.
        check(&store, 3, Some(log_id(0, 2, 0)), &[log_id(3, 2, 1)], false);
        store
            .save_committed(Some(log_id(1, 1, 1)))
            .await
            .expect("in memory");
        check(&store, 3, Some(log_id(0, 2, 0)), &[], true);
        check(&store, 3, None, &[log_id(0, 1, 0), log_id(3, 2, 1)], true);
        check(&store, 3, Some(log_id(1, 1, 1)), &[log_id(3, 2, 2)], false);
        check(&store, 3, Some(log_id(3, 2, 9)), &[], false);
        check(&store, 3, None, &[], false);
        // A leader of before is told so by the library.
        check(&store, 1, Some(log_id(0, 2, 0)), &[], false);
    }

    struct Builder;

    impl StoreBuilder<Types, LogStore, StateMachine> for Builder {
        async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<Types>> {
            Ok(((), LogStore::default(), StateMachine::default()))
        }
    }

    #[tokio::test]
    async fn the_stores_pass_the_suite_of_the_library() {
        Suite::test_all(Builder).await.expect("the suite passes");
    }
}
