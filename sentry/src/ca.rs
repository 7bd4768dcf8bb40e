//! The certificate authority itself: how it is made, and what an existing one must look like.

use std::time::SystemTime;

use dapr_security::certificate::{self, chain_from_pem, chain_to_pem, moment};
use dapr_security::{SpiffeId, TrustAnchors, TrustDomain};
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use crate::signature;

/// How long generated certificates of the authority are valid.
const LIFETIME: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);

const KEY_BLOCKS: [&str; 3] = ["EC PRIVATE KEY", "RSA PRIVATE KEY", "PRIVATE KEY"];

/// Why an authority is refused or cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("root certificates are unusable")]
    Roots(#[source] certificate::Error),
    #[error("root certificates cannot be used as trust anchors")]
    Anchors(#[from] dapr_security::anchors::Error),
    #[error("root certificate {0} of the file is not self-signed")]
    NotSelfSigned(usize),
    #[error("issuer certificate chain is unusable")]
    Chain(#[source] certificate::Error),
    #[error("issuer certificate {0} of the chain is not signed by the next")]
    Broken(usize),
    #[error("issuer certificate is no certificate authority")]
    NotAuthority,
    #[error("issuer certificate is outside of its validity period")]
    NotValidNow,
    #[error("issuer certificate is not signed by a root certificate")]
    Unrooted,
    #[error("issuer key is no PEM private key of type EC, RSA or PKCS#8")]
    KeyBlock,
    #[error("issuer key is unusable")]
    Key(#[source] rcgen::Error),
    #[error("issuer key does not belong to the issuer certificate")]
    KeyMismatch,
    #[error("certificate authority cannot be made")]
    Make(#[from] rcgen::Error),
}

/// The contents of the three files.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) root: Vec<u8>,
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// A valid authority, ready to sign.
#[derive(Debug)]
pub(crate) struct Authority {
    anchors: TrustAnchors,
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    has_key_id: bool,
    subject: Vec<u8>,
    not_after: SystemTime,
}

impl Authority {
    /// Parses and validates the files. Text around PEM blocks is dropped, as is a root at the end of the chain.
    pub(crate) fn from_files(files: &Files, now: SystemTime) -> Result<Self, Error> {
        let roots = chain_from_pem(&files.root).map_err(Error::Roots)?;
        let parsed_roots = parse_all(&roots).map_err(Error::Roots)?;
        if let Some(at) = parsed_roots
            .iter()
            .position(|root| !is_signed_by(root, root))
        {
            return Err(Error::NotSelfSigned(at + 1));
        }
        let mut chain = chain_from_pem(&files.chain).map_err(Error::Chain)?;
        check_order(&parse_all(&chain).map_err(Error::Chain)?)?;
        if chain.len() > 1
            && parse_all(&chain[chain.len() - 1..])
                .map_err(Error::Chain)?
                .iter()
                .all(|it| is_signed_by(it, it))
        {
            chain.pop();
        }
        let parsed = parse_all(&chain).map_err(Error::Chain)?;
        let Some(first) = parsed.first() else {
            return Err(Error::Chain(certificate::Error::Empty));
        };
        check_authority(first)?;
        check_rooted(&parsed, &parsed_roots, now)?;
        let key = private_key(&files.key)?;
        if key.der_bytes() != first.public_key().subject_public_key.data.as_ref() {
            return Err(Error::KeyMismatch);
        }
        let has_key_id = first.iter_extensions().any(|it| {
            matches!(
                it.parsed_extension(),
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(_)
            )
        });
        let subject = first.subject().as_raw().to_vec();
        let not_after = moment(first.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&chain[0], key)?;
        Ok(Self {
            anchors: TrustAnchors::from_chain(roots)?,
            issuer,
            has_key_id,
            subject,
            not_after,
            chain,
        })
    }

    pub(crate) fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// The issuer's chain without the root, which every workload certificate is followed by.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Whether the issuer certificate has a key id that issued certificates can point to.
    pub(crate) fn has_key_id(&self) -> bool {
        self.has_key_id
    }

    /// The issuer's name as it stands in its certificate, byte for byte.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

fn parse_all<'a>(
    chain: &'a [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'a>>, certificate::Error> {
    chain.iter().map(|der| certificate::parse(der)).collect()
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && signature::verify(
            issuer.public_key(),
            &certificate.signature_algorithm,
            &certificate.signature_value,
            certificate.tbs_certificate.as_ref(),
        )
}

fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), Error> {
    match chain
        .windows(2)
        .position(|pair| !is_signed_by(&pair[0], &pair[1]))
    {
        Some(at) => Err(Error::Broken(at + 1)),
        None => Ok(()),
    }
}

/// Upstream is this lenient: any one of the three signs is enough.
fn check_authority(issuer: &X509Certificate<'_>) -> Result<(), Error> {
    let constraints = issuer
        .basic_constraints()
        .map_err(|_| Error::NotAuthority)?;
    let usage = issuer.key_usage().map_err(|_| Error::NotAuthority)?;
    if constraints.is_some() || usage.is_some_and(|it| it.value.key_cert_sign()) {
        Ok(())
    } else {
        Err(Error::NotAuthority)
    }
}

fn check_rooted(
    chain: &[X509Certificate<'_>],
    roots: &[X509Certificate<'_>],
    now: SystemTime,
) -> Result<(), Error> {
    let is_valid = |it: &X509Certificate<'_>| {
        moment(it.validity().not_before.timestamp()) <= now
            && now <= moment(it.validity().not_after.timestamp())
    };
    if !chain.iter().all(is_valid) {
        return Err(Error::NotValidNow);
    }
    let last = chain.last().ok_or(Error::Unrooted)?;
    if roots
        .iter()
        .any(|root| is_signed_by(last, root) && is_valid(root))
    {
        Ok(())
    } else {
        Err(Error::Unrooted)
    }
}

fn private_key(text: &[u8]) -> Result<KeyPair, Error> {
    let blocks = pem::parse_many(text).map_err(|_| Error::KeyBlock)?;
    // OpenSSL writes the curve in a block of its own before the key.
    let block = blocks
        .into_iter()
        .find(|it| KEY_BLOCKS.contains(&it.tag()))
        .ok_or(Error::KeyBlock)?;
    KeyPair::try_from(block.contents()).map_err(Error::Key)
}

/// Makes a new authority: a root whose key is thrown away at once, and an issuer signed by it.
pub(crate) fn generate(
    trust_domain: &TrustDomain,
    sentry: &SpiffeId,
    clock_skew: std::time::Duration,
    now: SystemTime,
) -> Result<Files, Error> {
    let root_key = KeyPair::generate_for(&PKCS_ED25519)?;
    let usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    let params = authority(trust_domain.as_str(), usages, clock_skew, now);
    let root = params.self_signed(&root_key)?;
    let root_issuer = Issuer::new(params, root_key);

    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let issuer =
        authority(&sentry.to_string(), usages, clock_skew, now).signed_by(&key, &root_issuer)?;
    Ok(Files {
        root: chain_to_pem(&[root.der().clone()]).into_bytes(),
        chain: chain_to_pem(&[issuer.der().clone()]).into_bytes(),
        key: key.serialize_pem().replace('\r', "").into_bytes(),
    })
}

fn authority(
    organization: &str,
    usages: Vec<KeyUsagePurpose>,
    clock_skew: std::time::Duration,
    now: SystemTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    params.not_before = OffsetDateTime::from(
        now.checked_sub(clock_skew)
            .unwrap_or(SystemTime::UNIX_EPOCH),
    );
    params.not_after = OffsetDateTime::from(now) + LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = usages;
    params
}

/// A random serial number of 128 bits.
pub(crate) fn serial() -> SerialNumber {
    SerialNumber::from_slice(&rand::rng().random::<[u8; 16]>())
}

#[cfg(test)]
mod tests;
