//! What is issued: the key of a signing request, and the workload certificate made for it.

use std::time::{Duration, SystemTime};

use dapr_security::SpiffeId;
use dapr_security::certificate::chain_to_pem;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SigningKey as _, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::ca::{self, Authority};
use crate::{der, signature};

/// Where the issuer's name stands among the fields of a certificate.
const ISSUER: usize = 3;

/// Why a signing request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("no PEM block in the certificate signing request")]
    Pem,
    #[error("unexpected PEM block {0:?} in the certificate signing request")]
    Block(String),
    #[error("certificate signing request cannot be parsed")]
    Parse,
    #[error("certificate signing request has an invalid signature")]
    Signature,
    #[error("public key of the certificate signing request is not supported")]
    Key,
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("identity does not fit into a certificate")]
    Identity(#[source] rcgen::Error),
    #[error("lifetime of the certificate is out of range")]
    Lifetime,
    #[error("certificate cannot be signed")]
    Sign(#[from] rcgen::Error),
    #[error("signed certificate cannot be read back")]
    ReadBack,
}

/// Reads the public key of a PEM signing request and checks that the sender holds the private one. Everything else
/// in it is ignored.
pub(crate) fn public_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, RequestError> {
    let block = pem::parse(request).map_err(|_| RequestError::Pem)?;
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "CERTIFICATE") {
        return Err(RequestError::Block(block.tag().to_owned()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|_| RequestError::Parse)?;
    if !rest.is_empty() {
        return Err(RequestError::Parse);
    }
    let info = &request.certification_request_info;
    if !signature::verify(
        &info.subject_pki,
        &request.signature_algorithm,
        &request.signature_value,
        info.raw,
    ) {
        return Err(RequestError::Signature);
    }
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| RequestError::Key)
}

/// What a certificate is made for.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    pub(crate) id: &'a SpiffeId,
    pub(crate) dns_names: Vec<String>,
    pub(crate) now: SystemTime,
    pub(crate) ttl: Duration,
    pub(crate) clock_skew: Duration,
}

/// An issued certificate and the issuer's chain after it.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) not_after: SystemTime,
}

impl Issued {
    pub(crate) fn pem(&self) -> String {
        chain_to_pem(&self.chain)
    }
}

/// Issues a workload certificate. Its end is not capped by the issuer's.
pub(crate) fn issue(
    authority: &Authority,
    key: &impl PublicKeyData,
    order: &Order<'_>,
) -> Result<Issued, Error> {
    let not_before = order
        .now
        .checked_sub(order.clock_skew)
        .ok_or(Error::Lifetime)?;
    let not_after = order.now.checked_add(order.ttl).ok_or(Error::Lifetime)?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(ca::serial());
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = names(order).map_err(Error::Identity)?;
    params.use_authority_key_identifier_extension = authority.has_key_id();
    let leaf = params.signed_by(key, authority.issuer())?;
    let leaf = with_issuer_name(leaf.der(), authority)?;
    let chain = std::iter::once(leaf)
        .chain(authority.chain().iter().cloned())
        .collect();
    Ok(Issued { chain, not_after })
}

/// Converts a moment, refusing years that X.509 cannot write.
fn date(moment: SystemTime) -> Result<OffsetDateTime, Error> {
    const END: u64 = 253_402_300_799;
    match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() <= END => Ok(OffsetDateTime::from(moment)),
        Ok(_) | Err(_) => Err(Error::Lifetime),
    }
}

fn names(order: &Order<'_>) -> Result<Vec<SanType>, rcgen::Error> {
    let mut names = Vec::with_capacity(1 + order.dns_names.len());
    for name in &order.dns_names {
        names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    names.push(SanType::URI(order.id.to_string().as_str().try_into()?));
    Ok(names)
}

/// The library writes the issuer's name anew and loses repeated parts of it (`DC=example, DC=com`); verifiers compare
/// bytes. Where the two differ, the name is put in as it stands in the issuer's certificate and signed again.
fn with_issuer_name(
    leaf: &CertificateDer<'static>,
    authority: &Authority,
) -> Result<CertificateDer<'static>, Error> {
    let [tbs, algorithm, _] = fields::<3>(leaf)?;
    // Version, serial number, algorithm, issuer, validity, subject, key, extensions.
    let mut tbs = fields::<8>(tbs)?;
    if tbs[ISSUER] == authority.subject() {
        return Ok(leaf.clone());
    }
    tbs[ISSUER] = authority.subject();
    let tbs = der::sequence(&tbs);
    let signature = der::bit_string(&authority.issuer().key().sign(&tbs)?);
    Ok(der::sequence(&[&tbs, algorithm, &signature]).into())
}

fn fields<const N: usize>(sequence: &[u8]) -> Result<[&[u8]; N], Error> {
    der::elements(sequence)
        .and_then(|it| it.try_into().ok())
        .ok_or(Error::ReadBack)
}

#[cfg(test)]
mod tests;
