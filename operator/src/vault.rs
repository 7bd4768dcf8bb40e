//! Secrets, fetched when a resource needs them: many who ask at once share one call, and nothing is kept for longer
//! than `WINDOW`.
//!
//! Who learns that a Secret changed says so with [`Vault::forget`]; a call that began before is then shared no more.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, sleep};

use crate::names::may_be_name;
use crate::secrets::{Data, Error};

/// How long an answer is shared after it came: thousands of sidecars that start together ask for the same Secrets.
const WINDOW: Duration = Duration::from_secs(1);
/// How many Secrets one resource list fetches at a time.
const AT_ONCE: usize = 16;

/// Where Secrets come from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Fetches a Secret.
    async fn fetch(&self, namespace: &str, name: &str) -> Result<Data, Error>;
}

/// The Secrets of the cluster. Clones share the calls in flight.
#[derive(Clone)]
pub struct Vault(Arc<Shared>);

struct Shared {
    source: Box<dyn Source>,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    landed: Notify,
}

/// Namespace and name.
type Key = (Box<str>, Box<str>);

/// A call, and what came of it.
#[derive(Default)]
struct Flight {
    answer: OnceCell<Result<Arc<Data>, Error>>,
    landed: OnceLock<Instant>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

impl Vault {
    /// Secrets of this source; nothing is fetched yet.
    pub fn new(source: impl Source) -> Self {
        Self(Arc::new(Shared {
            source: Box::new(source),
            flights: Mutex::default(),
            landed: Notify::new(),
        }))
    }

    /// A Secret.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Fetch`].
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Arc<Data>, Error> {
        if !may_be_name(name) {
            return Err(Error::NotFound(name.to_owned()));
        }
        let flight = self.flight(namespace, name);
        let fetch = async {
            let answer = self.0.source.fetch(namespace, name).await.map(Arc::new);
            flight.landed.get_or_init(Instant::now);
            self.0.landed.notify_one();
            answer
        };
        // If the one who fetches is cancelled, another takes over.
        flight.answer.get_or_init(|| fetch).await.clone()
    }

    /// Several Secrets of a namespace, in the order of the names.
    ///
    /// # Errors
    /// Those of [`Vault::get`], for each Secret its own.
    pub async fn all<'a>(
        &self,
        namespace: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Vec<(&'a str, Result<Arc<Data>, Error>)> {
        // Collected first: a lazy stream of futures that borrow is no future that can be sent between threads.
        let fetches: Vec<_> = names.map(|name| self.named(namespace, name)).collect();
        stream::iter(fetches).buffered(AT_ONCE).collect().await
    }

    async fn named<'a>(
        &self,
        namespace: &str,
        name: &'a str,
    ) -> (&'a str, Result<Arc<Data>, Error>) {
        (name, self.get(namespace, name).await)
    }

    /// Lets the next who asks fetch anew.
    pub fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.into(), name.into());
        self.0.flights.lock().remove(&key);
    }

    /// Drops answers when their time is over, for as long as it runs.
    pub async fn sweep(&self) {
        loop {
            self.0.landed.notified().await;
            while !self.0.flights.lock().is_empty() {
                sleep(WINDOW).await;
                let now = Instant::now();
                let mut flights = self.0.flights.lock();
                flights.retain(|_, flight| flight.is_fresh(now));
            }
        }
    }

    fn flight(&self, namespace: &str, name: &str) -> Arc<Flight> {
        let key = (namespace.into(), name.into());
        let mut flights = self.0.flights.lock();
        let flight = flights.entry(key).or_default();
        if !flight.is_fresh(Instant::now()) {
            *flight = Arc::default();
        }
        Arc::clone(flight)
    }
}

impl Flight {
    fn is_fresh(&self, now: Instant) -> bool {
        self.landed
            .get()
            .is_none_or(|landed| now < *landed + WINDOW)
    }
}

/// There is none.
#[cfg(test)]
pub(crate) struct NoSecrets;

#[cfg(test)]
#[async_trait]
impl Source for NoSecrets {
    async fn fetch(&self, _: &str, name: &str) -> Result<Data, Error> {
        Err(Error::NotFound(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts the calls and takes a while for each.
    #[derive(Clone, Default)]
    struct Slow(Arc<AtomicUsize>);

    #[async_trait]
    impl Source for Slow {
        async fn fetch(&self, _: &str, name: &str) -> Result<Data, Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            if name == "absent" {
                return Err(Error::NotFound(name.to_owned()));
            }
            Ok(Data::from_iter([("k".to_owned(), name.into())]))
        }
    }

    fn vault() -> (Vault, impl Fn() -> usize) {
        let source = Slow::default();
        let calls = Arc::clone(&source.0);
        (Vault::new(source), move || calls.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn many_share_one_call() {
        let (vault, calls) = vault();
        let asked = (0..100).map(|_| vault.get("default", "s"));
        assert!(
            futures::future::join_all(asked)
                .await
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(calls(), 1);
        drop(vault.get("other", "s").await);
        assert_eq!(calls(), 2, "namespaces are apart");
        sleep(WINDOW).await;
        drop(vault.get("default", "s").await);
        assert_eq!(calls(), 3, "the answer was kept too long");
        let absent = Err(Error::NotFound("absent".to_owned()));
        assert_eq!(vault.get("default", "absent").await, absent);
        assert_eq!(calls(), 4);
        let path = "../../other/secrets/s";
        let no_name = Err(Error::NotFound(path.to_owned()));
        assert_eq!(vault.get("default", path).await, no_name);
        assert_eq!(calls(), 4, "it was asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_is_fetched_anew() {
        let (vault, calls) = vault();
        let (first, ()) = tokio::join!(vault.get("default", "s"), async {
            sleep(Duration::from_millis(50)).await;
            vault.forget("default", "s");
            drop(vault.get("default", "s").await);
        });
        assert!(first.is_ok());
        assert_eq!(calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_up_harms_nobody() {
        let (vault, calls) = vault();
        let impatient = tokio::time::timeout(Duration::from_millis(10), vault.get("default", "s"));
        let (given_up, answer) = tokio::join!(impatient, vault.get("default", "s"));
        assert!(given_up.is_err() && answer.is_ok());
        assert_eq!(calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept() {
        let (vault, _) = vault();
        let sweeper = vault.clone();
        let task = tokio::spawn(async move { sweeper.sweep().await });
        drop(vault.get("default", "s").await);
        assert_eq!(vault.0.flights.lock().len(), 1);
        sleep(3 * WINDOW).await;
        assert!(vault.0.flights.lock().is_empty());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn several_come_in_order() {
        let (vault, _) = vault();
        let all = vault.all("default", ["b", "absent", "a"].into_iter()).await;
        let told: Vec<_> = all.iter().map(|(name, it)| (*name, it.is_ok())).collect();
        assert_eq!(told, [("b", true), ("absent", false), ("a", true)]);
    }
}
