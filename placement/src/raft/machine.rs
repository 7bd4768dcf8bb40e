//! The state machine: what the log has led to, the members and the tables.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StoredMembership};
use parking_lot::Mutex;

use super::disk::Disk;
use super::{Kind, Types};
use crate::ledger::Tables;

/// A snapshot: the encoded tables.
pub(super) type Snapshot = SnapshotOf<Types, Bytes>;

/// Members and tables. The tables are shared with whoever leads by them; one writer, this.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateMachine {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    tables: Arc<Mutex<Tables>>,
    kept: Kept,
}

/// Where the last snapshot is.
#[derive(Clone, Debug)]
enum Kept {
    Memory(Arc<Mutex<Option<Snapshot>>>),
    Disk(Disk),
}

impl Default for Kept {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

impl Kept {
    async fn keep(&self, snapshot: Snapshot) -> Result<(), io::Error> {
        match self {
            Self::Memory(last) => {
                *last.lock() = Some(snapshot);
                Ok(())
            }
            Self::Disk(disk) => disk.save_snapshot(snapshot).await,
        }
    }

    async fn last(&self) -> Result<Option<Snapshot>, io::Error> {
        match self {
            Self::Memory(last) => Ok(last.lock().clone()),
            Self::Disk(disk) => disk.read_snapshot().await,
        }
    }
}

impl StateMachine {
    /// Starts with the last snapshot of a disk. What the log has beyond it is applied again by the library.
    pub(super) async fn open(disk: Disk) -> Result<Self, io::Error> {
        Self::with(Kept::Disk(disk)).await
    }

    /// The same with a snapshot that outlives the replica in memory.
    #[cfg(test)]
    pub(super) async fn reopen(last: Arc<Mutex<Option<Snapshot>>>) -> Result<Self, io::Error> {
        Self::with(Kept::Memory(last)).await
    }

    async fn with(kept: Kept) -> Result<Self, io::Error> {
        let mut machine = Self {
            kept,
            ..Self::default()
        };
        if let Some(snapshot) = machine.kept.last().await? {
            machine.take(&snapshot.meta, &snapshot.snapshot)?;
        }
        Ok(machine)
    }

    pub(super) fn tables(&self) -> Arc<Mutex<Tables>> {
        Arc::clone(&self.tables)
    }

    fn take(&mut self, meta: &SnapshotMetaOf<Types>, bytes: &[u8]) -> Result<(), io::Error> {
        let tables = Tables::decode(bytes).map_err(io::Error::other)?;
        *self.tables.lock() = tables;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }
}

impl<C: Kind> RaftStateMachine<C> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let log_id = entry.log_id();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(entry) => self.tables.lock().apply(entry),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership);
                }
            }
            self.applied = Some(log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            meta: SnapshotMetaOf::<Types> {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            // Hosts share their bytes, so this is small.
            tables: self.tables.lock().clone(),
            kept: self.kept.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        bytes: Bytes,
    ) -> Result<(), io::Error> {
        self.take(meta, &bytes)?;
        let snapshot = Snapshot {
            meta: meta.clone(),
            snapshot: bytes,
        };
        self.kept.keep(snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.kept.last().await
    }
}

/// The tables of one moment, on their way to a snapshot.
#[derive(Debug)]
pub(crate) struct Builder {
    meta: SnapshotMetaOf<Types>,
    tables: Tables,
    kept: Kept,
}

impl<C: Kind> RaftSnapshotBuilder<C> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let snapshot = Snapshot {
            meta: self.meta.clone(),
            snapshot: self.tables.encode().map_err(io::Error::other)?,
        };
        self.kept.keep(snapshot.clone()).await?;
        Ok(snapshot)
    }
}
