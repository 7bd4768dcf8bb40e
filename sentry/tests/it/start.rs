use std::os::unix::fs::PermissionsExt as _;

use crate::process::{Place, command, read};

const FILES: [&str; 3] = ["ca.crt", "issuer.crt", "issuer.key"];

#[tokio::test]
async fn the_first_start_makes_an_authority_and_the_second_keeps_it() {
    let place = Place::new("spec: {}");
    let sentry = place.start().await;
    let contents = || FILES.map(|name| read(&place.credential(name)));
    let first = contents();
    for name in FILES {
        let mode = std::fs::metadata(place.credential(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(sentry.stop().await.code(), Some(0));
    let sentry = place.start().await;
    assert_eq!(contents(), first);
    let running = format!("msg=\"Running gRPC server on port {}\"", sentry.port);
    let (status, log) = sentry.stop_and_tell().await;
    assert_eq!(status.code(), Some(0));
    // What scripts wait for.
    for line in [
        "msg=\"Starting Dapr Sentry certificate authority -- version ",
        &running,
        "msg=\"Sentry shut down gracefully\"",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_does_not_keep_sentry_from_starting() {
    let place = Place::new("spec: {}");
    // To root, who may read the files of others, as unreadable as to everybody.
    std::fs::create_dir(place.credential("rotate-root")).unwrap();
    let sentry = place.start().await;
    let log = sentry.log();
    assert!(log.contains("in a way that cannot be read"), "{log}");
    assert_eq!(sentry.stop().await.code(), Some(0));
}

pub(crate) async fn check(place: &Place, flags: &[&str], code: i32, expected: &str) {
    let output = command()
        .args(place.flags())
        .args(flags)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {text}");
    assert!(text.contains(expected), "{flags:?}: {text}");
}

#[tokio::test]
async fn what_keeps_sentry_from_starting_is_named() {
    let place = Place::new("spec: {}");
    check(&place, &["--help"], 0, "--issuer-credentials").await;
    check(&place, &["--no-such-flag"], 2, "no-such-flag").await;
    check(&place, &["--mode=kubernetes"], 1, "NAMESPACE is not set").await;
    check(
        &place,
        &["-config", "/nowhere/at/all"],
        1,
        "failed to load configuration",
    )
    .await;
    let flags = [
        "--jwt-enabled",
        "--oidc-enabled",
        "--oidc-server-tls-enabled=false",
        "--oidc-jwks-uri=:bad",
    ];
    check(&place, &flags, 1, "invalid --oidc-jwks-uri").await;
    check(
        &place,
        &["--issuer-credentials=/nowhere/at/all"],
        1,
        "cannot be watched",
    )
    .await;
}

#[tokio::test]
async fn a_broken_authority_ends_the_start() {
    let place = Place::new("spec: {}");
    for name in FILES {
        std::fs::write(place.credential(name), "broken").unwrap();
    }
    check(
        &place,
        &["--port=0", "--healthz-port=0", "--metrics-port=0"],
        1,
        "root certificates are unusable",
    )
    .await;
}

#[tokio::test]
async fn options_of_a_validator_are_checked() {
    let place =
        Place::new("spec: {mtls: {tokenValidators: [{name: jwks, options: {source: nowhere}}]}}");
    check(
        &place,
        &[],
        1,
        "is neither a URL, nor a file, nor a key set",
    )
    .await;
}
