use std::time::{Duration, SystemTime};

use dapr_security::{SpiffeId, TrustDomain};
use proptest::collection::vec;
use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;
use crate::ca::{Authority, Plan, generate};
use crate::certificate::{Order, issue};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// `challengePassword` and `unstructuredName`.
const ATTRIBUTES: [&[u64]; 2] = [
    &[1, 2, 840, 113_549, 1, 9, 7],
    &[1, 2, 840, 113_549, 1, 9, 2],
];
/// `basicConstraints`, `keyUsage`, `subjectAltName`, `authorityKeyIdentifier`, `nameConstraints` and one of nobody.
const EXTENSIONS: [&[u64]; 6] = [
    &[2, 5, 29, 19],
    &[2, 5, 29, 15],
    &[2, 5, 29, 17],
    &[2, 5, 29, 35],
    &[2, 5, 29, 30],
    &[1, 3, 6, 1, 4, 1, 99_999, 1],
];

fn authority() -> Authority {
    let now = SystemTime::now();
    let plan = Plan {
        trust_domain: &TrustDomain::new("localhost").unwrap(),
        sentry: &SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap(),
        clock_skew: HOUR,
        validity: YEAR,
        now,
    };
    Authority::from_files(&generate(&plan).unwrap(), now).unwrap()
}

fn key(request: &str) -> PublicKey {
    public_key(request.as_bytes()).unwrap()
}

#[test]
fn keys_are_written_as_the_library_writes_them() {
    for (kind, _) in &KINDS {
        let pair = KeyPair::generate_for(kind).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&pair)
            .unwrap();
        let key = key(&request.pem().unwrap());
        assert_eq!(
            key.subject_public_key_info(),
            pair.subject_public_key_info()
        );
        assert_eq!(key.der_bytes(), pair.der_bytes());
        assert_eq!(key.algorithm(), *kind);
    }
}

#[test]
fn a_key_with_other_parameters_is_refused() {
    // Ed25519 has no parameters; a NULL, or anything else there, would be bytes of the sender's.
    let algorithm = [0x30, 7, 6, 3, 0x2b, 0x65, 0x70, 5, 0];
    assert_eq!(PublicKey::new(&algorithm, &[1; 32]), None);
    assert_eq!(PublicKey::new(&[], &[1; 32]), None);
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]{1,12}(\\.[a-z]{1,12}){0,2}"
}

fn alternative_name() -> impl Strategy<Value = SanType> {
    prop_oneof![
        name().prop_map(|name| SanType::DnsName(name.try_into().unwrap())),
        name().prop_map(|name| SanType::Rfc822Name(format!("a@{name}").try_into().unwrap())),
        name().prop_map(|name| SanType::URI(format!("spiffe://{name}/x").try_into().unwrap())),
        any::<[u8; 4]>().prop_map(|address| SanType::IpAddress(address.into())),
    ]
}

fn authority_flag() -> impl Strategy<Value = IsCa> {
    prop_oneof![
        Just(IsCa::NoCa),
        Just(IsCa::ExplicitNoCa),
        Just(IsCa::Ca(BasicConstraints::Unconstrained)),
        any::<u8>().prop_map(|length| IsCa::Ca(BasicConstraints::Constrained(length))),
    ]
}

prop_compose! {
    /// Everything that a request can ask for.
    fn wishes()(
        subject in vec((prop_oneof![
            Just(DnType::CommonName), Just(DnType::OrganizationName), Just(DnType::OrganizationalUnitName),
        ], name()), 0..4),
        names in vec(alternative_name(), 0..4),
        is_ca in authority_flag(),
        usages in proptest::sample::subsequence(vec![
            KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyAgreement,
        ], 0..=3),
        extended in proptest::sample::subsequence(vec![
            ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::OcspSigning, ExtendedKeyUsagePurpose::Any,
        ], 0..=3),
        extensions in vec((proptest::sample::select(EXTENSIONS.to_vec()), vec(any::<u8>(), 0..40), any::<bool>()), 0..4),
        attributes in vec((proptest::sample::select(ATTRIBUTES.to_vec()), name()), 0..3),
    ) -> (CertificateParams, Vec<Attribute>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (part, name) in subject {
            params.distinguished_name.push(part, name);
        }
        params.subject_alt_names = names;
        params.is_ca = is_ca;
        params.key_usages = usages;
        params.extended_key_usages = extended;
        params.custom_extensions = extensions
            .into_iter()
            .map(|(oid, content, critical)| {
                let mut extension = CustomExtension::from_oid_content(oid, der::octet_string(&content));
                extension.set_criticality(critical);
                extension
            })
            .collect();
        let attributes = attributes
            .into_iter()
            .map(|(oid, text)| Attribute { oid, values: der::element(0x31, &[&der::element(0x0c, &[text.as_bytes()])]) })
            .collect();
        (params, attributes)
    }
}

/// The certificate's fields but serial number and validity.
fn lasting_fields(authority: &Authority, key: &PublicKey) -> Vec<Vec<u8>> {
    let order = Order {
        id: &SpiffeId::new("spiffe://public/ns/default/orders").unwrap(),
        dns_names: Vec::new(),
        now: SystemTime::now(),
        ttl: HOUR,
        clock_skew: HOUR,
    };
    let issued = issue(authority, key, &order).unwrap();
    let body = der::elements(&issued.chain[0]).unwrap()[0];
    let fields = der::elements(body).unwrap();
    assert_eq!(fields.len(), 8);
    [0, 2, 3, 5, 6, 7].map(|at| fields[at].to_vec()).to_vec()
}

proptest! {
    #[test]
    fn whatever_is_asked_for_only_the_key_survives((params, attributes) in wishes(), kind in 0..KINDS.len() - 1) {
        let pair = KeyPair::generate_for(KINDS[kind].0).unwrap();
        let mut plain = CertificateParams::default();
        plain.distinguished_name = DistinguishedName::new();
        let plain = plain.serialize_request(&pair).unwrap().pem().unwrap();
        let asked = params.serialize_request_with_attributes(&pair, attributes).unwrap().pem().unwrap();
        prop_assert_eq!(key(&asked), key(&plain));
        prop_assert_eq!(key(&asked).subject_public_key_info(), pair.subject_public_key_info());
        let authority = authority();
        let (asked, plain) = (lasting_fields(&authority, &key(&asked)), lasting_fields(&authority, &key(&plain)));
        prop_assert_eq!(asked, plain);
    }
}
