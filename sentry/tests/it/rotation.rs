//! A rotation of the root in standalone mode: after a crash in any phase it goes on, and others can verify its chains.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use dapr_e2e_apiserver::preparation::skipped;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{AnchorsSource, KeyKind, Security};
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::{Place, SOON, Sentry, command, eventually, read};

const QUICK: &str = "spec: {mtls: {workloadCertTTL: 3s, allowedClockSkew: 0s}}";

fn phase(place: &Place) -> Option<String> {
    let text = std::fs::read(place.credential("root-rotation.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(record["phase"].as_str()?.to_owned())
}

async fn rotate(place: &Place) -> Output {
    let output = command()
        .arg("rotate")
        .arg(format!(
            "--issuer-credentials={}",
            place.path("credentials").display()
        ))
        .output();
    timeout(SOON, output).await.unwrap().unwrap()
}

async fn is_served_with(sentry: &Sentry, roots: &str) -> bool {
    let mut options = sentry.options("orders");
    options.trust_anchors = AnchorsSource::Inline(roots.to_owned());
    let started = timeout(Duration::from_secs(3), Security::start(options)).await;
    started.is_ok_and(|result| result.is_ok())
}

/// An identity that is renewed until it is dropped.
struct Holder(tokio::task::JoinHandle<()>);

impl Holder {
    async fn start(sentry: &Sentry) -> Self {
        let started = timeout(SOON, Security::start(sentry.options("holder"))).await;
        Self(tokio::spawn(started.unwrap().unwrap().1))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_crash_in_any_phase_does_not_end_it() {
    let place = Place::new(QUICK);
    let mut sentry = place.start().await;
    let old = read(&place.credential("ca.crt"));
    // Somebody renews all the time, so no phase is over at once.
    let mut holders = vec![Holder::start(&sentry).await];
    assert_eq!(rotate(&place).await.status.code(), Some(0));
    for expected in ["publishing", "switched"] {
        eventually(expected, async || {
            phase(&place).as_deref() == Some(expected)
        })
        .await;
        sentry.kill().await;
        sentry = place.start().await;
        holders.push(Holder::start(&sentry).await);
        assert!(is_served_with(&sentry, &old).await, "{expected}");
        let both = read(&place.credential("ca.crt"));
        assert!(
            both.starts_with(&old) && both.len() > old.len(),
            "{expected}"
        );
    }
    eventually("the end", async || {
        !place.credential("root-rotation.json").exists()
    })
    .await;
    let new = read(&place.credential("ca.crt"));
    assert!(!new.contains(old.trim_end()) && !place.credential("next-issuer.key").exists());
    for roots in [&old, &new] {
        assert!(is_served_with(&sentry, roots).await);
    }
    // And it is the authority of the next start.
    assert_eq!(sentry.stop().await.code(), Some(0));
    let sentry = place.start().await;
    assert_eq!(read(&place.credential("ca.crt")), new);
    assert!(is_served_with(&sentry, &new).await);
}

#[tokio::test]
async fn a_root_near_its_end_is_replaced_unasked() {
    let place = Place::new(QUICK);
    let validity = [
        "--root-validity=2h".to_owned(),
        "--rotate-before=0s".to_owned(),
    ];
    let sentry = place.start_with(&validity).await;
    let old = read(&place.credential("ca.crt"));
    assert_eq!(sentry.stop().await.code(), Some(0));
    // Two hours are left, and from now on three are asked for.
    let validity = [
        "--root-validity=4h".to_owned(),
        "--rotate-before=3h".to_owned(),
    ];
    let sentry = place.start_with(&validity).await;
    eventually("the new root", async || {
        phase(&place).is_none() && !read(&place.credential("ca.crt")).contains(old.trim_end())
    })
    .await;
    let expiry = sentry
        .metric("dapr_sentry_issuercert_expiry_timestamp")
        .await;
    let left = expiry - std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((13_000.0..=14_400.0).contains(&left), "{left}");
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn certificates_of_a_longer_ttl_from_before_the_start_are_waited_for() {
    let place = Place::new("spec: {mtls: {workloadCertTTL: 60s, allowedClockSkew: 0s}}");
    let sentry = place.start().await;
    drop(sentry.security("orders").await);
    assert_eq!(sentry.stop().await.code(), Some(0));
    std::fs::write(place.path("config.yaml"), QUICK).unwrap();
    let sentry = place.start().await;
    let old = read(&place.credential("ca.crt"));
    assert_eq!(rotate(&place).await.status.code(), Some(0));
    eventually("the rotation", async || {
        phase(&place).as_deref() == Some("publishing")
    })
    .await;
    let text = read(&place.credential("root-rotation.json"));
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let moment = |name: &str| record[name].as_u64().unwrap();
    assert!(moment("until") >= moment("since") + 60, "{record}");
    // Certificates of the new TTL come and go, and still nobody can tell who has the older ones.
    let started = timeout(SOON, Security::start(sentry.options("cart"))).await;
    let (short, renewal) = started.unwrap().unwrap();
    let _holder = Holder(tokio::spawn(renewal));
    eventually("renewals beyond the end of the first", async || {
        let pending = sentry.metric("dapr_sentry_root_rotation_pending").await;
        assert_eq!(pending, -1.0);
        short.renewals().borrow().succeeded >= 4
    })
    .await;
    assert_eq!(phase(&place).as_deref(), Some("publishing"));
    assert!(read(&place.credential("ca.crt")).starts_with(&old));
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_user_who_brings_an_authority_meanwhile_ends_it() {
    let (place, other) = (Place::new("spec: {}"), Place::new("spec: {}"));
    assert_eq!(other.start().await.stop().await.code(), Some(0));
    let sentry = place.start().await;
    // With a certificate of 24 hours in use the rotation waits.
    drop(sentry.security("orders").await);
    assert_eq!(rotate(&place).await.status.code(), Some(0));
    eventually("the rotation", async || {
        phase(&place).as_deref() == Some("publishing")
    })
    .await;
    for name in ["ca.crt", "issuer.crt", "issuer.key"] {
        std::fs::copy(other.credential(name), place.credential(name)).unwrap();
    }
    eventually("the end of the rotation", async || phase(&place).is_none()).await;
    let users = read(&other.credential("ca.crt"));
    assert_eq!(read(&place.credential("ca.crt")), users);
    assert!(is_served_with(&sentry, &users).await);
}

/// A chain issued after a rotation, and the roots before and after it.
async fn rotated() -> (Place, [String; 2]) {
    let place = Place::new(QUICK);
    let sentry = place.start().await;
    let old = read(&place.credential("ca.crt"));
    assert_eq!(rotate(&place).await.status.code(), Some(0));
    eventually("the end", async || {
        phase(&place).is_none() && read(&place.credential("ca.crt")) != old
    })
    .await;
    let security = sentry.security("orders").await;
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let request = SignCertificateRequest {
        id: "orders".to_owned(),
        namespace: "default".to_owned(),
        certificate_signing_request: signing_request(&key).unwrap().into_bytes().into(),
        ..Default::default()
    };
    let mut client = sentry.client(&security).await;
    let answer = client.sign_certificate(request).await.unwrap().into_inner();
    std::fs::write(place.path("chain.pem"), &answer.workload_certificate).unwrap();
    let new = read(&place.credential("ca.crt"));
    for (name, root) in [("old.pem", &old), ("new.pem", &new)] {
        std::fs::write(place.path(name), root).unwrap();
    }
    (place, [old, new])
}

#[tokio::test]
async fn openssl_verifies_the_chain_with_the_old_root_and_with_the_new() {
    if Command::new("openssl")
        .arg("version")
        .output()
        .await
        .is_err()
    {
        return skipped("sentry: openssl verify", "there is no openssl").unwrap();
    }
    let (place, _) = rotated().await;
    for root in ["old.pem", "new.pem"] {
        let chain = place.path("chain.pem");
        let output = Command::new("openssl")
            .arg("verify")
            .arg("-CAfile")
            .arg(place.path(root))
            .args([
                "-no-CApath",
                "-no-CAstore",
                "-partial_chain",
                "-purpose",
                "sslserver",
            ])
            .arg("-untrusted")
            .args([&chain, &chain])
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && told.contains(": OK"),
            "{root}: {told}"
        );
    }
}

#[tokio::test]
async fn go_verifies_the_chain_with_the_old_root_and_with_the_new() {
    if Command::new("go").arg("version").output().await.is_err() {
        return skipped("sentry: verification in Go", "there is no go").unwrap();
    }
    // Compiled first: the certificates are short-lived.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("verify");
    let compiled = Command::new("go")
        .args(["build", "-o"])
        .args([program.as_path(), Path::new(".")])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go"))
        .env("GOFLAGS", "-mod=mod")
        .kill_on_drop(true)
        .output();
    let compiled = timeout(Duration::from_secs(300), compiled).await;
    let compiled = compiled.unwrap().unwrap();
    let told = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{told}");
    let (place, _) = rotated().await;
    for (root, expected) in [("old.pem", true), ("new.pem", true), ("chain.pem", false)] {
        let output = Command::new(&program)
            .args([place.path(root), place.path("chain.pem")])
            .arg("spiffe://public/ns/default/orders")
            .kill_on_drop(true)
            .output();
        let output = timeout(SOON, output).await.unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), expected, "{root}: {told}");
    }
}
