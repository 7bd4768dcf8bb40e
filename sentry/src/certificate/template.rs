//! What all certificates of one issuer have in common, encoded once: each of them then costs little more than its
//! signature.
//!
//! The library encodes it, as a sample; only what differs from one certificate to the next is written here.

use std::sync::Arc;
use std::time::SystemTime;

use dapr_security::certificate::chain_to_pem;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SigningKey as _,
};
use rustls_pki_types::CertificateDer;

use super::{Error, fields};
use crate::der;

/// `subjectAltName`, 2.5.29.17.
const NAMES: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x11];
const CRITICAL: [u8; 3] = [0x01, 0x01, 0xff];
/// Tags of names and of the list of extensions.
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const EXTENSIONS: u8 = 0xa3;

/// What differs from one certificate to the next.
#[derive(Clone, Debug)]
pub(super) struct Leaf<'a> {
    pub(super) serial: &'a [u8],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// A whole `SubjectPublicKeyInfo`.
    pub(super) key: &'a [u8],
    pub(super) dns_names: &'a [String],
    pub(super) uri: &'a str,
}

/// The rest.
#[derive(Debug)]
pub(crate) struct Template {
    version: Vec<u8>,
    algorithm: Vec<u8>,
    issuer: Vec<u8>,
    /// Extensions that come before the names, and those after them.
    extensions: [Vec<u8>; 2],
    chain: Arc<str>,
}

impl Template {
    /// `subject` is the issuer's name byte for byte: the library would write it anew and lose repeated parts of it
    /// (`DC=example, DC=com`), and verifiers compare bytes. `has_key_id` says whether its certificate has a key id to
    /// point to, `chain` begins with that certificate.
    pub(crate) fn new(
        issuer: &Issuer<'static, KeyPair>,
        subject: &[u8],
        has_key_id: bool,
        chain: &[CertificateDer<'static>],
    ) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(1.into());
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![SanType::URI("spiffe://a/b".try_into()?)];
        params.use_authority_key_identifier_extension = has_key_id;
        let sample = params.signed_by(issuer.key(), issuer)?;
        let [body, algorithm, _] = fields::<3>(sample.der())?;
        // Version, serial number, algorithm, issuer, validity, subject, key, extensions.
        let [version, _, _, _, _, _, _, extensions] = fields::<8>(body)?;
        let extensions = der::content(EXTENSIONS, extensions)
            .and_then(der::elements)
            .ok_or(Error::ReadBack)?;
        let is_names = |it: &&[u8]| {
            der::elements(it).is_some_and(|parts| parts.first() == Some(&NAMES.as_slice()))
        };
        let at = extensions
            .iter()
            .position(is_names)
            .ok_or(Error::ReadBack)?;
        let (before, after) = (&extensions[..at], &extensions[at + 1..]);
        Ok(Self {
            version: version.to_vec(),
            algorithm: algorithm.to_vec(),
            issuer: subject.to_vec(),
            extensions: [before.concat(), after.concat()],
            chain: chain_to_pem(chain).into(),
        })
    }

    /// The issuer's chain as PEM.
    pub(super) fn chain(&self) -> &Arc<str> {
        &self.chain
    }

    pub(super) fn sign(&self, leaf: &Leaf<'_>, key: &KeyPair) -> Result<Vec<u8>, Error> {
        let body = self.body(leaf)?;
        let signature = der::bit_string(&key.sign(&body)?);
        Ok(der::sequence(&[&body, &self.algorithm, &signature]))
    }

    fn body(&self, leaf: &Leaf<'_>) -> Result<Vec<u8>, Error> {
        let start = der::time(leaf.not_before).ok_or(Error::Lifetime)?;
        let end = der::time(leaf.not_after).ok_or(Error::Lifetime)?;
        let names = names(leaf)?;
        let [before, after] = &self.extensions;
        let extensions = der::sequence(&[before, &names, after]);
        Ok(der::sequence(&[
            &self.version,
            &der::integer(leaf.serial),
            &self.algorithm,
            &self.issuer,
            &der::sequence(&[&start, &end]),
            // No subject, which is why the names are critical.
            &der::sequence(&[]),
            leaf.key,
            &der::element(EXTENSIONS, &[&extensions]),
        ]))
    }
}

fn names(leaf: &Leaf<'_>) -> Result<Vec<u8>, Error> {
    let mut names = Vec::new();
    let dns_names = leaf.dns_names.iter().map(|name| (DNS, name.as_str()));
    for (tag, name) in dns_names.chain([(URI, leaf.uri)]) {
        if !name.is_ascii() {
            return Err(Error::Identity(name.to_owned()));
        }
        names.extend(der::element(tag, &[name.as_bytes()]));
    }
    let names = der::octet_string(&der::sequence(&[&names]));
    Ok(der::sequence(&[&NAMES, &CRITICAL, &names]))
}
