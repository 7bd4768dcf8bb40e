//! Requests of the HTTP API and what they are answered, without sockets.

use std::sync::Arc;

use bytes::Bytes;
use dapr_sidecar_api::services::ShutdownKind;
use dapr_sidecar_api::settings::{ApiRule, ApiRules, Cors, Settings, Tracing};
use dapr_sidecar_core::actors::Phase;
use dapr_sidecar_core::state::SaveItem;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::fixture::{Components, World, build, with_settings, world};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

async fn ask(
    world: &World,
    line: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let (method, uri) = line.split_once(' ').expect("a method and a path");
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("a request");
    let response = dapr_sidecar_api::http::handle(Arc::clone(&world.core), request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}

/// `expected` is the body: JSON where it parses, `""` for none. Details are left out.
async fn check(world: &World, line: &str, body: &str, status: u16, expected: &str) {
    let answer = ask(world, line, &[], body.to_owned()).await;
    let mut shown = answer.json();
    if let Some(object) = shown.as_object_mut() {
        object.remove("details");
    }
    let wanted: Value = serde_json::from_str(expected).unwrap_or(Value::Null);
    assert_eq!(answer.status, status, "{line}: {:?}", answer.body);
    if wanted.is_null() && expected != "null" {
        assert_eq!(answer.body, expected, "{line}");
    } else {
        assert_eq!(shown, wanted, "{line}");
    }
}

fn error(code: &str, message: &str) -> String {
    json!({"errorCode": code, "message": message}).to_string()
}

#[tokio::test]
async fn state() {
    let world = world();
    let w = &world;
    check(w, "GET /v1.0/state/store/k", "", 204, "").await;
    check(
        w,
        "POST /v1.0/state/store",
        r#"[{"key":"k","value":{"b":1,"a":"<"}},{"key":"n","value":null}]"#,
        204,
        "",
    )
    .await;
    let answer = ask(w, "GET /v1.0/state/store/k", &[], "").await;
    assert_eq!(
        (answer.status, answer.body.as_ref()),
        (200, br#"{"a":"\u003c","b":1}"#.as_ref())
    );
    assert_eq!(answer.headers["content-type"], "application/json");
    let etag = answer.headers["etag"].to_str().expect("text").to_owned();
    check(w, "GET /v1.0/state/store/n", "", 200, "null").await;
    check(
        w,
        "PUT /v1.0/state/store?metadata.ttlInSeconds=60",
        r#"[{"key":"t","value":1}]"#,
        204,
        "",
    )
    .await;
    assert!(
        ask(w, "GET /v1.0/state/store/t", &[], "")
            .await
            .headers
            .contains_key("metadata.ttlexpiretime")
    );
    check(w, "POST /v1.0/state/store", "[]", 204, "").await;
    check(
        w,
        "POST /v1.0/state/store",
        r#"[{"value":1}]"#,
        400,
        &error("ERR_MALFORMED_REQUEST", "\"key\" is a required field"),
    )
    .await;
    let answer = ask(w, "POST /v1.0/state/store", &[], "{").await;
    assert_eq!(
        (answer.status, answer.json()["errorCode"].clone()),
        (400, json!("ERR_MALFORMED_REQUEST"))
    );
    check(
        w,
        "POST /v1.0/state/store",
        r#"[{"key":"a||b","value":1}]"#,
        400,
        &error("ERR_MALFORMED_REQUEST", "api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'"),
    )
    .await;
    // Etags.
    let stale = ask(
        w,
        "DELETE /v1.0/state/store/k",
        &[("if-match", "stale")],
        "",
    )
    .await;
    assert_eq!(
        (stale.status, stale.json()["errorCode"].clone()),
        (409, json!("ERR_STATE_DELETE"))
    );
    assert_eq!(
        ask(w, "DELETE /v1.0/state/store/k", &[("if-match", &etag)], "")
            .await
            .status,
        204
    );
    check(w, "DELETE /v1.0/state/store/k", "", 204, "").await;
    check(
        w,
        "DELETE /v1.0/state/store/k?concurrency=x",
        "",
        500,
        &error(
            "ERR_STATE_DELETE",
            "failed deleting state with key k: unrecognized concurrency model 'x'",
        ),
    )
    .await;
    // Stores and keys.
    check(
        w,
        "GET /v1.0/state/other/k",
        "",
        400,
        &error(
            "ERR_STATE_STORE_NOT_FOUND",
            "state store other is not found",
        ),
    )
    .await;
    let answer = ask(w, "GET /v1.0/state/other/k", &[], "").await;
    assert_eq!(
        answer.json()["details"][0]["metadata"],
        json!({"appID": "app"})
    );
    check(w, "GET /v1.0/state/store/%zz", "", 400, "400 Bad Request").await;
    check(
        w,
        "POST /v1.0/state/store/",
        r#"[{"key":"a%2Bb","value":1}]"#,
        204,
        "",
    )
    .await;
    check(w, "GET /v1.0/state/store/a%252Bb", "", 200, "1").await;
}

#[tokio::test]
async fn an_empty_value_is_there_or_not_as_the_store_has_it() {
    let world = world();
    for (store, status) in [("store", 204), ("disk", 200)] {
        let item = SaveItem {
            key: "k".to_owned(),
            value: dapr_sidecar_core::state::Value::Binary(Bytes::new()),
            etag: None,
            concurrency: String::new(),
            consistency: String::new(),
            metadata: std::collections::BTreeMap::new(),
            content_type: None,
        };
        let saved = world.core.stores.save(store, vec![item]).await;
        saved.expect("saves");
        let line = format!("GET /v1.0/state/{store}/k");
        let answer = ask(&world, &line, &[], "").await;
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{store}");
        assert_eq!(answer.headers.contains_key("etag"), status == 200);
        check(
            &world,
            &format!("GET /v1.0/state/{store}/none"),
            "",
            204,
            "",
        )
        .await;
    }
}

/// Clients that serialise optional fields write nulls, and some spell field names their own way.
#[tokio::test]
async fn nulls_and_names_in_any_case() {
    let world = world();
    let w = &world;
    let nulls = r#"{"key":"k","value":1,"etag":null,"metadata":{"x":null},"options":{"concurrency":null,"consistency":null},"contentType":null}"#;
    for (line, body, status, expected) in [
        ("POST /v1.0/state/store", format!("[{nulls}]"), 204, ""),
        ("GET /v1.0/state/store/k", String::new(), 200, "1"),
        ("POST /v1.0/state/store", "null".to_owned(), 204, ""),
        (
            "POST /v1.0/state/store",
            r#"[{"Key":"K","VALUE":2,"Options":null}]"#.to_owned(),
            204,
            "",
        ),
        ("GET /v1.0/state/store/K", String::new(), 200, "2"),
        (
            "POST /v1.0/state/store/bulk",
            r#"{"Keys":["x"],"parallelism":null,"metadata":null}"#.to_owned(),
            200,
            r#"[{"key":"x"}]"#,
        ),
        ("POST /v1.0/state/store/bulk", "null".to_owned(), 200, "[]"),
        (
            "POST /v1.0/state/store/transaction",
            format!(
                r#"{{"Operations":[{{"Operation":"upsert","request":{nulls}}}],"metadata":null}}"#
            ),
            204,
            "",
        ),
        (
            "POST /v1.0/publish/bulk/pubsub/t",
            r#"[{"entryID":"1","event":"e","contentType":"text/plain","metadata":null}]"#
                .to_owned(),
            204,
            "",
        ),
        (
            "POST /v1.0/publish/bulk/pubsub/t",
            "null".to_owned(),
            204,
            "",
        ),
    ] {
        check(w, line, &body, status, expected).await;
    }
}

/// The caller's host is this sidecar, which no target may see as its own name.
#[tokio::test]
async fn host_is_not_forwarded() {
    let world = world();
    let answer = ask(
        &world,
        "GET /v1.0/invoke/app/method/echo",
        &[("host", "sidecar:3500"), ("x-own", "1")],
        "",
    )
    .await;
    assert_eq!(answer.headers["x-own"], "1");
    assert!(!answer.headers.contains_key("host"), "{:?}", answer.headers);
}

#[tokio::test]
async fn malformed_escapes_anywhere() {
    let world = world();
    for line in [
        "GET /v1.0/invoke/app/method/%zz",
        "GET /v1.0/invoke/app/method/a%2",
        "POST /v1.0/publish/pubsub/%",
        "GET /any%",
    ] {
        check(&world, line, "", 400, "400 Bad Request").await;
    }
}

#[tokio::test]
async fn values_are_stored_as_go_writes_them() {
    let world = world();
    let w = &world;
    for (value, expected) in [
        (&br#"{"b":1.0,"a":1E3}"#[..], &br#"{"a":1000,"b":1}"#[..]),
        (br#""<a>""#, br#""\u003ca\u003e""#),
        (b"\"a\xff\"", "\"a\u{fffd}\"".as_bytes()),
    ] {
        let body = [br#"[{"key":"go","value":"#, value, b"}]"].concat();
        let saved = ask(w, "POST /v1.0/state/store", &[], body).await;
        assert_eq!(saved.status, 204, "{:?}", saved.body);
        let answer = ask(w, "GET /v1.0/state/store/go", &[], "").await;
        assert_eq!(&answer.body[..], expected);
    }
    let large = ask(
        w,
        "POST /v1.0/state/store",
        &[],
        r#"[{"key":"go","value":1e999}]"#,
    )
    .await;
    assert_eq!(
        (large.status, &large.json()["errorCode"]),
        (400, &json!("ERR_MALFORMED_REQUEST"))
    );
}

#[tokio::test]
async fn bulk_transaction_and_query() {
    let world = world();
    let w = &world;
    check(
        w,
        "POST /v1.0/state/store/bulk",
        r#"{"keys":[]}"#,
        200,
        "[]\n",
    )
    .await;
    check(
        w,
        "POST /v1.0/state/store/bulk",
        "x",
        400,
        &error(
            "ERR_MALFORMED_REQUEST",
            "failed deserializing HTTP body: expected value at line 1 column 1",
        ),
    )
    .await;
    let body = r#"{"operations":[
        {"operation":"upsert","request":{"Key":"a","value":{"x":1}}},
        {"operation":"upsert","request":{"key":"b","value":2,"metadata":{"ttlInSeconds":"60"}}},
        {"operation":"delete","request":{"key":"c"}}]}"#;
    check(w, "POST /v1.0/state/store/transaction", body, 204, "").await;
    let answer = ask(
        w,
        "POST /v1.0/state/store/bulk",
        &[],
        r#"{"keys":["a","missing"]}"#,
    )
    .await;
    let items = answer.json();
    assert_eq!(
        (items[0]["key"].clone(), items[0]["data"].clone()),
        (json!("a"), json!({"x": 1}))
    );
    assert_eq!(items[1], json!({"key": "missing"}));
    assert!(answer.body.ends_with(b"\n"));
    check(w, "POST /v1.0/state/store/transaction", "{}", 204, "").await;
    let unknown = r#"{"operations":[{"operation":"move","request":{"key":"a"}}]}"#;
    check(
        w,
        "POST /v1.0/state/store/transaction",
        unknown,
        400,
        &error(
            "ERR_NOT_SUPPORTED_STATE_OPERATION",
            "operation type move not supported",
        ),
    )
    .await;
    check(
        w,
        "POST /v1.0/state/other/transaction",
        "{",
        400,
        &error(
            "ERR_STATE_STORE_NOT_FOUND",
            "state store other is not found",
        ),
    )
    .await;
    check(
        w,
        "POST /v1.0-alpha1/state/store/query",
        "{}",
        500,
        &error(
            "ERR_STATE_STORE_NOT_SUPPORTED",
            "state store does not support querying",
        ),
    )
    .await;
    let answer = ask(w, "POST /v1.0-alpha1/state/other/query", &[], "{}").await;
    assert_eq!(answer.json()["details"][0]["metadata"], Value::Null);
}

#[tokio::test]
async fn publish() {
    let world = world();
    let w = &world;
    check(w, "POST /v1.0/publish/pubsub/topic/below", "{}", 204, "").await;
    check(
        w,
        "POST /v1.0/publish/other/t",
        "{}",
        404,
        &error("ERR_PUBSUB_NOT_FOUND", "pubsub other is not found"),
    )
    .await;
    let answer = ask(w, "POST /v1.0/publish/other/t?metadata.k=v", &[], "").await;
    assert_eq!(answer.json()["details"][0]["metadata"], json!({"k": "v"}));
    check(
        w,
        "POST /v1.0/publish/pubsub/secret",
        "{}",
        403,
        &error(
            "ERR_PUBSUB_FORBIDDEN",
            "topic secret is not allowed for app id app",
        ),
    )
    .await;
    let answer = ask(
        w,
        "POST /v1.0/publish/pubsub/t",
        &[("content-type", "application/cloudevents+json")],
        "no",
    )
    .await;
    assert_eq!(
        (answer.status, answer.json()["errorCode"].clone()),
        (500, json!("ERR_PUBSUB_CLOUD_EVENTS_SER"))
    );
    let answer = ask(
        w,
        "POST /v1.0/publish/pubsub/t?metadata.rawPayload=x",
        &[],
        "",
    )
    .await;
    assert_eq!(
        (answer.status, answer.json()["errorCode"].clone()),
        (400, json!("ERR_PUBSUB_REQUEST_METADATA"))
    );
}

#[tokio::test]
async fn bulk_publish() {
    let world = world();
    let w = &world;
    let entry = |id: &str, kind: &str| json!({"entryId": id, "event": "x", "contentType": kind});
    let good = json!([entry("1", "text/plain"), entry("2", "application/json")]).to_string();
    check(w, "POST /v1.0/publish/bulk/pubsub/t", &good, 204, "").await;
    check(w, "POST /v1.0-alpha1/publish/bulk/pubsub/t", &good, 204, "").await;
    let twice = json!([entry("1", "text/plain"), entry("1", "text/plain")]).to_string();
    let message = "error marshaling events to bytes for topic t pubsub pubsub. error: entryId is duplicated or not present for entry";
    check(
        w,
        "POST /v1.0/publish/bulk/pubsub/t",
        &twice,
        400,
        &error("ERR_PUBSUB_EVENTS_SER", message),
    )
    .await;
    let message = "error when marshalling cloud event envelope for topic t pubsub pubsub: error: mismatch between contentType and event";
    for kind in [
        "image/png",
        "application/vnd.x+json",
        "application/soap+xml",
    ] {
        let bad = json!([entry("1", kind)]).to_string();
        check(
            w,
            "POST /v1.0/publish/bulk/pubsub/t",
            &bad,
            400,
            &error("ERR_PUBSUB_EVENTS_SER", message),
        )
        .await;
    }
    let answer = ask(w, "POST /v1.0/publish/bulk/pubsub/t", &[], "{").await;
    assert_eq!(
        (answer.status, answer.json()["errorCode"].clone()),
        (400, json!("ERR_PUBSUB_EVENTS_SER"))
    );
}

#[tokio::test]
async fn invocation() {
    let world = world();
    let w = &world;
    let answer = ask(
        w,
        "PATCH /v1.0/invoke/app/method/a%20b/echo?q=1",
        &[("x-own", "1")],
        "hello",
    )
    .await;
    assert_eq!(
        (answer.status, answer.body.as_ref()),
        (200, b"hello".as_ref())
    );
    assert_eq!(answer.headers["x-seen"], "PATCH a b/echo q=1");
    assert_eq!(answer.headers["x-own"], "1");
    assert_eq!(
        ask(w, "GET //v1.0//invoke/app/method/echo", &[], "")
            .await
            .status,
        200
    );
    let answer = ask(w, "GET /v1.0/invoke/http://host/method/m", &[], "").await;
    assert!(
        answer.json()["message"]
            .as_str()
            .expect("text")
            .contains("http://host is not reachable")
    );
    // Any path with the header, but never one of the other routes.
    let header = [("dapr-app-id", "app")];
    let answer = ask(w, "GET /orders/1", &header, "").await;
    assert_eq!(
        (answer.status, answer.headers["x-seen"].as_bytes()),
        (200, b"GET orders/1 ".as_ref())
    );
    assert_eq!(ask(w, "GET /v1.0/healthz", &header, "").await.status, 204);
    let answer = ask(
        w,
        "GET /orders",
        &[("authorization", "Basic ZGFwci1hcHAtaWQ6YXBw")],
        "",
    )
    .await;
    assert_eq!(answer.status, 200);

    check(
        w,
        "GET /v1.0/invoke/app/method/teapot",
        "",
        418,
        "short and stout",
    )
    .await;
    // What refuses without naming its type is taken for an error of this API.
    let answer = ask(w, "GET /v1.0/invoke/app/method/teapot", &[], "").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let answer = ask(w, "POST /v1.0/invoke/app/method/echo", &[], "{}").await;
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    let answer = ask(
        w,
        "POST /v1.0/invoke/app/method/echo",
        &[("content-type", "application/json")],
        "{}",
    )
    .await;
    assert_eq!(answer.headers["content-type"], "application/json");
    check(
        w,
        "GET /v1.0/invoke/app/method/status",
        "",
        404,
        r#"{"code":5,"message":"no such order"}"#,
    )
    .await;
    check(
        w,
        "GET /v1.0/invoke/app/method/fail",
        "",
        500,
        &error("ERR_DIRECT_INVOKE", "failed to invoke, id: app, err: EOF"),
    )
    .await;
    let typed = ask(
        w,
        "POST /v1.0/invoke/app/method/typed",
        &[("content-type", "text/plain")],
        "m",
    )
    .await;
    assert_eq!(typed.headers["content-type"], "application/x-protobuf");
    // Without a content type the beginning is looked at before anything is sent.
    check(
        w,
        "GET /v1.0/invoke/app/method/break",
        "",
        500,
        &error(
            "ERR_DIRECT_INVOKE",
            "failed to invoke, id: app, err: unexpected EOF",
        ),
    )
    .await;
    check(
        w,
        "GET /v1.0/invoke/other/method/m",
        "",
        403,
        &error("ERR_DIRECT_INVOKE", "failed to invoke, id: other, err: rpc error: code = PermissionDenied desc = nobody is there"),
    )
    .await;
    check(
        w,
        "GET /v1.0/invoke/a.b.c/method/m",
        "",
        500,
        &error(
            "ERR_DIRECT_INVOKE",
            "failed to invoke, id: a.b.c, err: invalid app id a.b.c",
        ),
    )
    .await;
    let nobody = error(
        "ERR_DIRECT_INVOKE",
        "failed getting app id either from the URL path or the header dapr-app-id",
    );
    for line in [
        "GET /",
        "GET /unknown",
        "PATCH /v1.0/state/store",
        "POST /v1.0/publish/pubsub/",
        "OPTIONS /v1.0/metadata",
        "GET /v1.0/shutdown",
    ] {
        check(w, line, "", 404, &nobody).await;
    }
    assert_eq!(ask(w, "HEAD /v1.0/metadata", &[], "").await.status, 404);
}

#[tokio::test]
async fn actors() {
    let world = world();
    let w = &world;
    let answer = ask(w, "POST /v1.0/actors/T/a+b/method/m%2Fn", &[], "body").await;
    assert_eq!(
        (answer.status, answer.body.as_ref()),
        (200, b"body".as_ref())
    );
    assert_eq!(answer.headers["x-seen"], "a b/m/n true");
    assert_eq!(answer.headers["content-type"], "application/json");
    check(
        w,
        "PUT /v1.0/actors/X/1/method/m",
        "",
        500,
        &error(
            "ERR_ACTOR_INVOKE_METHOD",
            "error invoke actor method: failed to lookup actor: no host for X",
        ),
    )
    .await;
    let upsert = r#"[{"operation":"upsert","request":{"key":"k","value":{"b":1,"a":2}}}]"#;
    check(w, "POST /v1.0/actors/T/1/state", upsert, 204, "").await;
    let answer = ask(w, "GET /v1.0/actors/T/1/state/k", &[], "").await;
    assert_eq!(
        (
            answer.body.as_ref(),
            answer.headers["metadata.ttlexpiretime"].as_bytes()
        ),
        (br#"{"a":2,"b":1}"#.as_ref(), b"soon".as_ref())
    );
    let numbers = r#"[{"operation":"upsert","request":{"key":"n","value":[1.0,1.50,1e3,1E-7,9007199254740993]}}]"#;
    check(w, "POST /v1.0/actors/T/1/state", numbers, 204, "").await;
    let answer = ask(w, "GET /v1.0/actors/T/1/state/n", &[], "").await;
    assert_eq!(
        answer.body.as_ref(),
        b"[1,1.5,1000,1e-7,9007199254740993]".as_ref()
    );
    check(w, "GET /v1.0/actors/T/1/state/none", "", 204, "").await;
    check(
        w,
        "POST /v1.0/actors/X/1/state",
        "[]",
        400,
        &error("ERR_ACTOR_INSTANCE_MISSING", "actor instance is missing"),
    )
    .await;
    let tx = |text: &str| {
        error(
            "ERR_ACTOR_STATE_TRANSACTION_SAVE",
            &format!("error saving actor transaction state: {text}"),
        )
    };
    check(
        w,
        "POST /v1.0/actors/T/1/state",
        r#"[{"operation":"move","request":1}]"#,
        500,
        &tx("operation type move not supported"),
    )
    .await;
    for body in [
        r#"[{"operation":"upsert","request":{"key":5}}]"#,
        r#"[{"operation":"upsert","request":{"key":"k","metadata":{"ttlInSeconds":5}}}]"#,
        r#"[{"operation":"delete","request":"k"}]"#,
    ] {
        let answer = ask(w, "POST /v1.0/actors/T/1/state", &[], body).await;
        let code = answer.json()["errorCode"].clone();
        let expected = (500, "ERR_ACTOR_STATE_TRANSACTION_SAVE".into());
        assert_eq!((answer.status, code), expected, "{body}");
        // Whose actor is elsewhere is told so first.
        let answer = ask(w, "POST /v1.0/actors/X/1/state", &[], body).await;
        let code = answer.json()["errorCode"].clone();
        let expected = (400, "ERR_ACTOR_INSTANCE_MISSING".into());
        assert_eq!((answer.status, code), expected, "{body}");
    }
    check(
        w,
        "POST /v1.0/actors/T/1/state",
        "[{}]",
        500,
        &tx("request data is empty"),
    )
    .await;
    check(
        w,
        "POST /v1.0/actors/T/1/state",
        r#"[{"operation":"upsert"}]"#,
        500,
        &tx("request data is empty"),
    )
    .await;
    check(
        w,
        "POST /v1.0/actors/T/1/state",
        r#"[{"operation":"delete","request":{}}]"#,
        500,
        &tx("missing key"),
    )
    .await;
    assert_eq!(
        ask(w, "POST /v1.0/actors/T/1/state", &[], "{}")
            .await
            .json()["errorCode"],
        "ERR_MALFORMED_REQUEST"
    );
    let reserved = "actor type \"dapr.internal.x\" is reserved for the Dapr workflow runtime; direct actor API access is not permitted";
    check(
        w,
        "POST /v1.0/actors/dapr.internal.x/1/timers/t",
        "{}",
        403,
        &error("ERR_ACTOR_TYPE_RESERVED", reserved),
    )
    .await;
    check(
        w,
        "POST /v1.0/actors/T/1/timers/t",
        r#"{"dueTime":"1s","data":null}"#,
        204,
        "",
    )
    .await;
    // Arrays are no registrations, whatever is in them.
    for line in [
        "POST /v1.0/actors/T/1/timers/t",
        "POST /v1.0/actors/T/1/reminders/r",
    ] {
        for body in ["", "[]", r#"[null,"1s"]"#, r#""x""#, r#"{"dueTime":5}"#] {
            let answer = ask(w, line, &[], body).await;
            let code = answer.json()["errorCode"].clone();
            let expected = (400, "ERR_MALFORMED_REQUEST".into());
            assert_eq!((answer.status, code), expected, "{line} {body}");
        }
        for body in ["null", r#"{"DUETIME":null,"unknown":1}"#] {
            check(w, line, body, 204, "").await;
        }
    }
    check(
        w,
        "POST /v1.0/actors/T/1/timers/t",
        r#"{"dueTime":"soon"}"#,
        500,
        &error(
            "ERR_ACTOR_TIMER_CREATE",
            "error creating actor timer: bad time",
        ),
    )
    .await;
    check(w, "DELETE /v1.0/actors/T/1/timers/t", "", 204, "").await;
    check(w, "PUT /v1.0/actors/T/1/reminders/r", "{}", 204, "").await;
    check(
        w,
        "PUT /v1.0/actors/T/1/reminders/r",
        r#"{"overwrite":false}"#,
        409,
        &error(
            "ERR_ACTOR_REMINDER_ALREADY_EXISTS",
            "actor reminder already exists: r",
        ),
    )
    .await;
    check(
        w,
        "GET /v1.0/actors/T/1/reminders/r",
        "",
        200,
        r#"{"actorID":"1","actorType":"T","data":{"a":1},"period":"@every 1s"}"#,
    )
    .await;
    check(
        w,
        "GET /v1.0/actors/T/1/reminders/none",
        "",
        404,
        &error(
            "ERR_ACTOR_REMINDER_NOT_FOUND",
            "actor reminder not found: none",
        ),
    )
    .await;
    check(w, "DELETE /v1.0/actors/T/1/reminders/r", "", 204, "").await;
}

#[tokio::test]
async fn secrets() {
    let world = world();
    let w = &world;
    check(
        w,
        "GET /v1.0/secrets/vault/redis?metadata.version=2",
        "",
        200,
        "{\"password\":\"p\",\"version\":\"2\"}\n",
    )
    .await;
    check(
        w,
        "GET /v1.0/secrets/vault/bulk",
        "",
        200,
        "{\"redis\":{\"password\":\"p\",\"version\":\"\"}}\n",
    )
    .await;
    for (line, status, expected) in [
        (
            "GET /v1.0/secrets/vault/hidden",
            403,
            error(
                "ERR_PERMISSION_DENIED",
                "access denied by policy to get \"hidden\" from \"vault\"",
            ),
        ),
        (
            "GET /v1.0/secrets/other/redis",
            401,
            error(
                "ERR_SECRET_STORE_NOT_FOUND",
                "failed finding secret store with key other",
            ),
        ),
        (
            "GET /v1.0/secrets/vault/none",
            500,
            error(
                "ERR_SECRET_GET",
                "failed getting secret with key none from secret store vault: no such secret",
            ),
        ),
    ] {
        check(w, line, "", status, &expected).await;
    }
}

#[tokio::test]
async fn blocks_without_components() {
    let world = build(Settings::default(), Components::None, Phase::Disabled);
    let w = &world;
    let lock = error(
        "ERR_LOCK_STORE_NOT_CONFIGURED",
        "lock store is not configured",
    );
    let configuration = error(
        "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
        "configuration stores not configured",
    );
    let secrets = error(
        "ERR_SECRET_STORES_NOT_CONFIGURED",
        "secret store is not configured",
    );
    let crypto = error(
        "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED",
        "crypto providers not configured",
    );
    let placement = error(
        "ERR_ACTOR_NO_PLACEMENT",
        "placement service is not configured",
    );
    let missing = error(
        "ERR_CONVERSATION_NOT_FOUND",
        "failed finding conversation component n",
    );
    let binding = |text: &str| {
        error(
            "ERR_INVOKE_OUTPUT_BINDING",
            &format!("error invoking output binding b: {text}"),
        )
    };
    let job = |operation: &str| {
        format!("failed to {operation} job due to: scheduler clients are disabled")
    };
    for (line, body, status, expected) in [
        (
            "GET /v1.0/state/s/k",
            "",
            500,
            error(
                "ERR_STATE_STORE_NOT_CONFIGURED",
                "state store s is not configured",
            ),
        ),
        (
            "POST /v1.0/publish/p/t",
            "",
            404,
            error("ERR_PUBSUB_NOT_FOUND", "pubsub p is not found"),
        ),
        ("GET /v1.0/secrets/s/k", "", 500, secrets.clone()),
        ("GET /v1.0/secrets/s/bulk", "", 500, secrets),
        (
            "POST /v1.0/bindings/b",
            r#"{"data":1}"#,
            500,
            binding("operation field is missing from request"),
        ),
        (
            "POST /v1.0/bindings/b",
            r#"{"operation":"create"}"#,
            500,
            binding("couldn't find output binding b"),
        ),
        ("GET /v1.0/configuration/c", "", 500, configuration.clone()),
        (
            "GET /v1.0-alpha1/configuration/c/subscribe",
            "",
            500,
            configuration.clone(),
        ),
        (
            "GET /v1.0/configuration/c/1/unsubscribe",
            "",
            500,
            configuration,
        ),
        (
            "POST /v1.0-alpha1/lock/l",
            "{}",
            400,
            error(
                "ERR_MALFORMED_REQUEST",
                "ExpiryInSeconds is not positive in lock store l",
            ),
        ),
        (
            "POST /v1.0-alpha1/lock/l",
            r#"{"expiryInSeconds":1,"more":[]}"#,
            500,
            lock.clone(),
        ),
        (
            "POST /v1.0-alpha1/lock/l",
            r#"{"expiryInSeconds":"10"}"#,
            500,
            lock.clone(),
        ),
        ("POST /v1.0-alpha1/unlock/l", "", 500, lock),
        ("PUT /v1.0-alpha1/crypto/c/encrypt", "", 500, crypto),
        (
            "POST /v1.0-alpha1/subtlecrypto/c/sign",
            "",
            501,
            error(
                "ERR_API_UNIMPLEMENTED",
                "this API is currently not implemented",
            ),
        ),
        (
            "POST /v1.0-alpha1/conversation/n/converse",
            "",
            400,
            missing.clone(),
        ),
        (
            "POST /v1.0-alpha2/conversation/n/converse",
            "{}",
            400,
            missing,
        ),
        (
            "POST /v1.0/workflows/dapr/w/start",
            "",
            400,
            placement.clone(),
        ),
        (
            "GET /v1.0-beta1/workflows/dapr/i",
            "",
            400,
            placement.clone(),
        ),
        ("PUT /v1.0/actors/T/1/method/m", "", 400, placement.clone()),
        ("POST /v1.0/actors/T/1/state", "[]", 400, placement.clone()),
        (
            "POST /v1.0/actors/dapr.internal.x/1/timers/t",
            "{}",
            400,
            placement.clone(),
        ),
        (
            "GET /v1.0/actors/dapr.internal.x/1/state/k",
            "",
            400,
            placement,
        ),
        (
            "POST /v1.0/jobs/j",
            r#"{"name":"x"}"#,
            400,
            error(
                "DAPR_SCHEDULER_JOB_NAME",
                "Set the job name in the url only",
            ),
        ),
        (
            "POST /v1.0/jobs/j",
            "",
            400,
            error("DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"),
        ),
        (
            "POST /v1.0/jobs/j",
            r#"{"schedule":"@every 1s"}"#,
            500,
            error("DAPR_SCHEDULER_SCHEDULE_JOB", &job("schedule")),
        ),
        (
            "GET /v1.0-alpha1/jobs/j",
            "",
            500,
            error("DAPR_SCHEDULER_GET_JOB", &job("get")),
        ),
        (
            "DELETE /v1.0/jobs/j",
            "",
            500,
            error("DAPR_SCHEDULER_DELETE_JOB", &job("delete")),
        ),
    ] {
        check(w, line, body, status, &expected).await;
    }
    let running = self::world();
    check(
        &running,
        "POST /v1.0/workflows/dapr/w/start",
        "",
        501,
        &error(
            "ERR_API_UNIMPLEMENTED",
            "this API is currently not implemented",
        ),
    )
    .await;
}

#[tokio::test]
async fn the_process() {
    let world = world();
    let w = &world;
    check(w, "PUT /v1.0/metadata/k", "v", 204, "").await;
    let answer = ask(w, "GET /v1.0/metadata", &[], "").await;
    assert!(answer.body.ends_with(b"}\n"));
    assert_eq!(
        answer.json(),
        json!({
            "id": "app",
            "runtimeVersion": "1.18.3",
            "enabledFeatures": ["HotReload"],
            "actors": [{"type": "T", "count": 1}, {"type": "U"}],
            "components": [{"name": "store", "type": "state.in-memory", "version": "v1", "capabilities": ["ETAG"]}],
            "extended": {"daprRuntimeVersion": "1.18.3", "k": "v"},
            "httpEndpoints": [{"name": "e"}],
            "appConnectionProperties": {"protocol": "http", "channelAddress": "127.0.0.1"},
            "actorRuntime": {
                "runtimeStatus": "RUNNING",
                "activeActors": [{"type": "T", "count": 1}, {"type": "U"}],
                "hostReady": true,
                "placement": "placement: connected",
            },
        })
    );
    check(w, "GET /v1.0/healthz?appid=app", "", 204, "").await;
    for line in ["GET /v1.0/healthz?appid=b", "GET /v1.0/healthz?appid="] {
        let mismatch = error("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match");
        check(w, line, "", 500, &mismatch).await;
    }
    check(w, "GET /v1.0/healthz/outbound", "", 204, "").await;
    *world.health.unready.lock() = vec!["a".to_owned(), "b".to_owned()];
    check(
        w,
        "GET /v1.0/healthz",
        "",
        500,
        &error("ERR_HEALTH_NOT_READY", "dapr is not ready: [a b]"),
    )
    .await;
    check(
        w,
        "GET /v1.0/healthz/outbound",
        "",
        500,
        &error(
            "ERR_OUTBOUND_HEALTH_NOT_READY",
            "dapr outbound is not ready",
        ),
    )
    .await;
    check(w, "POST /v1.0/shutdown", "", 204, "").await;
    assert_eq!(
        ask(
            w,
            "POST /v1.0/shutdown",
            &[("dapr-force-shutdown", "TRUE")],
            ""
        )
        .await
        .status,
        204
    );
    assert_eq!(
        *world.shutdowns.0.lock(),
        [ShutdownKind::Graceful, ShutdownKind::Forced]
    );
}

#[tokio::test]
async fn tokens() {
    let world = with_settings(Settings {
        api_token: Some("secret".to_owned()),
        ..Settings::default()
    });
    let w = &world;
    check(w, "GET /v1.0/metadata", "", 401, "invalid api token\n").await;
    assert_eq!(
        ask(w, "GET /v1.0/metadata", &[("dapr-api-token", "wrong")], "")
            .await
            .status,
        401
    );
    assert_eq!(
        ask(w, "GET /v1.0/metadata", &[("dapr-api-token", "secret")], "")
            .await
            .status,
        200
    );
    assert_eq!(ask(w, "GET /v1.0/healthz", &[], "").await.status, 204);
    assert_eq!(
        ask(w, "GET /v1.0/invoke/app/method/echo", &[], "")
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn cross_origin() {
    let cors = Cors::parse("https://a.example, https://b.example");
    let world = with_settings(Settings {
        cors,
        api_token: Some("secret".to_owned()),
        ..Settings::default()
    });
    let preflight = |origin: &'static str, method: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", "x-a, content-type"),
        ]
    };
    let answer = ask(
        &world,
        "OPTIONS /v1.0/metadata",
        &preflight("https://b.example", "PUT"),
        "",
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://b.example"
    );
    assert_eq!(answer.headers["access-control-allow-methods"], "PUT");
    assert_eq!(
        answer.headers["access-control-allow-headers"],
        "X-A, Content-Type"
    );
    for (origin, method) in [("https://c.example", "PUT"), ("https://a.example", "PURGE")] {
        let answer = ask(
            &world,
            "OPTIONS /v1.0/metadata",
            &preflight(origin, method),
            "",
        )
        .await;
        assert_eq!(
            (
                answer.status,
                answer.headers.get("access-control-allow-origin")
            ),
            (200, None)
        );
        assert_eq!(
            answer.headers["vary"],
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        );
    }
    let answer = ask(
        &world,
        "GET /v1.0/metadata",
        &[("origin", "https://a.example")],
        "",
    )
    .await;
    assert_eq!(
        (
            answer.status,
            answer.headers["access-control-allow-origin"].as_bytes()
        ),
        (401, b"https://a.example".as_ref())
    );
    assert_eq!(answer.headers["vary"], "Origin");
    let world = with_settings(Settings {
        cors: Cors::parse("*"),
        ..Settings::default()
    });
    let answer = ask(&world, "GET /v1.0/metadata", &[("origin", "https://x")], "").await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let world = with_settings(Settings {
        max_body_size: 8,
        ..Settings::default()
    });
    let w = &world;
    let long = "0123456789";
    for (line, status, expected) in [
        (
            "POST /v1.0/state/store",
            400,
            error("ERR_MALFORMED_REQUEST", "stream too large"),
        ),
        (
            "POST /v1.0/state/store/bulk",
            400,
            error(
                "ERR_MALFORMED_REQUEST",
                "failed deserializing HTTP body: stream too large",
            ),
        ),
        (
            "POST /v1.0/bindings/b",
            400,
            error(
                "ERR_MALFORMED_REQUEST",
                "failed deserializing HTTP body: stream too large",
            ),
        ),
        (
            "PUT /v1.0/metadata/k",
            400,
            error(
                "ERR_BODY_READ",
                "failed to read request body: stream too large",
            ),
        ),
        (
            "POST /v1.0-alpha1/lock/l",
            400,
            error(
                "ERR_BODY_READ",
                "failed to read request body: stream too large",
            ),
        ),
        (
            "POST /v1.0/publish/pubsub/t",
            500,
            error(
                "ERR_PUBSUB_PUBLISH_MESSAGE",
                "error when publishing to topic t in pubsub pubsub: stream too large",
            ),
        ),
    ] {
        check(w, line, long, status, &expected).await;
    }
    let answer = ask(w, "POST /v1.0/invoke/app/method/echo", &[], long).await;
    assert_eq!(
        (answer.status, answer.json()["errorCode"].clone()),
        (500, json!("ERR_DIRECT_INVOKE"))
    );
    let answer = ask(
        w,
        "GET /v1.0/metadata",
        &[("x-long", &"x".repeat(9000))],
        "",
    )
    .await;
    assert_eq!(
        (answer.status, answer.body.as_ref()),
        (431, b"431 Request Header Fields Too Large".as_ref())
    );
}

#[tokio::test]
async fn allow_and_deny_lists() {
    let rule = |name: &str, version: &str| ApiRule {
        name: name.to_owned(),
        version: version.to_owned(),
        protocol: "http".to_owned(),
    };
    let rules = ApiRules::new(
        &[
            rule("state", "v1.0"),
            rule("invoke", "v1"),
            rule("metadata", "v1"),
        ],
        // The protocol is read in any letters: what is denied must not stay open for a capital.
        &[ApiRule {
            protocol: "HTTP".to_owned(),
            ..rule("metadata", "v1")
        }],
    );
    let world = with_settings(Settings {
        rules,
        ..Settings::default()
    });
    let w = &world;
    check(w, "GET /v1.0/state/store/k", "", 204, "").await;
    check(w, "GET /v1.0/healthz", "", 204, "").await;
    let nobody = error(
        "ERR_DIRECT_INVOKE",
        "failed getting app id either from the URL path or the header dapr-app-id",
    );
    check(w, "GET /v1.0/metadata", "", 404, &nobody).await;
    check(w, "POST /v1.0/publish/pubsub/t", "", 404, &nobody).await;

    let rules = ApiRules::new(&[rule("state", "v1")], &[]);
    let world = with_settings(Settings {
        rules,
        ..Settings::default()
    });
    check(
        &world,
        "GET /v1.0/invoke/app/method/echo",
        "",
        404,
        "404 page not found\n",
    )
    .await;
    let answer = ask(&world, "PATCH /v1.0/state/store/k", &[], "").await;
    assert_eq!(
        (
            answer.status,
            answer.headers["allow"].as_bytes(),
            answer.body.len()
        ),
        (405, b"GET, DELETE".as_ref(), 0)
    );
}

#[tokio::test]
async fn trace_headers() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = with_settings(Settings {
        tracing: Tracing::On { rate: 1.0 },
        ..Settings::default()
    });
    let w = &world;
    let answer = ask(
        w,
        "GET /v1.0/metadata",
        &[("traceparent", PARENT), ("tracestate", "a=1")],
        "",
    )
    .await;
    let shown = answer.headers["traceparent"].to_str().expect("text");
    assert!(
        shown.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && shown != PARENT,
        "{shown}"
    );
    assert_eq!(answer.headers["tracestate"], "a=1");
    let answer = ask(w, "GET /v1.0/metadata", &[("baggage", "a=1")], "").await;
    assert_eq!(answer.headers["baggage"], "a=1");
    let answer = ask(w, "GET /v1.0/metadata", &[("baggage", "bad baggage;;")], "").await;
    assert_eq!(
        (answer.status, answer.body.as_ref()),
        (
            400,
            b"invalid baggage header: invalid baggage list-member: \"bad baggage;;\"\n".as_ref()
        )
    );
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert!(!answer.headers.contains_key("traceparent"));
    let answer = ask(w, "GET /v1.0/healthz", &[("baggage", "bad baggage;;")], "").await;
    assert_eq!(
        (answer.status, answer.headers.contains_key("traceparent")),
        (204, false)
    );

    let world = with_settings(Settings {
        tracing: Tracing::Off,
        ..Settings::default()
    });
    let answer = ask(&world, "GET /v1.0/metadata", &[("traceparent", PARENT)], "").await;
    assert!(!answer.headers.contains_key("traceparent"));
    let answer = ask(&self::world(), "GET /v1.0/metadata", &[], "").await;
    assert_eq!(
        answer.headers["traceparent"],
        "00-00000000000000000000000000000000-0000000000000000-00"
    );
}

#[tokio::test]
async fn requests_are_measured() {
    let world = world();
    ask(&world, "POST /v1.0/invoke/app/method/echo", &[], "hello").await;
    let text = dapr_kit::metrics::encode(&world.registry.gather());
    for line in [
        r#"dapr_http_server_request_count{app_id="app",method="POST",path="",status="200"} 1"#,
        r#"dapr_http_server_request_bytes_sum{app_id="app"} 5"#,
        r#"dapr_http_server_response_bytes_sum{app_id="app"} 5"#,
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line}\nnot in\n{text}"
        );
    }
}
