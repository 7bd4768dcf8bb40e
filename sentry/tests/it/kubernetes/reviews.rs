//! What the API server is asked for a certificate: one review of the token, and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use axum::response::IntoResponse as _;
use dapr_e2e_apiserver::scripted::Verb;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::minimal::{pod, review, token};
use super::stage::{Handled, Method, REVIEWS, Request, Stage, StatusCode, installed, pass};
use super::*;

/// What was reviewed.
#[derive(Default)]
struct Reviews {
    uses: HashMap<String, usize>,
    in_flight: usize,
    peak: usize,
    total: usize,
}

/// How long the script thinks about a token: some batches of the most that are asked for at once are well within the time
/// a client waits.
const SLOW: Duration = Duration::from_millis(50);

/// Reviews slowly, and takes the token of pod `revoked` once only.
fn slowly(reviews: &Arc<Mutex<Reviews>>) -> impl Fn(Request) -> Handled + Clone + use<> {
    let reviews = Arc::clone(reviews);
    move |request: Request| -> Handled {
        let reviews = Arc::clone(&reviews);
        Box::pin(async move {
            if request.method() != Method::POST || request.uri().path() != REVIEWS {
                return Err(request);
            }
            let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
            let asked: Value = serde_json::from_slice(&body.unwrap()).unwrap();
            let shown = asked["spec"]["token"].as_str().unwrap().to_owned();
            let uses = {
                let mut reviews = reviews.lock();
                reviews.total += 1;
                reviews.in_flight += 1;
                reviews.peak = reviews.peak.max(reviews.in_flight);
                let uses = reviews.uses.entry(shown.clone()).or_default();
                *uses += 1;
                *uses
            };
            sleep(SLOW).await;
            reviews.lock().in_flight -= 1;
            let (code, mut answer) = review(&asked);
            if shown == token("shop", "revoked") && uses > 1 {
                answer = json!({"status": {"authenticated": false}});
            }
            let code = StatusCode::from_u16(code).unwrap();
            Ok((code, axum::Json(answer)).into_response())
        })
    }
}

#[tokio::test]
async fn each_request_is_reviewed_and_not_too_many_at_once() {
    const CLIENTS: usize = 6;
    const EACH: usize = 50;
    let reviews: Arc<Mutex<Reviews>> = Arc::default();
    let stage = Stage::new(installed().await, slowly(&reviews)).await;
    let sentry = stage.start(&[]).await;
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let request = signed(&key, "orders", "shop", token("shop", "orders-0"));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(stage.client(&sentry).await);
    }
    let before = reviews.lock().total;
    let mut calls = JoinSet::new();
    for mut client in clients.into_iter().cycle().take(CLIENTS * EACH) {
        let request = request.clone();
        calls.spawn(async move { client.sign_certificate(request).await });
    }
    for answer in timeout(SOON, calls.join_all()).await.unwrap() {
        answer.unwrap();
    }
    let reviews = reviews.lock();
    assert_eq!(reviews.total - before, CLIENTS * EACH, "none is remembered");
    assert!((2..=64).contains(&reviews.peak), "{} at once", reviews.peak);
}

#[tokio::test]
async fn a_token_that_is_revoked_is_denied_at_its_next_use() {
    let reviews = Arc::default();
    let server = installed().await;
    server.put(pod("shop", "revoked", "revoked"));
    let stage = Stage::new(server, slowly(&reviews)).await;
    let sentry = stage.start(&[]).await;
    let mut client = stage.client(&sentry).await;
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let request = signed(&key, "revoked", "shop", token("shop", "revoked"));
    client.sign_certificate(request.clone()).await.unwrap();
    let status = client.sign_certificate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test]
async fn certificates_cost_no_other_call() {
    const CERTIFICATES: usize = 20;
    let stage = Stage::new(installed().await, pass).await;
    let server = &stage.server;
    let sentry = stage.start(&[]).await;
    let mut client = stage.client(&sentry).await;
    let key = generate_key(KeyKind::Ed25519).unwrap();
    let request = signed(&key, "orders", "shop", token("shop", "orders-0"));
    let before = server.counts();
    for _ in 0..CERTIFICATES {
        client.sign_certificate(request.clone()).await.unwrap();
    }
    let mut expected = before;
    *expected
        .entry((Verb::Create, "tokenreviews".to_owned()))
        .or_default() += CERTIFICATES;
    assert_eq!(server.counts(), expected);
    assert_eq!(server.count(Verb::Get, "pods"), 0);
    for (path, plural) in [
        ("/api/v1/pods", "pods"),
        ("/apis/dapr.io/v1alpha1/configurations", "configurations"),
        ("/api/v1/namespaces/dapr-system/configmaps", "configmaps"),
    ] {
        let asked = [Verb::List, Verb::Watch].map(|verb| server.count(verb, plural));
        assert!(asked.iter().all(|times| *times <= 1), "{plural}: {asked:?}");
        assert_eq!(server.open_watches(path), 1, "{path}");
    }
}

#[tokio::test]
async fn a_pod_and_its_configuration_are_waited_for_in_either_order() {
    let stage = Stage::new(installed().await, pass).await;
    let (server, sentry) = (&stage.server, stage.start(&[]).await);
    let client = stage.client(&sentry).await;
    let key = generate_key(KeyKind::Ed25519).unwrap();
    // More than once each: what comes late may still come in time.
    for round in 0..10 {
        for order in [[0, 1], [1, 0]] {
            let name = format!("pod-{round}-{}", order[0]);
            let mut late = pod("shop", &name, &name);
            late["metadata"]["annotations"]["dapr.io/config"] = json!(name);
            let configuration = json!({
                "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"accessControl": {"trustDomain": "shop.example"}},
            });
            let objects = [late, configuration];
            let reviewed = server.count(Verb::Create, "tokenreviews");
            // The first of the two is known, and the token in use, before the other is there.
            server.put(objects[order[0]].clone());
            let request = signed(&key, &name, "shop", token("shop", &name));
            let mut client = client.clone();
            let asking = tokio::spawn(async move { client.sign_certificate(request).await });
            eventually("the review", async || {
                server.count(Verb::Create, "tokenreviews") > reviewed
            })
            .await;
            server.put(objects[order[1]].clone());
            let answer = timeout(SOON, asking).await.unwrap().unwrap();
            assert!(answer.is_ok(), "{name}: {answer:?}");
        }
    }
    // Without one there is no certificate in the end.
    let mut lost = pod("shop", "lost", "lost");
    lost["metadata"]["annotations"]["dapr.io/config"] = json!("nowhere");
    server.put(lost);
    let request = signed(&key, "lost", "shop", token("shop", "lost"));
    let status = client.clone().sign_certificate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(
        status
            .message()
            .contains("failed to get configuration: \"shop/nowhere\""),
        "{status}"
    );
}
