//! Checking signatures of certificates and requests, with the curves the parser's own check leaves out.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::asn1_rs::{BitString, Oid, oid};
use x509_parser::error::X509Error;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

const EC_P521: Oid<'static> = oid!(1.3.132.0.35);
const EC_P384: Oid<'static> = oid!(1.3.132.0.34);
const EC_P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const ECDSA_SHA256: Oid<'static> = oid!(1.2.840.10045.4.3.2);
const ECDSA_SHA384: Oid<'static> = oid!(1.2.840.10045.4.3.3);
const ECDSA_SHA512: Oid<'static> = oid!(1.2.840.10045.4.3.4);

/// Whether `value` is a signature of `message` by the holder of `key`.
pub(crate) fn verify(
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
    value: &BitString<'_>,
    message: &[u8],
) -> bool {
    match x509_parser::verify::verify_signature(key, algorithm, value, message) {
        Err(X509Error::SignatureUnsupportedAlgorithm) => {
            ecdsa(key, algorithm).is_some_and(|algorithm| {
                UnparsedPublicKey::new(algorithm, &key.subject_public_key.data)
                    .verify(message, &value.data)
                    .is_ok()
            })
        }
        result => result.is_ok(),
    }
}

fn ecdsa(
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
) -> Option<&'static dyn VerificationAlgorithm> {
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let digest = &algorithm.algorithm;
    let known: [(&Oid<'_>, &Oid<'_>, &'static dyn VerificationAlgorithm); 5] = [
        (&EC_P256, &ECDSA_SHA512, &signature::ECDSA_P256_SHA512_ASN1),
        (&EC_P384, &ECDSA_SHA512, &signature::ECDSA_P384_SHA512_ASN1),
        (&EC_P521, &ECDSA_SHA256, &signature::ECDSA_P521_SHA256_ASN1),
        (&EC_P521, &ECDSA_SHA384, &signature::ECDSA_P521_SHA384_ASN1),
        (&EC_P521, &ECDSA_SHA512, &signature::ECDSA_P521_SHA512_ASN1),
    ];
    known
        .into_iter()
        .find(|(its_curve, its_digest, _)| **its_curve == curve && *its_digest == digest)
        .map(|it| it.2)
}
