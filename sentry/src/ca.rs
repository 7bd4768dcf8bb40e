//! The certificate authority itself: how it is made, and what an existing one must look like.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::Ed25519KeyPair;
use dapr_security::certificate::{self, chain_from_pem, chain_to_pem, moment};
use dapr_security::{SpiffeId, TrustAnchors, TrustDomain};
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{X509Certificate, X509Version};

use crate::certificate::{Order, Template, issue, with_issuer_name};
use crate::signature;

/// Most certificates that follow a workload's: verifiers give up on longer chains.
const LONGEST_CHAIN: usize = 5;

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
    #[error(
        "{0} may not sign certificates: it needs CA in its basic constraints and, if it has a key usage, keyCertSign"
    )]
    NotAuthority(Place),
    #[error("{0} allows fewer certificate authorities below itself (pathLen) than there are")]
    PathLength(Place),
    #[error("workloads' certificates would not be accepted by their peers")]
    NotAccepted(#[from] dapr_security::anchors::Untrusted),
    #[error("issuer certificate or its root is outside of its validity period")]
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
    #[error("form of the issuer's certificates cannot be made")]
    Template(#[from] crate::certificate::Error),
    #[error("new root cannot be signed by the current issuer")]
    Cross,
}

/// Which certificate an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Certificate of the issuer's chain, from 0.
    Chain(usize),
    /// Root certificate, from 0.
    Root(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(0) => f.write_str("issuer certificate"),
            Self::Chain(at) => write!(f, "certificate {} of the issuer certificate chain", at + 1),
            Self::Root(at) => write!(f, "root certificate {} of the file", at + 1),
        }
    }
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
    template: Template,
    subject: Vec<u8>,
    not_after: SystemTime,
    crossing: bool,
    has_key_id: bool,
    generated_for: Option<[String; 2]>,
    signing_roots: Vec<String>,
    fingerprint: u64,
}

impl Authority {
    /// Parses and validates the files. Text around PEM blocks is dropped, as is a root at the end of the chain. What is
    /// valid is accepted by peers too: by the rules that each implementation of TLS has, and by our own.
    ///
    /// What follows in the chain after the certificate that a root has signed leads verifiers to an older root, see
    /// [`succeed`]; it is dropped as soon as a certificate of it has run out.
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
        check_authority(first, Place::Chain(0))?;
        let valid = rooted(&parsed, &parsed_roots, now)?;
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
        let crossing = may_cross(first);
        let signers = || {
            parsed_roots
                .iter()
                .zip(&roots)
                .filter(|(root, _)| parsed.iter().any(|it| is_signed_by(it, root)))
        };
        let generated_for = signers()
            .next()
            .map(|(root, _)| [root.subject().to_string(), first.subject().to_string()]);
        let signing_roots = signers().map(|(_, der)| fingerprint(der)).collect();
        let issuer = Issuer::from_ca_cert_der(&chain[0], key)?;
        chain.truncate(valid.min(LONGEST_CHAIN));
        let template = Template::new(&issuer, &subject, has_key_id, &chain)?;
        let anchors = TrustAnchors::from_chain(roots)?;
        let authority = Self {
            fingerprint: short_fingerprint(&anchors, &chain[0]),
            crossing,
            has_key_id,
            generated_for,
            signing_roots,
            anchors,
            issuer,
            template,
            subject,
            not_after,
            chain,
        };
        authority.prove(now)?;
        Ok(authority)
    }

    /// Whether peers accept what is issued: names, algorithms and extensions have rules of their own, which nobody but
    /// the verifier itself knows all of.
    fn prove(&self, now: SystemTime) -> Result<(), Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let order = Order {
            id: &nobody(),
            dns_names: Vec::new(),
            now,
            ttl: Duration::from_secs(60),
            clock_skew: Duration::ZERO,
        };
        let issued = issue(self, &key, &order)?;
        Ok(self.anchors.verify(&issued.chain, now)?)
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

    /// What all certificates of this issuer have in common.
    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    /// The issuer's name as it stands in its certificate, byte for byte.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether Sentry made this authority by itself, here or in the original: only such a one it may replace unasked.
    pub(crate) fn is_generated(&self, trust_domain: &TrustDomain, sentry: &SpiffeId) -> bool {
        self.generated_for.as_ref().is_some_and(|[root, issuer]| {
            *root == format!("O={trust_domain}") && *issuer == format!("O={sentry}")
        })
    }

    /// Fingerprints of the roots that lead to this issuer.
    pub(crate) fn signing_roots(&self) -> &[String] {
        &self.signing_roots
    }

    /// The SHA-256 of the issuer certificate in hexadecimal.
    pub(crate) fn issuer_fingerprint(&self) -> String {
        self.chain
            .first()
            .map(|it| fingerprint(it))
            .unwrap_or_default()
    }

    /// Tells authorities apart: another bundle or another issuer is another value.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// Who gets the certificate that is only made for proof.
fn nobody() -> SpiffeId {
    SpiffeId::new("spiffe://public/ns/default/nobody").expect("it is a SPIFFE ID")
}

/// Made once per authority: it is asked for with every certificate.
fn short_fingerprint(anchors: &TrustAnchors, issuer: &[u8]) -> u64 {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    hash.update(anchors.pem().as_bytes());
    hash.update(issuer);
    let hash = hash.finish();
    hash.as_ref()
        .iter()
        .take(8)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
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

/// Upstream takes an issuer that has any one sign of an authority. Its clients do not, nor do ours.
fn check_authority(certificate: &X509Certificate<'_>, place: Place) -> Result<(), Error> {
    let refused = |_| Error::NotAuthority(place);
    let constraints = certificate.basic_constraints().map_err(refused)?;
    let usage = certificate.key_usage().map_err(refused)?;
    let is_authority = constraints.is_some_and(|it| it.value.ca);
    if is_authority && usage.is_none_or(|it| it.value.key_cert_sign()) {
        Ok(())
    } else {
        Err(Error::NotAuthority(place))
    }
}

/// Whether so many authorities may stand below this one.
fn check_room(certificate: &X509Certificate<'_>, below: usize, place: Place) -> Result<(), Error> {
    match path_length(certificate) {
        Some(limit) if below > limit => Err(Error::PathLength(place)),
        Some(_) | None => Ok(()),
    }
}

fn path_length(certificate: &X509Certificate<'_>) -> Option<usize> {
    let constraints = certificate.basic_constraints().ok().flatten()?;
    let limit = constraints.value.path_len_constraint?;
    usize::try_from(limit).ok()
}

/// How many certificates of the chain are to be sent: up to the last valid one. The first ones of them must lead to a
/// root that is valid too, and each of them be an authority that may stand there.
fn rooted(
    chain: &[X509Certificate<'_>],
    roots: &[X509Certificate<'_>],
    now: SystemTime,
) -> Result<usize, Error> {
    let is_valid = |it: &X509Certificate<'_>| {
        moment(it.validity().not_before.timestamp()) <= now
            && now <= moment(it.validity().not_after.timestamp())
    };
    let valid = chain.iter().take_while(|it| is_valid(it)).count();
    let mut error = Error::Unrooted;
    for (at, last) in chain.iter().enumerate() {
        for (number, root) in roots.iter().enumerate() {
            if !is_signed_by(last, root) {
                continue;
            }
            let found = if at < valid && is_valid(root) {
                check_path(&chain[..=at], root, number)
            } else {
                Err(Error::NotValidNow)
            };
            match (found, &error) {
                (Ok(()), _) => return Ok(valid),
                // What is wrong with a certificate says more than that another way has run out.
                (Err(found), Error::Unrooted | Error::NotValidNow) => error = found,
                (Err(_), _) => {}
            }
        }
    }
    Err(error)
}

/// Checks the authorities from the issuer to a root.
fn check_path(
    chain: &[X509Certificate<'_>],
    root: &X509Certificate<'_>,
    number: usize,
) -> Result<(), Error> {
    for (below, certificate) in chain.iter().enumerate() {
        check_authority(certificate, Place::Chain(below))?;
        check_room(certificate, below, Place::Chain(below))?;
    }
    let place = Place::Root(number);
    // Certificates of the first version cannot say what they are for; as roots all verifiers take them.
    if root.version() != X509Version::V1 {
        check_authority(root, place)?;
    }
    check_room(root, chain.len(), place)
}

/// Whether the issuer may sign for another root with an issuer below it: two more authorities.
fn may_cross(issuer: &X509Certificate<'_>) -> bool {
    path_length(issuer).is_none_or(|limit| limit >= 2)
}

fn private_key(text: &[u8]) -> Result<KeyPair, Error> {
    let key = private_key_block(text).ok_or(Error::KeyBlock)?;
    KeyPair::try_from(key).map_err(Error::Key)
}

/// The first private key of a PEM text: OpenSSL writes the curve in a block of its own before it.
pub(crate) fn private_key_block(text: &[u8]) -> Option<Vec<u8>> {
    let mut blocks = pem::parse_many(text).ok()?.into_iter();
    let block = blocks.find(|it| KEY_BLOCKS.contains(&it.tag()))?;
    Some(block.into_contents())
}

/// What a new authority is made for.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) sentry: &'a SpiffeId,
    pub(crate) clock_skew: Duration,
    /// How long root and issuer are valid.
    pub(crate) validity: Duration,
    pub(crate) now: SystemTime,
}

/// A new root with its issuer, and the keys of both while they are needed.
struct Made {
    root: rcgen::Certificate,
    root_key: KeyPair,
    root_params: CertificateParams,
    issuer: rcgen::Certificate,
    key: KeyPair,
}

/// Makes a new authority: a root whose key is thrown away at once, and an issuer signed by it.
pub(crate) fn generate(plan: &Plan<'_>) -> Result<Files, Error> {
    let Made {
        root, issuer, key, ..
    } = make(plan, Pointer::Absent)?;
    Ok(files(&[root.der().clone()], &[issuer.der().clone()], &key))
}

/// Makes the authority that follows the current one. Its root is also signed by the current issuer, and that
/// certificate goes with the chain: who knows the old root only, a sidecar that got it with its start for instance,
/// trusts the new issuer all the same for as long as the old one is valid. The bundle has the old roots and the new.
pub(crate) fn succeed(current: &Authority, plan: &Plan<'_>) -> Result<Files, Error> {
    let Made {
        root,
        root_key,
        mut root_params,
        issuer,
        key,
    } = make(plan, Pointer::Present)?;
    let mut roots = current.anchors.certificates().to_vec();
    roots.push(root.der().clone());
    let mut chain = vec![issuer.der().clone()];
    if current.crossing {
        root_params.serial_number = Some(serial());
        root_params.use_authority_key_identifier_extension = current.has_key_id;
        root_params.not_after = root_params
            .not_after
            .min(OffsetDateTime::from(current.not_after));
        let cross = root_params.signed_by(&root_key, &current.issuer)?;
        chain.push(with_issuer_name(cross.der(), current).map_err(|_| Error::Cross)?);
        chain.extend(current.chain.iter().cloned());
        chain.truncate(LONGEST_CHAIN);
    }
    Ok(files(&roots, &chain, &key))
}

/// The bundle without the roots of these fingerprints: what remains when a rotation is over.
pub(crate) fn retire(files: &Files, retired: &[String]) -> Result<Files, Error> {
    let mut roots = chain_from_pem(&files.root).map_err(Error::Roots)?;
    roots.retain(|root| !retired.contains(&fingerprint(root)));
    Ok(Files {
        root: chain_to_pem(&roots).into_bytes(),
        ..files.clone()
    })
}

/// The SHA-256 of a certificate in hexadecimal.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether the issuer certificate names the key of its root. The first one does not, as in the original. A successor
/// must: old and new root have one name, and some verifiers go by the name alone and do not look further.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pointer {
    Absent,
    Present,
}

fn make(plan: &Plan<'_>, pointer: Pointer) -> Result<Made, Error> {
    let root_key = new_key()?;
    let usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    let root_params = authority(plan.trust_domain.as_str(), usages, plan);
    let root = root_params.self_signed(&root_key)?;
    let key = new_key()?;
    let usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let mut params = authority(&plan.sentry.to_string(), usages, plan);
    params.use_authority_key_identifier_extension = pointer == Pointer::Present;
    let issuer = params.signed_by(&key, &Issuer::from_params(&root_params, &root_key))?;
    Ok(Made {
        root,
        root_key,
        root_params,
        issuer,
        key,
    })
}

/// A key in version 1 of PKCS#8. The library would write version 2, which holds the public key too, and which OpenSSL 3.0
/// and those that stand on it do not read.
fn new_key() -> Result<KeyPair, rcgen::Error> {
    let key = Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1());
    KeyPair::try_from(key.map_err(|_| rcgen::Error::RingUnspecified)?.as_ref())
}

fn files(
    roots: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
    key: &KeyPair,
) -> Files {
    Files {
        root: chain_to_pem(roots).into_bytes(),
        chain: chain_to_pem(chain).into_bytes(),
        key: key.serialize_pem().replace('\r', "").into_bytes(),
    }
}

fn authority(
    organization: &str,
    usages: Vec<KeyUsagePurpose>,
    plan: &Plan<'_>,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    params.not_before = OffsetDateTime::from(
        plan.now
            .checked_sub(plan.clock_skew)
            .unwrap_or(SystemTime::UNIX_EPOCH),
    );
    params.not_after = OffsetDateTime::from(plan.now) + plan.validity;
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
