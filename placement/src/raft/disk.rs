//! The log in one file, for `--raft-logstore-path`: entries, vote and the last snapshot.
//!
//! Every write is on the disk before it is confirmed. What cannot be read is an error of the start and never
//! counts as empty: a replica that forgets breaks its word to the others.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::machine::Snapshot;
use super::standing::Standing;
use super::{Kind, Types};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");

/// The name of the file in the folder.
const FILE: &str = "placement.redb";
/// The name it has until it can be read.
const UNFINISHED: &str = "placement.redb.new";
/// What the file is. Another number is another layout.
const FORMAT: u32 = 2;

/// What is known beside the entries, by the name it is stored under.
mod fact {
    pub(super) const FORMAT: &str = "format";
    pub(super) const REPLICA: &str = "replica";
    pub(super) const STANDING: &str = "standing";
    pub(super) const VOTE: &str = "vote";
    pub(super) const COMMITTED: &str = "committed";
    pub(super) const PURGED: &str = "purged";
    pub(super) const SNAPSHOT_META: &str = "snapshot-meta";
    pub(super) const SNAPSHOT: &str = "snapshot";
}

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "store {path} cannot be opened: check the folder of --raft-logstore-path and who may write to it"
    )]
    Unusable { path: PathBuf, source: io::Error },
    #[error(
        "store {path} is used by another process: give every replica a --raft-logstore-path of its own"
    )]
    InUse { path: PathBuf },
    #[error(
        "store {path} is of replica {found:?} and not of {own:?}: set --id or --raft-logstore-path right"
    )]
    OtherReplica {
        path: PathBuf,
        found: String,
        own: String,
    },
    #[error(
        "store {path} is damaged ({what}): restore it, or move it away while a majority of the other replicas runs, and this one learns everything anew"
    )]
    Damaged { path: PathBuf, what: String },
}

/// The store; clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    database: Arc<Database>,
}

impl Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// Opens the store of a replica, made when there is none. Blocks.
    pub(crate) fn open(folder: &Path, replica: &str) -> Result<Self, Error> {
        quietly(|| Self::try_open(folder, replica))
            .unwrap_or_else(|what| Err(damaged(&folder.join(FILE), &what)))
    }

    fn try_open(folder: &Path, replica: &str) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let unusable = |source| Error::Unusable {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        if !fs::exists(&path).map_err(unusable)? {
            create(folder, replica).map_err(unusable)?;
        }
        // The library reads what it finds in the file; a file that was never written has nothing to find.
        if fs::metadata(&path).map_err(unusable)?.len() == 0 {
            return Err(damaged(&path, "it is empty"));
        }
        let mut database = Database::open(&path).map_err(|error| failed(&path, error))?;
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => return Err(damaged(&path, "its checksums do not fit")),
            Err(error) => return Err(failed(&path, error)),
        }
        let disk = Self {
            database: Arc::new(database),
        };
        disk.check(&path, replica)?;
        Ok(disk)
    }

    fn check(&self, path: &Path, replica: &str) -> Result<(), Error> {
        let damaged = |error: io::Error| damaged(path, &error.to_string());
        match self.fact::<u32>(fact::FORMAT).map_err(damaged)? {
            Some(FORMAT) => {}
            found => {
                let what = format!("its format is {found:?} and not {FORMAT}");
                return Err(self::damaged(path, &what));
            }
        }
        let found = self.fact::<String>(fact::REPLICA).map_err(damaged)?;
        if found.as_deref() != Some(replica) {
            return Err(Error::OtherReplica {
                path: path.to_owned(),
                found: found.unwrap_or_default(),
                own: replica.to_owned(),
            });
        }
        self.check_log().map_err(damaged)
    }

    /// Reads everything once: what does not decode or is missing in between is found here and not in the middle of
    /// an election.
    fn check_log(&self) -> Result<(), io::Error> {
        self.fact::<VoteOf<Types>>(fact::VOTE)?;
        let committed = self.fact::<LogIdOf<Types>>(fact::COMMITTED)?;
        let purged = self.fact::<LogIdOf<Types>>(fact::PURGED)?;
        let snapshot = self.snapshot()?;
        let covered = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
        if purged > covered {
            return Err(io::Error::other("entries are gone that no snapshot covers"));
        }
        let first = purged.map_or(0, |purged| purged.index() + 1);
        let entries = self.entries((Bound::Unbounded, Bound::Unbounded))?;
        let mut last = covered;
        for (expected, entry) in (first..).zip(entries) {
            if entry.index() != expected {
                return Err(io::Error::other(format!("entry {expected} is missing")));
            }
            last = last.max(Some(entry.log_id()));
        }
        // Entries are written before they are agreed on, so the last one agreed on is here.
        if let Some(committed) = committed
            && Some(committed) > last
        {
            let text = format!("entry {} was agreed on and is missing", committed.index());
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    /// Who the replica is to the others; nobody yet with a new store.
    pub(super) fn standing(&self) -> Result<Option<Standing>, io::Error> {
        self.fact(fact::STANDING)
    }

    pub(super) async fn set_standing(&self, standing: Standing) -> Result<(), io::Error> {
        self.write(move |transaction| put(transaction, fact::STANDING, &standing))
            .await
    }

    /// Whether somebody else has another entry where this log knows a quorum to have agreed.
    pub(super) fn contradicts(&self, sent: &[LogIdOf<Types>]) -> Result<bool, io::Error> {
        let committed = self.fact::<LogIdOf<Types>>(fact::COMMITTED)?;
        let agreed = committed.map_or(0, |committed| committed.index() + 1);
        let mut early = sent.iter().filter(|sent| sent.index() < agreed).peekable();
        if early.peek().is_none() {
            return Ok(false);
        }
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        for sent in early {
            if let Some(bytes) = log.get(sent.index()).map_err(io::Error::other)? {
                let entry: EntryOf<Types> = decode(bytes.value())?;
                if entry.log_id() != *sent {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(super) async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), io::Error> {
        self.write(move |transaction| {
            put(transaction, fact::SNAPSHOT_META, &snapshot.meta)?;
            put_bytes(transaction, fact::SNAPSHOT, &snapshot.snapshot)
        })
        .await
    }

    pub(super) async fn read_snapshot(&self) -> Result<Option<Snapshot>, io::Error> {
        self.blocking(Self::snapshot).await
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, io::Error> {
        let meta = self.fact::<SnapshotMetaOf<Types>>(fact::SNAPSHOT_META)?;
        let Some(meta) = meta else { return Ok(None) };
        let bytes = self.bytes(fact::SNAPSHOT)?;
        let snapshot = bytes.ok_or_else(|| io::Error::other("snapshot without its tables"))?;
        Ok(Some(Snapshot { meta, snapshot }))
    }

    fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, io::Error> {
        self.bytes(name)?.map(|bytes| decode(&bytes)).transpose()
    }

    fn bytes(&self, name: &str) -> Result<Option<Bytes>, io::Error> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let facts = transaction.open_table(FACTS).map_err(io::Error::other)?;
        let bytes = facts.get(name).map_err(io::Error::other)?;
        Ok(bytes.map(|bytes| Bytes::copy_from_slice(bytes.value())))
    }

    fn entries(&self, range: (Bound<u64>, Bound<u64>)) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let found = log.range::<u64>(range).map_err(io::Error::other)?;
        found
            .map(|found| {
                let (_, bytes) = found.map_err(io::Error::other)?;
                decode(bytes.value())
            })
            .collect()
    }

    fn log_state<C: Kind>(&self) -> Result<LogState<C>, io::Error> {
        let purged = self.fact::<LogIdOf<Types>>(fact::PURGED)?;
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let last = match log.last().map_err(io::Error::other)? {
            Some((_, bytes)) => Some(decode::<EntryOf<Types>>(bytes.value())?.log_id()),
            None => purged,
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), io::Error> + Send + 'static,
    ) -> Result<(), io::Error> {
        self.blocking(move |disk| {
            let mut transaction = disk.database.begin_write().map_err(io::Error::other)?;
            // A start after a crash then does not read the whole file.
            transaction.set_quick_repair(true);
            change(&transaction)?;
            transaction.commit().map_err(io::Error::other)
        })
        .await
    }

    /// Off the threads of the runtime, for the disk may take its time.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, io::Error> + Send + 'static,
    ) -> Result<T, io::Error> {
        let disk = self.clone();
        match tokio::task::spawn_blocking(move || work(&disk)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Makes a store that gets its name only when it is complete: a crash leaves none or a good one.
fn create(folder: &Path, replica: &str) -> Result<(), io::Error> {
    let unfinished = folder.join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let database = Database::create(&unfinished).map_err(io::Error::other)?;
    let transaction = database.begin_write().map_err(io::Error::other)?;
    transaction.open_table(LOG).map_err(io::Error::other)?;
    put(&transaction, fact::FORMAT, &FORMAT)?;
    put(&transaction, fact::REPLICA, &replica)?;
    transaction.commit().map_err(io::Error::other)?;
    drop(database);
    fs::rename(&unfinished, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

fn failed(path: &Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::InUse {
            path: path.to_owned(),
        },
        DatabaseError::Storage(redb::StorageError::Io(source)) => {
            // A file that ends too early is no trouble of the disk.
            if matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) {
                return damaged(path, &source.to_string());
            }
            Error::Unusable {
                path: path.to_owned(),
                source,
            }
        }
        other => damaged(path, &other.to_string()),
    }
}

/// Calls the library that reads the file, which does not expect all that may be in a damaged one. The text of its
/// panic is that of the damage, and shown nowhere else.
fn quietly<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    thread_local! {
        static READING: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !READING.get() {
                report(info);
            }
        }));
    });
    READING.set(true);
    // Nothing of what was being read is used after a panic.
    let outcome = panic::catch_unwind(AssertUnwindSafe(read));
    READING.set(false);
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        // A library may write what it compares on lines of their own.
        let words = text.unwrap_or("it cannot be read").split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    })
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

fn put(
    transaction: &WriteTransaction,
    name: &str,
    value: &(impl Serialize + ?Sized),
) -> Result<(), io::Error> {
    let bytes = postcard::to_allocvec(value).map_err(io::Error::other)?;
    put_bytes(transaction, name, &bytes)
}

fn put_bytes(transaction: &WriteTransaction, name: &str, bytes: &[u8]) -> Result<(), io::Error> {
    let mut facts = transaction.open_table(FACTS).map_err(io::Error::other)?;
    facts.insert(name, bytes).map_err(io::Error::other)?;
    Ok(())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, io::Error> {
    postcard::from_bytes(bytes).map_err(io::Error::other)
}

/// Removes entries and writes what becomes of them, in one.
fn remove(
    transaction: &WriteTransaction,
    range: (Bound<u64>, Bound<u64>),
) -> Result<(), io::Error> {
    let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
    log.retain_in::<u64, _>(range, |_, _| false)
        .map_err(io::Error::other)
}

impl<C: Kind> RaftLogReader<C> for Disk {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<EntryOf<Types>>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.blocking(move |disk| disk.entries(range)).await
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        self.blocking(|disk| disk.fact(fact::VOTE)).await
    }
}

impl<C: Kind> RaftLogStorage<C> for Disk {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        self.blocking(Self::log_state::<C>).await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        let vote = *vote;
        self.write(move |transaction| put(transaction, fact::VOTE, &vote))
            .await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.write(move |transaction| put(transaction, fact::COMMITTED, &committed))
            .await
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        self.blocking(|disk| disk.fact(fact::COMMITTED)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<EntryOf<Types>> = entries.into_iter().collect();
        let written = self
            .write(move |transaction| {
                let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
                for entry in entries {
                    let bytes = postcard::to_allocvec(&entry).map_err(io::Error::other)?;
                    log.insert(entry.index(), &*bytes)
                        .map_err(io::Error::other)?;
                }
                Ok(())
            })
            .await;
        callback.io_completed(written);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let first = last.map_or(0, |last| last.index() + 1);
        self.write(move |transaction| {
            remove(transaction, (Bound::Included(first), Bound::Unbounded))
        })
        .await
    }

    async fn purge(&mut self, last: LogIdOf<Types>) -> Result<(), io::Error> {
        self.write(move |transaction| {
            put(transaction, fact::PURGED, &last)?;
            remove(
                transaction,
                (Bound::Unbounded, Bound::Included(last.index())),
            )
        })
        .await
    }
}

#[cfg(test)]
mod tests;
