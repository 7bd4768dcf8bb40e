use std::time::Duration;

use dapr_e2e_apiserver::preparation::skipped;
use proptest::prelude::*;
use rcgen::{
    ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256, SigningKey as _,
};
use x509_parser::oid_registry;

use super::*;
use crate::der;

const SKEW: Duration = Duration::from_secs(900);

fn now() -> SystemTime {
    SystemTime::now()
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn with_plan<T>(validity: Duration, use_it: impl FnOnce(&Plan<'_>) -> T) -> T {
    use_it(&Plan {
        trust_domain: &TrustDomain::new("localhost").unwrap(),
        sentry: &SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap(),
        clock_skew: SKEW,
        validity,
        now: now(),
    })
}

fn generated() -> Files {
    with_plan(YEAR, |plan| generate(plan).unwrap())
}

fn params(name: &str, usages: Vec<KeyUsagePurpose>) -> CertificateParams {
    with_plan(YEAR, |plan| authority(name, usages, plan))
}

/// An authority of the kind a user brings: root, intermediate, issuer, all with keys of one algorithm.
fn brought(algorithm: &'static rcgen::SignatureAlgorithm) -> Files {
    brought_with(algorithm, |_, _, _| ())
}

/// As [`brought`], with other contents of the three certificates.
fn brought_with(
    algorithm: &'static rcgen::SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams, &mut CertificateParams, &mut CertificateParams),
) -> Files {
    let [mut root, mut middle, mut issuer] =
        ["root", "middle", "issuer"].map(|name| params(name, vec![KeyUsagePurpose::KeyCertSign]));
    change(&mut root, &mut middle, &mut issuer);
    let [root_key, middle_key, key] = [(); 3].map(|()| KeyPair::generate_for(algorithm).unwrap());
    let root_der = root.self_signed(&root_key).unwrap().der().clone();
    let root = Issuer::new(root, root_key);
    let middle_der = middle.signed_by(&middle_key, &root).unwrap().der().clone();
    let middle = Issuer::new(middle, middle_key);
    let issuer = issuer.signed_by(&key, &middle).unwrap().der().clone();
    Files {
        root: chain_to_pem(std::slice::from_ref(&root_der)).into_bytes(),
        chain: format!("# chain\n{}", chain_to_pem(&[issuer, middle_der, root_der])).into_bytes(),
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
    Authority::from_files(&files, now()).unwrap();
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

/// What OpenSSL makes of a text; none if there is no OpenSSL that can.
fn openssl(arguments: &[&str], input: &str) -> Option<String> {
    use std::io::Write as _;
    let mut child = std::process::Command::new("openssl")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok();
    text.filter(|_| output.status.success())
}

#[test]
fn keys_of_the_older_forms_can_be_brought() {
    for (algorithm, block, arguments) in [
        (
            &PKCS_ECDSA_P256_SHA256,
            "EC PRIVATE KEY",
            &["ec"] as &[&str],
        ),
        (&PKCS_ECDSA_P384_SHA384, "EC PRIVATE KEY", &["ec"]),
        (
            &PKCS_RSA_SHA256,
            "RSA PRIVATE KEY",
            &["rsa", "-traditional"],
        ),
    ] {
        let mut files = brought(algorithm);
        let text = String::from_utf8(files.key.clone()).unwrap();
        let Some(key) = openssl(arguments, &text) else {
            return skipped("sentry: keys in SEC1 and PKCS#1", "there is no openssl 3").unwrap();
        };
        assert!(key.contains(block), "{block}");
        files.key = key.into_bytes();
        let authority = Authority::from_files(&files, now()).unwrap();
        assert!(accepts(authority.anchors().certificates(), &authority));
        // OpenSSL names the curve in a block of its own before the key.
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        files.key.splice(0..0, parameters.bytes());
        assert!(Authority::from_files(&files, now()).is_ok(), "{block}");
    }
}

/// Written by the original's sentry 1.18.3 in standalone mode, without any flag but places and ports. Nobody trusts it.
fn of_the_original() -> Files {
    Files {
        root: include_bytes!("../../tests/upstream/ca.crt").to_vec(),
        chain: include_bytes!("../../tests/upstream/issuer.crt").to_vec(),
        key: include_bytes!("../../tests/upstream/issuer.key").to_vec(),
    }
}

#[test]
fn an_authority_of_the_original_signs_and_is_rotated() {
    let files = of_the_original();
    let root = chain_from_pem(&files.root).unwrap();
    let begin = certificate::parse(&root[0]).unwrap().validity().not_before;
    // A day of its own year, whatever the clock of this machine says.
    let now = moment(begin.timestamp()) + Duration::from_secs(30 * 24 * 3600);
    let (trust_domain, sentry) = (
        TrustDomain::new("localhost").unwrap(),
        SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap(),
    );
    let issued = |authority: &Authority| {
        let order = crate::certificate::Order {
            id: &SpiffeId::new("spiffe://public/ns/default/orders").unwrap(),
            dns_names: Vec::new(),
            now,
            ttl: Duration::from_secs(3600),
            clock_skew: SKEW,
        };
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        crate::certificate::issue(authority, &key, &order)
            .unwrap()
            .chain
    };
    let old = Authority::from_files(&files, now).unwrap();
    assert!(old.is_generated(&trust_domain, &sentry));
    old.anchors().verify(&issued(&old), now).unwrap();

    let plan = Plan {
        trust_domain: &trust_domain,
        sentry: &sentry,
        clock_skew: SKEW,
        validity: YEAR,
        now,
    };
    let next = succeed(&old, &plan).unwrap();
    let both = Authority::from_files(&next, now).unwrap();
    // Before and after the switch, for who knows the new bundle and for who knows the old root only.
    for (authority, anchors) in [(&old, &both), (&both, &both), (&both, &old)] {
        anchors.anchors().verify(&issued(authority), now).unwrap();
    }
    let files = retire(&next, old.signing_roots()).unwrap();
    let new = Authority::from_files(&files, now).unwrap();
    new.anchors().verify(&issued(&new), now).unwrap();
    old.anchors().verify(&issued(&new), now).unwrap();
    assert!(new.anchors().verify(&issued(&old), now).is_err());
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
    let mut params = params("leaf", Vec::new());
    params.is_ca = IsCa::NoCa;
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let leaf = params.self_signed(&key).unwrap();
    let pem = chain_to_pem(&[leaf.der().clone()]).into_bytes();
    let files = Files {
        root: pem.clone(),
        chain: pem,
        key: key.serialize_pem().into_bytes(),
    };
    assert!(matches!(
        Authority::from_files(&files, now()),
        Err(Error::NotAuthority(Place::Chain(0)))
    ));
}

/// Changes of root, intermediate and issuer.
type Change = fn(&mut CertificateParams, &mut CertificateParams, &mut CertificateParams);

fn check_brought(change: Change, expected: Option<&str>) {
    let files = brought_with(&PKCS_ED25519, change);
    let found = Authority::from_files(&files, now()).map(|_| ());
    let found = found.map_err(|error| dapr_kit::process::chain(&error));
    match (&found, expected) {
        (Ok(()), None) => {}
        (Err(found), Some(expected)) => assert!(found.contains(expected), "{found}"),
        (Ok(()) | Err(_), _) => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn what_no_peer_accepts_is_refused() {
    check_brought(
        |_, _, issuer| issuer.is_ca = IsCa::ExplicitNoCa,
        Some("issuer certificate may not sign certificates"),
    );
    check_brought(
        |_, _, issuer| issuer.is_ca = IsCa::NoCa,
        Some("issuer certificate may not sign certificates"),
    );
    check_brought(
        |_, _, issuer| issuer.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        Some("issuer certificate may not sign certificates"),
    );
    check_brought(
        |_, middle, _| middle.is_ca = IsCa::NoCa,
        Some("certificate 2 of the issuer certificate chain may not sign certificates"),
    );
    check_brought(
        |_, middle, _| middle.key_usages = vec![KeyUsagePurpose::CrlSign],
        Some("certificate 2 of the issuer certificate chain may not sign certificates"),
    );
    check_brought(
        |root, _, _| root.is_ca = IsCa::NoCa,
        Some("root certificate 1 of the file may not sign certificates"),
    );
    check_brought(
        |root, _, _| root.key_usages = vec![KeyUsagePurpose::CrlSign],
        Some("root certificate 1 of the file may not sign certificates"),
    );
    check_brought(
        |_, middle, _| middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        Some("certificate 2 of the issuer certificate chain allows fewer"),
    );
    check_brought(
        |root, _, _| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)),
        Some("root certificate 1 of the file allows fewer"),
    );
    // What only the verifier knows.
    let not_accepted = "workloads' certificates would not be accepted by their peers: clients do";
    check_brought(
        |_, middle, _| middle.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        Some(not_accepted),
    );
    check_brought(
        |_, middle, _| {
            middle.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DirectoryName(DistinguishedName::new())],
                excluded_subtrees: Vec::new(),
            });
        },
        Some(not_accepted),
    );
}

#[test]
fn what_peers_accept_is_taken() {
    check_brought(
        |root, middle, issuer| {
            for it in [root, middle, issuer] {
                it.key_usages.clear();
            }
        },
        None,
    );
    check_brought(
        |root, middle, issuer| {
            root.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
            middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
            issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        },
        None,
    );
    // Another root of the bundle is no concern of this issuer.
    let mut files = brought(&PKCS_ED25519);
    files
        .root
        .extend(brought_with(&PKCS_ED25519, |root, _, _| root.is_ca = IsCa::NoCa).root);
    Authority::from_files(&files, now()).unwrap();
}

/// The certificate as it would be in version 1, which has no extensions.
fn without_extensions(certificate: &[u8], key: &KeyPair) -> CertificateDer<'static> {
    let parts = der::elements(certificate).unwrap();
    let fields = der::elements(parts[0]).unwrap();
    let body = der::sequence(&fields[1..7]);
    let signature = der::bit_string(&key.sign(&body).unwrap());
    der::sequence(&[&body, parts[1], &signature]).into()
}

#[test]
fn a_root_of_version_1_is_one() {
    let root_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let root = params("root", Vec::new());
    let root_der = without_extensions(root.self_signed(&root_key).unwrap().der(), &root_key);
    let issuer = params("issuer", vec![KeyUsagePurpose::KeyCertSign]);
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let issuer = issuer
        .signed_by(&key, &Issuer::new(root, root_key))
        .unwrap();
    let files = super::files(&[root_der], &[issuer.der().clone()], &key);
    let authority = Authority::from_files(&files, now()).unwrap();
    assert!(accepts(authority.anchors().certificates(), &authority));
}

#[test]
fn openssl_reads_the_keys() {
    let next = succeeded(&generated()).key;
    for key in [generated().key, next] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &key).unwrap();
        let read = std::process::Command::new("openssl")
            .args(["pkey", "-noout", "-in"])
            .arg(file.path())
            .output();
        match read {
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{told}");
            }
            Err(_) => skipped("sentry: openssl pkey", "there is no openssl").unwrap(),
        }
        let block = pem::parse(&key).unwrap();
        let fields = der::elements(block.contents()).unwrap();
        assert_eq!(fields.len(), 3, "version, algorithm, key");
    }
}

/// Whether a verifier that has `roots` only accepts a certificate of the authority: the library all our peers use.
fn accepts(roots: &[CertificateDer<'static>], authority: &Authority) -> bool {
    let id = SpiffeId::new("spiffe://public/ns/default/orders").unwrap();
    let order = crate::certificate::Order {
        id: &id,
        dns_names: Vec::new(),
        now: now(),
        ttl: Duration::from_secs(3600),
        clock_skew: SKEW,
    };
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let issued = crate::certificate::issue(authority, &key, &order).unwrap();
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let leaf = rustls::server::ParsedCertificate::try_from(&issued.chain[0]).unwrap();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &leaf,
        &store,
        &issued.chain[1..],
        rustls_pki_types::UnixTime::now(),
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
    )
    .is_ok()
}

fn succeeded(files: &Files) -> Files {
    let current = Authority::from_files(files, now()).unwrap();
    with_plan(YEAR, |plan| succeed(&current, plan).unwrap())
}

#[test]
fn a_successor_is_trusted_by_who_knows_the_old_root_and_by_who_knows_the_new() {
    let mut files = generated();
    let mut roots = chain_from_pem(&files.root).unwrap();
    for generation in 1..=2 {
        let before = Authority::from_files(&files, now()).unwrap();
        files = succeeded(&files);
        let after = Authority::from_files(&files, now()).unwrap();
        let all = chain_from_pem(&files.root).unwrap();
        assert_eq!(all.len(), 2, "{generation}");
        assert!(accepts(&all, &before) && accepts(&all, &after));
        roots.push(all[1].clone());
        for root in &roots {
            assert!(accepts(std::slice::from_ref(root), &after), "{generation}");
        }
        assert_ne!(before.fingerprint(), after.fingerprint());
        files = retire(&files, before.signing_roots()).unwrap();
        let retired = Authority::from_files(&files, now()).unwrap();
        assert_eq!(retired.anchors().certificates(), &all[1..]);
        for root in &roots {
            assert!(
                accepts(std::slice::from_ref(root), &retired),
                "{generation}"
            );
        }
    }
    let stranger = chain_from_pem(&generated().root).unwrap();
    assert!(!accepts(
        &stranger,
        &Authority::from_files(&files, now()).unwrap()
    ));
}

#[test]
fn chains_do_not_grow_for_ever() {
    let mut files = generated();
    for _ in 0..5 {
        let current = Authority::from_files(&files, now()).unwrap();
        files = retire(&succeeded(&files), current.signing_roots()).unwrap();
        let authority = Authority::from_files(&files, now()).unwrap();
        assert!(authority.chain().len() <= LONGEST_CHAIN);
        assert!(accepts(authority.anchors().certificates(), &authority));
    }
}

#[test]
fn an_issuer_that_may_sign_no_further_authority_is_not_made_to() {
    let root_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let root = params("root", vec![KeyUsagePurpose::KeyCertSign]);
    let root_der = root.self_signed(&root_key).unwrap().der().clone();
    let mut issuer = params("issuer", vec![KeyUsagePurpose::KeyCertSign]);
    issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let issuer = issuer
        .signed_by(&key, &Issuer::from_params(&root, &root_key))
        .unwrap();
    let files = super::files(&[root_der], &[issuer.der().clone()], &key);
    let next = Authority::from_files(&succeeded(&files), now()).unwrap();
    assert_eq!(next.chain().len(), 1);
    assert!(accepts(next.anchors().certificates(), &next));
}

#[test]
fn only_a_generated_authority_is_sentrys_own() {
    let trust_domain = TrustDomain::new("localhost").unwrap();
    let sentry = SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap();
    let is_own = |files: &Files| {
        Authority::from_files(files, now())
            .unwrap()
            .is_generated(&trust_domain, &sentry)
    };
    assert!(is_own(&generated()));
    assert!(is_own(&succeeded(&generated())));
    assert!(!is_own(&brought(&PKCS_ED25519)));
}

#[test]
fn an_expired_end_of_the_chain_is_not_sent() {
    let old = with_plan(Duration::from_secs(3600), |plan| generate(plan).unwrap());
    let current = Authority::from_files(&old, now()).unwrap();
    let next = with_plan(YEAR, |plan| succeed(&current, plan).unwrap());
    let later = now() + Duration::from_secs(7200);
    let authority = Authority::from_files(&next, later).unwrap();
    assert_eq!(
        authority.chain().len(),
        1,
        "what led to the old root has run out"
    );
    assert!(matches!(
        Authority::from_files(&old, later),
        Err(Error::NotValidNow)
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
