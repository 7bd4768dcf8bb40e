use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256,
};
use x509_parser::oid_registry;

use super::*;

const SKEW: Duration = Duration::from_secs(900);

fn now() -> SystemTime {
    SystemTime::now()
}

fn generated() -> Files {
    let trust_domain = TrustDomain::new("localhost").unwrap();
    let sentry = SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap();
    generate(&trust_domain, &sentry, SKEW, now()).unwrap()
}

/// An authority of the kind a user brings: root, intermediate, issuer, all with keys of one algorithm.
fn brought(algorithm: &'static rcgen::SignatureAlgorithm) -> Files {
    let make = |name: &str| {
        let usages = vec![KeyUsagePurpose::KeyCertSign];
        (
            authority(name, usages, SKEW, now()),
            KeyPair::generate_for(algorithm).unwrap(),
        )
    };
    let (root_params, root_key) = make("root");
    let root = root_params.self_signed(&root_key).unwrap().der().clone();
    let root_issuer = Issuer::new(root_params, root_key);
    let (middle_params, middle_key) = make("middle");
    let middle = middle_params
        .signed_by(&middle_key, &root_issuer)
        .unwrap()
        .der()
        .clone();
    let middle_issuer = Issuer::new(middle_params, middle_key);
    let (params, key) = make("issuer");
    let issuer = params
        .signed_by(&key, &middle_issuer)
        .unwrap()
        .der()
        .clone();
    Files {
        root: chain_to_pem(std::slice::from_ref(&root)).into_bytes(),
        chain: format!("# chain\n{}", chain_to_pem(&[issuer, middle, root])).into_bytes(),
        key: key.serialize_pem().into_bytes(),
    }
}

fn check(change: impl FnOnce(&mut Files), expected: &str) {
    let mut files = brought(&PKCS_ECDSA_P256_SHA256);
    change(&mut files);
    let error = Authority::from_files(&files, now())
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains(expected),
        "{error}, expected {expected}"
    );
}

#[test]
fn a_generated_authority_has_upstreams_shape() {
    let files = generated();
    let root = chain_from_pem(&files.root).unwrap();
    let issuer = chain_from_pem(&files.chain).unwrap();
    let (root, issuer) = (
        certificate::parse(&root[0]).unwrap(),
        certificate::parse(&issuer[0]).unwrap(),
    );
    assert_eq!(root.subject().to_string(), "O=localhost");
    assert_eq!(
        issuer.subject().to_string(),
        "O=spiffe://localhost/ns/default/dapr-sentry"
    );
    for (it, crl_sign) in [(&root, false), (&issuer, true)] {
        let usage = it.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_cert_sign());
        assert_eq!(usage.crl_sign(), crl_sign);
        let constraints = it.basic_constraints().unwrap().unwrap();
        assert!(
            constraints.critical
                && constraints.value.ca
                && constraints.value.path_len_constraint.is_none()
        );
        assert!(it.extended_key_usage().unwrap().is_none());
        assert!(it.subject_alternative_name().unwrap().is_none());
        let has = |oid| it.iter_extensions().any(|extension| extension.oid == oid);
        assert!(has(oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER));
        assert!(!has(oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER));
        assert_eq!(
            it.public_key().algorithm.algorithm,
            oid_registry::OID_SIG_ED25519
        );
        let lifetime = it.validity().not_after.timestamp() - it.validity().not_before.timestamp();
        assert_eq!(lifetime, 365 * 24 * 3600 + 900);
    }
    assert!(files.key.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    let authority = Authority::from_files(&files, now()).unwrap();
    assert!(authority.has_key_id());
}

#[test]
fn every_key_type_can_be_brought() {
    let algorithms = [
        &PKCS_ED25519,
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ECDSA_P521_SHA512,
        &PKCS_RSA_SHA256,
    ];
    for algorithm in algorithms {
        let authority = Authority::from_files(&brought(algorithm), now()).unwrap();
        assert_eq!(authority.chain().len(), 2, "the root at the end is dropped");
    }
}

#[test]
fn several_roots_are_allowed() {
    let mut files = generated();
    files.root.extend(generated().root);
    assert_eq!(
        Authority::from_files(&files, now())
            .unwrap()
            .anchors()
            .certificates()
            .len(),
        2
    );
}

#[test]
fn what_is_broken_is_named() {
    let other = || brought(&PKCS_ECDSA_P256_SHA256);
    check(
        |it| it.root = b"text".to_vec(),
        "root certificates are unusable",
    );
    check(
        |it| it.root.clone_from(&it.chain),
        "root certificate 1 of the file is not self-signed",
    );
    check(
        |it| it.chain = Vec::new(),
        "issuer certificate chain is unusable",
    );
    check(
        |it| {
            let mut chain = chain_from_pem(&it.chain).unwrap();
            chain.swap(0, 1);
            it.chain = chain_to_pem(&chain).into_bytes();
        },
        "issuer certificate 1 of the chain is not signed by the next",
    );
    check(|it| it.root = other().root, "not signed by a root");
    check(|it| it.key = other().key, "does not belong to the issuer");
    check(
        |it| it.key = b"text".to_vec(),
        "issuer key is no PEM private key",
    );
    check(
        |it| it.key.clone_from(&it.root),
        "issuer key is no PEM private key",
    );
    let late = now() + Duration::from_secs(366 * 24 * 3600);
    assert!(matches!(
        Authority::from_files(&generated(), late),
        Err(Error::NotValidNow)
    ));
}

#[test]
fn a_leaf_is_no_authority() {
    let params = |name: &str| {
        let mut params = authority(name, Vec::new(), SKEW, now());
        params.is_ca = IsCa::NoCa;
        params
    };
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let leaf = params("leaf").self_signed(&key).unwrap();
    let pem = chain_to_pem(&[leaf.der().clone()]).into_bytes();
    let files = Files {
        root: pem.clone(),
        chain: pem,
        key: key.serialize_pem().into_bytes(),
    };
    assert!(matches!(
        Authority::from_files(&files, now()),
        Err(Error::NotAuthority)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_panics(file in 0usize..3, at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut files = generated();
        let file = match file { 0 => &mut files.root, 1 => &mut files.chain, _ => &mut files.key };
        let at = at.index(file.len());
        file[at] = with;
        drop(Authority::from_files(&files, now()));
    }

    #[test]
    fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let files = Files { root: text.clone(), chain: text.clone(), key: text };
        prop_assert!(Authority::from_files(&files, now()).is_err());
    }
}
