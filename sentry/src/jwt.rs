//! JWT SVIDs: the signing key, the published key set, and the tokens issued beside certificates.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dapr_security::SpiffeId;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, encode};
use rand::RngExt as _;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use serde::Serialize;

/// Why tokens cannot be issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("JWT signing key is no PEM private key")]
    KeyBlock,
    #[error("JWT signing key is unusable: give it as PKCS#8 (BEGIN PRIVATE KEY)")]
    Key(#[source] jsonwebtoken::errors::Error),
    #[error("JWT signing key is unusable")]
    KeyType(#[source] rcgen::Error),
    #[error("JWT signing algorithm {0:?} does not fit the signing key")]
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
    Sign(#[from] jsonwebtoken::errors::Error),
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

/// A valid signing key with its published key set.
pub(crate) struct Signer {
    config: Config,
    files: Files,
    key: EncodingKey,
    header: Header,
}

/// What is handed out with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) all: String,
    pub(crate) per_audience: HashMap<String, String>,
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

impl Signer {
    /// Parses and validates the files.
    pub(crate) fn from_files(files: Files, config: Config) -> Result<Self, Error> {
        let (key, public) = signing_key(&files.key, config.algorithm)?;
        let keys: JwkSet = serde_json::from_slice(&files.keys).map_err(Error::Parse)?;
        if keys.keys.is_empty() {
            return Err(Error::Empty);
        }
        let is_ours = |jwk: &&Jwk| {
            let signs = matches!(
                jwk.common.public_key_use,
                None | Some(PublicKeyUse::Signature)
            );
            let named = config.key_id.is_none() || jwk.common.key_id == config.key_id;
            signs && named && jwk.algorithm == public.algorithm
        };
        if !keys.keys.iter().any(|jwk| is_ours(&jwk)) {
            return Err(Error::Missing(config.key_id));
        }
        let mut header = Header::new(config.algorithm);
        header.kid = Some(match &config.key_id {
            Some(id) => id.clone(),
            None => key_id(&public)?,
        });
        Ok(Self {
            config,
            files,
            key,
            header,
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
        Ok(encode(&self.header, &claims, &self.key)?)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Reads the private key for an algorithm, with its public half.
fn signing_key(text: &[u8], algorithm: Algorithm) -> Result<(EncodingKey, Jwk), Error> {
    let block = pem::parse(text).map_err(|_| Error::KeyBlock)?;
    let pair = KeyPair::try_from(block.contents()).map_err(Error::KeyType)?;
    let is = |algorithm| pair.algorithm() == algorithm;
    let fits = match algorithm {
        Algorithm::ES256 => is(&PKCS_ECDSA_P256_SHA256),
        Algorithm::ES384 => is(&PKCS_ECDSA_P384_SHA384),
        Algorithm::EdDSA => is(&PKCS_ED25519),
        other => other.family() == AlgorithmFamily::Rsa && is(&PKCS_RSA_SHA256),
    };
    if !fits {
        return Err(Error::Fit(algorithm));
    }
    let public = pair.public_key_raw();
    let (key, public) = match algorithm.family() {
        AlgorithmFamily::Ec => (
            EncodingKey::from_ec_pem(text),
            DecodingKey::from_ec_der(public),
        ),
        AlgorithmFamily::Ed => (
            EncodingKey::from_ed_pem(text),
            DecodingKey::from_ed_der(public),
        ),
        AlgorithmFamily::Rsa | AlgorithmFamily::Hmac => (
            EncodingKey::from_rsa_pem(text),
            DecodingKey::from_rsa_der(public),
        ),
    };
    let public = Jwk::from_decoding_key(&public, Some(algorithm)).map_err(Error::Key)?;
    Ok((key.map_err(Error::Key)?, public))
}

/// Upstream's id of a key: the RFC 7638 thumbprint, in standard base64 instead of the URL alphabet.
fn key_id(public: &Jwk) -> Result<String, Error> {
    let thumbprint = public.thumbprint(ThumbprintHash::SHA256)?;
    // The library writes what it has just encoded itself; were it to change, its own form is a fine id too.
    Ok(URL_SAFE_NO_PAD
        .decode(&thumbprint)
        .map(|bytes| STANDARD.encode(bytes))
        .unwrap_or(thumbprint))
}

/// Makes an RSA key and the key set that publishes it.
pub(crate) fn generate(config: &Config) -> Result<Files, Error> {
    if config.key_id.is_some() || config.algorithm != Algorithm::RS256 {
        return Err(Error::Generated);
    }
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    let public = DecodingKey::from_rsa_der(pair.public_key_raw());
    let mut public = Jwk::from_decoding_key(&public, None)?;
    public.common.key_id = Some(key_id(&public)?);
    public.common.key_algorithm = Some(KeyAlgorithm::RS256);
    public.common.public_key_use = Some(PublicKeyUse::Signature);
    let keys = serde_json::to_vec(&JwkSet { keys: vec![public] }).map_err(Error::Parse)?;
    Ok(Files {
        key: pair.serialize_pem().replace('\r', "").into_bytes(),
        keys,
    })
}

/// Reads the value of `--jwt-signing-algorithm`.
pub(crate) fn algorithm(text: &str) -> Result<Algorithm, String> {
    match text.parse::<Algorithm>() {
        Ok(algorithm) if algorithm.family() != AlgorithmFamily::Hmac => Ok(algorithm),
        Ok(_) | Err(_) => Err(format!(
            "JWT signing algorithm {text:?} is not supported: use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA"
        )),
    }
}

#[cfg(test)]
mod tests;
