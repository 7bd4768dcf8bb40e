//! What the fuzz targets call: private functions with the properties that no input may break. Compiled for them only.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use dapr_security::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};

use crate::ca::{Authority, Plan, generate};
use crate::certificate::{Order, PublicKey, issue, public_key};
use crate::der;

mod jwks;
mod pod;

pub use jwks::jwks;
pub use pod::pod;

const SENTRY: &str = "spiffe://localhost/ns/default/dapr-sentry";
const ORDERS: &str = "spiffe://public/ns/default/orders";
const HOUR: Duration = Duration::from_secs(60 * 60);

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let now = SystemTime::now();
    let files = generate(&Plan {
        trust_domain: &TrustDomain::new("localhost").expect("it is a trust domain"),
        sentry: &id(SENTRY),
        clock_skew: HOUR,
        validity: HOUR,
        now,
    });
    Authority::from_files(&files.expect("an authority is made"), now).expect("it is valid")
});

static KEY: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate_for(&PKCS_ED25519).expect("a key is made"));

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).expect("it is a SPIFFE id")
}

/// A signing request as it comes; as DER; and its subject, parameters of the key and attributes, with a valid signature.
pub fn csr(data: &[u8]) {
    if let Ok(key) = public_key(data) {
        only_the_key(&key);
    }
    if let Ok(key) = public_key(&pem(data)) {
        only_the_key(&key);
    }
    let mut parts = data.splitn(3, |byte| *byte == 0xff);
    let [subject, parameters, attributes] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let subject = element_or(0x30, subject);
    let attributes = element_or(0xa0, attributes);
    let algorithm = der::element(0x30, &[&[6, 3, 0x2b, 0x65, 0x70], parameters]);
    let key = der::sequence(&[&algorithm, &der::bit_string(KEY.der_bytes())]);
    let info = der::sequence(&[&der::integer(&[]), &subject, &key, &attributes]);
    let signature = der::bit_string(&KEY.sign(&info).expect("it is signed"));
    let plain = der::sequence(&[&[6, 3, 0x2b, 0x65, 0x70]]);
    let request = der::sequence(&[&info, &plain, &signature]);
    if let Ok(key) = public_key(&pem(&request)) {
        assert_eq!(key.subject_public_key_info(), KEY.subject_public_key_info());
        only_the_key(&key);
    }
}

/// The bytes themselves if they are such an element, else one around them: both is worth a try.
fn element_or(tag: u8, bytes: &[u8]) -> Vec<u8> {
    match der::content(tag, bytes) {
        Some(_) => bytes.to_vec(),
        None => der::element(tag, &[bytes]),
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)).into_bytes()
}

/// The certificate for this key differs from any other in key, serial number and times.
fn only_the_key(key: &PublicKey) {
    let order = Order {
        id: &id(ORDERS),
        dns_names: Vec::new(),
        now: SystemTime::now(),
        ttl: HOUR,
        clock_skew: HOUR,
    };
    let fields = |key: &PublicKey| {
        let issued = issue(&AUTHORITY, key, &order).expect("any known key is signed");
        let body = der::elements(&issued.chain[0]).expect("it is a certificate")[0].to_vec();
        let fields = der::elements(&body).expect("it has a body");
        assert_eq!(fields.len(), 8);
        fields.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    static OTHER: LazyLock<PublicKey> = LazyLock::new(|| {
        let request = dapr_security::request::signing_request(&KEY).expect("a request is made");
        public_key(request.as_bytes()).expect("it is valid")
    });
    let (found, other) = (fields(key), fields(&OTHER));
    for at in [0, 2, 3, 5, 7] {
        assert_eq!(found[at], other[at], "field {at}");
    }
    assert_eq!(found[6], key.subject_public_key_info());
    assert!(found[1].len() <= 2 + 17, "serial number");
}
