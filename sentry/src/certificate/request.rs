//! What is taken from a signing request: the public key, and nothing else.

use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm,
};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::{der, signature};

/// Why a signing request is refused. The texts begin with upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("invalid certificate signing request: no PEM block")]
    Pem,
    #[error("invalid certificate signing request: unexpected PEM block {0:?}")]
    Block(String),
    #[error("failed to parse certificate signing request")]
    Parse,
    #[error("invalid signature")]
    Signature,
    #[error("public key of the certificate signing request is not supported")]
    Key,
}

/// The kinds of keys, each with the one way its `AlgorithmIdentifier` is written.
static KINDS: [(&SignatureAlgorithm, &[u8]); 5] = [
    (&PKCS_ED25519, &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70]),
    (
        &PKCS_ECDSA_P256_SHA256,
        &[
            0x30, 19, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d,
            3, 1, 7,
        ],
    ),
    (
        &PKCS_ECDSA_P384_SHA384,
        &[
            0x30, 16, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22,
        ],
    ),
    (
        &PKCS_ECDSA_P521_SHA512,
        &[
            0x30, 16, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x23,
        ],
    ),
    (
        &PKCS_RSA_SHA256,
        &[
            0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
        ],
    ),
];

/// A public key, written anew: of the request's own bytes only the key itself is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    kind: &'static SignatureAlgorithm,
    bytes: Vec<u8>,
    info: Vec<u8>,
}

impl PublicKey {
    fn new(algorithm: &[u8], bytes: &[u8]) -> Option<Self> {
        let (kind, algorithm) = KINDS.iter().find(|(_, known)| *known == algorithm)?;
        Some(Self {
            kind,
            bytes: bytes.to_vec(),
            info: der::sequence(&[algorithm, &der::bit_string(bytes)]),
        })
    }
}

impl PublicKeyData for PublicKey {
    fn subject_public_key_info(&self) -> Vec<u8> {
        self.info.clone()
    }

    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.kind
    }
}

/// Reads the public key of a PEM signing request and checks that the sender holds the private one. Everything else
/// in it is ignored.
pub(crate) fn public_key(request: &[u8]) -> Result<PublicKey, Error> {
    let block = pem::parse(request).map_err(|_| Error::Pem)?;
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "CERTIFICATE") {
        return Err(Error::Block(block.tag().to_owned()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|_| Error::Parse)?;
    if !rest.is_empty() {
        return Err(Error::Parse);
    }
    let info = &request.certification_request_info;
    if !signature::verify(
        &info.subject_pki,
        &request.signature_algorithm,
        &request.signature_value,
        info.raw,
    ) {
        return Err(Error::Signature);
    }
    let algorithm = der::elements(info.subject_pki.raw)
        .and_then(|parts| parts.first().copied())
        .ok_or(Error::Key)?;
    PublicKey::new(algorithm, &info.subject_pki.subject_public_key.data).ok_or(Error::Key)
}

#[cfg(test)]
mod tests;
