//! The `jwks` validator: a token whose signature one of the configured keys made has to name the identity asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::{SpiffeId, TrustDomain};
use serde_json::Value;

mod keys;
mod remote;
mod source;

use keys::KeySet;
pub(crate) use remote::Remote;
pub(crate) use source::Source;

/// How far the clocks of token issuer and Sentry may be apart, in seconds.
const SKEW: f64 = 300.0;

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("jwks validator: file {path:?} cannot be read")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("jwks validator: no valid key set")]
    Parse(#[source] serde_json::Error),
    #[error("jwks validator: keys cannot be fetched from {url}")]
    Fetch { url: String, source: reqwest::Error },
    #[error("jwks validator: the key set at {0} is too large")]
    TooLarge(String),
    #[error("jwks validator: option \"caCertificate\" is unusable")]
    Authority(#[source] reqwest::Error),
    #[error("jwks validator: HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

/// Why a token is refused. The beginnings are upstream's, and the names of the claims.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the request does not contain a token")]
    NoToken,
    #[error("token validation failed: invalid JWT")]
    Malformed,
    #[error(
        "token validation failed: could not verify message using any of the signatures or keys"
    )]
    Signature,
    #[error("token validation failed: \"exp\" not satisfied")]
    Expired,
    #[error("token validation failed: {0:?} not satisfied")]
    NotYet(&'static str),
    #[error("token validation failed: \"aud\" not satisfied: {0} is not in it")]
    Audience(String),
    #[error("token validation failed: \"sub\" not satisfied: it is not {0}")]
    Subject(String),
}

fn parse(text: &[u8]) -> Result<KeySet, Error> {
    KeySet::parse(text).map_err(Error::Parse)
}

/// The validator; its keys are replaced when their file changes or their URL says something else.
#[derive(Debug)]
pub(crate) struct Validator {
    origin: Origin,
    keys: ArcSwap<KeySet>,
    audience: String,
}

/// How fresh keys are got.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Not at all.
    Fixed,
    /// From this file when it changes.
    File(PathBuf),
    /// From a URL now and then.
    Remote(Remote),
}

impl Validator {
    /// Reads the keys for the first time; those of a URL are fetched later, and until then every token is refused.
    pub(crate) async fn open(source: Source, sentry: &SpiffeId) -> Result<Self, Error> {
        let (origin, keys) = match source {
            Source::Inline(keys) => (Origin::Fixed, keys),
            Source::File(path) => {
                let keys = read(&path).await?;
                (Origin::File(path), keys)
            }
            Source::Url(address) => (
                Origin::Remote(Remote::new(address).await?),
                KeySet::default(),
            ),
        };
        Ok(Self {
            origin,
            keys: ArcSwap::from_pointee(keys),
            audience: sentry.to_string(),
        })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Gets the keys again; on an error the old ones stay.
    pub(crate) async fn reload(&self) -> Result<(), Error> {
        let keys = match &self.origin {
            Origin::Fixed => return Ok(()),
            Origin::File(path) => read(path).await?,
            Origin::Remote(remote) => remote.fetch().await?,
        };
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    pub(crate) fn validate(
        &self,
        request: &SignCertificateRequest,
        trust_domain: &TrustDomain,
    ) -> Result<(), Denied> {
        if request.token.is_empty() {
            return Err(Denied::NoToken);
        }
        // Files with a token often end in a line break.
        let token = request.token.trim();
        let subject = format!(
            "spiffe://{trust_domain}/ns/{}/{}",
            request.namespace, request.id
        );
        let claims = self.keys.load().verify(token)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        check_claims(&claims, &self.audience, &subject, now)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            origin: Origin::Fixed,
            keys: ArcSwap::default(),
            audience: "spiffe://localhost/ns/default/dapr-sentry".to_owned(),
        }
    }
}

async fn read(path: &Path) -> Result<KeySet, Error> {
    let text = tokio::fs::read(path).await.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text)
}

fn check_claims(claims: &Value, audience: &str, subject: &str, now: f64) -> Result<(), Denied> {
    let moment = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Denied::Malformed),
    };
    if moment("exp")?.is_some_and(|exp| now >= exp + SKEW) {
        return Err(Denied::Expired);
    }
    for name in ["nbf", "iat"] {
        if moment(name)?.is_some_and(|from| now < from - SKEW) {
            return Err(Denied::NotYet(name));
        }
    }
    let for_us = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|it| it == audience),
        Some(_) | None => false,
    };
    if !for_us {
        return Err(Denied::Audience(audience.to_owned()));
    }
    match claims.get("sub") {
        Some(Value::String(found)) if found == subject => Ok(()),
        Some(_) | None => Err(Denied::Subject(subject.to_owned())),
    }
}

#[cfg(test)]
mod tests;
