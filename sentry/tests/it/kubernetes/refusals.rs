//! Tokens that do not prove what is asked for.

use super::*;

const SIGNED: &str = "dapr_sentry_cert_sign_success_total";

#[tokio::test]
async fn what_a_token_does_not_prove_is_denied() {
    let Some(place) = place("sentry: refused tokens").await else {
        return;
    };
    let sentry = place.start(&[]).await;
    let (shop, other) = (
        place.server.create_namespace("shop").await.unwrap(),
        place.server.create_namespace("other").await.unwrap(),
    );
    place
        .pod(&shop, "orders-0", &[("dapr.io/app-id", "orders")])
        .await;
    let security = place.identity(&sentry, &shop, "orders-0", "orders").await;
    let mut client = client(&place, &sentry, &security).await;
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let own =
        std::fs::read_to_string(place.token(&shop, "orders-0", &place.audience()).await).unwrap();

    let signed_before = sentry.metric(SIGNED).await;
    let mut check = async |request: SignCertificateRequest, code: Code, expected: &str| {
        let status = client.sign_certificate(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status}: {expected}");
        assert_eq!(sentry.metric(SIGNED).await, signed_before, "{expected}");
    };
    let denied = Code::PermissionDenied;
    let orders = |token: &str| signed(&key, "orders", &shop, token.to_owned());

    check(orders(""), denied, "token is missing").await;
    check(orders("garbage"), denied, "invalid token: ").await;
    let mut forged: Vec<&str> = own.split('.').collect();
    forged[2] = "c2lnbmF0dXJl";
    check(orders(&forged.join(".")), denied, "invalid token: ").await;

    let elsewhere = place.token(&shop, "orders-0", "somebody-else").await;
    let elsewhere = std::fs::read_to_string(elsewhere).unwrap();
    check(orders(&elsewhere), denied, "invalid token: ").await;
    let unbound = place.server.token(&shop, "app").await.unwrap();
    check(
        orders(&unbound),
        denied,
        "claim is missing from Kubernetes token",
    )
    .await;

    check(
        signed(&key, "cart", &shop, own.clone()),
        denied,
        "app-id mismatch. expected: orders, received: cart",
    )
    .await;
    check(
        signed(&key, "orders", &other, own.clone()),
        denied,
        "namespace mismatch; received namespace: ",
    )
    .await;

    place
        .pod(&other, "king", &[("dapr.io/control-plane", "operator")])
        .await;
    let token =
        std::fs::read_to_string(place.token(&other, "king", &place.audience()).await).unwrap();
    check(
        signed(&key, "dapr-operator", &other, token),
        denied,
        "control plane service in namespace ",
    )
    .await;

    for (validator, code, expected) in [
        (
            TokenValidator::Insecure,
            Code::InvalidArgument,
            "is not enabled",
        ),
        (
            TokenValidator::Jwks,
            Code::InvalidArgument,
            "is not enabled",
        ),
    ] {
        let mut request = orders(&own);
        request.set_token_validator(validator);
        check(request, code, expected).await;
    }

    let mut huge = orders(&own);
    huge.certificate_signing_request = vec![b'x'; 100_000].into();
    check(huge, Code::InvalidArgument, "is larger than").await;
    let mut other_type = orders(&own);
    let text = String::from_utf8(other_type.certificate_signing_request.to_vec()).unwrap();
    other_type.certificate_signing_request = text
        .replace("CERTIFICATE REQUEST", "PUBLIC KEY")
        .into_bytes()
        .into();
    check(other_type, Code::InvalidArgument, "unexpected PEM block").await;

    let mut damaged = orders(&own);
    let mut block = pem::parse(&damaged.certificate_signing_request)
        .unwrap()
        .into_contents();
    // The last bytes are the signature.
    *block.last_mut().unwrap() ^= 1;
    let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", block));
    damaged.certificate_signing_request = text.into_bytes().into();
    check(damaged, Code::InvalidArgument, "invalid signature").await;

    // The token of a pod that is gone is dead at once.
    let pods = Api::<Pod>::namespaced(place.server.client().await.unwrap(), &shop);
    let now = DeleteParams::default().grace_period(0);
    pods.delete("orders-0", &now).await.unwrap();
    let status = eventually_denied(&mut client, &orders(&own)).await;
    assert!(
        status.contains("invalid token: ") || status.contains("does not exist"),
        "{status}"
    );
}

async fn eventually_denied(
    client: &mut dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient<
        tonic::transport::Channel,
    >,
    request: &SignCertificateRequest,
) -> String {
    let mut message = String::new();
    eventually("the refusal of a deleted pod", async || {
        match client.sign_certificate(request.clone()).await {
            Err(status) if status.code() == Code::PermissionDenied => {
                message = status.message().to_owned();
                true
            }
            _ => false,
        }
    })
    .await;
    message
}
