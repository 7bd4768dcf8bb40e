use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::certificate::{chain_from_pem, parse};
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{KeyKind, SpiffeId, Svid};
use x509_parser::extensions::GeneralName;

use crate::process::{Place, id};

#[tokio::test]
async fn a_workload_gets_its_identity() {
    let place = Place::new("spec: {mtls: {workloadCertTTL: 1h, allowedClockSkew: 10m}}");
    let sentry = place.start().await;
    let security = sentry.security("orders").await;
    assert_eq!(
        security.identity().unwrap().to_string(),
        "spiffe://public/ns/default/orders"
    );

    let mut client = sentry.client(&security).await;
    let key = generate_key(KeyKind::Rsa2048).unwrap();
    let request = SignCertificateRequest {
        id: "cart".to_owned(),
        namespace: "shop".to_owned(),
        trust_domain: "example.org".to_owned(),
        certificate_signing_request: signing_request(&key).unwrap().into_bytes().into(),
        ..Default::default()
    };
    let response = client.sign_certificate(request).await.unwrap().into_inner();
    let svid = Svid::from_pem(&response.workload_certificate, &key).unwrap();
    assert_eq!(
        *svid.spiffe_id(),
        SpiffeId::new("spiffe://example.org/ns/shop/cart").unwrap()
    );
    assert_eq!(
        response.trust_chain_certificates,
        [security.trust_anchors_pem().unwrap().as_bytes().to_vec()]
    );
    assert!(response.jwt.is_none() && response.per_audience_jwts.is_empty());

    let chain = chain_from_pem(&response.workload_certificate).unwrap();
    assert_eq!(chain.len(), 2, "leaf and issuer, no root");
    let (leaf, issuer) = (parse(&chain[0]).unwrap(), parse(&chain[1]).unwrap());
    assert_eq!(issuer.subject().to_string(), format!("O={}", id()));
    assert_eq!(leaf.subject().iter().count(), 0);
    let validity = leaf.validity();
    assert_eq!(
        validity.not_after.timestamp() - validity.not_before.timestamp(),
        4200
    );
    assert_eq!(
        response.valid_until.unwrap().seconds,
        validity.not_after.timestamp()
    );
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://example.org/ns/shop/cart")]
    );

    let metrics = sentry.metrics().await;
    for expected in [
        "dapr_sentry_cert_sign_request_received_total 2",
        "dapr_sentry_cert_sign_success_total 2",
        "dapr_sentry_issuercert_expiry_timestamp ",
    ] {
        assert!(metrics.contains(expected), "{expected} in {metrics}");
    }
}
