//! Files: every change of several of them is first written to a journal, so that a crash between any two writes leaves
//! either the old material or the new.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Changes, Error, FOREIGN, Item, Kept, file};

/// Beside the root certificates: the changes that have begun, as a JSON object of file names and contents.
const JOURNAL: &str = ".unfinished-write.json";
/// Asks for a rotation.
const REQUEST: &str = "rotate-root";

/// Paths and contents; what is to be removed has none.
type Journal = BTreeMap<PathBuf, Option<String>>;
type Write = (PathBuf, Option<Vec<u8>>);

/// The files, by item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    folder: PathBuf,
    paths: BTreeMap<Item, PathBuf>,
}

impl Directory {
    /// `paths` are those of root, chain, key, JWT key and key set; the others lie in `folder`.
    pub(crate) fn new(folder: &Path, paths: [&Path; 5]) -> Self {
        let named = [
            Item::Root,
            Item::Chain,
            Item::Key,
            Item::JwtKey,
            Item::JwtKeys,
        ];
        let own = [
            (Item::NextChain, "next-issuer.crt"),
            (Item::NextKey, "next-issuer.key"),
            (Item::Rotation, "root-rotation.json"),
            (Item::LongestTtl, "longest-workload-cert-ttl-seconds"),
        ];
        let named = named.into_iter().zip(paths.map(Path::to_owned));
        let own = own.map(|(item, name)| (item, folder.join(name)));
        Self {
            folder: folder.to_owned(),
            paths: named.chain(own).collect(),
        }
    }

    pub(crate) fn path(&self, item: Item) -> &Path {
        self.paths.get(&item).map_or(&self.folder, PathBuf::as_path)
    }

    /// Everything whose directory is to be watched.
    pub(crate) fn watched(&self) -> impl Iterator<Item = &Path> {
        self.paths.values().map(PathBuf::as_path)
    }

    pub(super) async fn load(&self) -> Result<Kept, Error> {
        self.finish().await?;
        self.look().await
    }

    /// What is there, for somebody who is not the one to finish what was begun.
    pub(super) async fn look(&self) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        for item in Item::ALL {
            if let Some(contents) = file::read(self.path(item)).await? {
                kept.items.insert(item, contents);
            }
        }
        let [chain, key] = FOREIGN.map(|name| self.foreign(name));
        kept.adopt([file::read(&chain).await?, file::read(&key).await?]);
        kept.request = self.requested().await;
        Ok(kept)
    }

    /// The request, if there is one that can be read: another user's is not, and keeps nobody from anything else.
    async fn requested(&self) -> Option<String> {
        match file::read(&self.folder.join(REQUEST)).await {
            Ok(text) => text.map(|text| String::from_utf8_lossy(&text).trim().to_owned()),
            Err(error) => {
                let error = dapr_kit::process::chain(&error);
                tracing::warn!(
                    error,
                    "A new root was asked for in a way that cannot be read: run `sentry rotate` as the user of sentry"
                );
                None
            }
        }
    }

    pub(super) async fn save(&self, changes: &Changes) -> Result<(), Error> {
        for (path, contents) in self.writes(changes)? {
            file::write(&path, contents.as_deref()).await?;
        }
        Ok(())
    }

    /// The writes that make the changes, in order. After each of them the next load finds all changes or none.
    fn writes(&self, changes: &Changes) -> Result<Vec<Write>, Error> {
        if changes.len() < 2 {
            let only = changes.iter();
            return Ok(only
                .map(|(item, contents)| (self.path(*item).to_owned(), contents.clone()))
                .collect());
        }
        let journal: Journal = changes
            .iter()
            .map(|(item, contents)| {
                let contents = contents.as_ref().map(|it| STANDARD.encode(it));
                (self.path(*item).to_owned(), contents)
            })
            .collect();
        let journal = serde_json::to_vec(&journal).unwrap_or_default();
        let rest = self.rest(&journal)?;
        let first = (self.journal(), Some(journal));
        Ok(std::iter::once(first).chain(rest).collect())
    }

    /// The writes that a journal stands for; its removal is the last.
    fn rest(&self, journal: &[u8]) -> Result<Vec<Write>, Error> {
        let damaged = || Error::Journal(self.journal());
        let changes: Journal = serde_json::from_slice(journal).map_err(|_| damaged())?;
        let mut writes = Vec::new();
        for (path, contents) in changes {
            let contents = contents.map(|it| STANDARD.decode(it)).transpose();
            writes.push((path, contents.map_err(|_| damaged())?));
        }
        writes.push((self.journal(), None));
        Ok(writes)
    }

    /// Keeps what is about to be replaced, under names that end in `.replaced`.
    pub(crate) async fn set_aside(&self, items: &[Item]) -> Result<Vec<PathBuf>, Error> {
        let mut kept = Vec::new();
        for item in items {
            if file::read(self.path(*item)).await?.is_some() {
                kept.push(file::set_aside(self.path(*item), ".replaced").await?);
            }
        }
        Ok(kept)
    }

    pub(super) async fn request(&self, text: &str) -> Result<(), Error> {
        Ok(file::write(&self.folder.join(REQUEST), Some(text.as_bytes())).await?)
    }

    pub(super) async fn acknowledge(&self) -> Result<(), Error> {
        Ok(file::write(&self.folder.join(REQUEST), None).await?)
    }

    pub(super) fn foreign(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Does so many of the writes of a change, as one who is killed then; says whether there were more.
    #[cfg(test)]
    pub(crate) async fn begin(&self, changes: &Changes, writes: usize) -> bool {
        let all = self.writes(changes).expect("what was just made is whole");
        for (path, contents) in all.iter().take(writes) {
            let written = file::write(path, contents.as_deref()).await;
            written.expect("a folder of the test");
        }
        writes < all.len()
    }

    fn journal(&self) -> PathBuf {
        self.folder.join(JOURNAL)
    }

    /// Does what the journal says, whether it was begun just now or before a crash.
    async fn finish(&self) -> Result<(), Error> {
        let Some(journal) = file::read(&self.journal()).await? else {
            return Ok(());
        };
        for (path, contents) in self.rest(&journal)? {
            file::write(&path, contents.as_deref()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::storage::Storage;

    fn directory(folder: &Path) -> Directory {
        let paths = ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"]
            .map(|name| folder.join(name));
        let [root, chain, key, jwt_key, keys] = &paths;
        Directory::new(folder, [root, chain, key, jwt_key, keys])
    }

    fn changes(text: &str) -> Changes {
        [Item::Root, Item::Chain, Item::Key]
            .into_iter()
            .map(|item| (item, Some(format!("{item:?} {text}").into_bytes())))
            .collect()
    }

    #[tokio::test]
    async fn files_are_kept_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let directory = directory(folder.path());
        assert!(directory.load().await.unwrap().items.is_empty());
        std::fs::write(folder.path().join("issuer.key.new"), "left by a crash").unwrap();
        directory.save(&changes("one")).await.unwrap();
        let kept = directory.load().await.unwrap();
        assert_eq!(kept.get(Item::Root), Some(&b"Root one"[..]));
        assert_eq!(kept.items.len(), 3);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path:?}");
            assert!(!path.to_string_lossy().ends_with(".new"), "{path:?}");
        }
        let removal = Changes::from([(Item::Key, None)]);
        directory.save(&removal).await.unwrap();
        assert_eq!(directory.load().await.unwrap().get(Item::Key), None);
    }

    /// A crash is a state of the folder: journal and files after each write. From each of them the next load finds
    /// the old material or the new, never a mixture.
    #[tokio::test]
    async fn a_crash_between_any_two_writes_leaves_a_usable_authority() {
        let all = |kept: &Kept| {
            kept.items
                .values()
                .map(|it| String::from_utf8_lossy(it).into_owned())
                .collect::<Vec<_>>()
        };
        let place = |text: &str| {
            vec![
                format!("Root {text}"),
                format!("Chain {text}"),
                format!("Key {text}"),
            ]
        };
        // The journal, three files, and the journal again.
        for written in 0..=5 {
            let folder = tempfile::tempdir().unwrap();
            let directory = directory(folder.path());
            directory.save(&changes("old")).await.unwrap();
            directory.begin(&changes("new"), written).await;
            let expected = place(if written == 0 { "old" } else { "new" });
            let kept = directory.load().await.unwrap();
            assert_eq!(all(&kept), expected, "{written}");
            assert!(!directory.journal().exists());
        }
        let folder = tempfile::tempdir().unwrap();
        let directory = directory(folder.path());
        directory.save(&changes("old")).await.unwrap();
        // A journal that was not completed never got its name.
        std::fs::write(folder.path().join(format!("{JOURNAL}.new")), "{\"half").unwrap();
        assert_eq!(all(&directory.load().await.unwrap()), place("old"));
        std::fs::write(directory.journal(), "{\"half").unwrap();
        let error = directory.load().await.err().unwrap();
        assert!(error.to_string().contains("is damaged"), "{error}");
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_read_keeps_nobody_from_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let directory = directory(folder.path());
        directory.save(&changes("one")).await.unwrap();
        directory.request("now").await.unwrap();
        let kept = directory.load().await.unwrap();
        assert_eq!(kept.request.as_deref(), Some("now"));
        directory.acknowledge().await.unwrap();
        // Nor can root read this as a file, who may read everybody's.
        std::fs::create_dir(folder.path().join(REQUEST)).unwrap();
        let kept = directory.load().await.unwrap();
        assert_eq!((kept.request.as_deref(), kept.items.len()), (None, 3));
    }

    fn certificate(is_ca: bool) -> String {
        let mut params = rcgen::CertificateParams::default();
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[tokio::test]
    async fn what_cert_manager_writes_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let directory = directory(folder.path());
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        let load = async || directory.load().await.unwrap();
        let authority = certificate(true);
        write("tls.crt", &authority);
        write("tls.key", "key");
        assert!(!load().await.is_foreign, "no root: a server's certificate");
        write("ca.crt", "root");
        let kept = load().await;
        assert!(kept.is_foreign);
        assert_eq!(kept.get(Item::Chain), Some(authority.as_bytes()));
        assert_eq!(kept.get(Item::Key), Some(&b"key"[..]));
        let told =
            |kept: &Kept| Storage::Directory(directory.clone()).describe_found(kept, Item::Chain);
        assert!(told(&kept).ends_with("tls.crt\""), "{}", told(&kept));
        write("tls.crt", "half writ");
        assert!(load().await.is_foreign, "to be refused by its name");
        write("tls.crt", &certificate(false));
        let kept = load().await;
        assert!(!kept.is_foreign && kept.get(Item::Chain).is_none());
        write("tls.crt", &authority);
        write("issuer.key", "own");
        let kept = load().await;
        assert!(!kept.is_foreign);
        assert_eq!(kept.get(Item::Chain), None);
        assert!(told(&kept).ends_with("issuer.crt\""), "{}", told(&kept));
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let directory = directory(Path::new("/nowhere/at/all"));
        let error = directory
            .save(&Changes::from([(Item::Root, Some(Vec::new()))]))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "file \"/nowhere/at/all/ca.crt\" cannot be written"
        );
    }
}
