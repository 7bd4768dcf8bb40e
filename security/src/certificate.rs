//! Certificates as they come: PEM blocks and what a SPIFFE leaf certificate must look like.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::id::{self, SpiffeId};

const BLOCK: &str = "CERTIFICATE";

/// Why a certificate is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no PEM.
    #[error("malformed PEM")]
    Pem(#[from] pem::PemError),
    /// There is a PEM block of another type.
    #[error("unexpected PEM block {0:?}, expected \"CERTIFICATE\"")]
    Block(String),
    /// There is no certificate at all.
    #[error("no certificates found")]
    Empty,
    /// A certificate is no DER-encoded X.509.
    #[error("certificate cannot be parsed")]
    Parse,
    /// A SPIFFE leaf has exactly one URI SAN.
    #[error("certificate has {0} URI SANs, expected exactly one")]
    UriSans(usize),
    /// A SPIFFE leaf is no CA and signs no certificates.
    #[error("certificate of a workload must not be a CA")]
    Authority,
    /// The URI SAN is no SPIFFE id.
    #[error("URI SAN is no SPIFFE ID")]
    SpiffeId(#[from] id::Error),
}

/// What a SPIFFE leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI SAN.
    pub spiffe_id: SpiffeId,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number in lower-case hexadecimal without leading zero bytes.
    pub serial: String,
}

/// Reads the certificates of a PEM text, in order; at least one, and no block of another type.
///
/// # Errors
/// [`Error::Pem`], [`Error::Block`] or [`Error::Empty`]; the certificates themselves are not looked into.
pub fn chain_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain = pem::parse_many(text)?
        .into_iter()
        .map(|block| match block.tag() {
            BLOCK => Ok(CertificateDer::from(block.into_contents())),
            other => Err(Error::Block(other.to_owned())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        Err(Error::Empty)
    } else {
        Ok(chain)
    }
}

/// Writes certificates as PEM, with line feeds and without comments.
#[must_use]
pub fn chain_to_pem(chain: &[CertificateDer<'_>]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let blocks: Vec<_> = chain
        .iter()
        .map(|der| pem::Pem::new(BLOCK, der.as_ref()))
        .collect();
    pem::encode_many_config(&blocks, config).replace(
        "-----END CERTIFICATE-----\n\n",
        "-----END CERTIFICATE-----\n",
    )
}

/// Parses one certificate, refusing bytes after it.
///
/// # Errors
/// [`Error::Parse`].
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Error::Parse),
    }
}

/// Reads a leaf certificate by the SPIFFE rules: exactly one URI SAN, which is a SPIFFE id, no CA, signs nothing.
///
/// # Errors
/// One variant of [`Error`] for each rule.
pub fn leaf(der: &[u8]) -> Result<Leaf, Error> {
    let certificate = parse(der)?;
    if is_authority(&certificate)? {
        return Err(Error::Authority);
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Error::Parse)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(Error::UriSans(uris.len()));
    };
    let validity = certificate.validity();
    Ok(Leaf {
        spiffe_id: SpiffeId::new(uri)?,
        not_before: moment(validity.not_before.timestamp()),
        not_after: moment(validity.not_after.timestamp()),
        serial: certificate
            .raw_serial()
            .iter()
            .skip_while(|byte| **byte == 0)
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    })
}

fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, Error> {
    let constraints = certificate.basic_constraints().map_err(|_| Error::Parse)?;
    let usage = certificate.key_usage().map_err(|_| Error::Parse)?;
    Ok(constraints.is_some_and(|it| it.value.ca)
        || usage.is_some_and(|it| it.value.key_cert_sign() || it.value.crl_sign()))
}

/// Converts seconds since the epoch; a moment before it becomes the epoch, one no clock can show the far future.
#[must_use]
pub fn moment(unix_seconds: i64) -> SystemTime {
    const FAR: Duration = Duration::from_secs(253_402_300_799); // 9999-12-31, the last moment X.509 knows.
    let since = Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0)).min(FAR);
    SystemTime::UNIX_EPOCH + since
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec()
    }

    fn uri(id: &str) -> SanType {
        SanType::URI(id.try_into().unwrap())
    }

    #[test]
    fn a_leaf_has_one_spiffe_id() {
        let der =
            certificate(|it| it.subject_alt_names = vec![uri("spiffe://public/ns/default/a")]);
        assert_eq!(
            leaf(&der).unwrap().spiffe_id.to_string(),
            "spiffe://public/ns/default/a"
        );
    }

    #[test]
    fn what_is_no_leaf_is_refused() {
        let id = || uri("spiffe://public/ns/default/a");
        assert!(matches!(leaf(&certificate(|_| ())), Err(Error::UriSans(0))));
        assert!(matches!(
            leaf(&certificate(|it| it.subject_alt_names = vec![id(), id()])),
            Err(Error::UriSans(2))
        ));
        let https = certificate(|it| it.subject_alt_names = vec![uri("https://public/a")]);
        assert!(matches!(leaf(&https), Err(Error::SpiffeId(_))));
        let capital = certificate(|it| it.subject_alt_names = vec![uri("spiffe://Public/a")]);
        assert!(matches!(
            leaf(&capital),
            Err(Error::SpiffeId(id::Error::TrustDomain))
        ));
        let authority = certificate(|it| {
            it.subject_alt_names = vec![id()];
            it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        assert!(matches!(leaf(&authority), Err(Error::Authority)));
        let signer = certificate(|it| {
            it.subject_alt_names = vec![id()];
            it.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        });
        assert!(matches!(leaf(&signer), Err(Error::Authority)));
        assert!(matches!(leaf(b"no certificate"), Err(Error::Parse)));
    }

    #[test]
    fn pem_survives_a_round_trip() {
        let chain = vec![
            CertificateDer::from(certificate(|_| ())),
            CertificateDer::from(certificate(|_| ())),
        ];
        let text = chain_to_pem(&chain);
        assert!(
            !text.contains("\n\n") && !text.contains('\r') && text.ends_with("-----\n"),
            "{text}"
        );
        assert_eq!(chain_from_pem(text.as_bytes()).unwrap(), chain);
        let commented = format!("# a comment\n{text}\ntrailing words\n");
        assert_eq!(chain_from_pem(commented.as_bytes()).unwrap(), chain);
    }

    #[test]
    fn other_blocks_are_refused() {
        assert!(matches!(chain_from_pem(b""), Err(Error::Empty)));
        let key = KeyPair::generate().unwrap().serialize_pem();
        assert!(
            matches!(chain_from_pem(key.as_bytes()), Err(Error::Block(tag)) if tag == "PRIVATE KEY")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(leaf(&bytes).is_err());
            prop_assert!(chain_from_pem(&bytes).is_err());
        }

        #[test]
        fn no_damage_panics(at in 0usize..250, with in any::<u8>()) {
            let mut der = certificate(|it| it.subject_alt_names = vec![uri("spiffe://public/ns/default/a")]);
            let at = at % der.len();
            der[at] = with;
            // Some bytes, of the signature for instance, are not looked at here.
            drop(leaf(&der));
        }

        #[test]
        fn any_moment_is_representable(seconds in any::<i64>()) {
            prop_assert!(moment(seconds) >= SystemTime::UNIX_EPOCH);
        }
    }
}
