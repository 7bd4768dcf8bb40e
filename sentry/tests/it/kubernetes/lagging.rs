//! API servers that show what was there long ago, fail now and then, or never answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::response::IntoResponse as _;
use dapr_e2e_apiserver::scripted::Verb;

use super::material::brought;
use super::stage::{Handled, Method, Request, Stage, StatusCode, bundle, installed, is_for};
use super::*;

#[tokio::test]
async fn what_was_written_counts_before_it_can_be_read() {
    let server = installed().await;
    let at_first = ["Secret", "ConfigMap"].map(|kind| server.get(&bundle(kind)).unwrap());
    let handle = move |request: Request| -> Handled {
        let at = ["secrets", "configmaps"]
            .iter()
            .position(|plural| is_for(&request, &Method::GET, plural));
        let answer = at.map(|at| axum::Json(at_first[at].clone()).into_response());
        Box::pin(async { answer.ok_or(request) })
    };
    let stage = Stage::new(server, handle).await;
    let sentry = stage.start(&[]).await;
    let options = stage.options(sentry.port, "orders-0", "orders");
    let started = timeout(SOON, Security::start(options)).await.unwrap();
    let id = started.unwrap().0.identity().unwrap().to_string();
    assert_eq!(id, "spiffe://public/ns/shop/orders");
    assert_eq!(stage.server.count(Verb::Update, "secrets"), 1);
    assert_eq!(stage.server.count(Verb::Update, "configmaps"), 1);
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn what_could_not_be_read_is_read_again() {
    let fails = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicUsize::new(0));
    let (armed, counted) = (Arc::clone(&fails), Arc::clone(&failed));
    let handle = move |request: Request| -> Handled {
        let is_hit = is_for(&request, &Method::GET, "secrets") && armed.load(Ordering::Relaxed);
        if is_hit {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(async move {
            if is_hit {
                return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
            }
            Err(request)
        })
    };
    let stage = Stage::new(installed().await, handle).await;
    let sentry = stage.start(&[]).await;
    let [root, chain, key] = brought();
    fails.store(true, Ordering::Relaxed);
    let mut secret = bundle("Secret");
    secret["data"] = encoded(&[
        ("ca.crt", &root),
        ("issuer.crt", &chain),
        ("issuer.key", &key),
    ]);
    stage.server.put(secret);
    let mut published = bundle("ConfigMap");
    published["data"] = json!({"ca.crt": root});
    stage.server.put(published);
    // The event of the change is met by a failure, and one that is still to come from the start, too.
    let before = failed.load(Ordering::Relaxed);
    eventually("failures", async || {
        failed.load(Ordering::Relaxed) >= before + 2
    })
    .await;
    fails.store(false, Ordering::Relaxed);
    eventually("the user's authority", async || {
        stage.is_served(&sentry, &root).await
    })
    .await;
    let log = sentry.log();
    assert!(
        log.contains("cannot be read, keeping the last good one"),
        "{log}"
    );
    assert!(!log.contains("is not valid"), "{log}");
    assert_eq!(sentry.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_signal_ends_a_start_that_waits_for_the_api_server() {
    let handle = |request: Request| -> Handled {
        Box::pin(async move {
            let mut plurals = ["secrets", "configmaps"].into_iter();
            if plurals.any(|plural| is_for(&request, &Method::GET, plural)) {
                std::future::pending::<()>().await;
            }
            Err(request)
        })
    };
    let stage = Stage::new(installed().await, handle).await;
    let sentry = stage.spawn(&[]).await;
    let mut told = String::new();
    eventually("health", async || match sentry.health().await {
        Ok(answer) => {
            told = answer;
            true
        }
        Err(_) => false,
    })
    .await;
    assert!(told.starts_with("HTTP/1.1 503"), "{told}");
    assert_eq!(sentry.stop().await.code(), Some(0));
}

/// Data of a Secret.
pub(super) fn encoded(texts: &[(&str, &str)]) -> Value {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let pairs = texts.iter();
    pairs
        .map(|(key, text)| ((*key).to_owned(), json!(engine.encode(text))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
