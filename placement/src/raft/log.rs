//! The log of a replica, in memory or on a disk. One type, so that the library is compiled into the program once.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::Types;
use super::disk::Disk;
use super::store::LogStore;

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

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<EntryOf<Types>>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        match self {
            Self::Memory(log) => log.try_get_log_entries(range).await,
            Self::Disk(disk) => disk.try_get_log_entries(range).await,
        }
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        match self {
            Self::Memory(log) => log.read_vote().await,
            Self::Disk(disk) => disk.read_vote().await,
        }
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        match self {
            Self::Memory(log) => log.get_log_state().await,
            Self::Disk(disk) => disk.get_log_state().await,
        }
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => log.save_vote(vote).await,
            Self::Disk(disk) => disk.save_vote(vote).await,
        }
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => log.save_committed(committed).await,
            Self::Disk(disk) => disk.save_committed(committed).await,
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        match self {
            Self::Memory(log) => log.read_committed().await,
            Self::Disk(disk) => disk.read_committed().await,
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        match self {
            Self::Memory(log) => log.append(entries, callback).await,
            Self::Disk(disk) => disk.append(entries, callback).await,
        }
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => log.truncate_after(last).await,
            Self::Disk(disk) => disk.truncate_after(last).await,
        }
    }

    async fn purge(&mut self, last: LogIdOf<Types>) -> Result<(), io::Error> {
        match self {
            Self::Memory(log) => log.purge(last).await,
            Self::Disk(disk) => disk.purge(last).await,
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
