//! Who a replica is to the others, and what it keeps of that.
//!
//! A replica that lost its log has forgotten whom it voted for and what it holds for the others. It is another one,
//! whatever it is called: each life without a log draws an incarnation, members are listed with theirs, calls are
//! addressed to one, and a replica answers for no other. So nothing a forgetful replica says is ever counted as the
//! word of the one before it, which to the others is dead; and as a new one it has promised nothing it could break.
//! The leader takes the dead one out of the members and lets the new one in, first to listen, then to vote. These are
//! entries of the log, agreed on by a majority of those that remember: two of three can do it, a leader and a
//! newcomer alone cannot, for the third that is away may be the only one to know what was agreed on.
//!
//! A replica that finds its incarnation among the voters of an entry that was agreed on has applied all that came
//! before, so it is whole again: what was agreed on by the word of its former lives is among it.
//!
//! Only when a majority has forgotten, or no leader has come for long, a replica stands in for all its incarnations.
//! That is how a cluster begins, too.

use std::io;
use std::path::PathBuf;

#[cfg(test)]
use std::sync::Arc;

#[cfg(test)]
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::log::Log;
#[cfg(test)]
use super::machine::Snapshot;
use super::machine::StateMachine;
use super::store::LogStore;
use super::wire::Name;

/// What the others may expect of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    incarnation: u64,
    whole: bool,
    heir: bool,
}

impl Standing {
    /// One that remembers nothing. The incarnation 0 is that of the first members.
    pub(super) fn stranger(incarnation: u64) -> Self {
        Self {
            incarnation: incarnation.max(1),
            whole: false,
            heir: false,
        }
    }

    /// It votes under its own incarnation.
    pub(super) fn let_in(self) -> Self {
        Self {
            whole: true,
            ..self
        }
    }

    /// It votes in the place of all that had its id.
    pub(super) fn inherit(self) -> Self {
        Self {
            whole: true,
            heir: true,
            ..self
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// It knows all that was ever promised under its id, as far as that can still be known.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn answers_for(&self, incarnation: u64) -> bool {
        self.heir || incarnation == self.incarnation
    }

    pub(super) fn name(&self, id: u64) -> Name {
        Name {
            id,
            incarnation: (!self.heir).then_some(self.incarnation),
        }
    }
}

/// Where a replica keeps its log, its snapshot and its standing.
#[derive(Clone, Debug)]
pub(super) enum Store {
    /// Nowhere: a restart forgets them.
    Memory,
    /// With the folder's name.
    Disk(PathBuf, Disk),
    #[cfg(test)]
    Lasting(Lasting),
}

/// What outlives a replica without a disk, for simulated ones.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct Lasting {
    log: LogStore,
    snapshot: Arc<Mutex<Option<Snapshot>>>,
    standing: Arc<Mutex<Option<Standing>>>,
}

#[cfg(test)]
impl Lasting {
    pub(super) fn is_whole(&self) -> bool {
        self.standing.lock().is_some_and(|known| known.is_whole())
    }

    /// What a crash leaves: a life that is over writes to it no more.
    pub(super) fn copy(&self) -> Self {
        Self {
            log: self.log.copy(),
            snapshot: Arc::new(Mutex::new(self.snapshot.lock().clone())),
            standing: Arc::new(Mutex::new(*self.standing.lock())),
        }
    }
}

impl Store {
    pub(super) async fn open(&self) -> Result<(Log, StateMachine), io::Error> {
        Ok(match self {
            Self::Memory => (Log::Memory(LogStore::default()), StateMachine::default()),
            Self::Disk(_, disk) => (
                Log::Disk(disk.clone()),
                StateMachine::open(disk.clone()).await?,
            ),
            #[cfg(test)]
            Self::Lasting(lasting) => (
                Log::Memory(lasting.log.clone()),
                StateMachine::reopen(Arc::clone(&lasting.snapshot)).await?,
            ),
        })
    }

    /// The standing of the life that begins.
    pub(super) async fn standing(&self, draw: impl FnOnce() -> u64) -> Result<Standing, io::Error> {
        let known = match self {
            Self::Memory => None,
            Self::Disk(_, disk) => disk.standing()?,
            #[cfg(test)]
            Self::Lasting(lasting) => *lasting.standing.lock(),
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let standing = Standing::stranger(draw());
        // Before anybody hears of it.
        self.keep(standing).await?;
        Ok(standing)
    }

    pub(super) async fn keep(&self, standing: Standing) -> Result<(), io::Error> {
        match self {
            Self::Memory => Ok(()),
            Self::Disk(_, disk) => disk.set_standing(standing).await,
            #[cfg(test)]
            Self::Lasting(lasting) => {
                *lasting.standing.lock() = Some(standing);
                Ok(())
            }
        }
    }

    /// The folder of a log that is not forgotten with the process.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Memory => None,
            Self::Disk(folder, _) => Some(folder.clone()),
            #[cfg(test)]
            Self::Lasting(_) => Some(PathBuf::new()),
        }
    }
}
