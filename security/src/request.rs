//! Key pairs and certificate signing requests.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519, PKCS_RSA_SHA256};

use crate::options::KeyKind;

/// The library that makes keys refused.
#[derive(Debug, thiserror::Error)]
#[error("key or certificate signing request could not be made")]
pub struct Error(#[from] rcgen::Error);

/// Makes a new private key.
///
/// # Errors
/// Only if the system gives no randomness.
pub fn generate_key(kind: KeyKind) -> Result<KeyPair, Error> {
    let algorithm = match kind {
        KeyKind::Ed25519 => &PKCS_ED25519,
        KeyKind::Rsa2048 => &PKCS_RSA_SHA256,
    };
    Ok(KeyPair::generate_for(algorithm)?)
}

/// Makes a PEM signing request with an empty subject: Sentry takes nothing but the public key from it.
///
/// # Errors
/// Only if signing fails.
pub fn signing_request(key: &KeyPair) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.pem()?)
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn requests_are_empty_and_signed() {
        for kind in [KeyKind::Ed25519, KeyKind::Rsa2048] {
            let key = generate_key(kind).unwrap();
            let block = pem::parse(signing_request(&key).unwrap()).unwrap();
            assert_eq!(block.tag(), "CERTIFICATE REQUEST");
            let (_, request) = X509CertificationRequest::from_der(block.contents()).unwrap();
            request.verify_signature().unwrap();
            assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        }
    }
}
