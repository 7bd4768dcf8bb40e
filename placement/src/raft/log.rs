//! The log of a replica, in memory or on a disk. One type, so that the library is compiled into the program once.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::disk::Disk;
use super::store::LogStore;
use super::{Kind, Types};

/// The log; clones share it.
#[derive(Clone, Debug)]
pub(super) enum Log {
    Memory(LogStore),
    Disk(Disk),
}

impl Log {
    /// Whether somebody else has another entry where this log knows a quorum to have agreed.
    pub(super) fn contradicts(&self, sent: &[LogIdOf<Types>]) -> Result<bool, io::Error> {
        match self {
            Self::Memory(log) => Ok(log.contradicts(sent)),
            Self::Disk(disk) => disk.contradicts(sent),
        }
    }
}

impl<C: Kind> RaftLogReader<C> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<EntryOf<Types>>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        match self {
            Self::Memory(log) => RaftLogReader::<C>::try_get_log_entries(log, range).await,
            Self::Disk(disk) => RaftLogReader::<C>::try_get_log_entries(disk, range).await,
        }
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        match self {
            Self::Memory(log) => RaftLogReader::<C>::read_vote(log).await,
            Self::Disk(disk) => RaftLogReader::<C>::read_vote(disk).await,
        }
    }
}

impl<C: Kind> RaftLogStorage<C> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::get_log_state(log).await,
            Self::Disk(disk) => RaftLogStorage::<C>::get_log_state(disk).await,
        }
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::save_vote(log, vote).await,
            Self::Disk(disk) => RaftLogStorage::<C>::save_vote(disk, vote).await,
        }
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::save_committed(log, committed).await,
            Self::Disk(disk) => RaftLogStorage::<C>::save_committed(disk, committed).await,
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::read_committed(log).await,
            Self::Disk(disk) => RaftLogStorage::<C>::read_committed(disk).await,
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::append(log, entries, callback).await,
            Self::Disk(disk) => RaftLogStorage::<C>::append(disk, entries, callback).await,
        }
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::truncate_after(log, last).await,
            Self::Disk(disk) => RaftLogStorage::<C>::truncate_after(disk, last).await,
        }
    }

    async fn purge(&mut self, last: LogIdOf<Types>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => RaftLogStorage::<C>::purge(log, last).await,
            Self::Disk(disk) => RaftLogStorage::<C>::purge(disk, last).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};
    use tempfile::TempDir;

    use super::super::machine::StateMachine;
    use super::*;

    #[derive(Clone, Copy)]
    enum Builder {
        Memory,
        Disk,
    }

    impl StoreBuilder<Types, Log, StateMachine, TempDir> for Builder {
        async fn build(&self) -> Result<(TempDir, Log, StateMachine), StorageError<Types>> {
            let folder = tempfile::tempdir().expect("a folder");
            let (log, machine) = match self {
                Self::Memory => (Log::Memory(LogStore::default()), StateMachine::default()),
                Self::Disk => {
                    let disk = Disk::open(folder.path(), "p0").expect("opens");
                    let machine = StateMachine::open(disk.clone()).await;
                    (Log::Disk(disk), machine.expect("nothing is in it"))
                }
            };
            Ok((folder, log, machine))
        }
    }

    #[tokio::test]
    async fn the_stores_pass_the_suite_of_the_library() {
        for builder in [Builder::Memory, Builder::Disk] {
            Suite::test_all(builder).await.expect("the suite passes");
        }
    }
}
