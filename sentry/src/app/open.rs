//! What has to be there before anything is served: read from files, or made.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use dapr_security::{SpiffeId, TrustDomain};

use crate::args::{IssuerFiles, Jwt};
use crate::ca::{self, Authority};
use crate::jwt::{self, Signer};
use crate::metrics::Metrics;
use crate::store;
use crate::validator::jwks;

impl IssuerFiles {
    pub(super) async fn read(&self) -> Result<Option<ca::Files>, store::Error> {
        let contents = store::read(self.paths()).await?;
        Ok(contents.map(|[root, chain, key]| ca::Files { root, chain, key }))
    }
}

impl Jwt {
    pub(super) async fn read(&self) -> Result<Option<jwt::Files>, store::Error> {
        let contents = store::read(self.paths()).await?;
        Ok(contents.map(|[keys, key]| jwt::Files { key, keys }))
    }
}

/// Reads the authority, or makes one if a file of it is missing.
pub(super) async fn authority(
    files: &IssuerFiles,
    trust_domain: &TrustDomain,
    id: &SpiffeId,
    clock_skew: Duration,
    metrics: &Metrics,
) -> anyhow::Result<Authority> {
    let now = SystemTime::now();
    let contents = match files.read().await? {
        Some(contents) => contents,
        None => {
            tracing::info!(root = %files.root.display(), "Root and issuer certificates not found: generating them");
            let contents = ca::generate(trust_domain, id, clock_skew, now)?;
            store::write(
                files.paths(),
                [&contents.root, &contents.chain, &contents.key],
            )
            .await?;
            metrics.issuer_changed.inc();
            contents
        }
    };
    let authority =
        Authority::from_files(&contents, now).context("the certificate authority is not valid")?;
    metrics.show_expiry(authority.not_after());
    Ok(authority)
}

/// Reads the JWT signing key, or makes one if it is wanted. One that is there must be valid even if it is not wanted.
pub(super) async fn signer(jwt: &Jwt) -> anyhow::Result<Option<Signer>> {
    let contents = match (jwt.read().await?, jwt.enabled) {
        (Some(contents), _) => contents,
        (None, false) => return Ok(None),
        (None, true) => {
            tracing::info!(key = %jwt.key.display(), "JWT signing key not found: generating it");
            let contents = jwt::generate(&jwt.config)?;
            store::write(jwt.paths(), [&contents.keys, &contents.key]).await?;
            contents
        }
    };
    let signer = Signer::from_files(contents, jwt.config.clone())
        .context("the JWT signing key is not valid")?;
    Ok(jwt.enabled.then_some(signer))
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
