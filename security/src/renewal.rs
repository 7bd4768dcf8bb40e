//! Keeping identity and bundle fresh.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};

use crate::anchors::{AnchorsSource, TrustAnchors};
use crate::published::Published;
use crate::security::{Error, Publisher};
use crate::sentry::Client;
use crate::svid::Svid;
use crate::watch::Changes;

/// Shortest time between two renewals.
pub(crate) const AT_LEAST: Duration = Duration::from_secs(1);
/// How often the wall clock is looked at, so that a suspended machine notices a missed renewal.
const CHECK: Duration = Duration::from_secs(60);
/// Pause after a failed renewal; the old identity is kept meanwhile.
const RETRY: Duration = Duration::from_secs(10);
/// Longest and first pause between rounds while waiting for the first identity or for the bundle's file.
const WAIT: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Shortest time between two looks at the bundle's file: the directory may also hold a file that is written to all the
/// time, a log for instance.
const LOOK: Duration = Duration::from_millis(200);

/// The trust bundle and, if it is a file, the watch on it.
pub(crate) struct Bundle {
    /// What the process was given.
    own: TrustAnchors,
    /// What counts.
    anchors: TrustAnchors,
    file: Option<File>,
}

/// The file of a bundle. There is no watch before there is a directory.
struct File {
    path: PathBuf,
    changes: Option<Changes>,
    pace: Pace,
    /// What was wrong at the last look, so that it is told once: the log may lie in the same directory.
    told: Option<String>,
}

/// Lets events through as they come, and no two of them soon after each other.
struct Pace {
    /// Whether an event waits for its time.
    pending: bool,
    not_before: Instant,
}

impl Bundle {
    /// Reads the bundle. A file that is not there yet is waited for, unless the ConfigMap that it will come from can be
    /// read sooner.
    pub(crate) async fn open(
        source: &AnchorsSource,
        published: Option<&Published>,
    ) -> Result<Self, Error> {
        match source {
            AnchorsSource::Inline(text) => {
                Ok(Self::new(TrustAnchors::from_pem(text.as_bytes())?, None))
            }
            AnchorsSource::File(path) => Self::open_file(path, published).await,
        }
    }

    async fn open_file(path: &Path, published: Option<&Published>) -> Result<Self, Error> {
        let mut file = File {
            path: path.to_owned(),
            changes: None,
            pace: Pace::new(),
            told: None,
        };
        let mut told = None;
        let mut pause = FIRST_WAIT;
        loop {
            let why = match file.read()? {
                Ok(anchors) => return Ok(Self::new(anchors, Some(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    "does not exist yet".to_owned()
                }
                Err(error) => format!("cannot be read: {error}"),
            };
            let asked = match published {
                Some(published) => published.read().await.map(|found| found.anchors),
                None => Ok(None),
            };
            let why = match asked {
                Ok(Some(anchors)) => {
                    tracing::info!(path = %path.display(), "Taking the trust anchors that Sentry has published until the file is there");
                    return Ok(Self::new(anchors, Some(file)));
                }
                Ok(None) => why,
                Err(error) => format!("{why}; ConfigMap: {error}"),
            };
            if told.as_ref() != Some(&why) {
                tracing::warn!(path = %path.display(), "Trust anchors file {why}, waiting");
                told = Some(why);
            }
            sleep(pause).await;
            pause = longer(pause);
        }
    }

    fn new(own: TrustAnchors, file: Option<File>) -> Self {
        Self {
            anchors: own.clone(),
            own,
            file,
        }
    }

    pub(crate) fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// Takes the roots Sentry handed out in addition to those that never change; a file has the last word itself.
    fn learn(&mut self, handed_out: Option<&TrustAnchors>) {
        if let (None, Some(handed_out)) = (&self.file, handed_out) {
            self.anchors = self.own.with(handed_out);
        }
    }

    /// Waits until the bundle differs. Cancel safe: what was not taken over is read again at the next event.
    async fn changed(&mut self) -> TrustAnchors {
        let Some(file) = &mut self.file else {
            return std::future::pending().await;
        };
        loop {
            let anchors = file.next().await;
            if anchors != self.anchors {
                self.own = anchors.clone();
                self.anchors = anchors.clone();
                return anchors;
            }
        }
    }
}

impl File {
    /// The bundle in the file. What is wrong with a file that is there is no matter of waiting; what cannot be read may
    /// come.
    fn read(&mut self) -> Result<Result<TrustAnchors, io::Error>, Error> {
        // The watch comes first: a change between it and the read is then seen again, never lost.
        if self.changes.is_none() && self.directory_exists() {
            self.changes = Some(self.watch()?);
        }
        Ok(match std::fs::read(&self.path) {
            Ok(text) => Ok(TrustAnchors::from_pem(&text)?),
            Err(error) => Err(error),
        })
    }

    fn directory_exists(&self) -> bool {
        let parent = self.path.parent().filter(|it| *it != Path::new(""));
        parent.unwrap_or(Path::new(".")).is_dir()
    }

    fn watch(&self) -> Result<Changes, Error> {
        Changes::of_files([self.path.as_path()]).map_err(|source| Error::Watch {
            path: self.path.display().to_string(),
            source,
        })
    }

    /// Waits until something has changed beside a file that is usable. Cancel safe.
    async fn next(&mut self) -> TrustAnchors {
        loop {
            match &mut self.changes {
                Some(changes) => self.pace.next(changes.changed()).await,
                None => self.appeared().await,
            }
            // Blocking: a bundle has a few kilobytes, and an await here would lose the event if cancelled.
            match read(&self.path) {
                Ok(anchors) => {
                    self.told = None;
                    return anchors;
                }
                Err(error) => self.tell(&error),
            }
        }
    }

    /// Waits for the directory.
    async fn appeared(&mut self) {
        while !self.directory_exists() {
            sleep(WAIT).await;
        }
        match self.watch() {
            Ok(changes) => self.changes = Some(changes),
            Err(error) => {
                tracing::warn!(%error, "Trust anchors cannot be watched, trying again");
                sleep(WAIT).await;
            }
        }
    }

    fn tell(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(
                path = %self.path.display(), %error, "Trust anchors file is unusable, keeping the old trust anchors"
            );
            self.told = Some(why);
        }
    }
}

impl Pace {
    fn new() -> Self {
        Self {
            pending: false,
            not_before: Instant::now(),
        }
    }

    /// Waits for an event, and for its time. Cancel safe: an event that was taken is kept.
    async fn next(&mut self, event: impl Future<Output = ()>) {
        if !self.pending {
            event.await;
            self.pending = true;
        }
        sleep_until(self.not_before).await;
        self.pending = false;
        self.not_before = Instant::now() + LOOK;
    }
}

fn read(path: &Path) -> Result<TrustAnchors, io::Error> {
    TrustAnchors::from_pem(&std::fs::read(path)?).map_err(io::Error::other)
}

/// Asks for the first identity until there is one or the answer is no.
pub(crate) async fn first(client: &Client, bundle: &mut Bundle) -> Result<Svid, Error> {
    let mut pause = FIRST_WAIT;
    loop {
        match client.fetch(&bundle.anchors, None).await {
            Err(Error::Unreachable(status)) => {
                tracing::warn!(
                    error = status.message(),
                    "Sentry cannot be reached, waiting"
                );
            }
            Ok(fetched) => {
                bundle.learn(fetched.anchors.as_ref());
                return Ok(fetched.svid);
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = bundle.changed() => {}
        }
        pause = longer(pause);
    }
}

/// The next pause. It grows with what was waited already, so that what comes is seen soon by whoever has waited little.
fn longer(pause: Duration) -> Duration {
    (pause + pause / 4).min(WAIT)
}

/// Renews for ever.
pub(crate) async fn run(publisher: Publisher, client: Client, mut bundle: Bundle) {
    while let Some(current) = publisher.current() {
        let mut is_renewal = true;
        let svid = tokio::select! {
            _ = bundle.changed() => {
                is_renewal = false;
                current.svid.clone()
            }
            () = current.svid.renewal_due() => match client.fetch(&bundle.anchors, Some(&current.svid)).await {
                Ok(fetched) => {
                    bundle.learn(fetched.anchors.as_ref());
                    fetched.svid
                }
                Err(error) => {
                    publisher.renewed(Err(&error));
                    tracing::error!(%error, "Failed to renew the identity, keeping the old one");
                    sleep(RETRY).await;
                    continue;
                }
            },
        };
        let id = svid.spiffe_id().clone();
        match publisher.replace(svid, bundle.anchors.clone()) {
            Ok(()) => {
                if is_renewal {
                    publisher.renewed(Ok(()));
                }
                tracing::info!(%id, "Identity or trust anchors replaced");
            }
            Err(error) => {
                publisher.renewed(Err(&error));
                tracing::error!(%error, "New identity cannot be used, keeping the old one");
                sleep(RETRY).await;
            }
        }
    }
}

/// Waits for a moment of the wall clock.
pub(crate) async fn due(moment: SystemTime) {
    while let Some(pause) = pause(SystemTime::now(), moment) {
        sleep(pause).await;
    }
}

/// How long to sleep before the clock is looked at again; none if the moment has come.
fn pause(now: SystemTime, moment: SystemTime) -> Option<Duration> {
    let left = moment.duration_since(now).ok()?;
    (!left.is_zero()).then(|| left.min(CHECK))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::certificate::moment;
    use crate::published::tests::Server;

    fn check(now: i64, at: i64, expected: Option<u64>) {
        assert_eq!(
            pause(moment(now), moment(at)),
            expected.map(Duration::from_secs),
            "{now} {at}"
        );
    }

    #[test]
    fn the_clock_is_looked_at_each_minute() {
        check(0, 3600, Some(60));
        check(3590, 3600, Some(10));
        check(3600, 3600, None);
        check(9999, 3600, None);
    }

    #[tokio::test]
    async fn a_broken_file_keeps_the_old_bundle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        let pem = || {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::default()
                .self_signed(&key)
                .unwrap()
                .pem()
        };
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { Bundle::open(&AnchorsSource::File(path), None).await }
        });
        std::fs::write(&path, pem()).unwrap();
        let mut bundle = waiting.await.unwrap().unwrap();
        let replace = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        replace("broken");
        assert!(
            tokio::time::timeout(Duration::from_millis(300), bundle.changed())
                .await
                .is_err()
        );
        let next = pem();
        replace(&next);
        let anchors = tokio::time::timeout(Duration::from_secs(10), bundle.changed())
            .await
            .unwrap();
        assert_eq!(anchors, TrustAnchors::from_pem(next.as_bytes()).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_event_is_heard_at_once_and_a_flood_of_them_now_and_then() {
        let mut pace = Pace::new();
        let start = Instant::now();
        pace.next(std::future::ready(())).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.next(std::future::ready(())).await;
        }
        assert_eq!(start.elapsed(), LOOK * 10);
        // An event that came before its time is not lost with who waited for it.
        let cancelled = tokio::time::timeout(LOOK / 2, pace.next(std::future::ready(()))).await;
        assert!(cancelled.is_err());
        pace.next(std::future::pending()).await;
        assert_eq!(start.elapsed(), LOOK * 11);
    }

    /// Counts what is logged in the thread.
    #[derive(Clone, Default)]
    struct Lines(Arc<AtomicUsize>);

    impl tracing::Subscriber for Lines {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_file_that_stays_broken_is_told_once() {
        let lines = Lines::default();
        let told = Arc::clone(&lines.0);
        let mut file = File {
            path: PathBuf::from("/nowhere/at/all"),
            changes: None,
            pace: Pace::new(),
            told: None,
        };
        tracing::subscriber::with_default(lines, || {
            for _ in 0..3 {
                file.tell(&io::Error::other("no certificates found"));
            }
            assert_eq!(told.load(Ordering::Relaxed), 1);
            file.tell(&io::Error::other("something else"));
            assert_eq!(told.load(Ordering::Relaxed), 2);
        });
    }

    #[tokio::test]
    async fn what_sentry_published_counts_until_there_is_the_file() {
        let folder = tempfile::tempdir().unwrap();
        // As where the kubelet has mounted nothing yet, and without a directory.
        for path in [folder.path().join("ca.crt"), folder.path().join("a/ca.crt")] {
            let server = Server::start().await;
            let waiting = tokio::spawn({
                let (path, published) = (path.clone(), server.published.clone());
                async move { Bundle::open(&AnchorsSource::File(path), Some(&published)).await }
            });
            server.answers(http::StatusCode::FORBIDDEN, "");
            let first = server.publishes();
            let mut bundle = waiting.await.unwrap().unwrap();
            assert_eq!(bundle.anchors(), &first);
            let second = server.publishes();
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let new = path.with_extension("new");
            std::fs::write(&new, second.pem().as_bytes()).unwrap();
            std::fs::rename(&new, &path).unwrap();
            let found = tokio::time::timeout(Duration::from_secs(10), bundle.changed()).await;
            assert_eq!(found.unwrap(), second);
        }
    }
}
