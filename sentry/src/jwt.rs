//! JWT SVIDs: the signing key, the published key set, and the tokens issued beside certificates.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dapr_security::SpiffeId;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash};
use rand::RngExt as _;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde::Serialize;

mod algorithm;
mod key;

pub(crate) use algorithm::Algorithm;

use key::{Key, Signing};

/// Why tokens cannot be issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("JWT signing key is no PEM private key of type EC, RSA or PKCS#8")]
    KeyBlock,
    #[error(
        "JWT signing key is unusable: it is neither RSA of 2048 to 8192 bits, nor ECDSA on P-256, P-384 or P-521, nor Ed25519"
    )]
    Key,
    #[error("JWT signing key has no usable public half")]
    Public(#[source] jsonwebtoken::errors::Error),
    #[error("JWT signing algorithm {} does not fit the signing key", .0.name())]
    Fit(Algorithm),
    #[error("JWT key set is no valid JWKS")]
    Parse(#[source] serde_json::Error),
    #[error("JWT key set is empty")]
    Empty,
    #[error("JWT key set lacks the public key of the signing key{}", .0.as_ref().map(|id| format!(" with the id {id:?}")).unwrap_or_default())]
    Missing(Option<String>),
    #[error(
        "a generated JWT signing key is always RS256 and names itself: leave out --jwt-key-id and --jwt-signing-algorithm, or provide key and key set"
    )]
    Generated,
    #[error("JWT signing key cannot be made")]
    Make(#[from] rcgen::Error),
    #[error("JWT cannot be signed")]
    Sign,
}

/// How tokens are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) ttl: Duration,
    pub(crate) clock_skew: Duration,
}

/// The contents of the two files.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) key: Vec<u8>,
    pub(crate) keys: Vec<u8>,
}

/// A signing key and the key set that publishes it.
pub(crate) struct Pair {
    files: Files,
    key: Key,
    public: Jwk,
}

/// A valid pair with the algorithm it is used for.
pub(crate) struct Signer {
    config: Config,
    files: Files,
    key: Signing,
    /// The same for all tokens, as it stands in them.
    header: String,
}

/// What is handed out with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) all: String,
    pub(crate) per_audience: HashMap<String, String>,
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: Algorithm,
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    aud: &'a [&'a str],
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
}

impl Pair {
    /// Parses the files. The key set must have the public half of the key, under `key_id` if there is one.
    pub(crate) fn read(files: Files, key_id: Option<&str>) -> Result<Self, Error> {
        let key = Key::read(&files.key)?;
        let public = key.public()?;
        let keys: JwkSet = serde_json::from_slice(&files.keys).map_err(Error::Parse)?;
        if keys.keys.is_empty() {
            return Err(Error::Empty);
        }
        let is_ours = |jwk: &Jwk| {
            let signs = matches!(
                jwk.common.public_key_use,
                None | Some(PublicKeyUse::Signature)
            );
            let named = key_id.is_none() || jwk.common.key_id.as_deref() == key_id;
            signs && named && jwk.algorithm == public.algorithm
        };
        if !keys.keys.iter().any(is_ours) {
            return Err(Error::Missing(key_id.map(str::to_owned)));
        }
        Ok(Self { files, key, public })
    }
}

impl Signer {
    /// Takes a pair into use, if it is one for the algorithm.
    pub(crate) fn new(pair: Pair, config: Config) -> Result<Self, Error> {
        let Pair { files, key, public } = pair;
        let key_id = match &config.key_id {
            Some(id) => id.clone(),
            None => key_id(&public)?,
        };
        let header = Header {
            typ: "JWT",
            alg: config.algorithm,
            kid: &key_id,
        };
        Ok(Self {
            key: key.signing(config.algorithm)?,
            header: encoded(&header)?,
            config,
            files,
        })
    }

    /// The key set as it stands in its file.
    pub(crate) fn key_set(&self) -> &[u8] {
        &self.files.keys
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Signs one token for the trust domain and all audiences, and one for each of them.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<Tokens, Error> {
        let all: Vec<&str> = std::iter::once(id.trust_domain_name())
            .chain(audiences.iter().map(String::as_str))
            .collect();
        let mut per_audience = HashMap::with_capacity(all.len());
        for audience in &all {
            if !per_audience.contains_key(*audience) {
                per_audience.insert((*audience).to_owned(), self.sign(id, &[audience], now)?);
            }
        }
        Ok(Tokens {
            all: self.sign(id, &all, now)?,
            per_audience,
        })
    }

    fn sign(&self, id: &SpiffeId, audiences: &[&str], now: SystemTime) -> Result<String, Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims {
            sub: id.to_string(),
            aud: audiences,
            iat: now.as_secs(),
            nbf: now.saturating_sub(self.config.clock_skew).as_secs(),
            exp: now.saturating_add(self.config.ttl).as_secs(),
            jti: format!("{:032x}", rand::rng().random::<u128>()),
            usage: "sig",
            iss: self.config.issuer.as_deref(),
        };
        let mut token = format!("{}.{}", self.header, encoded(&claims)?);
        let signature = self.key.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A part of a token.
fn encoded(part: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_vec(part).map_err(|_| Error::Sign)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

/// Upstream's id of a key: the RFC 7638 thumbprint, in standard base64 instead of the URL alphabet.
fn key_id(public: &Jwk) -> Result<String, Error> {
    let thumbprint = public.thumbprint(ThumbprintHash::SHA256);
    let thumbprint = thumbprint.map_err(Error::Public)?;
    // The library writes what it has just encoded itself; were it to change, its own form is a fine id too.
    Ok(URL_SAFE_NO_PAD
        .decode(&thumbprint)
        .map(|bytes| STANDARD.encode(bytes))
        .unwrap_or(thumbprint))
}

/// Makes an RSA key and the key set that publishes it.
pub(crate) fn generate(config: &Config) -> Result<Files, Error> {
    if config.key_id.is_some() || config.algorithm != Algorithm::Rs256 {
        return Err(Error::Generated);
    }
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    let key = pair.serialize_pem().replace('\r', "").into_bytes();
    let mut public = Key::read(&key)?.public()?;
    public.common.key_id = Some(key_id(&public)?);
    public.common.key_algorithm = Some(KeyAlgorithm::RS256);
    public.common.public_key_use = Some(PublicKeyUse::Signature);
    let keys = serde_json::to_vec(&JwkSet { keys: vec![public] }).map_err(Error::Parse)?;
    Ok(Files { key, keys })
}

#[cfg(test)]
mod tests;
