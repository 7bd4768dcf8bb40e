//! A bearer token that stands in a file and is replaced there from time to time.
//!
//! kube's own reader takes the file as it is, so that a line break at its end makes every request fail; and it looks
//! once a minute, which is as long as some tokens of tests live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Error;

/// How long a token that was read is used before the file is looked at again.
const FRESH: Duration = Duration::from_secs(10);

/// The file and what it held last.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<(HeaderValue, Instant)>,
}

impl TokenFile {
    pub(super) fn open(path: &Path, now: Instant) -> Result<Self, Error> {
        let bearer = read(path).map_err(|source| Error::Token {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            last: Mutex::new((bearer, now)),
        })
    }

    /// The value of `Authorization`. A file that cannot be read any more leaves the last token in use.
    pub(super) fn bearer(&self, now: Instant) -> HeaderValue {
        let mut last = self.last.lock();
        let (bearer, since) = &mut *last;
        if now.duration_since(*since) >= FRESH {
            *since = now;
            match read(&self.path) {
                Ok(new) => *bearer = new,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "the last token stays in use")
                }
            }
        }
        bearer.clone()
    }
}

fn read(path: &Path) -> std::io::Result<HeaderValue> {
    let token = std::fs::read_to_string(path)?;
    let invalid = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not a token");
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(invalid)?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_again_and_outlives_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let now = Instant::now();
        assert!(matches!(
            TokenFile::open(&path, now),
            Err(Error::Token { .. })
        ));
        std::fs::write(&path, "one\n").expect("written");
        let token = TokenFile::open(&path, now).expect("a token");
        assert_eq!(token.bearer(now), "Bearer one");
        std::fs::write(&path, "two").expect("written");
        assert_eq!(token.bearer(now + FRESH / 2), "Bearer one");
        assert_eq!(token.bearer(now + FRESH), "Bearer two");
        std::fs::write(&path, "a\nb").expect("written");
        assert_eq!(token.bearer(now + FRESH * 2), "Bearer two");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(token.bearer(now + FRESH * 3), "Bearer two");
    }
}
