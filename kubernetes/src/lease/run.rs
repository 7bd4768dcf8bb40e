//! From the plan to the Lease and back: waits, renews, gives up, releases.

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::lock::{Failure, Lock};
use super::plan::{Plan, Seen, held, plan, released};
use super::term::{Grant, Term};
use super::{Ended, Error, Settings};

#[cfg(test)]
mod tests;

/// How long giving the Lease back may take; the process is about to end.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Somebody who wants to lead.
#[derive(Debug)]
pub(super) struct Candidate<L> {
    lock: L,
    settings: Settings,
    seen: Option<Seen>,
}

/// What a write came to.
enum Written {
    /// The Lease is ours since the write began.
    Ours { since: Instant },
    /// Somebody was quicker.
    Beaten,
}

/// What a candidate was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    Candidate,
    Leader,
}

/// Why a term ended too early.
enum Lost {
    /// This one holds the Lease; nobody, if it is empty.
    Taken(String),
    /// Nobody knows who holds it: the API server is away, or this process stood still.
    NotRenewed,
}

impl<L: Lock> Candidate<L> {
    pub(super) fn new(lock: L, settings: Settings) -> Self {
        Self {
            lock,
            settings,
            seen: None,
        }
    }

    pub(super) async fn hold<T, W>(
        mut self,
        stop: impl Future<Output = ()> + Send,
        mut work: impl FnMut(Term) -> W + Send,
    ) -> Result<Ended<T>, Error>
    where
        T: Send,
        W: Future<Output = T> + Send,
    {
        let mut stop = pin!(stop);
        let mut past = Past::Candidate;
        loop {
            let acquired = tokio::select! {
                biased;
                () = &mut stop => None,
                end = self.acquire(past) => Some(end?),
            };
            let Some(end) = acquired else {
                // A write may have been under way.
                self.release().await;
                return Ok(Ended::Stopped);
            };
            let (grant, term) = Grant::until(end);
            let ended = {
                let work = work(term);
                tokio::select! {
                    biased;
                    () = &mut stop => Ok(Ended::Stopped),
                    lost = self.keep(&grant, end) => Err(lost),
                    done = work => Ok(Ended::Finished(done)),
                }
            };
            grant.end();
            match ended {
                Ok(ended) => {
                    self.release().await;
                    return Ok(ended);
                }
                Err(Lost::Taken(holder)) => return Err(self.taken(&holder)),
                Err(Lost::NotRenewed) => tracing::warn!(
                    lease = self.settings.name,
                    "the lease was not renewed within {}s: leading no more, until the API server answers",
                    self.settings.renew_deadline.as_secs()
                ),
            }
            past = Past::Leader;
        }
    }

    /// Waits until the Lease is ours; tells how long it is so without a renewal. Who has led before does not wait for
    /// somebody who took it meanwhile.
    async fn acquire(&mut self, past: Past) -> Result<Instant, Error> {
        tracing::info!(
            lease = self.settings.name,
            identity = self.settings.identity,
            "waiting for leadership"
        );
        loop {
            match timeout(self.call_limit(), self.try_acquire()).await {
                Ok(Ok(Some(end))) => {
                    tracing::info!(identity = self.settings.identity, "became leader");
                    if let Some(seen) = &self.seen {
                        // A slow server must not keep the leader from renewing.
                        drop(timeout(self.settings.retry, self.lock.tell(seen.lease())).await);
                    }
                    return Ok(end);
                }
                Ok(Ok(None)) => {}
                Ok(Err(Failure::Conflict)) => tracing::debug!("the lease changed meanwhile"),
                Ok(Err(Failure::Server(error))) => {
                    tracing::warn!(error, lease = self.settings.name, "no lease to be had");
                }
                Err(_) => tracing::warn!(lease = self.settings.name, "no answer about the lease"),
            }
            if let Some(seen) = &self.seen {
                if !seen.is_versioned() {
                    return Err(Error::Unversioned {
                        name: self.settings.name.clone(),
                    });
                }
                let holder = seen.holder();
                let is_free = holder.is_empty() || holder == self.settings.identity;
                if past == Past::Leader && !is_free {
                    return Err(self.taken(holder));
                }
            }
            sleep_until(self.next_look()).await;
        }
    }

    async fn try_acquire(&mut self) -> Result<Option<Instant>, Failure> {
        self.look().await?;
        if self.seen.as_ref().is_some_and(|seen| !seen.is_versioned()) {
            return Ok(None);
        }
        match self.plan() {
            Plan::Wait(_) => Ok(None),
            Plan::Create | Plan::Take => match self.write().await? {
                Written::Ours { since } => Ok(Some(since + self.settings.renew_deadline)),
                Written::Beaten => Ok(None),
            },
        }
    }

    /// When those who wait look again: at the usual pace, but not later than the Lease runs out.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let pause = self.settings.retry.mul_f64(1.0 + share() / 5.0);
        match self.plan() {
            Plan::Wait(end) if end > now => end.min(now + pause),
            // The server failed or somebody was quicker: not at once again.
            Plan::Wait(_) | Plan::Create | Plan::Take => now + pause,
        }
    }

    /// Renews until that does not succeed in time.
    async fn keep(&mut self, grant: &Grant, mut end: Instant) -> Lost {
        loop {
            sleep(self.settings.retry).await;
            match timeout_at(end, self.renew(end)).await {
                Ok(Ok(since)) => {
                    end = since + self.settings.renew_deadline;
                    grant.extend(end);
                }
                Ok(Err(holder)) => return Lost::Taken(holder),
                Err(_) => return Lost::NotRenewed,
            }
        }
    }

    /// Tries again and again, until the Lease is renewed or seen with another holder. Goes on after `end` only until
    /// its caller notices.
    async fn renew(&mut self, end: Instant) -> Result<Instant, String> {
        let limit = self.call_limit();
        loop {
            let attempt = async {
                match self.write().await? {
                    Written::Ours { since } => Ok::<_, Failure>(Some(since)),
                    Written::Beaten => {
                        self.look().await?;
                        Ok(None)
                    }
                }
            };
            match timeout(limit, attempt).await {
                Ok(Ok(Some(since))) => return Ok(since),
                Ok(Ok(None)) => {
                    let holder = self.seen.as_ref().map_or("", Seen::holder);
                    if holder != self.settings.identity {
                        return Err(holder.to_owned());
                    }
                    // Only the version was another one.
                    continue;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease is not renewed yet"),
                Err(_) => tracing::warn!("no answer to a renewal of the lease"),
            }
            sleep_until(end.min(Instant::now() + self.settings.retry)).await;
        }
    }

    /// Gives the Lease back, if it is ours.
    async fn release(&mut self) {
        let give = async {
            self.look().await?;
            let Some(seen) = self.seen.as_ref() else {
                return Ok(());
            };
            if seen.holder() == self.settings.identity {
                self.lock.write(released(seen, &wall())).await?;
                tracing::info!("leadership given back");
            }
            Ok::<_, Failure>(())
        };
        match timeout(RELEASE_LIMIT, give).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back"),
            Err(_) => tracing::warn!("the lease was not given back in time"),
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let lease = self.lock.read().await?;
        // Seen after the answer: a holder that wrote before it counts as alive until then.
        self.seen = Seen::update(self.seen.take(), lease, Instant::now());
        Ok(())
    }

    async fn write(&mut self) -> Result<Written, Failure> {
        let wanted = held(
            self.seen.as_ref(),
            &self.settings.identity,
            self.settings.duration,
            &wall(),
        );
        // Before the request: nobody can see the write earlier, so nobody takes the Lease before we have stopped.
        let since = Instant::now();
        match self.lock.write(wanted).await {
            Ok(lease) => {
                self.saw(lease);
                Ok(Written::Ours { since })
            }
            Err(Failure::Conflict) => Ok(Written::Beaten),
            Err(error) => Err(error),
        }
    }

    fn saw(&mut self, lease: Lease) {
        self.seen = Seen::update(self.seen.take(), Some(lease), Instant::now());
    }

    fn plan(&self) -> Plan {
        plan(
            self.seen.as_ref(),
            &self.settings.identity,
            self.settings.duration,
            Instant::now(),
        )
    }

    fn taken(&self, holder: &str) -> Error {
        Error::Taken {
            name: self.settings.name.clone(),
            holder: holder.to_owned(),
        }
    }

    /// Two calls fit between a renewal and its deadline.
    fn call_limit(&self) -> Duration {
        self.settings.renew_deadline / 2
    }
}

fn wall() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// Random, between 0 and 1.
fn share() -> f64 {
    rand::random()
}
