//! One file, replaced whole and readable for its owner only.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("file {path:?} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("file {path:?} cannot be written")]
    Write { path: PathBuf, source: io::Error },
}

/// The contents; none if there is no such file.
pub(super) async fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path).await {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Puts a whole new file in the place of the old one, or removes it.
pub(super) async fn write(path: &Path, contents: Option<&[u8]>) -> Result<(), Error> {
    let written = match contents {
        Some(contents) => replace(path, contents).await,
        None => remove(path).await,
    };
    written.map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Puts a file beside its place, under a name nobody reads.
pub(super) async fn set_aside(path: &Path, suffix: &str) -> Result<PathBuf, Error> {
    let aside = named(path, suffix);
    let moved = fs::rename(path, &aside).await;
    moved.map(|()| aside).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

async fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn named(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

async fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let draft = named(path, ".new");
    // A draft left by a crash may have other permissions than those asked for below.
    remove(&draft).await?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .await?;
    file.write_all(contents).await?;
    file.sync_all().await?;
    fs::rename(&draft, path).await?;
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => {
            File::open(directory).await?.sync_all().await
        }
        Some(_) | None => Ok(()),
    }
}
