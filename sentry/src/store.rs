//! Files that belong together, on disk.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

/// Why the files cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("file {path:?} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("file {path:?} cannot be written")]
    Write { path: PathBuf, source: io::Error },
}

/// Reads all files; none if at least one is missing.
pub(crate) async fn read<const N: usize>(paths: [&Path; N]) -> Result<Option<[Vec<u8>; N]>, Error> {
    let mut contents = [const { Vec::new() }; N];
    for (path, contents) in paths.into_iter().zip(&mut contents) {
        match fs::read(path).await {
            Ok(found) => *contents = found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
    Ok(Some(contents))
}

/// Writes all files, readable for the owner only. The first goes first and comes last, so that a crash between leaves
/// it missing, which makes the next start generate all of them again, and never a mixture.
pub(crate) async fn write<const N: usize>(
    paths: [&Path; N],
    contents: [&[u8]; N],
) -> Result<(), Error> {
    if let Some(first) = paths.first() {
        remove(first).await.map_err(|source| Error::Write {
            path: first.to_path_buf(),
            source,
        })?;
    }
    for (path, contents) in paths.into_iter().zip(contents).rev() {
        replace(path, contents)
            .await
            .map_err(|source| Error::Write {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(())
}

async fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Puts a whole new file in the place of the old one.
async fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn files_are_kept_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (
            folder.path().join("ca.crt"),
            folder.path().join("issuer.key"),
        );
        let paths = [first.as_path(), second.as_path()];
        assert!(read(paths).await.unwrap().is_none());
        std::fs::write(folder.path().join("issuer.key.new"), "left by a crash").unwrap();
        write(paths, [b"root", b"key"]).await.unwrap();
        assert_eq!(
            read(paths).await.unwrap(),
            Some([b"root".to_vec(), b"key".to_vec()])
        );
        let names = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        for path in names {
            assert!(paths.contains(&path.as_path()), "{path:?}");
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::remove_file(&second).unwrap();
        assert!(read(paths).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let error = write([Path::new("/nowhere/at/all/ca.crt")], [b"text"])
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "file \"/nowhere/at/all/ca.crt\" cannot be written"
        );
    }
}
