//! The published keys, and who of them has signed a token.
//!
//! The library does not know ES512: neither in a key set, nor in a token's header. Such tokens are verified here.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Denied;

const ES512: &str = "ES512";

/// A JWKS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Key {
    /// Taken out of the rest, for the library forgets what it does not know.
    #[serde(default, rename = "alg")]
    algorithm: Option<String>,
    #[serde(flatten)]
    jwk: Jwk,
}

/// As much of a token's header as is asked for.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "alg")]
    algorithm: String,
    #[serde(default, rename = "kid")]
    key_id: Option<String>,
}

impl KeySet {
    /// Reads a set, or the one key it would have.
    pub(super) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text).or_else(|error| {
            let key: Value = serde_json::from_slice(text)?;
            if key.get("kty").is_none() {
                return Err(error);
            }
            let keys = vec![serde_json::from_value(key)?];
            Ok(Self { keys })
        })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Checks the signature with the keys that may have made it, and returns the claims.
    pub(super) fn verify(&self, token: &str) -> Result<Value, Denied> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Denied::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Denied::Malformed)?;
        let header: Header = part(header)?;
        let mut keys = self.keys.iter().filter(|key| key.fits(&header));
        if header.algorithm == ES512 {
            let signature = decoded(signature)?;
            let is_signer = |key: &Key| key.has_signed(signed.as_bytes(), &signature);
            if !keys.any(is_signer) {
                return Err(Denied::Signature);
            }
            return part(claims);
        }
        let algorithm = header.algorithm.parse().map_err(|_| Denied::Malformed)?;
        let mut validation = Validation::new(algorithm);
        // The claims are checked elsewhere and not by the library: each of them only if it is there.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        keys.filter_map(|key| DecodingKey::from_jwk(&key.jwk).ok())
            .find_map(|key| decode::<Value>(token, &key, &validation).ok())
            .map(|token| token.claims)
            .ok_or(Denied::Signature)
    }
}

impl Key {
    fn fits(&self, header: &Header) -> bool {
        let same_id = match (&self.jwk.common.key_id, &header.key_id) {
            (Some(key), Some(token)) => key == token,
            (None, _) | (_, None) => true,
        };
        let signs = match &self.jwk.common.public_key_use {
            Some(PublicKeyUse::Signature) | None => true,
            Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => false,
        };
        let algorithm = self.algorithm.as_ref();
        same_id && signs && algorithm.is_none_or(|its| *its == header.algorithm)
    }

    /// Whether it has signed a message by ES512.
    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let AlgorithmParameters::EllipticCurve(key) = &self.jwk.algorithm else {
            return false;
        };
        let (Ok(x), Ok(y)) = (decoded(&key.x), decoded(&key.y)) else {
            return false;
        };
        // An uncompressed point.
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        key.curve == EllipticCurve::P521
            && UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)
                .verify(message, signature)
                .is_ok()
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Denied> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Denied::Malformed)
}

fn part<T: DeserializeOwned>(text: &str) -> Result<T, Denied> {
    serde_json::from_slice(&decoded(text)?).map_err(|_| Denied::Malformed)
}
