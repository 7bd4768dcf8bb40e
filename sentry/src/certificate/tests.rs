use dapr_security::certificate::{leaf, parse};
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{KeyKind, Svid, TrustDomain};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, PKCS_RSA_SHA256,
};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};

use super::*;
use crate::ca::{Files, Plan, generate};

const ID: &str = "spiffe://public/ns/default/orders";
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH
        + Duration::from_secs(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
}

fn authority() -> Authority {
    let trust_domain = TrustDomain::new("localhost").unwrap();
    let sentry = SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap();
    let plan = Plan {
        trust_domain: &trust_domain,
        sentry: &sentry,
        clock_skew: HOUR,
        validity: HOUR * 24 * 365,
        now: now(),
    };
    Authority::from_files(&generate(&plan).unwrap(), now()).unwrap()
}

fn issued(authority: &Authority, key: &impl PublicKeyData, dns_names: &[&str]) -> Issued {
    let id = SpiffeId::new(ID).unwrap();
    let dns_names = dns_names.iter().map(ToString::to_string).collect();
    let order = Order {
        id: &id,
        dns_names,
        now: now(),
        ttl: HOUR * 24,
        clock_skew: HOUR / 4,
    };
    issue(authority, key, &order).unwrap()
}

#[test]
fn a_workload_certificate_has_upstreams_fields() {
    let authority = authority();
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let issued = issued(&authority, &key, &["dapr-webhook.dapr-system.svc"]);
    let (leaf, issuer) = (
        parse(&issued.chain[0]).unwrap(),
        parse(&issued.chain[1]).unwrap(),
    );

    assert_eq!(leaf.subject().iter().count(), 0);
    assert!((8..=17).contains(&leaf.raw_serial().len()) && leaf.raw_serial()[0] < 0x80);
    let start = leaf.validity().not_before.timestamp();
    assert_eq!(
        leaf.validity().not_after.timestamp() - start,
        24 * 3600 + 900
    );
    assert_eq!(
        issued.not_after,
        now_of(leaf.validity().not_after.timestamp())
    );

    let usage = leaf.key_usage().unwrap().unwrap();
    assert_eq!(usage.value.flags, 1);
    let extended = leaf.extended_key_usage().unwrap().unwrap();
    assert!(
        extended.value.server_auth && extended.value.client_auth && extended.value.other.is_empty()
    );
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    let expected = [
        GeneralName::DNSName("dapr-webhook.dapr-system.svc"),
        GeneralName::URI(ID),
    ];
    assert_eq!(names.value.general_names, expected);
    let has = |oid| leaf.iter_extensions().any(|extension| extension.oid == oid);
    assert!(!has(OID_X509_EXT_BASIC_CONSTRAINTS) && !has(OID_X509_EXT_SUBJECT_KEY_IDENTIFIER));
    let pointed = leaf
        .iter_extensions()
        .find_map(|it| match it.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        });
    let own = issuer
        .iter_extensions()
        .find_map(|it| match it.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    assert!(own.is_some());
    assert_eq!(pointed, own);
    leaf.verify_signature(Some(issuer.public_key())).unwrap();
}

fn now_of(seconds: i64) -> SystemTime {
    dapr_security::certificate::moment(seconds)
}

#[test]
fn every_key_type_is_signed() {
    let authority = authority();
    let algorithms = [
        &PKCS_ED25519,
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ECDSA_P521_SHA512,
        &PKCS_RSA_SHA256,
    ];
    for algorithm in algorithms {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = signing_request(&key).unwrap();
        let issued = issued(&authority, &public_key(request.as_bytes()).unwrap(), &[]);
        assert_eq!(leaf(&issued.chain[0]).unwrap().spiffe_id.to_string(), ID);
        Svid::from_pem(issued.pem().as_bytes(), &key).unwrap();
    }
}

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "evil");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])];
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = issued(&authority(), &public_key(request.as_bytes()).unwrap(), &[]);
    let leaf = parse(&issued.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(
        leaf.subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names,
        [GeneralName::URI(ID)]
    );
    assert_eq!(leaf.extensions().len(), 4);
}

fn check(request: &[u8], expected: &str) {
    let error = public_key(request).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().starts_with(expected),
        "{error}, expected {expected}"
    );
}

#[test]
fn broken_requests_are_refused() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let request = signing_request(&key).unwrap();
    check(b"", "invalid certificate signing request: no PEM block");
    check(b"text", "invalid certificate signing request: no PEM block");
    check(
        key.serialize_pem().as_bytes(),
        "invalid certificate signing request: unexpected PEM block \"PRIVATE KEY\"",
    );
    check(
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "failed to parse certificate signing request",
    );
    let mut der = pem::parse(&request).unwrap().into_contents();
    if let Some(last) = der.last_mut() {
        *last ^= 1;
    }
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    check(forged.as_bytes(), "invalid signature");
    // Upstream also takes this block name for a request.
    let renamed = request.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    assert!(public_key(renamed.as_bytes()).is_ok());
}

/// `DC=example, DC=com, O=CA`: the library would keep one of the two domain components.
#[test]
fn an_issuer_with_repeated_name_parts_stays_verifiable() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "aa");
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "bb");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = params.self_signed(&key).unwrap().der().clone();
    // O (2.5.4.10) becomes OU (2.5.4.11) in subject and issuer, and the certificate is signed again.
    let [tbs, algorithm, _] = fields::<3>(&der).unwrap();
    let mut tbs = tbs.to_vec();
    while let Some(at) = tbs.windows(5).position(|bytes| bytes == [6, 3, 85, 4, 10]) {
        tbs[at + 4] = 11;
    }
    let signature = der::bit_string(&key.sign(&tbs).unwrap());
    let root = CertificateDer::from(der::sequence(&[&tbs, algorithm, &signature]));
    let pem = chain_to_pem(&[root]).into_bytes();
    let files = Files {
        root: pem.clone(),
        chain: pem,
        key: key.serialize_pem().into_bytes(),
    };
    let authority = Authority::from_files(&files, now()).unwrap();
    let workload = generate_key(KeyKind::Ed25519).unwrap();
    let issued = issued(&authority, &workload, &[]);
    let (leaf, issuer) = (
        parse(&issued.chain[0]).unwrap(),
        parse(&issued.chain[1]).unwrap(),
    );
    assert_eq!(leaf.issuer().to_string(), "OU=aa, OU=bb");
    assert_eq!(leaf.issuer().as_raw(), issuer.subject().as_raw());
    leaf.verify_signature(Some(issuer.public_key())).unwrap();
}

#[test]
fn lifetimes_out_of_range_are_errors() {
    let (authority, key, id) = (
        authority(),
        generate_key(KeyKind::Ed25519).unwrap(),
        SpiffeId::new(ID).unwrap(),
    );
    let order = |ttl, clock_skew| Order {
        id: &id,
        dns_names: Vec::new(),
        now: now(),
        ttl,
        clock_skew,
    };
    assert!(matches!(
        issue(&authority, &key, &order(Duration::MAX, HOUR)),
        Err(Error::Lifetime)
    ));
    assert!(matches!(
        issue(&authority, &key, &order(HOUR * 24 * 365 * 9000, HOUR)),
        Err(Error::Lifetime)
    ));
    assert!(matches!(
        issue(&authority, &key, &order(HOUR, Duration::MAX)),
        Err(Error::Lifetime)
    ));
    assert!(matches!(
        issue(&authority, &key, &order(HOUR, HOUR * 24 * 365 * 200)),
        Err(Error::Lifetime)
    ));
    // Longer than the issuer itself is fine.
    assert!(issue(&authority, &key, &order(HOUR * 24 * 365 * 30, HOUR)).is_ok());
}

proptest! {
    #[test]
    fn no_request_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(public_key(&bytes));
        let framed = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", bytes));
        prop_assert!(public_key(framed.as_bytes()).is_err());
    }

    #[test]
    fn no_damage_panics(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut der = pem::parse(signing_request(&key).unwrap()).unwrap().into_contents();
        let at = at.index(der.len());
        der[at] = with;
        drop(public_key(pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)).as_bytes()));
    }
}
