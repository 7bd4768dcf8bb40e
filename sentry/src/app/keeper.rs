//! Keeps the authority in step with its files, and Sentry's own certificate fresh.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use dapr_security::request::generate_key;
use dapr_security::watch::Changes;
use dapr_security::{KeyKind, Publisher, SpiffeId, Svid, TrustAnchors};
use tokio::time::sleep;

use super::BATCH;
use crate::args::{IssuerFiles, Jwt};
use crate::ca::Authority;
use crate::certificate::{Order, issue};
use crate::jwt::Signer;
use crate::metrics::Metrics;
use crate::server::Policy;

/// Pause after Sentry could not issue its own certificate.
const RETRY: Duration = Duration::from_secs(10);

pub(super) struct Keeper {
    pub(super) files: IssuerFiles,
    pub(super) jwt: Jwt,
    pub(super) id: SpiffeId,
    pub(super) authority: Arc<ArcSwap<Authority>>,
    pub(super) signer: Option<Arc<ArcSwap<Signer>>>,
    pub(super) policy: Policy,
    pub(super) metrics: Metrics,
}

impl Keeper {
    /// Issues Sentry's own certificate for a new key.
    pub(super) fn serving_certificate(&self) -> anyhow::Result<(Svid, TrustAnchors)> {
        self.try_serving_certificate()
            .inspect_err(|_| self.metrics.server_certificate_failed.inc())
    }

    fn try_serving_certificate(&self) -> anyhow::Result<(Svid, TrustAnchors)> {
        let authority = self.authority.load();
        let key = generate_key(KeyKind::Ed25519)?;
        let order = Order {
            id: &self.id,
            dns_names: Vec::new(),
            now: SystemTime::now(),
            ttl: self.policy.workload_ttl,
            clock_skew: self.policy.clock_skew,
        };
        let issued = issue(&authority, &key, &order)?;
        Ok((Svid::new(issued.chain, &key)?, authority.anchors().clone()))
    }

    /// Runs for ever. Broken files are logged and the last good ones go on: upstream exits.
    pub(super) async fn run(self, mut changes: Changes, mut svid: Svid, publisher: Publisher) {
        loop {
            tokio::select! {
                () = changes.changed() => {
                    self.metrics.issuer_changed.inc();
                    sleep(BATCH).await;
                    if !self.reload_all().await {
                        continue;
                    }
                }
                () = svid.renewal_due() => {}
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
        }
    }

    fn renew(&self, publisher: &Publisher) -> anyhow::Result<Svid> {
        let (svid, anchors) = self.serving_certificate()?;
        publisher.replace(svid.clone(), anchors)?;
        Ok(svid)
    }

    /// Takes over what has changed; true if that is the authority.
    async fn reload_all(&self) -> bool {
        if let Err(error) = self.reload_signer().await {
            tracing::error!(
                error = format!("{error:#}"),
                "Changed JWT signing key is not valid, keeping the old one"
            );
        }
        match self.reload_authority().await {
            Ok(changed) => changed,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "Changed root or issuer certificates are not valid, keeping the old ones"
                );
                false
            }
        }
    }

    async fn reload_authority(&self) -> anyhow::Result<bool> {
        let files = self
            .files
            .read()
            .await?
            .context("a file is missing; restart sentry to generate new ones")?;
        let authority = Authority::from_files(&files, SystemTime::now())?;
        let current = self.authority.load();
        if authority.anchors() == current.anchors() && authority.chain() == current.chain() {
            return Ok(false);
        }
        self.metrics.show_expiry(authority.not_after());
        self.authority.store(Arc::new(authority));
        tracing::info!("Root and issuer certificates reloaded");
        Ok(true)
    }

    async fn reload_signer(&self) -> anyhow::Result<()> {
        let Some(signer) = &self.signer else {
            return Ok(());
        };
        let files = self
            .jwt
            .read()
            .await?
            .context("a file is missing; restart sentry to generate new ones")?;
        let current = signer.load();
        if files != *current.files() {
            signer.store(Arc::new(Signer::from_files(
                files,
                current.config().clone(),
            )?));
            tracing::info!("JWT signing key reloaded");
        }
        Ok(())
    }
}
