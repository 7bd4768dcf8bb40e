//! Key sets and tokens of the `jwks` validator.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::TrustDomain;
use rcgen::{PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use tokio::runtime;

use super::{KEY, ORDERS, SENTRY, id};
use crate::validator::jwks::{Source, Validator};

/// By its first byte: a key set that a good token is shown to, a token, or header and claims that are then signed.
pub fn jwks(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => key_set(data),
        1 => token(data),
        _ => claims(data),
    }
}

fn key_set(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let good = sign(br#"{"alg":"EdDSA"}"#, &good_claims());
    let Some(validator) = validator(text) else {
        return;
    };
    let is_granted = validate(&validator, &good);
    // Escapes can hide the key, but not from who reads the set as JSON.
    let has_our_key = || {
        serde_json::from_str::<Value>(text).is_ok_and(|set| has_string(&set, &public()))
            || !text.starts_with('{')
    };
    assert!(!is_granted || has_our_key(), "granted by a foreign key set");
}

fn token(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    assert!(!validate(&our_validator(), text), "a token was forged");
}

fn claims(data: &[u8]) {
    let (header, claims) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (&br#"{"alg":"EdDSA"}"#[..], data),
    };
    if !validate(&our_validator(), &sign(header, claims)) {
        return;
    }
    let claims: Value = serde_json::from_slice(claims).expect("granted claims are JSON");
    assert_eq!(claims["sub"], ORDERS);
    assert!(
        claims["aud"] == SENTRY
            || claims["aud"]
                .as_array()
                .is_some_and(|it| it.contains(&json!(SENTRY)))
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970")
        .as_secs_f64();
    let moment = |name: &str| claims[name].as_f64();
    assert!(moment("exp").is_none_or(|exp| exp > now - 301.0));
    assert!(moment("nbf").is_none_or(|nbf| nbf < now + 301.0));
}

fn good_claims() -> Vec<u8> {
    json!({"aud": SENTRY, "sub": ORDERS})
        .to_string()
        .into_bytes()
}

fn public() -> String {
    URL_SAFE_NO_PAD.encode(KEY.der_bytes())
}

fn sign(header: &[u8], claims: &[u8]) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = KEY.sign(text.as_bytes()).expect("it is signed");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn has_string(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.trim_end_matches('=') == wanted,
        Value::Array(values) => values.iter().any(|value| has_string(value, wanted)),
        Value::Object(values) => values.values().any(|value| has_string(value, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn our_validator() -> Validator {
    let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": public()}]});
    validator(&keys.to_string()).expect("our key set is valid")
}

fn validator(source: &str) -> Option<Validator> {
    let options = BTreeMap::from([("source".to_owned(), source.to_owned())]);
    let source = Source::from_options(&options, |_| false).ok()?;
    if !matches!(source, Source::Inline(_)) {
        return None;
    }
    let runtime = runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime starts");
    runtime.block_on(Validator::open(source, &id(SENTRY))).ok()
}

fn validate(validator: &Validator, token: &str) -> bool {
    let request = SignCertificateRequest {
        id: "orders".to_owned(),
        namespace: "default".to_owned(),
        token: token.to_owned(),
        ..Default::default()
    };
    let trust_domain = TrustDomain::new("public").expect("it is a trust domain");
    validator.validate(&request, &trust_domain).is_ok()
}
