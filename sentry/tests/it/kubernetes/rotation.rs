//! A rotation in a cluster: driven by what pods were seen with, visible in the Secret.

use super::*;

const PHASE: &str = "dapr_sentry_root_rotation_phase";
const PENDING: &str = "dapr_sentry_root_rotation_pending";

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

/// Waits until a phase is visible in metric and annotation, with the one pod still to come.
async fn is_seen(place: &Place, sentry: &Sentry, number: f64, phase: &str) {
    eventually(phase, async || {
        sentry.metric(PHASE).await == number && sentry.metric(PENDING).await == 1.0
    })
    .await;
    let client = place.server.client().await.unwrap();
    let secrets = Api::<Secret>::namespaced(client.clone(), &place.namespace);
    let record = annotation(&secrets.get(NAME).await.unwrap()).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["phase"], phase, "{record}");
    let moment = |name: &str| record[name].as_u64().unwrap();
    assert!(moment("since") + 2 <= moment("settled"), "{record}");
    assert!(moment("settled") < moment("until"), "{record}");
    for (name, length) in [("successor", 64), ("before", 64)] {
        assert_eq!(record[name].as_str().unwrap().len(), length, "{record}");
    }
    assert_eq!(record["retiring"].as_array().unwrap().len(), 1, "{record}");
    let maps = Api::<ConfigMap>::namespaced(client, &place.namespace);
    let annotations = maps.get(NAME).await.unwrap().metadata.annotations;
    assert_eq!(annotations.unwrap()["dapr.io/root-rotation-phase"], phase);
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
    let flags = ["--replica-lag=2s"];
    let (sentry, replica) = tokio::join!(place.start(&flags), place.start(&flags));
    let old = place.config_map().await["ca.crt"].clone();

    let annotations = [("dapr.io/enabled", "true"), ("dapr.io/app-id", "a")];
    place.pod(&place.namespace, "a", &annotations).await;
    let token = place.token(&place.namespace, "a", &place.audience()).await;
    let options = place.options(&sentry, &place.namespace, "a", token).await;
    let started = timeout(SOON, Security::start(options)).await.unwrap();
    let (security, renewal) = started.unwrap();
    let renewal = tokio::spawn(renewal);

    let observed = async {
        for (number, phase) in [(1.0, "publishing"), (2.0, "switched")] {
            is_seen(&place, &sentry, number, phase).await;
        }
    };
    let (output, ()) = tokio::join!(rotate(&place), observed);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(sentry.metric(PHASE).await, 0.0);
    assert_eq!(sentry.metric(PENDING).await, 0.0);
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
