//! The client itself: where it connects to, with which token, and that calls end.

use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Fault, Options, Verb};
use dapr_kubernetes::{Error, Place, client};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{config_map, connect, start};

#[tokio::test]
async fn objects_are_written_with_kube() {
    let server = start(Options {
        token: Some("secret".to_owned()),
        ..Options::complete()
    })
    .await;
    let api = kube::Api::<ConfigMap>::namespaced(connect(&server).await, "default");
    let first: ConfigMap = serde_json::from_value(config_map("a", "1")).expect("an object");
    let created = api
        .create(&PostParams::default(), &first)
        .await
        .expect("created");
    let merge = Patch::Merge(json!({"data": {"value": "2"}}));
    let patched = api
        .patch("a", &PatchParams::default(), &merge)
        .await
        .expect("patched");
    assert_ne!(
        created.metadata.resource_version,
        patched.metadata.resource_version
    );
    let stale = api
        .replace("a", &PostParams::default(), &created)
        .await
        .expect_err("a conflict");
    assert!(matches!(stale, kube::Error::Api(status) if status.code == 409));
    api.replace("a", &PostParams::default(), &first)
        .await
        .expect("without a version the last write wins");
    assert_eq!(
        server.get(&config_map("a", "")).expect("there")["data"]["value"],
        "1"
    );
    api.delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(api.get_opt("a").await.expect("an answer"), None);
}

#[tokio::test]
async fn a_review_is_answered_by_its_handler() {
    use k8s_openapi::api::authentication::v1::TokenReview;
    let server = start(Options::minimal()).await;
    server.on_post("/apis/authentication.k8s.io/v1/tokenreviews", |review| {
        let authenticated = review["spec"]["token"] == "good";
        (201, json!({"metadata": {}, "spec": review["spec"], "status": {"authenticated": authenticated}}))
    });
    let api = kube::Api::<TokenReview>::all(connect(&server).await);
    for (token, expected) in [("good", true), ("bad", false)] {
        let review = serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}}))
            .expect("a review");
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .expect("an answer");
        assert_eq!(
            answer.status.and_then(|status| status.authenticated),
            Some(expected)
        );
    }
}

#[tokio::test]
async fn a_call_is_made_once() {
    let server = start(Options::complete()).await;
    let api = kube::Api::<ConfigMap>::all(connect(&server).await);
    server.fail_list(Fault::Status {
        code: 503,
        retry_after: Some(1),
    });
    let error = api
        .list(&ListParams::default())
        .await
        .expect_err("a failure");
    assert!(matches!(error, kube::Error::Api(status) if status.code == 503));
    assert_eq!(server.count(Verb::List, "configmaps"), 1);
}

#[tokio::test]
async fn a_call_nobody_answers_ends() {
    let server = start(Options::complete()).await;
    let api = kube::Api::<ConfigMap>::all(connect(&server).await);
    for fault in [Fault::Mute, Fault::Silent] {
        server.fail_list(fault);
        let seen = server.count(Verb::List, "configmaps");
        let parameters = ListParams::default();
        let call = api.list(&parameters);
        tokio::pin!(call);
        crate::support::until_with("the request", call.as_mut(), || {
            server.count(Verb::List, "configmaps") > seen
        })
        .await;
        // The request is on its way and will never be answered: the minute passes at once.
        tokio::time::pause();
        let error = tokio::time::timeout(Duration::from_secs(61), call)
            .await
            .expect("it ends")
            .expect_err("late");
        tokio::time::resume();
        assert!(error.to_string().contains("within 60 seconds"), "{error}");
    }
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = client(&Place::Kubeconfig(folder.path().join("none"))).await;
    assert!(matches!(missing, Err(Error::Kubeconfig { .. })));
    let proxied = folder.path().join("proxied");
    let config = json!({
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1", "proxy-url": "http://127.0.0.1:2"}}],
    });
    std::fs::write(&proxied, config.to_string()).expect("a file");
    assert!(matches!(
        client(&Place::Kubeconfig(proxied)).await,
        Err(Error::Proxy { .. })
    ));
}
