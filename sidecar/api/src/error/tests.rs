//! Every row, as HTTP and as gRPC tell it.

use dapr_sidecar_core::pubsub::{BulkPublishError, PublishError, SubscribeError};
use dapr_sidecar_core::rpc::Code;
use dapr_sidecar_core::state::{Error as State, EtagProblem};
use dapr_sidecar_core::{actors, invoke, rpc};
use serde_json::{Value, json};

use super::*;

const HTTP: Surface<'_> = Surface::Http { app_id: "app" };

fn body(error: &ApiError) -> Value {
    serde_json::from_slice(&error.to_json()).expect("JSON")
}

/// Status, body without details, gRPC code.
fn check(error: &ApiError, status: u16, tag: &str, message: &str, code: Code) {
    assert_eq!(error.status.as_u16(), status, "{error:?}");
    let body = body(error);
    assert_eq!(
        (body["errorCode"].as_str(), body["message"].as_str()),
        (Some(tag), Some(message))
    );
    let rpc = error.to_rpc();
    assert_eq!((rpc.code, rpc.message.as_str()), (code, message), "{tag}");
    let response = error.to_http();
    assert_eq!(response.headers()["content-type"], "application/json");
}

fn details(error: &ApiError, expected: Value) {
    assert_eq!(body(error)["details"], expected, "{error:?}");
    // gRPC carries the same list, which must decode to as many messages of the same types.
    let types: Vec<_> = error
        .to_rpc()
        .details
        .into_iter()
        .map(|detail| detail.type_url)
        .collect();
    let shown: Vec<_> = expected
        .as_array()
        .expect("a list")
        .iter()
        .map(|detail| detail["@type"].clone())
        .collect();
    assert_eq!(json!(types), json!(shown));
}

fn plain(error: &ApiError) {
    assert!(error.to_rpc().details.is_empty(), "{error:?}");
    assert!(body(error).get("details").is_none());
}

/// gRPC has the code as reason, HTTP has no details.
fn reasoned(error: &ApiError) {
    assert!(body(error).get("details").is_none());
    let rpc = error.to_rpc();
    let info = details::ErrorInfo::decode(rpc.details[0].value.as_ref()).expect("decodes");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (error.tag.as_ref(), "dapr.io")
    );
    assert!(info.metadata.is_empty());
}

fn info(reason: &str, metadata: Value) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "dapr.io", "metadata": metadata, "reason": reason})
}

fn resource(kind: &str, name: &str, description: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.ResourceInfo", "description": description, "owner": "", "resource_name": name, "resource_type": kind})
}

fn store() -> String {
    "s".to_owned()
}

#[test]
fn state_rich() {
    let error = state(State::NotConfigured { store: store() }, HTTP);
    check(
        &error,
        500,
        "ERR_STATE_STORE_NOT_CONFIGURED",
        "state store s is not configured",
        Code::FailedPrecondition,
    );
    details(
        &error,
        json!([info("DAPR_STATE_NOT_CONFIGURED", json!({"appID": "app"}))]),
    );
    let error = state(State::NotFound { store: store() }, Surface::Grpc);
    check(
        &error,
        400,
        "ERR_STATE_STORE_NOT_FOUND",
        "state store s is not found",
        Code::InvalidArgument,
    );
    details(&error, json!([info("DAPR_STATE_NOT_FOUND", Value::Null)]));

    let text = "input key/keyPrefix 'a||b' can't contain '||'";
    let illegal = || State::IllegalKey {
        store: store(),
        key: "a||b".to_owned(),
    };
    let violation = |field: &str, text: &str| {
        let mut violation = json!({"description": text});
        if !field.is_empty() {
            violation["field"] = json!(field);
        }
        json!([
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "field_violations": [violation]},
            resource("state", "s", ""),
            info("DAPR_STATE_ILLEGAL_KEY", Value::Null),
        ])
    };
    let error = state(illegal(), Surface::Grpc);
    check(
        &error,
        400,
        "ERR_MALFORMED_REQUEST",
        text,
        Code::InvalidArgument,
    );
    details(&error, violation("a||b", text));
    let error = state_transaction(illegal(), HTTP);
    let outer = format!("api error: code = InvalidArgument desc = {text}");
    check(
        &error,
        400,
        "ERR_MALFORMED_REQUEST",
        &outer,
        Code::InvalidArgument,
    );
    details(&error, violation("", &outer));

    let error = state(State::TransactionsNotSupported { store: store() }, HTTP);
    check(
        &error,
        500,
        "ERR_STATE_STORE_NOT_SUPPORTED",
        "state store s doesn't support transactions",
        Code::Unimplemented,
    );
    details(
        &error,
        json!([
            {"@type": "type.googleapis.com/google.rpc.Help", "links": [{
                "description": "Check the list of state stores and the features they support",
                "url": "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
            }]},
            resource("state", "s", ""),
            info("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", Value::Null),
        ]),
    );
    let error = state(
        State::TooManyOperations {
            store: store(),
            count: 3,
            max: 2,
        },
        HTTP,
    );
    check(
        &error,
        400,
        "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS",
        "the transaction contains 3 operations, which is more than what the state store supports: 2",
        Code::InvalidArgument,
    );
    details(
        &error,
        json!([
            resource("state", "s", ""),
            info(
                "DAPR_STATE_TOO_MANY_TRANSACTIONS",
                json!({"currentOpsTransaction": "3", "maxOpsPerTransaction": "2"})
            ),
        ]),
    );
    let error = state_query(State::QueryNotSupported { store: store() });
    check(
        &error,
        500,
        "ERR_STATE_STORE_NOT_SUPPORTED",
        "state store does not support querying",
        Code::Internal,
    );
    details(
        &error,
        json!([
            resource("state", "s", ""),
            info("DAPR_STATE_QUERYING_NOT_SUPPORTED", Value::Null)
        ]),
    );
    let error = state_query(State::QueryFailed {
        store: store(),
        reason: "e".to_owned(),
    });
    check(
        &error,
        500,
        "ERR_STATE_QUERY",
        "state store s query failed: e",
        Code::Internal,
    );
    details(
        &error,
        json!([
            resource("state", "s", ""),
            info("DAPR_STATE_QUERY_FAILED", Value::Null)
        ]),
    );
}

#[test]
fn state_with_reason() {
    let reason = || "e".to_owned();
    let key = || "k".to_owned();
    let rows = [
        (
            State::Get {
                store: store(),
                key: key(),
                reason: reason(),
            },
            500,
            "ERR_STATE_GET",
            "fail to get k from state store s: e",
            Code::Internal,
        ),
        (
            State::Save {
                store: store(),
                etag: EtagProblem::Mismatch,
                reason: reason(),
            },
            409,
            "ERR_STATE_SAVE",
            "failed saving state in state store s: e",
            Code::Aborted,
        ),
        (
            State::Save {
                store: store(),
                etag: EtagProblem::Invalid,
                reason: reason(),
            },
            400,
            "ERR_STATE_SAVE",
            "failed saving state in state store s: e",
            Code::InvalidArgument,
        ),
        (
            State::Save {
                store: store(),
                etag: EtagProblem::None,
                reason: reason(),
            },
            500,
            "ERR_STATE_SAVE",
            "failed saving state in state store s: e",
            Code::Internal,
        ),
        (
            State::Delete {
                key: key(),
                etag: EtagProblem::Mismatch,
                reason: reason(),
            },
            409,
            "ERR_STATE_DELETE",
            "failed deleting state with key k: e",
            Code::Aborted,
        ),
        (
            State::BulkGet {
                store: store(),
                reason: reason(),
            },
            500,
            "ERR_STATE_BULK_GET",
            "e",
            Code::Internal,
        ),
        (
            State::BulkDelete {
                store: store(),
                etag: EtagProblem::None,
                reason: reason(),
            },
            500,
            "ERR_STATE_BULK_DELETE",
            "failed deleting state in state store s: e",
            Code::Internal,
        ),
        (
            State::Transaction {
                store: store(),
                reason: reason(),
            },
            500,
            "ERR_STATE_TRANSACTION",
            "error while executing state transaction: e",
            Code::Internal,
        ),
    ];
    for (error, status, tag, message, code) in rows {
        let error = state(error, HTTP);
        check(&error, status, tag, message, code);
        reasoned(&error);
    }
    let error = unsupported_operation("op");
    check(
        &error,
        400,
        "ERR_NOT_SUPPORTED_STATE_OPERATION",
        "operation type op not supported",
        Code::Unimplemented,
    );
    reasoned(&error);
    let error = empty_state_key();
    check(
        &error,
        400,
        "ERR_STATE_SAVE",
        "state key cannot be empty",
        Code::InvalidArgument,
    );
    reasoned(&error);
    check(
        &state(
            State::Component {
                store: store(),
                reason: reason(),
            },
            HTTP,
        ),
        500,
        "ERROR",
        "e",
        Code::Unknown,
    );
    check(
        &key_required(),
        400,
        "ERR_MALFORMED_REQUEST",
        "\"key\" is a required field",
        Code::InvalidArgument,
    );
}

#[test]
fn publishing() {
    let request = std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let shown = json!({"k": "v"});
    let (p, t, a, e) = (
        "p".to_owned(),
        "t".to_owned(),
        "app".to_owned(),
        "e".to_owned(),
    );
    let rows = [
        (
            PublishError::NameEmpty,
            404,
            "ERR_PUBSUB_EMPTY",
            "pubsub name is empty",
            Code::InvalidArgument,
            "",
            "DAPR_PUBSUB_NAME_EMPTY",
            shown.clone(),
        ),
        (
            PublishError::TopicEmpty { pubsub: p.clone() },
            404,
            "ERR_TOPIC_NAME_EMPTY",
            "topic is empty in pubsub p",
            Code::InvalidArgument,
            "p",
            "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
            shown.clone(),
        ),
        (
            PublishError::Metadata {
                pubsub: p.clone(),
                reason: e.clone(),
            },
            400,
            "ERR_PUBSUB_REQUEST_METADATA",
            "failed deserializing metadata. Error: e",
            Code::InvalidArgument,
            "p",
            "DAPR_PUBSUB_METADATA_DESERIALIZATION",
            shown,
        ),
        (
            PublishError::CloudEvent {
                pubsub: p.clone(),
                app_id: a.clone(),
                reason: e.clone(),
            },
            500,
            "ERR_PUBSUB_CLOUD_EVENTS_SER",
            "cannot create cloudevent",
            Code::InvalidArgument,
            "p",
            "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
            json!({"appID": "app", "error": "e"}),
        ),
        (
            PublishError::Forbidden {
                pubsub: p.clone(),
                topic: t.clone(),
                app_id: a,
            },
            403,
            "ERR_PUBSUB_FORBIDDEN",
            "topic t is not allowed for app id app",
            Code::PermissionDenied,
            "p",
            "DAPR_PUBSUB_FORBIDDEN",
            json!({"topic": "t", "error": "topic t is not allowed for app id app"}),
        ),
        (
            PublishError::Vanished {
                pubsub: p.clone(),
                topic: t.clone(),
            },
            400,
            "ERR_PUBSUB_NOT_FOUND",
            "pubsub 'p' not found",
            Code::NotFound,
            "p",
            "DAPR_PUBSUB_TEST_NOT_FOUND",
            json!({"topic": "t", "error": "pubsub 'p' not found"}),
        ),
        (
            PublishError::Publish {
                pubsub: p.clone(),
                topic: t,
                reason: e,
            },
            500,
            "ERR_PUBSUB_PUBLISH_MESSAGE",
            "error when publishing to topic t in pubsub p: e",
            Code::Internal,
            "p",
            "DAPR_PUBSUB_PUBLISH_MESSAGE",
            json!({"topic": "t", "error": "e"}),
        ),
    ];
    for (error, status, tag, message, code, name, reason, metadata) in rows {
        let error = publish(error, &request, HTTP);
        check(&error, status, tag, message, code);
        details(
            &error,
            json!([resource("pubsub", name, message), info(reason, metadata)]),
        );
    }
    let not_found = || PublishError::NotFound { pubsub: p.clone() };
    let error = publish(not_found(), &Default::default(), HTTP);
    check(
        &error,
        404,
        "ERR_PUBSUB_NOT_FOUND",
        "pubsub p is not found",
        Code::InvalidArgument,
    );
    details(&error, json!([info("DAPR_PUBSUB_NOT_FOUND", json!({}))]));
    let error = publish(not_found(), &request, Surface::Grpc);
    details(&error, json!([info("DAPR_PUBSUB_NOT_FOUND", Value::Null)]));
}

#[test]
fn bulk_publishing() {
    let none = Default::default();
    let ids = BulkPublishError::EntryIds {
        pubsub: "p".to_owned(),
        topic: "t".to_owned(),
    };
    let message = "error marshaling events to bytes for topic t pubsub p. error: entryId is duplicated or not present for entry";
    let error = bulk_publish(ids, &none, "app", HTTP);
    check(
        &error,
        400,
        "ERR_PUBSUB_EVENTS_SER",
        message,
        Code::InvalidArgument,
    );
    details(
        &error,
        json!([
            resource("pubsub", "p", message),
            info(
                "DAPR_PUBSUB_MARSHAL_EVENTS",
                json!({"appID": "app", "error": "entryId is duplicated or not present for entry"})
            )
        ]),
    );
    let entries = BulkPublishError::Entries {
        pubsub: "p".to_owned(),
        topic: "t".to_owned(),
        reason: "e".to_owned(),
        failed: Vec::new(),
    };
    let error = bulk_publish(entries, &none, "app", Surface::Grpc);
    check(
        &error,
        500,
        "ERR_PUBSUB_PUBLISH_MESSAGE",
        "error when publishing to topic t in pubsub p: e",
        Code::Internal,
    );
    let error = bulk_publish(PublishError::NameEmpty.into(), &none, "app", HTTP);
    check(
        &error,
        404,
        "ERR_PUBSUB_EMPTY",
        "pubsub name is empty",
        Code::InvalidArgument,
    );
    let message = "error when unmarshaling the request for topic t pubsub p: e";
    let error = bulk_body(BulkBody::Unmarshal("e"), "p", "t", "app");
    check(
        &error,
        400,
        "ERR_PUBSUB_EVENTS_SER",
        message,
        Code::InvalidArgument,
    );
    details(
        &error,
        json!([
            resource("pubsub", "p", message),
            info("DAPR_PUBSUB_UNMARSHAL_EVENTS", json!({"appID": "app"}))
        ]),
    );
    let message = "error when marshalling cloud event envelope for topic t pubsub p: error: e";
    let error = bulk_body(BulkBody::Envelope("e"), "p", "t", "app");
    check(
        &error,
        400,
        "ERR_PUBSUB_EVENTS_SER",
        message,
        Code::InvalidArgument,
    );
    details(
        &error,
        json!([
            resource("pubsub", "p", message),
            info(
                "DAPR_PUBSUB_MARSHAL_ENVELOPE",
                json!({"appID": "app", "error": "error: e"})
            )
        ]),
    );
}

#[test]
fn subscribing() {
    let check = |error: SubscribeError, code: Code, message: &str| {
        assert_eq!(subscribe(&error, "p"), rpc::Status::new(code, message));
    };
    check(
        SubscribeError::NotFound("p".to_owned()),
        Code::InvalidArgument,
        "pubsub p is not found",
    );
    check(
        SubscribeError::NotAllowed {
            pubsub: "p".to_owned(),
            topic: "t".to_owned(),
        },
        Code::Unknown,
        "failed to create subscription for p: subscription to topic 't' on pubsub 'p' is not allowed",
    );
}

#[test]
fn actor_errors() {
    use actors::Error as E;
    let e = || "e".to_owned();
    let rows = [
        (
            E::NoPlacement,
            400,
            "ERR_ACTOR_NO_PLACEMENT",
            "placement service is not configured",
            Code::Unavailable,
        ),
        (
            E::Closed,
            503,
            "ERR_ACTOR_RUNTIME_CLOSED",
            "actor runtime is closed",
            Code::Unavailable,
        ),
        (
            E::NoStateStore,
            500,
            "ERR_ACTOR_RUNTIME_NOT_FOUND",
            "the state store is not configured to use the actor runtime. Have you set the - name: actorStateStore value: \"true\" in your state store component file?",
            Code::Internal,
        ),
        (
            E::Reserved("dapr.internal.x".to_owned()),
            403,
            "ERR_ACTOR_TYPE_RESERVED",
            "actor type \"dapr.internal.x\" is reserved for the Dapr workflow runtime; direct actor API access is not permitted",
            Code::PermissionDenied,
        ),
        (
            E::InstanceMissing,
            400,
            "ERR_ACTOR_INSTANCE_MISSING",
            "actor instance is missing",
            Code::Internal,
        ),
        (
            E::BadRequest(e()),
            400,
            "ERR_BAD_REQUEST",
            "invalid request: e",
            Code::InvalidArgument,
        ),
        (
            E::Invoke(e()),
            500,
            "ERR_ACTOR_INVOKE_METHOD",
            "error invoke actor method: e",
            Code::Internal,
        ),
        (
            E::StackDepth,
            500,
            "ERR_ACTOR_STACK_DEPTH",
            "maximum stack depth exceeded",
            Code::ResourceExhausted,
        ),
        (
            E::StateGet(e()),
            500,
            "ERR_ACTOR_STATE_GET",
            "error getting actor state: e",
            Code::Internal,
        ),
        (
            E::StateTransaction(e()),
            500,
            "ERR_ACTOR_STATE_TRANSACTION_SAVE",
            "error saving actor transaction state: e",
            Code::Internal,
        ),
        (
            E::TimerCreate(e()),
            500,
            "ERR_ACTOR_TIMER_CREATE",
            "error creating actor timer: e",
            Code::Internal,
        ),
        (
            E::ReminderNonHosted,
            403,
            "ERR_ACTOR_REMINDER_NON_HOSTED",
            "operations on actor reminders are only possible on hosted actor types",
            Code::PermissionDenied,
        ),
        (
            E::ReminderCreate(e()),
            500,
            "ERR_ACTOR_REMINDER_CREATE",
            "error creating actor reminder: e",
            Code::Internal,
        ),
        (
            E::ReminderGet(e()),
            500,
            "ERR_ACTOR_REMINDER_GET",
            "error getting actor reminder: e",
            Code::Internal,
        ),
        (
            E::ReminderDelete(e()),
            500,
            "ERR_ACTOR_REMINDER_DELETE",
            "error deleting actor reminder: e",
            Code::Internal,
        ),
        (
            E::ReminderNotFound(e()),
            404,
            "ERR_ACTOR_REMINDER_NOT_FOUND",
            "actor reminder not found: e",
            Code::NotFound,
        ),
        (
            E::ReminderAlreadyExists(e()),
            409,
            "ERR_ACTOR_REMINDER_ALREADY_EXISTS",
            "actor reminder already exists: e",
            Code::AlreadyExists,
        ),
    ];
    for (error, status, tag, message, code) in rows {
        let error = actor(error, HTTP);
        check(&error, status, tag, message, code);
        plain(&error);
    }
    let remote = || {
        E::InvokeStatus(rpc::Status::new(
            Code::Internal,
            "error invoke actor method: e",
        ))
    };
    assert_eq!(
        actor(remote(), HTTP).message,
        "error invoke actor method: rpc error: code = Internal desc = error invoke actor method: e"
    );
    assert_eq!(
        actor(remote(), Surface::Grpc).to_rpc(),
        rpc::Status::new(Code::Internal, "error invoke actor method: e")
    );
    let lookup = E::InvokeStatus(rpc::Status::new(
        Code::FailedPrecondition,
        "failed to lookup actor: e",
    ));
    check(
        &actor(lookup, HTTP),
        500,
        "ERR_ACTOR_INVOKE_METHOD",
        "error invoke actor method: failed to lookup actor: e",
        Code::FailedPrecondition,
    );
    check(
        &actor_operation("missing key"),
        500,
        "ERR_ACTOR_STATE_TRANSACTION_SAVE",
        "error saving actor transaction state: missing key",
        Code::Internal,
    );
}

#[test]
fn invocation() {
    let check_invoke = |error: invoke::Error, status: u16, text: &str, code: Code| {
        let error = super::invoke("b", &error);
        check(&error, status, "ERR_DIRECT_INVOKE", text, code);
    };
    check_invoke(
        invoke::Error::InvalidAppId("a.b.c".to_owned()),
        500,
        "failed to invoke, id: b, err: invalid app id a.b.c",
        Code::Internal,
    );
    check_invoke(
        invoke::Error::Peer(rpc::Status::new(Code::PermissionDenied, "no")),
        403,
        "failed to invoke, id: b, err: rpc error: code = PermissionDenied desc = no",
        Code::Internal,
    );
    check(
        &no_target(),
        404,
        "ERR_DIRECT_INVOKE",
        "failed getting app id either from the URL path or the header dapr-app-id",
        Code::NotFound,
    );
}

#[test]
fn simple_rows() {
    let rows = [
        (
            body_read("e"),
            400,
            "ERR_BODY_READ",
            "failed to read request body: e",
            Code::InvalidArgument,
        ),
        (
            malformed("e"),
            400,
            "ERR_MALFORMED_REQUEST",
            "failed deserializing HTTP body: e",
            Code::InvalidArgument,
        ),
        (
            invalid_request("e"),
            400,
            "ERR_BAD_REQUEST",
            "invalid request: e",
            Code::InvalidArgument,
        ),
        (
            unimplemented(),
            501,
            "ERR_API_UNIMPLEMENTED",
            "this API is currently not implemented",
            Code::Unimplemented,
        ),
        (unknown("e"), 500, "ERROR", "e", Code::Unknown),
        (
            not_ready(&["a".to_owned(), "b".to_owned()]),
            500,
            "ERR_HEALTH_NOT_READY",
            "dapr is not ready: [a b]",
            Code::Internal,
        ),
        (
            outbound_not_ready(),
            500,
            "ERR_OUTBOUND_HEALTH_NOT_READY",
            "dapr outbound is not ready",
            Code::Internal,
        ),
        (
            app_id_mismatch(),
            500,
            "ERR_HEALTH_APPID_NOT_MATCH",
            "dapr app-id does not match",
            Code::Internal,
        ),
        (
            secrets(&dapr_sidecar_core::secrets::Error::NotConfigured),
            500,
            "ERR_SECRET_STORES_NOT_CONFIGURED",
            "secret store is not configured",
            Code::FailedPrecondition,
        ),
        (
            lock_not_configured(),
            500,
            "ERR_LOCK_STORE_NOT_CONFIGURED",
            "lock store is not configured",
            Code::FailedPrecondition,
        ),
        (
            lock_expiry("s"),
            400,
            "ERR_MALFORMED_REQUEST",
            "ExpiryInSeconds is not positive in lock store s",
            Code::InvalidArgument,
        ),
        (
            crypto_not_configured(),
            500,
            "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED",
            "crypto providers not configured",
            Code::Internal,
        ),
        (
            conversation_not_found("n"),
            400,
            "ERR_CONVERSATION_NOT_FOUND",
            "failed finding conversation component n",
            Code::InvalidArgument,
        ),
    ];
    for (error, status, tag, message, code) in rows {
        check(&error, status, tag, message, code);
        plain(&error);
    }
    let error = output_binding("b", "e");
    check(
        &error,
        500,
        "ERR_INVOKE_OUTPUT_BINDING",
        "error invoking output binding b: e",
        Code::Internal,
    );
    reasoned(&error);
    let error = configuration_not_configured();
    check(
        &error,
        500,
        "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
        "configuration stores not configured",
        Code::FailedPrecondition,
    );
    reasoned(&error);
}

#[test]
fn jobs() {
    let rows = [
        (
            Job::NameInBody,
            400,
            "DAPR_SCHEDULER_JOB_NAME",
            "Set the job name in the url only",
            Code::InvalidArgument,
        ),
        (
            Job::ScheduleEmpty,
            400,
            "DAPR_SCHEDULER_SCHEDULE_EMPTY",
            "Schedule is empty",
            Code::InvalidArgument,
        ),
        (
            Job::NameEmpty,
            400,
            "DAPR_SCHEDULER_JOB_NAME_EMPTY",
            "Name is empty",
            Code::InvalidArgument,
        ),
        (
            Job::Empty,
            400,
            "DAPR_SCHEDULER_EMPTY",
            "Job is empty",
            Code::InvalidArgument,
        ),
        (
            Job::Schedule("e"),
            500,
            "DAPR_SCHEDULER_SCHEDULE_JOB",
            "failed to schedule job due to: e",
            Code::Internal,
        ),
        (
            Job::Get("e"),
            500,
            "DAPR_SCHEDULER_GET_JOB",
            "failed to get job due to: e",
            Code::Internal,
        ),
        (
            Job::Delete("e"),
            500,
            "DAPR_SCHEDULER_DELETE_JOB",
            "failed to delete job due to: e",
            Code::Internal,
        ),
        (
            Job::List("e"),
            500,
            "DAPR_SCHEDULER_LIST_JOBS",
            "failed to list jobs due to: e",
            Code::Internal,
        ),
    ];
    for (error, status, tag, message, code) in rows {
        let row = job(error, "app", "ns");
        check(&row, status, tag, message, code);
        let metadata = match error {
            Job::NameInBody => json!({"appID": "app"}),
            _ => json!({"appID": "app", "namespace": "ns"}),
        };
        details(&row, json!([info(tag, metadata)]));
    }
}

#[test]
fn details_travel_as_google_rpc_status() {
    let error = state(State::NotFound { store: store() }, HTTP);
    let status = tonic::Status::from(error);
    let decoded = details::Status::decode(status.details()).expect("decodes");
    assert_eq!(
        (decoded.code, decoded.message.as_str()),
        (3, "state store s is not found")
    );
    assert_eq!(crate::wire::from_tonic(&status).details.len(), 1);
}
