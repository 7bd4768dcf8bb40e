//! A rotation in a cluster: driven by what pods were seen with, visible in the Secret.

use super::*;

fn annotation(secret: &Secret) -> Option<String> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get("dapr.io/root-rotation").cloned()
}

/// Asks for a new root and waits until the old one is gone.
async fn rotate(place: &Place) -> std::process::Output {
    let output = place
        .command()
        .args(["rotate", "--mode=kubernetes", "--wait"])
        .arg(format!("--kubeconfig={}", place.kubeconfig.display()))
        .output();
    timeout(Duration::from_secs(60), output)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn pods_that_renew_let_the_rotation_go_on() {
    // Alone in its cluster: pods of other stories would be waited for.
    let Some(server) = real::owned("sentry: rotation in a cluster").await.unwrap() else {
        return;
    };
    let server: &'static ApiServer = Box::leak(Box::new(server));
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    server.create_crds(&crds).await.unwrap();
    let place = Place::new(server).await;
    let quick = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": "daprsystem", "namespace": place.namespace},
        "spec": {"mtls": {
            "enabled": true, "workloadCertTTL": "4s", "allowedClockSkew": "0s",
            "controlPlaneTrustDomain": "cluster.local", "sentryAddress": "unused:443",
        }},
    });
    server.apply(&quick).await.unwrap();
    let (sentry, replica) = tokio::join!(place.start(&[]), place.start(&[]));
    let old = place.config_map().await["ca.crt"].clone();

    let annotations = [("dapr.io/enabled", "true"), ("dapr.io/app-id", "a")];
    place.pod(&place.namespace, "a", &annotations).await;
    let token = place.token(&place.namespace, "a", &place.audience()).await;
    let options = place.options(&sentry, &place.namespace, "a", token).await;
    let started = timeout(SOON, Security::start(options)).await.unwrap();
    let (security, renewal) = started.unwrap();
    let renewal = tokio::spawn(renewal);

    let output = rotate(&place).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for line in [
        "published beside the old one",
        "The new issuer signs",
        "out of the bundle",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let new = place.config_map().await["ca.crt"].clone();
    assert_ne!(new, old);
    assert_eq!(place.secret().await["ca.crt"], new);
    let secrets = Api::<Secret>::namespaced(server.client().await.unwrap(), &place.namespace);
    let secret = secrets.get(NAME).await.unwrap();
    assert_eq!(annotation(&secret), None);
    assert!(!secret.data.unwrap().contains_key("next-issuer.key"));
    // A sidecar that was given the old root at its start has learned the new one.
    eventually("the new root in the sidecar", async || {
        security
            .trust_anchors_pem()
            .unwrap()
            .contains(new.trim_end())
    })
    .await;
    // The other replica has followed: who knows the new root only gets a certificate there.
    let security = place.identity(&replica, &place.namespace, "a", "a").await;
    assert_eq!(security.trust_anchors_pem().unwrap().as_ref(), new);
    renewal.abort();
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_users_authority_is_not_rotated() {
    let Some(place) = place("sentry: rotation refused").await else {
        return;
    };
    let params = rcgen::CertificateParams::default();
    let mut params = params;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let secret = json!({"ca.crt": root, "issuer.crt": root, "issuer.key": key.serialize_pem()});
    place.fill(&secret, &json!({"ca.crt": root})).await;
    let sentry = place.start(&[]).await;
    let before = place.secret().await;
    let output = rotate(&place).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("or was refused"), "{told}");
    assert_eq!(place.secret().await, before);
    assert_eq!(sentry.stop().await.code(), Some(0));
}
