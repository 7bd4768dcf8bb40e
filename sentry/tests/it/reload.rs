use std::time::Duration;

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
    // The reload follows the event after two seconds; a second event is only taken once it is over.
    let before = counted().await;
    std::fs::write(place.credential("issuer.crt"), "broken again").unwrap();
    eventually("the second event", async || counted().await > before).await;
    assert!(timeout(SOON, is_served(&place, &sentry)).await.unwrap());
    assert_eq!(sentry.stop().await.code(), Some(0));
}
