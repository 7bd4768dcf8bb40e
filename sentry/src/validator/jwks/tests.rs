use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::json;

use super::*;

const SENTRY: &str = "spiffe://localhost/ns/default/dapr-sentry";
const ORDERS: &str = "spiffe://public/ns/default/orders";
const NOW: f64 = 1_800_000_000.0;

struct Key {
    pair: KeyPair,
    encoding: EncodingKey,
}

fn key(algorithm: Algorithm) -> Key {
    let pair = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    let (pair, read): (_, fn(&[u8]) -> _) = match algorithm {
        Algorithm::ES256 => (pair(&PKCS_ECDSA_P256_SHA256), EncodingKey::from_ec_pem),
        Algorithm::EdDSA => (pair(&PKCS_ED25519), EncodingKey::from_ed_pem),
        _ => (pair(&PKCS_RSA_SHA256), EncodingKey::from_rsa_pem),
    };
    let encoding = read(pair.serialize_pem().as_bytes()).unwrap();
    Key { pair, encoding }
}

fn set_text(key: &Key, algorithm: Algorithm, id: Option<&str>, with_algorithm: bool) -> String {
    let public = key.pair.public_key_raw();
    let public = match algorithm {
        Algorithm::ES256 => DecodingKey::from_ec_der(public),
        Algorithm::EdDSA => DecodingKey::from_ed_der(public),
        _ => DecodingKey::from_rsa_der(public),
    };
    let mut jwk = Jwk::from_decoding_key(&public, with_algorithm.then_some(algorithm)).unwrap();
    jwk.common.key_id = id.map(str::to_owned);
    json!({"keys": [jwk]}).to_string()
}

fn set(key: &Key, algorithm: Algorithm, id: Option<&str>, with_algorithm: bool) -> KeySet {
    parse(set_text(key, algorithm, id, with_algorithm).as_bytes()).unwrap()
}

fn token(key: &Key, algorithm: Algorithm, id: Option<&str>) -> String {
    let mut header = Header::new(algorithm);
    header.kid = id.map(str::to_owned);
    encode(
        &header,
        &json!({"aud": SENTRY, "sub": ORDERS}),
        &key.encoding,
    )
    .unwrap()
}

#[test]
fn signatures_of_known_keys_are_accepted() {
    for algorithm in [
        Algorithm::RS256,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::EdDSA,
    ] {
        let (ours, other) = (key(algorithm), key(algorithm));
        for with_algorithm in [true, false] {
            let keys = set(&ours, algorithm, Some("a"), with_algorithm);
            let check = |token: String, expected: bool| {
                assert_eq!(keys.verify(&token).is_ok(), expected, "{algorithm:?}")
            };
            check(token(&ours, algorithm, Some("a")), true);
            check(token(&ours, algorithm, None), true);
            check(token(&ours, algorithm, Some("b")), false);
            check(token(&other, algorithm, Some("a")), false);
        }
    }
}

/// A key on P-521, and the JWK of its public half.
fn p521() -> (EcdsaKeyPair, Value) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(66);
    let encode = |bytes| URL_SAFE_NO_PAD.encode::<&[u8]>(bytes);
    let jwk = json!({"kty": "EC", "crv": "P-521", "x": encode(x), "y": encode(y)});
    (pair, jwk)
}

#[test]
fn es512_is_verified_as_the_others_are() {
    let ((ours, jwk), (other, _)) = (p521(), p521());
    let keys = |change: &[(&str, &str)]| {
        let mut jwk = jwk.clone();
        for (name, value) in change {
            jwk[*name] = json!(value);
        }
        parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap()
    };
    let token = |key: &EcdsaKeyPair, header: Value| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&header),
            part(&json!({"aud": SENTRY, "sub": ORDERS}))
        );
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let good = token(&ours, json!({"alg": "ES512", "kid": "a"}));
    let check = |keys: KeySet, token: &str, expected: Result<(), &str>| {
        let found = keys.verify(token).map_err(|denied| denied.to_string());
        let found = found.map(|claims| assert_eq!(claims["sub"], ORDERS));
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected);
    };
    let unknown = Err(
        "token validation failed: could not verify message using any of the signatures or keys",
    );
    check(keys(&[]), &good, Ok(()));
    check(keys(&[("alg", "ES512"), ("kid", "a")]), &good, Ok(()));
    check(keys(&[("alg", "ES256")]), &good, unknown);
    check(keys(&[("kid", "b")]), &good, unknown);
    check(keys(&[("crv", "P-384")]), &good, unknown);
    check(keys(&[("x", "AAAA")]), &good, unknown);
    check(keys(&[]), &token(&other, json!({"alg": "ES512"})), unknown);
    check(keys(&[]), &token(&ours, json!({"alg": "ES256"})), unknown);
    let malformed = Err("token validation failed: invalid JWT");
    check(keys(&[]), &token(&ours, json!({"alg": "ES513"})), malformed);
    check(keys(&[]), &format!("{good}!"), malformed);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    check(keys(&[]), &format!("{signed}A.{signature}"), unknown);
    // A set may have keys of kinds nobody here knows.
    let text = json!({"keys": [{"kty": "OKP", "crv": "X448", "x": "AA", "alg": "ECDH-ES"}, jwk]});
    check(parse(text.to_string().as_bytes()).unwrap(), &good, Ok(()));
}

#[test]
fn a_single_key_is_a_set() {
    let ours = key(Algorithm::ES256);
    let set: Value =
        serde_json::from_str(&set_text(&ours, Algorithm::ES256, Some("a"), true)).unwrap();
    let keys = parse(set["keys"][0].to_string().as_bytes()).unwrap();
    assert!(
        keys.verify(&token(&ours, Algorithm::ES256, Some("a")))
            .is_ok()
    );
    assert!(parse(b"{}").is_err());
}

#[test]
fn only_keys_for_signatures_count() {
    let ours = key(Algorithm::ES256);
    let check = |purpose: Option<&str>, expected: bool| {
        let mut set: Value =
            serde_json::from_str(&set_text(&ours, Algorithm::ES256, None, true)).unwrap();
        set["keys"][0]["use"] = json!(purpose);
        let keys = parse(set.to_string().as_bytes()).unwrap();
        let found = keys.verify(&token(&ours, Algorithm::ES256, None));
        assert_eq!(found.is_ok(), expected, "{purpose:?}");
    };
    check(None, true);
    check(Some("sig"), true);
    check(Some("enc"), false);
    check(Some("other"), false);
}

#[test]
fn a_stated_algorithm_is_binding() {
    let ours = key(Algorithm::RS256);
    let keys = set(&ours, Algorithm::RS256, None, true);
    assert!(keys.verify(&token(&ours, Algorithm::RS512, None)).is_err());
    let keys = set(&ours, Algorithm::RS256, None, false);
    assert!(keys.verify(&token(&ours, Algorithm::RS512, None)).is_ok());
}

fn check(claims: Value, expected: Result<(), &str>) {
    let found = check_claims(&claims, SENTRY, ORDERS, NOW).map_err(|denied| denied.to_string());
    assert_eq!(
        found.as_ref().copied().map_err(String::as_str),
        expected,
        "{claims}"
    );
}

#[test]
fn claims_are_checked_where_present() {
    check(json!({"aud": SENTRY, "sub": ORDERS}), Ok(()));
    check(
        json!({"aud": ["other", SENTRY], "sub": ORDERS, "exp": NOW + 1.0, "nbf": NOW, "iat": NOW}),
        Ok(()),
    );
    check(
        json!({"aud": SENTRY, "sub": ORDERS, "exp": NOW - 299.0}),
        Ok(()),
    );
    check(
        json!({"aud": SENTRY, "sub": ORDERS, "exp": NOW - 300.0}),
        Err("token validation failed: \"exp\" not satisfied"),
    );
    check(
        json!({"aud": SENTRY, "sub": ORDERS, "nbf": NOW + 300.0}),
        Ok(()),
    );
    check(
        json!({"aud": SENTRY, "sub": ORDERS, "nbf": NOW + 301.0}),
        Err("token validation failed: \"nbf\" not satisfied"),
    );
    check(
        json!({"aud": SENTRY, "sub": ORDERS, "iat": NOW + 301.0}),
        Err("token validation failed: \"iat\" not satisfied"),
    );
    check(
        json!({"aud": SENTRY, "sub": ORDERS, "exp": "soon"}),
        Err("token validation failed: invalid JWT"),
    );
    check(
        json!({"aud": "other", "sub": ORDERS}),
        Err(
            "token validation failed: \"aud\" not satisfied: spiffe://localhost/ns/default/dapr-sentry is not in it",
        ),
    );
    check(
        json!({"sub": ORDERS}),
        Err(
            "token validation failed: \"aud\" not satisfied: spiffe://localhost/ns/default/dapr-sentry is not in it",
        ),
    );
    check(
        json!({"aud": SENTRY, "sub": "orders"}),
        Err(
            "token validation failed: \"sub\" not satisfied: it is not spiffe://public/ns/default/orders",
        ),
    );
    check(
        json!({"aud": SENTRY}),
        Err(
            "token validation failed: \"sub\" not satisfied: it is not spiffe://public/ns/default/orders",
        ),
    );
}

#[tokio::test]
async fn a_broken_file_keeps_the_old_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let ours = key(Algorithm::EdDSA);
    std::fs::write(&path, set_text(&ours, Algorithm::EdDSA, None, true)).unwrap();
    let validator = Validator::open(Source::File(path.clone()), &SpiffeId::new(SENTRY).unwrap())
        .await
        .unwrap();
    std::fs::write(&path, "broken").unwrap();
    assert!(validator.reload().await.is_err());
    let request = |token: &str| SignCertificateRequest {
        id: "orders".to_owned(),
        namespace: "default".to_owned(),
        token: token.to_owned(),
        ..Default::default()
    };
    let trust_domain = TrustDomain::new("public").unwrap();
    let token = token(&ours, Algorithm::EdDSA, None);
    validator.validate(&request(&token), &trust_domain).unwrap();
    let from_file = format!(" {token}\n");
    validator
        .validate(&request(&from_file), &trust_domain)
        .unwrap();
    assert!(matches!(
        validator.validate(&request(""), &trust_domain),
        Err(Denied::NoToken)
    ));
    assert!(matches!(
        validator.validate(&request("x"), &trust_domain),
        Err(Denied::Malformed)
    ));
    let other = TrustDomain::new("other").unwrap();
    assert!(matches!(
        validator.validate(&request(&token), &other),
        Err(Denied::Subject(_))
    ));
}

proptest! {
    #[test]
    fn no_token_panics(token in "[a-zA-Z0-9_.-]{0,200}") {
        prop_assert!(KeySet::default().verify(&token).is_err());
    }
}
