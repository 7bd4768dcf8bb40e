use aws_lc_rs::encoding::{AsBigEndian as _, EcPrivateKeyBin};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use proptest::prelude::*;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519};
use serde_json::{Value, json};

use super::*;
use crate::der;

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
        Algorithm::Es256 => &PKCS_ECDSA_P256_SHA256,
        Algorithm::Es384 => &PKCS_ECDSA_P384_SHA384,
        Algorithm::Es512 => &PKCS_ECDSA_P521_SHA512,
        Algorithm::EdDsa => &PKCS_ED25519,
        _ => &PKCS_RSA_SHA256,
    });
    with_keys(pair.unwrap().serialize_pem().as_bytes(), algorithm)
}

/// The files of a key whose set names the algorithm.
fn with_keys(key: &[u8], algorithm: Algorithm) -> Files {
    let mut public = json!(Key::read(key).unwrap().public().unwrap());
    public["kid"] = json!("mine");
    public["alg"] = json!(algorithm);
    Files {
        key: key.to_vec(),
        keys: json!({"keys": [public]}).to_string().into_bytes(),
    }
}

fn signer(files: Files, config: Config) -> Result<Signer, Error> {
    Signer::new(Pair::read(files, config.key_id.as_deref())?, config)
}

/// The claims, once the signature is verified with the published key.
fn read(token: &str, signer: &Signer) -> Value {
    if signer.config.algorithm == Algorithm::Es512 {
        return read_es512(token, signer);
    }
    let keys: JwkSet = serde_json::from_slice(signer.key_set()).unwrap();
    let mut validation = Validation::new(signer.config.algorithm.name().parse().unwrap());
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

fn read_es512(token: &str, signer: &Signer) -> Value {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let keys: Value = serde_json::from_slice(signer.key_set()).unwrap();
    let [x, y] = ["x", "y"].map(|name| decode(keys["keys"][0][name].as_str().unwrap()));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let point = [vec![4], x, y].concat();
    UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)
        .verify(signed.as_bytes(), &decode(signature))
        .unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&json!("ES512"), &json!("JWT"))
    );
    serde_json::from_slice(&decode(claims)).unwrap()
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
    let files = generate(&config(Algorithm::Rs256)).unwrap();
    let keys: Value = serde_json::from_slice(&files.keys).unwrap();
    assert_eq!(keys["keys"][0]["alg"], "RS256");
    assert_eq!(keys["keys"][0]["use"], "sig");
    let signer = signer(files, config(Algorithm::Rs256)).unwrap();
    let tokens = issue(&signer, &[]);
    let header = decode_header(&tokens.all).unwrap();
    assert_eq!(
        (header.alg, header.typ.as_deref()),
        (jsonwebtoken::Algorithm::RS256, Some("JWT"))
    );
    assert_eq!(keys["keys"][0]["kid"], header.kid.unwrap());
    // Standard base64 of 32 bytes ends in one padding character.
    assert!(keys["keys"][0]["kid"].as_str().unwrap().ends_with('='));
}

#[test]
fn claims_are_upstreams() {
    let mut config = config(Algorithm::EdDsa);
    config.issuer = Some("https://issuer.example".to_owned());
    let signer = signer(brought(Algorithm::EdDsa), config).unwrap();
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
    let signer = signer(brought(Algorithm::Es256), config(Algorithm::Es256)).unwrap();
    assert_eq!(read(&issue(&signer, &[]).all, &signer).get("iss"), None);
}

#[test]
fn every_algorithm_signs() {
    for name in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    ] {
        let algorithm = Algorithm::read(name).unwrap();
        let signer = signer(brought(algorithm), config(algorithm)).unwrap();
        assert_eq!(read(&issue(&signer, &[]).all, &signer)["sub"], ID, "{name}");
    }
    for name in ["HS256", "none", ""] {
        assert!(Algorithm::read(name).is_err(), "{name}");
    }
}

/// A key as `openssl ecparam -genkey` writes it: the curve in a block of its own, then SEC1.
fn sec1() -> [String; 2] {
    const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let secret = pair.private_key().as_be_bytes();
    let secret: EcPrivateKeyBin<'_> = secret.unwrap();
    let key = der::sequence(&[
        &der::integer(&[1]),
        &der::octet_string(secret.as_ref()),
        &der::element(0xa0, &[P256]),
        &der::element(0xa1, &[&der::bit_string(pair.public_key().as_ref())]),
    ]);
    [("EC PARAMETERS", P256), ("EC PRIVATE KEY", &key)]
        .map(|(tag, contents)| pem::encode(&pem::Pem::new(tag, contents)))
}

#[test]
fn keys_are_read_as_openssl_writes_them() {
    let [curve, key] = sec1();
    for text in [format!("{curve}{key}"), key] {
        let files = with_keys(text.as_bytes(), Algorithm::Es256);
        let signer = signer(files, config(Algorithm::Es256)).unwrap();
        assert_eq!(read(&issue(&signer, &[]).all, &signer)["sub"], ID);
    }
}

#[test]
fn a_pair_is_one_whatever_it_is_used_for() {
    let files = || brought(Algorithm::Es384);
    assert!(Pair::read(files(), None).is_ok());
    assert!(Pair::read(files(), Some("mine")).is_ok());
    assert!(Pair::read(files(), Some("other")).is_err());
    let foreign = Files {
        keys: files().keys,
        ..files()
    };
    assert!(matches!(Pair::read(foreign, None), Err(Error::Missing(_))));
}

fn check(change: impl FnOnce(&mut Files, &mut Config), expected: &str) {
    let (mut files, mut config) = (brought(Algorithm::Es256), config(Algorithm::Es256));
    change(&mut files, &mut config);
    let error = signer(files, config).map(|_| ()).unwrap_err().to_string();
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
        |files, _| files.keys = brought(Algorithm::Es256).keys,
        "lacks the public key",
    );
    check(
        |_, config| config.algorithm = Algorithm::Rs256,
        "does not fit the signing key",
    );
    check(
        |_, config| config.algorithm = Algorithm::Es384,
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
    let mut named = config(Algorithm::Es256);
    named.key_id = Some("mine".to_owned());
    let signer = signer(brought(Algorithm::Es256), named.clone()).unwrap();
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
        prop_assert!(Pair::read(files, None).is_err());
    }
}
