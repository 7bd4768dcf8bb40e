//! Calls of the gRPC API, without sockets.

use std::sync::Arc;

use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::http_extension::Verb;
use dapr_proto::dapr::proto::common::v1::{Etag, HttpExtension, InvokeRequest, StateItem};
use dapr_proto::dapr::proto::runtime::v1::dapr_client::DaprClient;
use dapr_proto::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as RequestType;
use dapr_proto::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as ResponseType;
use dapr_proto::dapr::proto::runtime::v1::*;
use dapr_sidecar_api::grpc::{self, GrpcApi};
use dapr_sidecar_api::services::ShutdownKind;
use dapr_sidecar_api::settings::{ApiRule, ApiRules, Settings, Tracing};
use dapr_sidecar_core::actors::Phase;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Status};
use tower::ServiceExt as _;

use crate::fixture::{Components, World, build, with_settings, world};

fn client(world: &World) -> DaprClient<GrpcApi> {
    DaprClient::new(grpc::service(Arc::clone(&world.core)))
}

fn check<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, message: &str) -> Status {
    let status = result.expect_err(message);
    assert_eq!((status.code(), status.message()), (code, message));
    status
}

/// The reason in the `ErrorInfo` of a status.
fn reason(status: &Status) -> String {
    info(status).reason
}

fn info(status: &Status) -> dapr_sidecar_api::error::details::ErrorInfo {
    let details =
        dapr_sidecar_api::error::details::Status::decode(status.details()).expect("decodes");
    let detail = details
        .details
        .iter()
        .find(|detail| detail.type_url.ends_with("ErrorInfo"));
    prost::Message::decode(detail.expect("an ErrorInfo").value.as_slice()).expect("decodes")
}

fn item(key: &str, value: &'static str) -> StateItem {
    StateItem {
        key: key.to_owned(),
        value: Bytes::from_static(value.as_bytes()),
        ..Default::default()
    }
}

fn save(store: &str, states: Vec<StateItem>) -> SaveStateRequest {
    SaveStateRequest {
        store_name: store.to_owned(),
        states,
    }
}

fn get(store: &str, key: &str) -> GetStateRequest {
    GetStateRequest {
        store_name: store.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn state() {
    let world = world();
    let mut client = client(&world);
    let json = StateItem {
        metadata: [("contentType".to_owned(), "application/json".to_owned())].into(),
        ..item("json", r#"{"a": 1}"#)
    };
    client
        .save_state(save("store", vec![item("k", "raw"), json]))
        .await
        .expect("saves");
    let found = client
        .get_state(get("store", "k"))
        .await
        .expect("gets")
        .into_inner();
    assert_eq!(found.data, "raw");
    assert!(!found.etag.is_empty());
    assert_eq!(
        client
            .get_state(get("store", "json"))
            .await
            .expect("gets")
            .into_inner()
            .data,
        r#"{"a":1}"#
    );
    assert_eq!(
        client
            .get_state(get("store", "none"))
            .await
            .expect("gets")
            .into_inner(),
        GetStateResponse::default()
    );

    let status = check(
        client.get_state(get("other", "k")).await,
        Code::InvalidArgument,
        "state store other is not found",
    );
    assert_eq!(
        (reason(&status).as_str(), info(&status).metadata.len()),
        ("DAPR_STATE_NOT_FOUND", 0)
    );
    let status = check(
        client.save_state(save("store", vec![item("", "x")])).await,
        Code::InvalidArgument,
        "state key cannot be empty",
    );
    assert_eq!(reason(&status), "ERR_STATE_SAVE");
    let illegal = "input key/keyPrefix 'a||b' can't contain '||'";
    check(
        client.get_state(get("store", "a||b")).await,
        Code::InvalidArgument,
        illegal,
    );
    let stale = StateItem {
        etag: Some(Etag {
            value: "stale".to_owned(),
        }),
        ..item("k", "new")
    };
    let status = client
        .save_state(save("store", vec![stale]))
        .await
        .expect_err("stale");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Aborted, "ERR_STATE_SAVE")
    );

    let request = GetBulkStateRequest {
        store_name: "store".to_owned(),
        keys: vec!["k".to_owned(), "none".to_owned()],
        ..Default::default()
    };
    let items = client
        .get_bulk_state(request)
        .await
        .expect("gets")
        .into_inner()
        .items;
    assert_eq!(
        (items[0].data.as_ref(), items[1].data.as_ref()),
        (b"raw".as_ref(), b"".as_ref())
    );
    let operation = |kind: &str, key: &str| TransactionalStateOperation {
        operation_type: kind.to_owned(),
        request: Some(item(key, "t")),
    };
    let transaction = |operations| ExecuteStateTransactionRequest {
        store_name: "store".to_owned(),
        operations,
        ..Default::default()
    };
    client
        .execute_state_transaction(transaction(vec![
            operation("upsert", "t"),
            operation("delete", "k"),
        ]))
        .await
        .expect("runs");
    assert_eq!(
        client
            .get_state(get("store", "k"))
            .await
            .expect("gets")
            .into_inner()
            .data,
        ""
    );
    // A transaction takes bytes as they are, whatever the item calls them.
    let mut as_given = operation("upsert", "raw");
    if let Some(request) = &mut as_given.request {
        request.value = Bytes::from_static(b"{\"a\": ");
        let json = ("contentType".to_owned(), "application/json".to_owned());
        request.metadata = [json].into();
    }
    client
        .execute_state_transaction(transaction(vec![as_given]))
        .await
        .expect("runs");
    let found = client.get_state(get("store", "raw")).await;
    assert_eq!(found.expect("gets").into_inner().data, "{\"a\": ");
    let status = client
        .execute_state_transaction(transaction(vec![operation("move", "t")]))
        .await;
    check(
        status,
        Code::Unimplemented,
        "operation type move not supported",
    );
    client
        .delete_bulk_state(DeleteBulkStateRequest {
            store_name: "store".to_owned(),
            states: vec![item("t", "")],
        })
        .await
        .expect("deletes");
    client
        .delete_state(DeleteStateRequest {
            store_name: "store".to_owned(),
            key: "json".to_owned(),
            ..Default::default()
        })
        .await
        .expect("deletes");
    let query = QueryStateRequest {
        store_name: "store".to_owned(),
        ..Default::default()
    };
    check(
        client.query_state_alpha1(query).await,
        Code::Internal,
        "state store does not support querying",
    );
}

fn invoke(id: &str, method: &str, verb: Verb) -> InvokeServiceRequest {
    InvokeServiceRequest {
        id: id.to_owned(),
        message: Some(InvokeRequest {
            method: method.to_owned(),
            data: Some(prost_types::Any {
                type_url: String::new(),
                value: b"hello".to_vec(),
            }),
            content_type: "text/plain".to_owned(),
            http_extension: Some(HttpExtension {
                verb: verb as i32,
                querystring: "q=1".to_owned(),
            }),
        }),
    }
}

#[tokio::test]
async fn invocation() {
    let world = world();
    let mut client = client(&world);
    let response = client
        .invoke_service(invoke("app", "echo", Verb::Put))
        .await
        .expect("answers");
    let metadata = response.metadata().clone();
    assert_eq!(metadata.get("dapr-http-status").expect("set"), "200");
    assert_eq!(metadata.get("x-seen").expect("set"), "PUT echo q=1");
    assert_eq!(metadata.get("dapr-date").expect("set"), "today");
    assert!(!metadata.contains_key("grpc-trace-bin"));
    let message = response.into_inner();
    assert_eq!(
        (
            message.content_type.as_str(),
            message.data.expect("data").value.as_slice()
        ),
        ("text/plain", b"hello".as_ref())
    );

    let status = client
        .invoke_service(invoke("app", "missing", Verb::Get))
        .await;
    let status = check(status, Code::NotFound, "Not Found");
    let facts = info(&status);
    assert_eq!(
        (
            facts.reason.as_str(),
            facts.metadata["http.code"].as_str(),
            facts.metadata["http.error_message"].len()
        ),
        ("Not Found", "404", 63)
    );
    assert_eq!(
        status.metadata().get("dapr-http-status").expect("set"),
        "404"
    );
    let status = client
        .invoke_service(invoke("app", "missing", Verb::Head))
        .await
        .expect_err("missing");
    assert_eq!(info(&status).metadata["http.error_message"], "");
    check(
        client
            .invoke_service(invoke("app", "status", Verb::Get))
            .await,
        Code::NotFound,
        "no such order",
    );
    check(
        client.invoke_service(invoke("other", "m", Verb::Get)).await,
        Code::Internal,
        "failed to invoke, id: other, err: rpc error: code = PermissionDenied desc = nobody is there",
    );
    let empty = InvokeServiceRequest {
        id: "app".to_owned(),
        message: None,
    };
    assert_eq!(
        client
            .invoke_service(empty)
            .await
            .expect_err("nothing to do")
            .code(),
        Code::InvalidArgument
    );
}

/// Calls `InvokeService` below tonic, which mixes headers and trailers.
async fn frames(world: &World, method: &str) -> (HeaderMap, usize, HeaderMap) {
    let message = invoke("app", method, Verb::Get).encode_to_vec();
    let length = u32::try_from(message.len()).expect("short");
    let body = [&[0], &length.to_be_bytes()[..], &message].concat();
    let request =
        http::Request::post("http://sidecar:50001/dapr.proto.runtime.v1.Dapr/InvokeService")
            .header("content-type", "application/grpc")
            .header("x-raw-bin", "AAA")
            .header("grpc-timeout", "1S")
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
    let response = grpc::service(Arc::clone(&world.core)).oneshot(request);
    let response = response.await.unwrap_or_else(|never| match never {});
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.expect("ends");
    let trailers = body.trailers().cloned().unwrap_or_default();
    (headers, body.to_bytes().len(), trailers)
}

#[tokio::test]
async fn headers_and_trailers_of_applications_stay_apart() {
    let world = world();
    let (headers, length, trailers) = frames(&world, "trailers").await;
    assert_eq!(headers["x-seen"], "GET trailers q=1");
    assert!(!headers.contains_key("x-trailer") && length > 0);
    assert_eq!(trailers["x-trailer"], "last");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!trailers.contains_key("x-seen"));

    let (headers, length, trailers) = frames(&world, "status").await;
    assert_eq!(headers["x-seen"], "GET status q=1");
    assert_eq!(headers["content-type"], "application/grpc");
    assert!(!headers.contains_key("grpc-status") && length == 0);
    assert_eq!(trailers["x-trailer"], "last");
    assert_eq!(trailers["grpc-status"], "5");
    assert_eq!(trailers["grpc-message"], "no%20such%20order");

    let (headers, _, trailers) = frames(&world, "missing").await;
    assert_eq!(headers["dapr-http-status"], "404");
    assert_eq!(trailers["grpc-status"], "5");
    assert!(trailers.contains_key("grpc-status-details-bin"));
}

#[tokio::test]
async fn an_http_application_sees_and_says_what_grpc_can_carry() {
    let world = world();
    let (headers, _, _) = frames(&world, "echo").await;
    assert_eq!(headers["dapr-authority"], "sidecar:50001");
    // How long the caller waits is not the application's.
    assert!(!headers.contains_key("grpc-timeout"));
    // What the application said is the text `AAA`.
    assert_eq!(headers["x-raw-bin"], "QUFB");
}

#[tokio::test]
async fn publishing() {
    let world = world();
    let mut client = client(&world);
    let publish = |pubsub: &str, topic: &str| PublishEventRequest {
        pubsub_name: pubsub.to_owned(),
        topic: topic.to_owned(),
        ..Default::default()
    };
    client
        .publish_event(publish("pubsub", "t"))
        .await
        .expect("publishes");
    check(
        client.publish_event(publish("", "t")).await,
        Code::InvalidArgument,
        "pubsub name is empty",
    );
    check(
        client.publish_event(publish("pubsub", "")).await,
        Code::InvalidArgument,
        "topic is empty in pubsub pubsub",
    );
    check(
        client.publish_event(publish("other", "t")).await,
        Code::InvalidArgument,
        "pubsub other is not found",
    );
    let status = check(
        client.publish_event(publish("pubsub", "secret")).await,
        Code::PermissionDenied,
        "topic secret is not allowed for app id app",
    );
    assert_eq!(reason(&status), "DAPR_PUBSUB_FORBIDDEN");
    let entry = |id: &str| BulkPublishRequestEntry {
        entry_id: id.to_owned(),
        content_type: "text/plain".to_owned(),
        ..Default::default()
    };
    let bulk = |entries| BulkPublishRequest {
        pubsub_name: "pubsub".to_owned(),
        topic: "t".to_owned(),
        entries,
        ..Default::default()
    };
    client
        .bulk_publish_event(bulk(vec![entry("1"), entry("2")]))
        .await
        .expect("publishes");
    let status = client
        .bulk_publish_event(bulk(vec![entry("1"), entry("1")]))
        .await
        .expect_err("twice");
    assert_eq!(reason(&status), "DAPR_PUBSUB_MARSHAL_EVENTS");
}

fn subscribe_message(kind: RequestType) -> SubscribeTopicEventsRequestAlpha1 {
    SubscribeTopicEventsRequestAlpha1 {
        subscribe_topic_events_request_type: Some(kind),
    }
}

fn initial(pubsub: &str, topic: &str) -> SubscribeTopicEventsRequestAlpha1 {
    subscribe_message(RequestType::InitialRequest(
        SubscribeTopicEventsRequestInitialAlpha1 {
            pubsub_name: pubsub.to_owned(),
            topic: topic.to_owned(),
            ..Default::default()
        },
    ))
}

#[tokio::test]
async fn streaming_subscription() {
    let world = world();
    let mut client = client(&world);
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    requests
        .send(initial("pubsub", "orders"))
        .await
        .expect("open");
    let mut events = client
        .subscribe_topic_events_alpha1(ReceiverStream::new(stream))
        .await
        .expect("subscribes")
        .into_inner();
    let first = events
        .message()
        .await
        .expect("no error")
        .expect("a message");
    assert!(matches!(
        first.subscribe_topic_events_response_type,
        Some(ResponseType::InitialResponse(_))
    ));

    let mut publisher = self::client(&world);
    let publishing = tokio::spawn(async move {
        let request = PublishEventRequest {
            pubsub_name: "pubsub".to_owned(),
            topic: "orders".to_owned(),
            data: Bytes::from_static(b"{\"id\":7}"),
            data_content_type: "application/json".to_owned(),
            ..Default::default()
        };
        publisher.publish_event(request).await.map(|_| ())
    });
    let event = events
        .message()
        .await
        .expect("no error")
        .expect("a message");
    let Some(ResponseType::EventMessage(event)) = event.subscribe_topic_events_response_type else {
        panic!("an event");
    };
    assert_eq!(
        (
            event.topic.as_str(),
            event.path.as_str(),
            event.data.as_ref()
        ),
        ("orders", "/", b"{\"id\":7}".as_ref())
    );
    let processed = SubscribeTopicEventsRequestProcessedAlpha1 {
        id: event.id,
        status: None,
    };
    requests
        .send(subscribe_message(RequestType::EventProcessed(processed)))
        .await
        .expect("open");
    requests
        .send(initial("pubsub", "orders"))
        .await
        .expect("open");
    publishing.await.expect("no panic").expect("publishes");
    let end = events.message().await;
    check(end, Code::Unknown, "duplicate initial request received");
}

#[tokio::test]
async fn streams_end_with_the_server() {
    let world = world();
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    requests
        .send(initial("pubsub", "orders"))
        .await
        .expect("open");
    let mut events = client(&world)
        .subscribe_topic_events_alpha1(ReceiverStream::new(stream))
        .await
        .expect("subscribes")
        .into_inner();
    events
        .message()
        .await
        .expect("no error")
        .expect("the greeting");
    world.core.stopping.cancel();
    assert_eq!(events.message().await.expect("no error"), None);
}

#[tokio::test]
async fn a_stream_ends_whose_caller_says_nothing_more() {
    let world = world();
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    requests
        .send(initial("pubsub", "orders"))
        .await
        .expect("open");
    let mut events = client(&world)
        .subscribe_topic_events_alpha1(ReceiverStream::new(stream))
        .await
        .expect("subscribes")
        .into_inner();
    events
        .message()
        .await
        .expect("no error")
        .expect("the greeting");
    drop(requests);
    check(events.message().await, Code::Unknown, "EOF");

    // Also one that never said more is told that it has subscribed.
    let mut events = client(&world)
        .subscribe_topic_events_alpha1(tokio_stream::iter([initial("pubsub", "orders")]))
        .await
        .expect("subscribes")
        .into_inner();
    let greeting = events.message().await.expect("no error");
    greeting.expect("the greeting");
    check(events.message().await, Code::Unknown, "EOF");
}

#[tokio::test]
async fn subscriptions_refused() {
    let world = world();
    for (first, code, message) in [
        (
            SubscribeTopicEventsRequestAlpha1::default(),
            Code::Unknown,
            "initial request is required",
        ),
        (initial("", "t"), Code::Unknown, "pubsubName is required"),
        (initial("pubsub", ""), Code::Unknown, "topic is required"),
        (
            initial("other", "t"),
            Code::InvalidArgument,
            "pubsub other is not found",
        ),
        (
            initial("pubsub", "secret"),
            Code::Unknown,
            "failed to create subscription for pubsub: subscription to topic 'secret' on pubsub 'pubsub' is not allowed",
        ),
    ] {
        let result = client(&world)
            .subscribe_topic_events_alpha1(tokio_stream::iter([first]))
            .await;
        check(result.map(|_| ()), code, message);
    }
}

#[tokio::test]
async fn actors() {
    let world = world();
    let mut client = client(&world);
    let invoke = |kind: &str| InvokeActorRequest {
        actor_type: kind.to_owned(),
        actor_id: "1".to_owned(),
        method: "m".to_owned(),
        data: Bytes::from_static(b"x"),
        ..Default::default()
    };
    assert_eq!(
        client
            .invoke_actor(invoke("T"))
            .await
            .expect("answers")
            .into_inner()
            .data,
        "x"
    );
    let keys = ["foo-bar", "Baz_X", "Own-Name", "dapr-own", "Dapr-Own"];
    let spelling = InvokeActorRequest {
        method: "spelling".to_owned(),
        metadata: keys.map(|key| (key.to_owned(), "1".to_owned())).into(),
        ..invoke("T")
    };
    let answer = client.invoke_actor(spelling).await.expect("answers");
    assert_eq!(
        answer.into_inner().data,
        "Baz_X Dapr-Api-Call Dapr-Own Own-Name foo-bar"
    );
    check(
        client.invoke_actor(invoke("X")).await,
        Code::FailedPrecondition,
        "failed to lookup actor: no host for X",
    );
    let operation = |kind: &str| TransactionalActorStateOperation {
        operation_type: kind.to_owned(),
        key: "k".to_owned(),
        value: Some(prost_types::Any {
            type_url: String::new(),
            value: b"raw".to_vec(),
        }),
        ..Default::default()
    };
    let transaction = |kind: &str, operation| ExecuteActorStateTransactionRequest {
        actor_type: kind.to_owned(),
        actor_id: "1".to_owned(),
        operations: vec![operation],
    };
    client
        .execute_actor_state_transaction(transaction("T", operation("upsert")))
        .await
        .expect("runs");
    let read = GetActorStateRequest {
        actor_type: "T".to_owned(),
        actor_id: "1".to_owned(),
        key: "k".to_owned(),
    };
    assert_eq!(
        client
            .get_actor_state(read)
            .await
            .expect("reads")
            .into_inner()
            .data,
        "raw"
    );
    let refused = client
        .execute_actor_state_transaction(transaction("T", operation("move")))
        .await;
    check(
        refused,
        Code::Unimplemented,
        "operation type move not supported",
    );
    let refused = client
        .execute_actor_state_transaction(transaction("dapr.internal.x", operation("upsert")))
        .await;
    assert_eq!(
        refused.expect_err("reserved").code(),
        Code::PermissionDenied
    );
    let reminder = |name: &str| GetActorReminderRequest {
        actor_type: "T".to_owned(),
        actor_id: "1".to_owned(),
        name: name.to_owned(),
    };
    let found = client
        .get_actor_reminder(reminder("r"))
        .await
        .expect("reads")
        .into_inner();
    assert_eq!(
        (found.period.as_deref(), found.due_time),
        (Some("@every 1s"), None)
    );
    check(
        client.get_actor_reminder(reminder("none")).await,
        Code::NotFound,
        "actor reminder not found: none",
    );
    client
        .register_actor_reminder(RegisterActorReminderRequest {
            actor_type: "T".to_owned(),
            ..Default::default()
        })
        .await
        .expect("registers");
    client
        .register_actor_timer(RegisterActorTimerRequest {
            actor_type: "T".to_owned(),
            ..Default::default()
        })
        .await
        .expect("registers");
    let status = client
        .list_actor_reminders(ListActorRemindersRequest {
            actor_type: "T".to_owned(),
            actor_id: None,
        })
        .await;
    assert_eq!(status.expect_err("not there").code(), Code::Unimplemented);
}

#[tokio::test]
async fn secrets() {
    let world = world();
    let mut c = client(&world);
    let get = |name: &str| GetSecretRequest {
        store_name: "vault".to_owned(),
        key: name.to_owned(),
        metadata: [("version".to_owned(), "2".to_owned())].into(),
    };
    let found = c.get_secret(get("redis")).await.expect("found");
    let data = found.into_inner().data;
    assert_eq!(data.get("password").map(String::as_str), Some("p"));
    assert_eq!(data.get("version").map(String::as_str), Some("2"));
    check(
        c.get_secret(get("hidden")).await,
        Code::PermissionDenied,
        "access denied by policy to get \"hidden\" from \"vault\"",
    );
    let bulk = GetBulkSecretRequest {
        store_name: "vault".to_owned(),
        ..Default::default()
    };
    let found = c.get_bulk_secret(bulk).await.expect("found").into_inner();
    let names: Vec<&String> = found.data.keys().collect();
    assert_eq!(names, ["redis"]);
}

#[tokio::test]
async fn blocks_without_components() {
    let world = build(Settings::default(), Components::None, Phase::Disabled);
    let mut c = client(&world);
    check(
        c.get_state(get("s", "k")).await,
        Code::FailedPrecondition,
        "state store s is not configured",
    );
    check(
        c.get_secret(GetSecretRequest::default()).await,
        Code::FailedPrecondition,
        "secret store is not configured",
    );
    check(
        c.get_configuration(GetConfigurationRequest::default())
            .await,
        Code::FailedPrecondition,
        "configuration stores not configured",
    );
    let answer = c
        .unsubscribe_configuration(UnsubscribeConfigurationRequest {
            id: "7".to_owned(),
            ..Default::default()
        })
        .await
        .expect("never fails")
        .into_inner();
    assert_eq!(
        (answer.ok, answer.message.as_str()),
        (
            false,
            "failed to unsubscribe to configuration request 7: subscription does not exist"
        )
    );
    let binding = InvokeBindingRequest {
        name: "b".to_owned(),
        operation: "create".to_owned(),
        ..Default::default()
    };
    let status = check(
        c.invoke_binding(binding).await,
        Code::Internal,
        "error invoking output binding b: couldn't find output binding b",
    );
    assert_eq!(reason(&status), "ERR_INVOKE_OUTPUT_BINDING");
    let lock = |expiry_in_seconds| TryLockRequest {
        store_name: "l".to_owned(),
        expiry_in_seconds,
        ..Default::default()
    };
    check(
        c.try_lock_alpha1(lock(0)).await,
        Code::InvalidArgument,
        "ExpiryInSeconds is not positive in lock store l",
    );
    check(
        c.try_lock_alpha1(lock(1)).await,
        Code::FailedPrecondition,
        "lock store is not configured",
    );
    check(
        c.subtle_sign_alpha1(SubtleSignRequest::default()).await,
        Code::Unimplemented,
        "this API is currently not implemented",
    );
    check(
        c.encrypt_alpha1(tokio_stream::iter([EncryptRequest::default()]))
            .await
            .map(|_| ()),
        Code::Internal,
        "crypto providers not configured",
    );
    check(
        c.get_workflow_beta1(GetWorkflowRequest::default()).await,
        Code::Unavailable,
        "placement service is not configured",
    );
    check(
        c.schedule_job(ScheduleJobRequest::default()).await,
        Code::InvalidArgument,
        "Job is empty",
    );
    let job = |schedule: Option<&str>| ScheduleJobRequest {
        job: Some(Job {
            name: "j".to_owned(),
            schedule: schedule.map(str::to_owned),
            ..Default::default()
        }),
        overwrite: false,
    };
    check(
        c.schedule_job(job(None)).await,
        Code::InvalidArgument,
        "Schedule is empty",
    );
    let status = check(
        c.schedule_job(job(Some("@every 1s"))).await,
        Code::Internal,
        "failed to schedule job due to: scheduler clients are disabled",
    );
    assert_eq!(info(&status).metadata["namespace"], "ns");
    check(
        c.get_job(GetJobRequest::default()).await,
        Code::InvalidArgument,
        "Name is empty",
    );
    check(
        c.list_jobs(ListJobsRequest {}).await,
        Code::Internal,
        "failed to list jobs due to: scheduler clients are disabled",
    );
    check(
        c.converse_alpha2(ConversationRequestAlpha2 {
            name: "n".to_owned(),
            ..Default::default()
        })
        .await,
        Code::InvalidArgument,
        "failed finding conversation component n",
    );
    let none = tokio_stream::iter([SubscribeActorEventsRequestAlpha1::default()]);
    check(
        c.subscribe_actor_events_alpha1(none).await.map(|_| ()),
        Code::Unavailable,
        "placement service is not configured",
    );
    check(
        c.get_actor_state(GetActorStateRequest {
            actor_type: "dapr.internal.x".to_owned(),
            ..Default::default()
        })
        .await,
        Code::Unavailable,
        "placement service is not configured",
    );
}

#[tokio::test]
async fn the_process() {
    let world = world();
    let mut client = client(&world);
    client
        .set_metadata(SetMetadataRequest {
            key: "k".to_owned(),
            value: "v".to_owned(),
        })
        .await
        .expect("sets");
    client
        .set_metadata(SetMetadataRequest::default())
        .await
        .expect("ignored");
    let metadata = client
        .get_metadata(GetMetadataRequest {})
        .await
        .expect("answers")
        .into_inner();
    assert_eq!(
        (
            metadata.id.as_str(),
            metadata.extended_metadata["k"].as_str(),
            metadata.extended_metadata.len()
        ),
        ("app", "v", 2)
    );
    assert_eq!(metadata.actor_runtime.expect("set").active_actors.len(), 2);
    client.shutdown(ShutdownRequest {}).await.expect("answers");
    let mut forced = Request::new(ShutdownRequest {});
    forced
        .metadata_mut()
        .insert("dapr-force-shutdown", "true".parse().expect("ASCII"));
    client.shutdown(forced).await.expect("answers");
    assert_eq!(
        *world.shutdowns.0.lock(),
        [ShutdownKind::Graceful, ShutdownKind::Forced]
    );
}

#[tokio::test]
async fn tokens_and_lists() {
    let rules = ApiRules::new(
        &[],
        &[ApiRule {
            name: "state".to_owned(),
            version: "v1".to_owned(),
            protocol: "grpc".to_owned(),
        }],
    );
    let settings = Settings {
        api_token: Some("secret".to_owned()),
        rules,
        ..Settings::default()
    };
    let world = with_settings(settings);
    let mut client = client(&world);
    let status = check(
        client.get_metadata(GetMetadataRequest {}).await,
        Code::Unauthenticated,
        "Unauthorized",
    );
    assert_eq!(
        info(&status).metadata["http.error_message"],
        "missing api token in request metadata"
    );
    let with = |token: &str| {
        let mut request = Request::new(GetMetadataRequest {});
        request
            .metadata_mut()
            .insert("dapr-api-token", token.parse().expect("ASCII"));
        request
    };
    let status = client.get_metadata(with("wrong")).await.expect_err("wrong");
    assert_eq!(
        info(&status).metadata["http.error_message"],
        "authentication error: api token mismatch"
    );
    client.get_metadata(with("secret")).await.expect("allowed");
    let mut request = Request::new(get("store", "k"));
    request
        .metadata_mut()
        .insert("dapr-api-token", "secret".parse().expect("ASCII"));
    let status = check(
        client.get_state(request).await,
        Code::Unimplemented,
        "Not Implemented",
    );
    assert_eq!(
        info(&status).metadata["http.error_message"],
        "requested endpoint is not available"
    );
}

#[tokio::test]
async fn traces_and_limits() {
    let settings = Settings {
        tracing: Tracing::On { rate: 1.0 },
        max_body_size: 64,
        ..Settings::default()
    };
    let world = with_settings(settings);
    let mut client = client(&world);
    let answer = client.get_state(get("store", "k")).await.expect("answers");
    assert!(answer.metadata().as_ref().contains_key("grpc-trace-bin"));
    let mut bad = Request::new(get("store", "k"));
    bad.metadata_mut()
        .insert("baggage", "bad baggage;;".parse().expect("ASCII"));
    check(
        client.get_state(bad).await,
        Code::InvalidArgument,
        "invalid baggage header: invalid baggage list-member: \"bad baggage;;\"",
    );
    let long = get("store", &"k".repeat(100));
    let size = long.encoded_len();
    let message = format!("grpc: received message larger than max ({size} vs. 64)");
    check(
        client.get_state(long).await,
        Code::ResourceExhausted,
        &message,
    );
    let text = dapr_kit::metrics::encode(&world.registry.gather());
    let line = r#"dapr_grpc_io_server_completed_rpcs{app_id="app",grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"} 1"#;
    assert!(text.lines().any(|shown| shown == line), "{text}");
}

#[tokio::test]
async fn answers_to_invocations_tell_trace_and_baggage() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = client(&world());
    let mut call = Request::new(invoke("app", "echo", Verb::Put));
    for (name, value) in [("traceparent", parent), ("baggage", "a=1")] {
        let value = value.parse().expect("ASCII");
        call.metadata_mut().insert(name, value);
    }
    let answer = client.invoke_service(call).await.expect("answers");
    assert_eq!(answer.metadata().get("traceparent").expect("set"), parent);
    assert_eq!(answer.metadata().get("baggage").expect("set"), "a=1");
}

#[tokio::test]
async fn compressed_requests_are_taken_up_to_the_limit() {
    let settings = Settings {
        max_body_size: 1 << 10,
        ..Settings::default()
    };
    let world = with_settings(settings);
    let mut client = client(&world).send_compressed(CompressionEncoding::Gzip);
    let saved = save("store", vec![item("k", "compressed")]);
    client.save_state(saved).await.expect("saves");
    let answer = client.get_state(get("store", "k")).await.expect("answers");
    assert_eq!(answer.into_inner().data, "compressed");
    // What is short on the wire is not when it is unpacked.
    let refused = client.get_state(get("store", &"k".repeat(2 << 10))).await;
    let refused = refused.expect_err("too large");
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn an_actor_stream_reaches_its_host() {
    use subscribe_actor_events_request_alpha1::RequestType;
    use subscribe_actor_events_response_alpha1::ResponseType;
    let world = world();
    let initial = SubscribeActorEventsRequestInitialAlpha1 {
        entities: vec!["Counter".to_owned()],
        ..Default::default()
    };
    let messages =
        [RequestType::InitialRequest(initial)].map(|kind| SubscribeActorEventsRequestAlpha1 {
            request_type: Some(kind),
        });
    let mut stream = client(&world)
        .subscribe_actor_events_alpha1(tokio_stream::iter(messages))
        .await
        .expect("is opened")
        .into_inner();
    let call = stream.message().await.expect("open").expect("a call");
    let Some(ResponseType::InvokeRequest(call)) = call.response_type else {
        panic!("{call:?}");
    };
    assert_eq!(call.actor_type, "Counter");
    assert!(stream.message().await.expect("ends well").is_none());
}

async fn raw(world: &World, path: &str, headers: &[(&str, &str)]) -> (http::HeaderMap, Bytes) {
    let mut request = http::Request::post(path).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
        .expect("a request");
    let Ok(response) = grpc::service(Arc::clone(&world.core))
        .oneshot(request)
        .await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (parts.headers, body)
}

#[tokio::test]
async fn unknown_services_are_forwarded() {
    let world = world();
    let (headers, body) = raw(
        &world,
        "/shop.Orders/Get",
        &[("dapr-app-id", "app"), ("dapr-api-token", "t")],
    )
    .await;
    assert_eq!(
        (headers["x-location"].as_bytes(), body.as_ref()),
        (b"local".as_ref(), b"\0\0\0\0\x02hi".as_ref())
    );
    assert!(!headers.contains_key("x-dapr-api-token"));
    assert!(!headers.contains_key("x-dapr-app-id"));
    let target = [("dapr-app-id", "app"), ("baggage", "a=1")];
    let (headers, _) = raw(&world, "/shop.Orders/Get", &target).await;
    assert_eq!(headers["baggage"], "a=1");
    let (headers, body) = raw(&world, "/shop.Orders/Get", &[("dapr-app-id", "other")]).await;
    assert_eq!(
        (headers["x-location"].as_bytes(), body.as_ref()),
        (b"other@127.0.0.1:1".as_ref(), b"\0\0\0\0\x02hi".as_ref())
    );
    assert_eq!(
        (
            headers["x-dapr-caller-app-id"].as_bytes(),
            headers["x-dapr-callee-app-id"].as_bytes()
        ),
        (b"app".as_ref(), b"other".as_ref())
    );
    assert!(!headers.contains_key("x-dapr-app-id"));

    let refused = async |path: &str, target: &[(&str, &str)]| {
        let (headers, _) = raw(&world, path, target).await;
        let status = Status::from_header_map(&headers).expect("a status");
        (status.code(), status.message().to_owned())
    };
    let missing =
        "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata".to_owned();
    assert_eq!(
        refused("/shop.Orders/Get", &[]).await,
        (Code::Unknown, missing)
    );
    let ours =
        "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
            .to_owned();
    assert_eq!(
        refused("/dapr.proto.runtime.v1.Dapr/Unknown", &[]).await,
        (Code::Unknown, ours)
    );
    assert_eq!(
        refused("/shop.Orders/Get", &[("dapr-app-id", "a.b.c")]).await,
        (Code::Unknown, "invalid app id a.b.c".to_owned())
    );
    assert_eq!(
        refused("/TaskHubSidecarService/Hello", &[]).await.0,
        Code::Unimplemented
    );
}
