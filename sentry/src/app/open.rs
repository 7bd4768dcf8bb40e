//! What has to be there before anything is served: read from its place, or made and put there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use dapr_security::{SpiffeId, TrustDomain};

use crate::args::Jwt;
use crate::ca::{self, Authority};
use crate::jwt::{self, Signer};
use crate::material::{self, Ca};
use crate::metrics::Metrics;
use crate::rotation::Record;
use crate::storage::{self, Changes, Item, Kept, Storage};
use crate::validator::jwks;

/// How often the start begins anew because another Sentry wrote at the same time.
const ATTEMPTS: usize = 10;

/// Where the material is, and how it is made where there is none.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) storage: Storage,
    pub(super) jwt: Jwt,
    pub(super) trust_domain: TrustDomain,
    pub(super) id: SpiffeId,
    pub(super) clock_skew: Duration,
    pub(super) root_validity: Duration,
    pub(super) workload_ttl: Duration,
    pub(super) metrics: Metrics,
}

/// Material that was found valid.
pub(super) struct Opened {
    pub(super) authority: Authority,
    /// Only if JWTs are wanted.
    pub(super) signer: Option<Signer>,
    pub(super) kept: Kept,
    pub(super) record: Option<Record>,
    /// Whether the authority was made just now, so that nobody can hold a certificate of it yet.
    pub(super) is_new: bool,
}

impl Place {
    pub(super) fn plan(&self, now: SystemTime) -> ca::Plan<'_> {
        ca::Plan {
            trust_domain: &self.trust_domain,
            sentry: &self.id,
            clock_skew: self.clock_skew,
            validity: self.root_validity,
            now,
        }
    }

    /// Reads the material, and makes what is missing.
    pub(super) async fn open(&self) -> anyhow::Result<Opened> {
        let mut is_new = false;
        for _ in 0..ATTEMPTS {
            let mut kept = self.storage.load().await?;
            let changes = self.missing(&kept).await?;
            if !changes.is_empty() {
                match self.storage.save(&kept, &changes).await {
                    Ok(saved) => {
                        is_new |= changes.contains_key(&Item::Root);
                        self.metrics.issuer_changed.inc();
                        kept = saved;
                    }
                    // Another replica was faster; what it made is as good.
                    Err(storage::Error::Conflict(_)) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            let Some(opened) = self.settle(kept).await? else {
                continue;
            };
            let Some(opened) = self.remember_ttl(opened).await? else {
                continue;
            };
            return Ok(Opened {
                is_new,
                kept: self.announce(opened.kept).await,
                ..opened
            });
        }
        Err(storage::Error::Busy.into())
    }

    /// Records with which TTL certificates are issued from now on, if it is longer than before; none if somebody else has
    /// written meanwhile. An authority that Sentry does not replace needs no record.
    async fn remember_ttl(&self, opened: Opened) -> anyhow::Result<Option<Opened>> {
        let ttl = material::record_ttl(material::longest_ttl(&opened.kept, self.workload_ttl));
        let is_known = opened.kept.get(ttl.0) == ttl.1.as_deref();
        if is_known || !self.is_own(&opened.kept, &opened.authority) {
            return Ok(Some(opened));
        }
        match self.storage.save(&opened.kept, &Changes::from([ttl])).await {
            Ok(kept) => Ok(Some(Opened { kept, ..opened })),
            Err(storage::Error::Conflict(_)) => Ok(None),
            // Files that cannot be written cannot be rotated either, and serve as well as before.
            Err(error @ storage::Error::File(_)) => {
                let error = dapr_kit::process::chain(&error);
                tracing::warn!(error, "The TTL of certificates cannot be recorded");
                Ok(Some(opened))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Once in a life: replicas would go on to correct each other. A hint is not worth a start that fails.
    async fn announce(&self, kept: Kept) -> Kept {
        match self.storage.announce(kept.clone()).await {
            Ok(kept) => kept,
            Err(error) => {
                let error = dapr_kit::process::chain(&error);
                tracing::debug!(error, "The address of this replica is not published");
                kept
            }
        }
    }

    /// Whether Sentry made the authority itself, so that it may replace it.
    pub(super) fn is_own(&self, kept: &Kept, authority: &Authority) -> bool {
        !kept.is_foreign && authority.is_generated(&self.trust_domain, &self.id)
    }

    /// Reads the material again. What is missing is not made: it was there before, and somebody has to say that it is
    /// to be replaced.
    pub(super) async fn reload(&self) -> anyhow::Result<Opened> {
        self.reload_from(self.storage.load().await?).await
    }

    /// As [`Place::reload`], of what was just written or read.
    pub(super) async fn reload_from(&self, mut kept: Kept) -> anyhow::Result<Opened> {
        for _ in 0..ATTEMPTS {
            if let Some(opened) = self.settle(kept).await? {
                return Ok(opened);
            }
            kept = self.storage.load().await?;
        }
        Err(storage::Error::Busy.into())
    }

    /// Checks the material and publishes what is not published yet; none if somebody else has written meanwhile, so that
    /// it has to be read again.
    async fn settle(&self, kept: Kept) -> anyhow::Result<Option<Opened>> {
        let mut opened = self.check(kept)?;
        let publication = material::publication(&opened.kept, &self.storage, self.jwt.enabled)?;
        let Some(publication) = publication else {
            return Ok(Some(opened));
        };
        match self.storage.publish(opened.kept, &publication).await {
            Ok(kept) => {
                tracing::info!("Trust bundle published");
                opened.kept = kept;
                Ok(Some(opened))
            }
            Err(storage::Error::Conflict(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What has to be made.
    async fn missing(&self, kept: &Kept) -> anyhow::Result<Changes> {
        let mut changes = Changes::new();
        if let Ca::Generate { left_over } = material::ca(kept, &self.storage)? {
            self.set_aside(&left_over).await?;
            tracing::info!(
                root = self.storage.describe(Item::Root),
                "Root and issuer certs not found: generating self signed CA"
            );
            let files = ca::generate(&self.plan(SystemTime::now()))?;
            changes.extend(material::changes(&files));
            changes.extend([material::record_ttl(self.workload_ttl)]);
        }
        if self.jwt.enabled && material::jwt(kept).is_none() {
            let key = self.storage.describe(Item::JwtKey);
            tracing::info!(key, "JWT signing key not found: generating it");
            let jwt::Files { key, keys } = jwt::generate(&self.jwt.config)?;
            changes.insert(Item::JwtKey, Some(key));
            changes.insert(Item::JwtKeys, Some(keys));
        }
        Ok(changes)
    }

    /// Keeps files of an incomplete authority, for they may be all that is left of a user's.
    async fn set_aside(&self, left_over: &[Item]) -> anyhow::Result<()> {
        let Storage::Directory(directory) = &self.storage else {
            return Ok(());
        };
        let kept = directory.set_aside(left_over).await?;
        if !kept.is_empty() {
            tracing::warn!(
                ?kept,
                "The certificate authority was incomplete and is replaced by a new one; what was left of it is kept"
            );
        }
        Ok(())
    }

    fn check(&self, kept: Kept) -> anyhow::Result<Opened> {
        let Ca::Use(files) = material::ca(&kept, &self.storage)? else {
            bail!("the certificate authority is gone; restart sentry to have a new one made");
        };
        let record = material::rotation(&kept, &self.storage)?;
        let authority = Authority::from_files(&files, SystemTime::now()).map_err(|error| {
            let at = material::at_fault(&error);
            let at = self.storage.describe_found(&kept, at);
            anyhow::Error::new(error)
                .context(format!("the certificate authority is not valid ({at})"))
        })?;
        let signer = match material::jwt(&kept) {
            Some(files) => self.signer(files).map_err(|error| {
                let at = self.storage.describe(material::jwt_at_fault(&error));
                anyhow::Error::new(error)
                    .context(format!("the JWT signing key is not valid ({at})"))
            })?,
            None if self.jwt.enabled => {
                bail!("the JWT signing key is gone; restart sentry to have a new one made")
            }
            None => None,
        };
        Ok(Opened {
            authority,
            signer,
            kept,
            record,
            is_new: false,
        })
    }

    /// Who signs JWTs. A pair that is there must be one whether or not they are wanted; which algorithm it is for only
    /// matters if they are.
    fn signer(&self, files: jwt::Files) -> Result<Option<Signer>, jwt::Error> {
        let config = &self.jwt.config;
        let pair = jwt::Pair::read(files, config.key_id.as_deref())?;
        let signer = self.jwt.enabled.then(|| Signer::new(pair, config.clone()));
        signer.transpose()
    }
}

/// Reads the options of the `jwks` validator, if it is configured.
pub(super) fn jwks_source(
    options: Option<&BTreeMap<String, String>>,
) -> anyhow::Result<Option<jwks::Source>> {
    Ok(options
        .map(|options| jwks::Source::from_options(options, Path::is_file))
        .transpose()?)
}

/// Opens the `jwks` validator, if it is configured.
pub(super) async fn jwks(
    source: Option<jwks::Source>,
    id: &SpiffeId,
) -> Result<Option<Arc<jwks::Validator>>, jwks::Error> {
    match source {
        Some(source) => Ok(Some(Arc::new(jwks::Validator::open(source, id).await?))),
        None => Ok(None),
    }
}
