use jsonwebtoken::{Validation, decode, decode_header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ID: &str = "spiffe://public/ns/default/orders";
const NOW: u64 = 1_800_000_000;

fn config(algorithm: Algorithm) -> Config {
    Config {
        algorithm,
        key_id: None,
        issuer: None,
        ttl: Duration::from_secs(3600),
        clock_skew: Duration::from_secs(900),
    }
}

fn brought(algorithm: Algorithm) -> Files {
    let pair = KeyPair::generate_for(match algorithm {
        Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
        Algorithm::ES384 => &PKCS_ECDSA_P384_SHA384,
        Algorithm::EdDSA => &PKCS_ED25519,
        _ => &PKCS_RSA_SHA256,
    })
    .unwrap();
    let key = pair.serialize_pem().into_bytes();
    let (_, mut public) = signing_key(&key, algorithm).unwrap();
    public.common.key_id = Some("mine".to_owned());
    Files {
        key,
        keys: serde_json::to_vec(&JwkSet { keys: vec![public] }).unwrap(),
    }
}

fn read(token: &str, signer: &Signer) -> Value {
    let keys: JwkSet = serde_json::from_slice(signer.key_set()).unwrap();
    let mut validation = Validation::new(signer.config.algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    decode::<Value>(
        token,
        &DecodingKey::from_jwk(&keys.keys[0]).unwrap(),
        &validation,
    )
    .unwrap()
    .claims
}

fn issue(signer: &Signer, audiences: &[&str]) -> Tokens {
    let audiences: Vec<_> = audiences.iter().map(ToString::to_string).collect();
    signer
        .issue(
            &SpiffeId::new(ID).unwrap(),
            &audiences,
            UNIX_EPOCH + Duration::from_secs(NOW),
        )
        .unwrap()
}

#[test]
fn a_generated_key_publishes_and_names_itself() {
    let files = generate(&config(Algorithm::RS256)).unwrap();
    let keys: Value = serde_json::from_slice(&files.keys).unwrap();
    assert_eq!(keys["keys"][0]["alg"], "RS256");
    assert_eq!(keys["keys"][0]["use"], "sig");
    let signer = Signer::from_files(files, config(Algorithm::RS256)).unwrap();
    let tokens = issue(&signer, &[]);
    let header = decode_header(&tokens.all).unwrap();
    assert_eq!(
        (header.alg, header.typ.as_deref()),
        (Algorithm::RS256, Some("JWT"))
    );
    assert_eq!(keys["keys"][0]["kid"], header.kid.unwrap());
    // Standard base64 of 32 bytes ends in one padding character.
    assert!(keys["keys"][0]["kid"].as_str().unwrap().ends_with('='));
}

#[test]
fn claims_are_upstreams() {
    let mut config = config(Algorithm::EdDSA);
    config.issuer = Some("https://issuer.example".to_owned());
    let signer = Signer::from_files(brought(Algorithm::EdDSA), config).unwrap();
    let tokens = issue(&signer, &["a", "b", "a"]);
    let mut claims = read(&tokens.all, &signer);
    let id = claims["jti"].take();
    assert_eq!(id.as_str().unwrap().len(), 32);
    let expected = json!({
        "sub": ID, "aud": ["public", "a", "b", "a"], "iat": NOW, "nbf": NOW - 900, "exp": NOW + 3600,
        "jti": null, "use": "sig", "iss": "https://issuer.example",
    });
    assert_eq!(claims, expected);
    assert_eq!(tokens.per_audience.len(), 3);
    for (audience, token) in &tokens.per_audience {
        assert_eq!(read(token, &signer)["aud"], json!([audience]));
    }
}

#[test]
fn without_an_issuer_there_is_no_claim_of_it() {
    let signer = Signer::from_files(brought(Algorithm::ES256), config(Algorithm::ES256)).unwrap();
    assert_eq!(read(&issue(&signer, &[]).all, &signer).get("iss"), None);
}

#[test]
fn every_algorithm_signs() {
    for name in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ] {
        let algorithm = algorithm(name).unwrap();
        let signer = Signer::from_files(brought(algorithm), config(algorithm)).unwrap();
        assert_eq!(read(&issue(&signer, &[]).all, &signer)["sub"], ID, "{name}");
    }
    for name in ["HS256", "ES512", "none", ""] {
        assert!(algorithm(name).is_err(), "{name}");
    }
}

fn check(change: impl FnOnce(&mut Files, &mut Config), expected: &str) {
    let (mut files, mut config) = (brought(Algorithm::ES256), config(Algorithm::ES256));
    change(&mut files, &mut config);
    let error = Signer::from_files(files, config)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_broken_is_named() {
    check(
        |files, _| files.key = b"text".to_vec(),
        "no PEM private key",
    );
    check(|files, _| files.keys = b"text".to_vec(), "no valid JWKS");
    check(
        |files, _| files.keys = b"{\"keys\": []}".to_vec(),
        "key set is empty",
    );
    check(
        |files, _| files.keys = brought(Algorithm::ES256).keys,
        "lacks the public key",
    );
    check(
        |_, config| config.algorithm = Algorithm::RS256,
        "does not fit the signing key",
    );
    check(
        |_, config| config.algorithm = Algorithm::ES384,
        "does not fit the signing key",
    );
    check(
        |_, config| config.key_id = Some("other".to_owned()),
        "with the id \"other\"",
    );
    check(
        |files, _| {
            let text = String::from_utf8(files.keys.clone()).unwrap();
            files.keys = text
                .replace("\"kty\"", "\"use\":\"enc\",\"kty\"")
                .into_bytes();
        },
        "lacks the public key",
    );
    let mut named = config(Algorithm::ES256);
    named.key_id = Some("mine".to_owned());
    let signer = Signer::from_files(brought(Algorithm::ES256), named.clone()).unwrap();
    assert_eq!(
        decode_header(issue(&signer, &[]).all)
            .unwrap()
            .kid
            .as_deref(),
        Some("mine")
    );
    assert!(matches!(generate(&named), Err(Error::Generated)));
}

proptest! {
    #[test]
    fn no_bytes_panic(key in proptest::collection::vec(any::<u8>(), 0..200), keys in ".{0,100}") {
        let framed = pem::encode(&pem::Pem::new("PRIVATE KEY", key)).into_bytes();
        let files = Files { key: framed, keys: keys.into_bytes() };
        prop_assert!(Signer::from_files(files, config(Algorithm::RS256)).is_err());
    }
}
