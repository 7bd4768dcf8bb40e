//! What is issued: the key of a signing request, and the workload certificate made for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dapr_security::SpiffeId;
use dapr_security::certificate::chain_to_pem;
use rcgen::{PublicKeyData, SigningKey as _};
use rustls_pki_types::CertificateDer;

use crate::ca::{self, Authority};
use crate::der;

mod request;
mod template;

pub(crate) use request::{PublicKey, public_key};
pub(crate) use template::Template;

use template::Leaf;

/// Where the issuer's name stands among the fields of a certificate.
const ISSUER: usize = 3;

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("name {0:?} does not fit into a certificate")]
    Identity(String),
    #[error("lifetime of the certificate is out of range")]
    Lifetime,
    #[error("certificate cannot be signed")]
    Sign(#[from] rcgen::Error),
    #[error("signed certificate cannot be read back")]
    ReadBack,
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
    /// A whole second, as it stands in the certificate.
    pub(crate) not_after: SystemTime,
    /// The serial number without leading zeros.
    pub(crate) serial: Vec<u8>,
    rest: Arc<str>,
}

impl Issued {
    pub(crate) fn pem(&self) -> String {
        let mut pem = chain_to_pem(self.chain.get(..1).unwrap_or_default());
        pem.push_str(&self.rest);
        pem
    }
}

/// Issues a workload certificate. Its end is not capped by the issuer's.
pub(crate) fn issue(
    authority: &Authority,
    key: &impl PublicKeyData,
    order: &Order<'_>,
) -> Result<Issued, Error> {
    let template = authority.template();
    let not_before = whole(order.now.checked_sub(order.clock_skew))?;
    let not_after = whole(order.now.checked_add(order.ttl))?;
    let mut serial = ca::serial().to_bytes();
    let leaf = Leaf {
        serial: &serial,
        not_before,
        not_after,
        key: &key.subject_public_key_info(),
        dns_names: &order.dns_names,
        uri: &order.id.to_string(),
    };
    let leaf = template.sign(&leaf, authority.issuer().key())?;
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    Ok(Issued {
        chain: std::iter::once(leaf.into())
            .chain(authority.chain().iter().cloned())
            .collect(),
        not_after,
        serial: serial.split_off(zeros),
        rest: Arc::clone(template.chain()),
    })
}

/// The second that a moment is in. Moments before 1970 are refused with those that no clock shows.
fn whole(moment: Option<SystemTime>) -> Result<SystemTime, Error> {
    let since = moment.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
    let seconds = since.ok_or(Error::Lifetime)?.as_secs();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The library writes the issuer's name anew and loses repeated parts of it (`DC=example, DC=com`); verifiers compare
/// bytes. Where the two differ, the name is put in as it stands in the issuer's certificate and signed again.
pub(crate) fn with_issuer_name(
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
