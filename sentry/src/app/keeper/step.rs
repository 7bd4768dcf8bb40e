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
            Step::Begin => {
                let changes = self.begin(now)?;
                tracing::info!(
                    "Rotation of the root begins: the new root is published beside the old one"
                );
                self.write(&changes).await
            }
            Step::Switch => {
                let changes = self.switch(now)?;
                tracing::info!("Rotation of the root: the new issuer signs");
                self.write(&changes).await
            }
            Step::Retire => {
                let changes = self.retire(now)?;
                tracing::info!("Rotation of the root: the old root is taken out of the bundle");
                self.write(&changes).await
            }
            Step::Finish => {
                tracing::info!("Rotation of the root is complete");
                self.forget().await
            }
            Step::Abandon => {
                tracing::warn!(
                    "Rotation of the root is abandoned: the authority was replaced meanwhile"
                );
                self.forget().await
            }
        }
    }

    async fn forget(&mut self) -> anyhow::Result<bool> {
        let items = [Item::Rotation, Item::NextChain, Item::NextKey];
        let changes = items
            .into_iter()
            .filter(|item| self.kept.get(*item).is_some())
            .map(|item| (item, None))
            .collect();
        self.write(&changes).await
    }

    /// Saves, publishes, takes over.
    async fn write(&mut self, changes: &Changes) -> anyhow::Result<bool> {
        let kept = self.place.storage.save(&self.kept, changes).await?;
        let mut opened = self.place.reload_from(kept).await?;
        let is_answered = |record: &Record| opened.kept.request.as_ref() == Some(&record.request);
        if opened.record.as_ref().is_some_and(is_answered) {
            opened.kept = self.place.storage.acknowledge(&opened.kept).await?;
        }
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

    /// When the last certificate that may be signed by a replica that has not heard of the step has run out.
    fn until(&self, now: SystemTime) -> u64 {
        let lag = self.workloads.lag();
        seconds(now)
            .saturating_add(self.policy.workload_ttl.as_secs())
            .saturating_add(lag.as_secs())
    }
}

impl Record {
    fn change(&self) -> (Item, Option<Vec<u8>>) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        (Item::Rotation, Some(text))
    }
}
