//! The signing key: read once from its file, in any form that OpenSSL writes, and ready to sign from then on.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType, Jwk,
    OctetKeyPairParameters, OctetKeyPairType,
};

use super::{Algorithm, Error};

/// The curves with the one way each of them signs.
static CURVES: [(&EcdsaSigningAlgorithm, EllipticCurve); 3] = [
    (&ECDSA_P256_SHA256_FIXED_SIGNING, EllipticCurve::P256),
    (&ECDSA_P384_SHA384_FIXED_SIGNING, EllipticCurve::P384),
    (&ECDSA_P521_SHA512_FIXED_SIGNING, EllipticCurve::P521),
];

/// A private key.
pub(super) enum Key {
    Rsa(RsaKeyPair),
    Ecdsa(EllipticCurve, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key with the algorithm that it signs with.
pub(super) enum Signing {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// Reads a PEM file: PKCS#8, SEC1 or PKCS#1.
    pub(super) fn read(text: &[u8]) -> Result<Self, Error> {
        let der = crate::ca::private_key_block(text).ok_or(Error::KeyBlock)?;
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            return Ok(Self::Ed25519(pair));
        }
        for (algorithm, curve) in &CURVES {
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(algorithm, &der) {
                return Ok(Self::Ecdsa(curve.clone(), pair));
            }
        }
        RsaKeyPair::from_pkcs8(&der)
            .or_else(|_| RsaKeyPair::from_der(&der))
            .map(Self::Rsa)
            .map_err(|_| Error::Key)
    }

    /// The public half, with nothing beside the key itself.
    pub(super) fn public(&self) -> Result<Jwk, Error> {
        let algorithm = match self {
            Self::Rsa(pair) => {
                let public = DecodingKey::from_rsa_der(pair.public_key().as_ref());
                return Jwk::from_decoding_key(&public, None).map_err(Error::Public);
            }
            Self::Ecdsa(curve, pair) => {
                // An uncompressed point: a four, and the two coordinates.
                let point = pair.public_key().as_ref();
                let (x, y) = point
                    .get(1..)
                    .and_then(|it| it.split_at_checked(it.len() / 2))
                    .unwrap_or_default();
                AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
                    key_type: EllipticCurveKeyType::EC,
                    curve: curve.clone(),
                    x: URL_SAFE_NO_PAD.encode(x),
                    y: URL_SAFE_NO_PAD.encode(y),
                })
            }
            Self::Ed25519(pair) => AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
                key_type: OctetKeyPairType::OctetKeyPair,
                curve: EllipticCurve::Ed25519,
                x: URL_SAFE_NO_PAD.encode(pair.public_key()),
            }),
        };
        Ok(Jwk {
            common: Default::default(),
            algorithm,
        })
    }

    /// The key for an algorithm, if it is one for it.
    pub(super) fn signing(self, algorithm: Algorithm) -> Result<Signing, Error> {
        match (self, algorithm) {
            (Self::Rsa(pair), algorithm) => match encoding(algorithm) {
                Some(encoding) => Ok(Signing::Rsa(pair, encoding)),
                None => Err(Error::Fit(algorithm)),
            },
            (Self::Ecdsa(EllipticCurve::P256, pair), Algorithm::Es256)
            | (Self::Ecdsa(EllipticCurve::P384, pair), Algorithm::Es384)
            | (Self::Ecdsa(EllipticCurve::P521, pair), Algorithm::Es512) => {
                Ok(Signing::Ecdsa(pair))
            }
            (Self::Ed25519(pair), Algorithm::EdDsa) => Ok(Signing::Ed25519(pair)),
            (Self::Ecdsa(..) | Self::Ed25519(_), algorithm) => Err(Error::Fit(algorithm)),
        }
    }
}

fn encoding(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}

impl Signing {
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Sign;
        match self {
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            Self::Ecdsa(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                Ok(signature.map_err(failed)?.as_ref().to_vec())
            }
            Self::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}
