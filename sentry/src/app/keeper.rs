//! Keeps the authority in step with its place, Sentry's own certificate fresh, and a rotation of the root going.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use dapr_kubernetes::watch::{Backoff, Pace};
use dapr_security::request::generate_key;
use dapr_security::watch::Changes;
use dapr_security::{KeyKind, Publisher, Svid, TrustAnchors};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::BATCH;
use super::open::{Opened, Place};
use super::workloads::Workloads;
use crate::ca::Authority;
use crate::certificate::{Order, issue};
use crate::jwt::Signer;
use crate::rotation::ledger::{Ledger, Wanted};
use crate::rotation::{self, Record, Step, View};
use crate::server::Policy;
use crate::storage::{self, Kept};

mod step;

/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(10);
/// Pauses while the material cannot be read. No event tells of what was missed meanwhile.
const PACE: Pace = Pace::new(Duration::from_secs(1), Duration::from_secs(60));

/// When to read again what could not be read.
#[derive(Debug, Default)]
pub(super) struct Again {
    backoff: Backoff,
    at: Option<Instant>,
}

/// A moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn renewal(svid: &Svid) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let svid = svid.clone();
    Box::pin(async move { svid.renewal_due().await })
}

/// The one writer of everything that changes while Sentry runs.
pub(super) struct Keeper {
    pub(super) place: Place,
    pub(super) authority: Arc<ArcSwap<Authority>>,
    pub(super) signer: Option<Arc<ArcSwap<Signer>>>,
    pub(super) policy: Policy,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) workloads: Workloads,
    pub(super) rotate_before: Duration,
    /// What was loaded last, and the rotation that is recorded there.
    pub(super) kept: Kept,
    pub(super) record: Option<Record>,
    pub(super) again: Again,
}

/// What became of a look at the material.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reloaded {
    /// It is in force; true if that is another authority than before.
    Taken(bool),
    /// The last good one stays.
    Refused,
}

impl Reloaded {
    fn is_new(self) -> bool {
        self == Self::Taken(true)
    }
}

/// What tells the keeper that something may have changed.
pub(super) struct Triggers {
    pub(super) files: Changes,
    /// The ConfigMap; never anything outside of Kubernetes.
    pub(super) published: mpsc::Receiver<()>,
}

impl Keeper {
    /// Issues Sentry's own certificate for a new key.
    pub(super) fn serving_certificate(&self) -> anyhow::Result<(Svid, TrustAnchors)> {
        self.try_serving_certificate()
            .inspect_err(|_| self.place.metrics.server_certificate_failed.inc())
    }

    fn try_serving_certificate(&self) -> anyhow::Result<(Svid, TrustAnchors)> {
        let authority = self.authority.load();
        let key = generate_key(KeyKind::Ed25519)?;
        let order = Order {
            id: &self.place.id,
            dns_names: Vec::new(),
            now: SystemTime::now(),
            ttl: self.policy.workload_ttl,
            clock_skew: self.policy.clock_skew,
        };
        let issued = issue(&authority, &key, &order)?;
        Ok((Svid::new(issued.chain, &key)?, authority.anchors().clone()))
    }

    /// Runs for ever. Broken material is logged and the last good one goes on: upstream exits.
    pub(super) async fn run(
        mut self,
        mut triggers: Triggers,
        mut svid: Svid,
        publisher: Publisher,
    ) {
        let mut pause = Duration::ZERO;
        let mut reload_at = None;
        // One future per certificate: begun anew with each look at the rotation it would never come to its end.
        let mut due = renewal(&svid);
        loop {
            let (is_new, next) = tokio::select! {
                // Nothing else matters as much as a certificate that runs out.
                biased;
                () = &mut due => (true, pause),
                () = triggers.files.changed() => {
                    // Files that are replaced one after the other are one change.
                    reload_at.get_or_insert_with(|| {
                        self.place.metrics.issuer_changed.inc();
                        Instant::now() + BATCH
                    });
                    (false, pause)
                }
                Some(()) = triggers.published.recv() => (self.reload().await.is_new(), Duration::ZERO),
                () = at(reload_at) => {
                    reload_at = None;
                    (self.reload().await.is_new(), Duration::ZERO)
                }
                () = at(self.again.at) => (self.reload().await.is_new(), Duration::ZERO),
                () = sleep(pause) => self.advance().await,
            };
            pause = next;
            if !is_new {
                continue;
            }
            match self.renew(&publisher) {
                Ok(new) => svid = new,
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "Sentry's own certificate cannot be renewed"
                    );
                    sleep(RETRY).await;
                }
            }
            due = renewal(&svid);
        }
    }

    fn renew(&self, publisher: &Publisher) -> anyhow::Result<Svid> {
        let (svid, anchors) = self.serving_certificate()?;
        publisher.replace(svid.clone(), anchors)?;
        Ok(svid)
    }

    /// Takes over what has changed.
    async fn reload(&mut self) -> Reloaded {
        self.again.at = None;
        let error = match self.place.reload().await {
            Ok(opened) => {
                self.again = Again::default();
                return Reloaded::Taken(self.take(opened));
            }
            Err(error) => error,
        };
        let cause = error.downcast_ref::<storage::Error>();
        if cause.is_some_and(storage::Error::is_passing) {
            let share = rand::rng().random();
            let pause = self.again.backoff.fail(PACE, None, share);
            self.again.at = Some(Instant::now() + pause);
            tracing::warn!(
                error = format!("{error:#}"),
                ?pause,
                "Certificate authority cannot be read, keeping the last good one and trying again"
            );
        } else {
            self.again = Again::default();
            tracing::error!(
                error = format!("{error:#}"),
                "Changed certificate authority is not valid, keeping the last good one"
            );
        }
        Reloaded::Refused
    }

    /// Puts valid material into force; true if the authority is another one.
    fn take(&mut self, opened: Opened) -> bool {
        let Opened {
            authority,
            signer: new_signer,
            kept,
            record,
            is_new: _,
        } = opened;
        (self.kept, self.record) = (kept, record);
        self.show();
        if let (Some(signer), Some(new)) = (&self.signer, new_signer)
            && *signer.load().files() != *new.files()
        {
            signer.store(Arc::new(new));
            tracing::info!("JWT signing key reloaded");
        }
        let current = self.authority.load();
        if authority.anchors() == current.anchors() && authority.chain() == current.chain() {
            return false;
        }
        self.place.metrics.show_expiry(authority.not_after());
        self.authority.store(Arc::new(authority));
        tracing::info!("Root and issuer certificates reloaded");
        true
    }

    fn show(&self) {
        let phase = self.record.as_ref().map_or(0, |it| it.phase.number());
        self.place.metrics.rotation_phase.set(phase);
        if phase == 0 {
            self.place.metrics.rotation_pending.set(0);
        }
    }

    /// Takes the next step of a rotation, if it is due; true if the authority is another one afterwards, and when to
    /// look again.
    async fn advance(&mut self) -> (bool, Duration) {
        match self.step() {
            Step::Wait(pause) => (false, pause),
            step => match self
                .take_step(step)
                .await
                .with_context(|| format!("{step:?}"))
            {
                Ok(is_new) => (is_new, Duration::ZERO),
                Err(error) => self.recover(&error).await,
            },
        }
    }

    /// After a step that failed: who has lost a race goes on from what the winner wrote.
    async fn recover(&mut self, error: &anyhow::Error) -> (bool, Duration) {
        let cause = error.downcast_ref::<storage::Error>();
        let is_lost = matches!(cause, Some(storage::Error::Conflict(_)));
        if is_lost {
            tracing::debug!(
                error = format!("{error:#}"),
                "Another Sentry was faster with a step of the rotation"
            );
        } else {
            tracing::error!(
                error = format!("{error:#}"),
                "Rotation of the root cannot go on, trying again"
            );
        }
        match self.reload().await {
            Reloaded::Taken(is_new) if is_lost => (is_new, Duration::ZERO),
            reloaded => (reloaded.is_new(), RETRY),
        }
    }

    fn step(&self) -> Step {
        let now = SystemTime::now();
        let authority = self.authority.load();
        let pending = self.record.as_ref().map(|record| {
            let wanted = Wanted {
                authority: authority.fingerprint(),
                from: record.settled,
            };
            let ledger = self.ledger.lock();
            self.workloads.pending(&ledger, wanted, now)
        });
        if let Some(pending) = pending {
            let count = pending.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
            self.place.metrics.rotation_pending.set(count);
        }
        rotation::next(&View {
            record: self.record.as_ref(),
            request: self.kept.request.as_deref(),
            not_after: authority.not_after(),
            is_own: self.place.is_own(&self.kept, &authority),
            rotate_before: self.rotate_before,
            is_about: self
                .record
                .as_ref()
                .is_some_and(|record| record.is_about(&authority)),
            acknowledged: pending == Some(Some(0)),
            now,
        })
    }
}
