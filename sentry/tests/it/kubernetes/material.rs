//! The Secret and the ConfigMap: made once, shared by replicas, never replaced in silence.

use dapr_e2e_apiserver::preparation::skipped;

use super::*;

#[tokio::test]
async fn replicas_share_what_the_first_of_them_makes() {
    let Some(place) = place("sentry: replicas").await else {
        return;
    };
    let flags = ["--jwt-enabled"];
    let (first, second) = tokio::join!(place.start(&flags), place.start(&flags));
    let (secret, published) = (place.secret().await, place.config_map().await);
    let names: Vec<_> = secret.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["ca.crt", "issuer.crt", "issuer.key", "jwks.json", "jwt.key"]
    );
    assert_eq!(published["ca.crt"], secret["ca.crt"]);
    assert_eq!(published["jwks.json"], secret["jwks.json"]);
    // Both serve with it, and so does one that starts later.
    let third = place.start(&flags).await;
    place
        .pod(&place.namespace, "a", &[("dapr.io/app-id", "a")])
        .await;
    for sentry in [&first, &second, &third] {
        let security = place.identity(sentry, &place.namespace, "a", "a").await;
        assert_eq!(
            security.trust_anchors_pem().unwrap().as_ref(),
            secret["ca.crt"]
        );
    }
    assert_eq!(place.secret().await, secret);
}

#[tokio::test]
async fn each_start_in_a_pod_says_where_it_is() {
    let Some(place) = place("sentry: address").await else {
        return;
    };
    let in_pod = || {
        let mut command = place.command();
        // The kubelet's word for where the API server is.
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        command
    };
    let said = async || {
        let annotations = place.whole_config_map().await.metadata.annotations;
        annotations
            .unwrap_or_default()
            .get("dapr.io/sentry-address")
            .cloned()
    };
    let first = place.start_as(in_pod(), &[]).await;
    assert_eq!(said().await, Some(format!("127.0.0.1:{}", first.port)));
    let published = place.whole_config_map().await.data;
    // Nothing is to be published by the second one but where it is.
    let second = place.start_as(in_pod(), &[]).await;
    assert_eq!(said().await, Some(format!("127.0.0.1:{}", second.port)));
    // Whoever is in no pod is not reached at its own address.
    let outside = place.start(&[]).await;
    assert_eq!(said().await, Some(format!("127.0.0.1:{}", second.port)));
    assert_eq!(place.whole_config_map().await.data, published);
    drop((first, second, outside));
}

#[tokio::test]
async fn the_key_set_goes_with_its_key_and_foreign_keys_stay() {
    let Some(place) = place("sentry: key set").await else {
        return;
    };
    assert_eq!(
        place.start(&["--jwt-enabled"]).await.stop().await.code(),
        Some(0)
    );
    let keys = place.config_map().await["jwks.json"].clone();
    place
        .fill(&json!({"mine": "kept"}), &json!({"mine": "kept"}))
        .await;
    // Switched off: tokens that were issued are still to be verified.
    assert_eq!(place.start(&[]).await.stop().await.code(), Some(0));
    assert_eq!(place.config_map().await["jwks.json"], keys);
    let secrets = Api::<Secret>::namespaced(place.server.client().await.unwrap(), &place.namespace);
    let gone = json!({"data": {"jwt.key": null, "jwks.json": null}});
    let params = kube::api::PatchParams::default();
    let patch = kube::api::Patch::Merge(gone);
    secrets.patch(NAME, &params, &patch).await.unwrap();
    assert_eq!(place.start(&[]).await.stop().await.code(), Some(0));
    let published = place.config_map().await;
    assert!(!published.contains_key("jwks.json"));
    assert_eq!(published["mine"], "kept");
    assert_eq!(place.secret().await["mine"], "kept");
}

/// A root, an intermediate and an issuer as a user brings them.
pub(super) fn brought() -> [String; 3] {
    brought_until(2100)
}

/// As [`brought`], with an issuer that is valid until the beginning of a year.
fn brought_until(year: i32) -> [String; 3] {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    };
    let make = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (
            params,
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        )
    };
    let (root, root_key) = make("root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let (middle, middle_key) = make("middle");
    let root = Issuer::new(root, root_key);
    let middle_pem = middle.signed_by(&middle_key, &root).unwrap().pem();
    let (mut issuer, key) = make("issuer");
    issuer.not_after = rcgen::date_time_ymd(year, 1, 1);
    let middle = Issuer::new(middle, middle_key);
    let issuer_pem = issuer.signed_by(&key, &middle).unwrap().pem();
    [
        root_pem,
        format!("{issuer_pem}{middle_pem}"),
        key.serialize_pem(),
    ]
}

#[tokio::test]
async fn a_users_authority_is_taken_under_either_name_and_published() {
    for names in [
        ["ca.crt", "issuer.crt", "issuer.key"],
        ["ca.crt", "tls.crt", "tls.key"],
    ] {
        let Some(place) = place("sentry: authority of a user").await else {
            return;
        };
        let [root, chain, key] = brought();
        let secret = json!({names[0]: root, names[1]: chain, names[2]: key});
        place.fill(&secret, &json!({})).await;
        let before = place.secret().await;
        let sentry = place.start(&[]).await;
        place
            .pod(&place.namespace, "a", &[("dapr.io/app-id", "a")])
            .await;
        place.identity(&sentry, &place.namespace, "a", "a").await;
        assert_eq!(place.secret().await, before, "{names:?}");
        assert_eq!(place.config_map().await["ca.crt"], root);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_object_and_key() {
    let [root, chain, key] = brought();
    let [other, _, other_key] = brought();
    let [old_root, old_chain, old_key] = brought_until(2001);
    let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let jwt = |name: &str| {
        let mut secret = json!({"ca.crt": root, "issuer.crt": chain, "issuer.key": key});
        secret["jwt.key"] = json!(key);
        secret["jwks.json"] = json!("{\"keys\": []}");
        secret[name] = json!("broken");
        secret
    };
    for (secret, published, expected) in [
        (
            json!({"ca.crt": root, "issuer.crt": chain, "issuer.key": broken}),
            json!({"ca.crt": root}),
            "key \"issuer.key\"): issuer key is unusable",
        ),
        (
            json!({"ca.crt": root, "issuer.crt": chain, "issuer.key": other_key}),
            json!({"ca.crt": root}),
            "key \"issuer.key\"): issuer key does not belong to the issuer certificate",
        ),
        (
            json!({"ca.crt": root, "tls.crt": chain, "tls.key": other_key}),
            json!({"ca.crt": root}),
            "key \"tls.key\"): issuer key does not belong to the issuer certificate",
        ),
        (
            json!({"ca.crt": "broken", "issuer.crt": chain, "issuer.key": key}),
            json!({"ca.crt": "broken"}),
            "key \"ca.crt\"): root certificates are unusable",
        ),
        (
            json!({"ca.crt": old_root, "issuer.crt": old_chain, "issuer.key": old_key}),
            json!({"ca.crt": old_root}),
            "key \"issuer.crt\"): issuer certificate or its root is outside of its validity period",
        ),
        (
            jwt("jwt.key"),
            json!({"ca.crt": root}),
            "key \"jwt.key\"): JWT signing key is no PEM private key",
        ),
        (
            jwt("jwks.json"),
            json!({"ca.crt": root}),
            "key \"jwks.json\"): JWT key set is no valid JWKS",
        ),
        (
            json!({"ca.crt": root, "issuer.crt": chain}),
            json!({"ca.crt": root}),
            "key \"issuer.key\" is missing, while",
        ),
        (
            json!({"ca.crt": root, "issuer.crt": chain, "issuer.key": key}),
            json!({"ca.crt": other}),
            "key \"ca.crt\" differs from Secret",
        ),
        (
            json!({}),
            json!({"ca.crt": root}),
            "key \"ca.crt\" has a root certificate, while Secret",
        ),
        (
            json!({"ca.crt": other, "issuer.crt": chain, "issuer.key": key}),
            json!({"ca.crt": other}),
            "key \"issuer.crt\"): issuer certificate is not signed by a root certificate",
        ),
        (
            json!({"ca.crt": other, "tls.crt": chain, "tls.key": key}),
            json!({"ca.crt": other}),
            "key \"tls.crt\"): issuer certificate is not signed by a root certificate",
        ),
    ] {
        let Some(place) = place("sentry: refused material").await else {
            return;
        };
        place.fill(&secret, &published).await;
        let before = (place.secret().await, place.config_map().await);
        place.fail(&[], expected).await;
        assert_eq!((place.secret().await, place.config_map().await), before);
    }
}

#[tokio::test]
async fn a_running_sentry_keeps_the_last_good_authority() {
    let Some(place) = place("sentry: broken while running").await else {
        return;
    };
    let sentry = place.start(&[]).await;
    let good = place.config_map().await["ca.crt"].clone();
    let [other, chain, key] = brought();
    place
        .pod(&place.namespace, "a", &[("dapr.io/app-id", "a")])
        .await;
    let token = place.token(&place.namespace, "a", &place.audience()).await;
    let mut options = place.options(&sentry, &place.namespace, "a", token).await;
    options.trust_anchors = AnchorsSource::Inline(good.clone());
    let refused = async |reason: &str| {
        eventually(reason, async || sentry.log().contains(reason)).await;
        let security = timeout(SOON, Security::start(options.clone())).await;
        let (security, _) = security.unwrap().unwrap();
        assert_eq!(security.trust_anchors_pem().unwrap().as_ref(), good);
    };
    // The ConfigMap alone is changed: Sentry sees it, and does not follow.
    place.fill(&json!({}), &json!({"ca.crt": other})).await;
    refused("key \"ca.crt\" differs from Secret").await;
    // An authority that has run out is changed in both.
    let [root, chain_of_old, key_of_old] = brought_until(2001);
    let secret = json!({"ca.crt": root, "issuer.crt": chain_of_old, "issuer.key": key_of_old});
    place.fill(&secret, &json!({"ca.crt": root})).await;
    refused("outside of its validity period").await;
    // Both are changed together, as a user replaces an authority: now it does.
    let secret = json!({"ca.crt": other, "issuer.crt": chain, "issuer.key": key});
    place
        .fill(&secret, &json!({"ca.crt": other, "touched": "now"}))
        .await;
    options.trust_anchors = AnchorsSource::Inline(other);
    eventually("the user's authority", async || {
        timeout(Duration::from_secs(2), Security::start(options.clone()))
            .await
            .is_ok_and(|started| started.is_ok())
    })
    .await;
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_missing_in_the_namespace_is_named() {
    let Some(place) = place("sentry: missing objects").await else {
        return;
    };
    place
        .fail(
            &["--config=nowhere"],
            "failed to load configuration nowhere",
        )
        .await;
    let client = place.server.client().await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(client, &place.namespace);
    maps.delete(NAME, &DeleteParams::default()).await.unwrap();
    place
        .fail(&[], "does not exist: it comes with the installation")
        .await;
}

#[tokio::test]
async fn root_and_an_unnamed_namespace_are_refused() {
    let Some(place) = place("sentry: refused starts").await else {
        return;
    };
    let run = async |without: &str, expected: &str| {
        let mut command = place.command();
        let output = command
            .args(place.flags())
            .env_remove(without)
            .output()
            .await
            .unwrap();
        let text = told(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    };
    run("NAMESPACE", "NAMESPACE is not set").await;
    let is_root =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    if !is_root {
        return skipped("sentry: refused root", "the tests do not run as root").unwrap();
    }
    let skip = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";
    run(skip, "current user UID(0) is root").await;
}
