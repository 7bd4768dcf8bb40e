//! A certificate authority for tests: one self-signed Ed25519 root that signs leaves.

use std::time::Duration;

use dapr_security::{Publisher, Security, Svid, TrustAnchors};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

pub(crate) struct Authority {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::from_ca_cert_der(&root, key).unwrap(),
            root,
        }
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        TrustAnchors::from_chain(vec![self.root.clone()]).unwrap()
    }

    pub(crate) fn leaf(
        &self,
        id: &str,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = OffsetDateTime::now_utc();
        params.not_after = OffsetDateTime::now_utc() + lifetime;
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    pub(crate) fn svid(&self, id: &str) -> Svid {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        Svid::new(vec![self.leaf(id, &key, Duration::from_secs(3600))], &key).unwrap()
    }

    pub(crate) fn security(&self, id: &str) -> (Security, Publisher) {
        Security::from_issuer(self.svid(id), self.anchors()).unwrap()
    }

    /// Signs the key of a PEM request.
    pub(crate) fn sign(&self, id: &str, request: &[u8], lifetime: Duration) -> String {
        use x509_parser::prelude::{FromDer, X509CertificationRequest};
        let request = pem::parse(request).unwrap();
        let (_, request) = X509CertificationRequest::from_der(request.contents()).unwrap();
        request.verify_signature().unwrap();
        let key =
            SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
                .unwrap();
        dapr_security::certificate::chain_to_pem(&[self.leaf(id, &key, lifetime)])
    }
}
