use std::time::{Duration, Instant};

use dapr_security::{AnchorsSource, Security};
use tokio::time::timeout;

use crate::process::{Place, SOON, eventually, read};

/// A start with these files is answered by an authority of theirs.
async fn is_served(place: &Place, sentry: &crate::process::Sentry) -> bool {
    let mut options = sentry.options("orders");
    options.trust_anchors = AnchorsSource::Inline(read(&place.credential("ca.crt")));
    timeout(Duration::from_secs(3), Security::start(options))
        .await
        .is_ok_and(|result| result.is_ok())
}

#[tokio::test]
async fn new_files_are_taken_over_and_broken_ones_are_not() {
    let (place, other) = (Place::new("spec: {}"), Place::new("spec: {}"));
    let sentry = place.start().await;
    assert!(is_served(&place, &sentry).await);
    assert_eq!(other.start().await.stop().await.code(), Some(0));

    for name in ["ca.crt", "issuer.crt", "issuer.key"] {
        std::fs::copy(other.credential(name), place.credential(name)).unwrap();
    }
    eventually("the new authority", async || {
        is_served(&place, &sentry).await
    })
    .await;

    let counted = async || {
        let metrics = sentry.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("dapr_sentry_issuercert_changed_total"))
            .unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = counted().await;
    std::fs::write(place.credential("issuer.crt"), "broken").unwrap();
    eventually("the event", async || counted().await > before).await;
    // The reload follows the first event after two seconds, and those between count with it.
    let before = counted().await;
    let since = Instant::now();
    eventually("an event after the reload", async || {
        std::fs::write(place.credential("issuer.crt"), "broken again").unwrap();
        counted().await > before
    })
    .await;
    assert!(
        since.elapsed() > Duration::from_secs(1),
        "they are one change"
    );
    assert!(timeout(SOON, is_served(&place, &sentry)).await.unwrap());
    assert_eq!(sentry.stop().await.code(), Some(0));
}

/// An authority whose intermediate is none: every signature is right, and no peer accepts it.
fn useless() -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let make = |name: &str, is_ca| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        (params, KeyPair::generate().unwrap())
    };
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    let (root, root_key) = make("root", ca());
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let (middle, middle_key) = make("middle", IsCa::ExplicitNoCa);
    let root = Issuer::new(root, root_key);
    let middle_pem = middle.signed_by(&middle_key, &root).unwrap().pem();
    let (issuer, key) = make("issuer", ca());
    let middle = Issuer::new(middle, middle_key);
    let issuer_pem = issuer.signed_by(&key, &middle).unwrap().pem();
    [
        root_pem,
        format!("{issuer_pem}{middle_pem}"),
        key.serialize_pem(),
    ]
}

#[tokio::test]
async fn an_authority_no_peer_accepts_is_refused_and_the_last_good_one_stays() {
    let place = Place::new("spec: {}");
    let sentry = place.start().await;
    let options = sentry.options("orders");
    let before = sentry.metric("dapr_sentry_issuercert_changed_total").await;
    let expiry = sentry
        .metric("dapr_sentry_issuercert_expiry_timestamp")
        .await;
    let write = || {
        for (name, text) in ["ca.crt", "issuer.crt", "issuer.key"].iter().zip(useless()) {
            std::fs::write(place.credential(name), text).unwrap();
        }
    };
    write();
    // The first change may be one from before; the second is only heard when the reload for it is over.
    eventually("the reload", async || {
        std::fs::write(place.credential("touched"), "").unwrap();
        let counted = sentry.metric("dapr_sentry_issuercert_changed_total").await;
        counted > before + 1.0
    })
    .await;
    let started = timeout(SOON, Security::start(options)).await.unwrap();
    assert!(started.is_ok());
    let now = sentry
        .metric("dapr_sentry_issuercert_expiry_timestamp")
        .await;
    assert_eq!(now, expiry);
    assert_eq!(sentry.stop().await.code(), Some(0));
    crate::start::check(
        &place,
        &["--port=0", "--healthz-port=0", "--metrics-port=0"],
        1,
        "certificate 2 of the issuer certificate chain may not sign certificates",
    )
    .await;
}
