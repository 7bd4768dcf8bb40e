//! Identities for tests, signed by a root of their own.

use dapr_security::{Security, SpiffeId, Svid, TrustAnchors};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    anchors: TrustAnchors,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).expect("signed").der().clone();
        Self {
            issuer: Issuer::from_ca_cert_der(&root, key).expect("an issuer"),
            anchors: TrustAnchors::from_chain(vec![root]).expect("a bundle"),
        }
    }

    /// A process with this identity.
    pub(crate) fn security(&self, id: &SpiffeId) -> Security {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(
            id.to_string().try_into().expect("an IA5 string"),
        )];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params
            .signed_by(&key, &self.issuer)
            .expect("signed")
            .der()
            .clone();
        let svid = Svid::new(vec![leaf], &key).expect("an identity");
        Security::from_issuer(svid, self.anchors.clone())
            .expect("TLS settings")
            .0
    }
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).expect("a SPIFFE id")
}
