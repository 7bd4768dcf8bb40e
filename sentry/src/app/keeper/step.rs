//! The steps of a rotation, each one write of what is stored.

use std::time::SystemTime;

use anyhow::Context as _;

use super::Keeper;
use crate::ca::{self, Authority, Files};
use crate::material::{self, Ca};
use crate::rotation::{Phase, Record, Step, digest, seconds};
use crate::storage::{Changes, Item};

impl Keeper {
    /// True if the authority is another one afterwards.
    pub(super) async fn take_step(&mut self, step: Step) -> anyhow::Result<bool> {
        let now = SystemTime::now();
        match step {
            Step::Wait(_) => Ok(false),
            Step::Refuse => {
                tracing::error!(
                    "A new root was asked for, but root and issuer are not Sentry's own: replace them where they come from"
                );
                self.kept = self.place.storage.acknowledge(&self.kept).await?;
                Ok(false)
            }
            Step::Acknowledge => {
                self.kept = self.place.storage.acknowledge(&self.kept).await?;
                Ok(false)
            }
            Step::Begin | Step::Switch | Step::Retire | Step::Finish | Step::Abandon => {
                let changes = self.changes(step, now)?;
                self.write(&changes, step).await
            }
        }
    }

    /// What a step writes.
    fn changes(&self, step: Step, now: SystemTime) -> anyhow::Result<Changes> {
        match step {
            Step::Begin => self.begin(now),
            Step::Switch => self.switch(now),
            Step::Retire => self.retire(now),
            Step::Finish | Step::Abandon => Ok(self.forget()),
            Step::Wait(_) | Step::Acknowledge | Step::Refuse => Ok(Changes::new()),
        }
    }

    fn forget(&self) -> Changes {
        let items = [Item::Rotation, Item::NextChain, Item::NextKey];
        items
            .into_iter()
            .filter(|item| self.kept.get(*item).is_some())
            .map(|item| (item, None))
            .collect()
    }

    /// Saves, publishes, takes over.
    async fn write(&mut self, changes: &Changes, step: Step) -> anyhow::Result<bool> {
        let kept = self.place.storage.save(&self.kept, changes).await?;
        tell(step);
        let opened = self.place.reload_from(kept).await?;
        Ok(self.take(opened))
    }

    fn begin(&self, now: SystemTime) -> anyhow::Result<Changes> {
        let authority = self.authority.load();
        let next = ca::succeed(&authority, &self.place.plan(now))?;
        let successor =
            Authority::from_files(&next, now).context("the new authority is not valid")?;
        let before = self.files()?.root;
        let record = Record {
            phase: Phase::Publishing,
            since: seconds(now),
            until: self.until(now),
            settled: self.settled(now),
            retiring: authority.signing_roots().to_vec(),
            successor: successor.issuer_fingerprint(),
            request: self.kept.request.clone().unwrap_or_default(),
            before: digest(&material::plain(&before)),
        };
        Ok(Changes::from([
            (Item::Root, Some(next.root)),
            (Item::NextChain, Some(next.chain)),
            (Item::NextKey, Some(next.key)),
            record.change(),
        ]))
    }

    fn switch(&self, now: SystemTime) -> anyhow::Result<Changes> {
        let part = |item| {
            let found = self.kept.get(item).map(<[u8]>::to_vec);
            found.with_context(|| format!("{} is missing", self.place.storage.describe(item)))
        };
        let files = Files {
            root: self.files()?.root,
            chain: part(Item::NextChain)?,
            key: part(Item::NextKey)?,
        };
        Authority::from_files(&files, now).context("the new authority is not valid")?;
        let record = self.record(Phase::Switched, &files, now)?;
        let mut changes = material::changes(&files);
        changes.remove(&Item::Root);
        changes.extend([
            (Item::NextChain, None),
            (Item::NextKey, None),
            record.change(),
        ]);
        Ok(changes)
    }

    fn retire(&self, now: SystemTime) -> anyhow::Result<Changes> {
        let files = self.files()?;
        let record = self.record(Phase::Retired, &files, now)?;
        let files = ca::retire(&files, &record.retiring)?;
        Authority::from_files(&files, now)
            .context("the authority is not valid without the old root")?;
        Ok(Changes::from([
            (Item::Root, Some(files.root)),
            record.change(),
        ]))
    }

    fn record(&self, phase: Phase, before: &Files, now: SystemTime) -> anyhow::Result<Record> {
        let record = self.record.clone().context("there is no rotation")?;
        Ok(Record {
            phase,
            since: seconds(now),
            until: self.until(now),
            settled: self.settled(now),
            before: digest(&material::plain(&before.root)),
            ..record
        })
    }

    fn files(&self) -> anyhow::Result<Files> {
        match material::ca(&self.kept, &self.place.storage)? {
            Ca::Use(files) => Ok(files),
            Ca::Generate { .. } => anyhow::bail!("the certificate authority is gone"),
        }
    }

    /// When the last certificate that may be signed by a replica that has not heard of the step has run out. None is
    /// accepted for longer than its issuer.
    fn until(&self, now: SystemTime) -> u64 {
        let longest = material::longest_ttl(&self.kept, self.policy.workload_ttl);
        let lag = self.workloads.lag();
        seconds(now)
            .saturating_add(longest.as_secs())
            .saturating_add(lag.as_secs())
            .min(seconds(self.authority.load().not_after()))
    }

    /// When every replica has heard of the step.
    fn settled(&self, now: SystemTime) -> u64 {
        let lag = self.workloads.replica_lag();
        seconds(now).saturating_add(lag.as_secs())
    }
}

/// Only the replica whose write has won tells of a step.
fn tell(step: Step) {
    match step {
        Step::Begin => tracing::info!(
            "Rotation of the root begins: the new root is published beside the old one"
        ),
        Step::Switch => tracing::info!("Rotation of the root: the new issuer signs"),
        Step::Retire => {
            tracing::info!("Rotation of the root: the old root is taken out of the bundle");
        }
        Step::Finish => tracing::info!("Rotation of the root is complete"),
        Step::Abandon => tracing::warn!(
            "Rotation of the root is abandoned: the authority was replaced meanwhile"
        ),
        Step::Wait(_) | Step::Acknowledge | Step::Refuse => {}
    }
}

impl Record {
    fn change(&self) -> (Item, Option<Vec<u8>>) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        (Item::Rotation, Some(text))
    }
}

#[cfg(test)]
mod tests;
