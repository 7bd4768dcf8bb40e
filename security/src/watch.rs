//! Watching directories: files are replaced by renames and, in Kubernetes, by swapping a link, so the file itself is
//! the wrong thing to watch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A directory that cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("directory {directory:?} cannot be watched")]
pub struct Error {
    directory: PathBuf,
    source: notify::Error,
}

/// Changes in a set of directories, for as long as it lives.
#[derive(Debug)]
pub struct Changes {
    _watcher: RecommendedWatcher,
    events: mpsc::Receiver<()>,
}

impl Changes {
    /// Watches the directories of these files; each directory must exist.
    ///
    /// # Errors
    /// The first directory that cannot be watched.
    pub fn of_files<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<Self, Error> {
        let directories: BTreeSet<PathBuf> = files.into_iter().map(directory).collect();
        // One slot: what matters is that something changed, not how often.
        let (sender, events) = mpsc::channel(1);
        let handler = move |event: Result<Event, notify::Error>| {
            if event.is_ok_and(|event| changes(event.kind)) {
                // Full means the reader has not yet seen the last change, so it will see this one with it.
                sender.try_send(()).unwrap_or_default();
            }
        };
        let first = directories.first().cloned().unwrap_or_default();
        let mut watcher = notify::recommended_watcher(handler).map_err(|source| Error {
            directory: first,
            source,
        })?;
        for directory in directories {
            watcher
                .watch(&directory, RecursiveMode::NonRecursive)
                .map_err(|source| Error { directory, source })?;
        }
        Ok(Self {
            _watcher: watcher,
            events,
        })
    }

    /// Waits for the next change; changes since the last call count. Cancel safe.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            // The watcher holds the sender, so this is unreachable; hanging is what "no change" means.
            std::future::pending::<()>().await;
        }
    }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Reading a file is an event too, and must not look like a change.
fn changes(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_rename_is_a_change_and_a_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let mut changed = Changes::of_files([file.as_path()]).unwrap();
        let other = folder.path().join("new");
        std::fs::write(&other, "text").unwrap();
        std::fs::rename(&other, &file).unwrap();
        timeout(SOON, changed.changed()).await.unwrap();
        // Events of the same write may trail in; after a quiet moment a read must not add one.
        while timeout(Duration::from_millis(200), changed.changed())
            .await
            .is_ok()
        {}
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        assert!(
            timeout(Duration::from_millis(200), changed.changed())
                .await
                .is_err()
        );
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let error = Changes::of_files([Path::new("/nowhere/at/all/ca.crt")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "directory \"/nowhere/at/all\" cannot be watched"
        );
    }

    #[test]
    fn a_bare_name_is_in_the_working_directory() {
        assert_eq!(directory(Path::new("ca.crt")), Path::new("."));
        assert_eq!(directory(Path::new("/etc/ca.crt")), Path::new("/etc"));
    }
}
