//! The rows. One function per source of errors, each an exhaustive match.

use std::collections::BTreeMap;
use std::fmt::Display;

use dapr_sidecar_core::actors;
use dapr_sidecar_core::invoke;
use dapr_sidecar_core::pubsub::{BulkPublishError, PublishError, SubscribeError};
use dapr_sidecar_core::rpc::{self, Code};
use dapr_sidecar_core::secrets;
use dapr_sidecar_core::state::{self, EtagProblem};
use http::StatusCode;

use super::ApiError;
use super::details::Detail;

const SUPPORTED_STORES: &str =
    "https://docs.dapr.io/reference/components-reference/supported-state-stores/";
const SUPPORTED_STORES_TEXT: &str = "Check the list of state stores and the features they support";

/// Which API the error goes out of; a few rows differ beyond status and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface<'a> {
    /// HTTP; some details name the own app id.
    Http {
        /// Own app id.
        app_id: &'a str,
    },
    /// gRPC
    Grpc,
}

fn info(reason: &str, metadata: Option<BTreeMap<String, String>>) -> Detail {
    Detail::Info {
        reason: reason.to_owned(),
        metadata,
    }
}

fn facts<const N: usize>(pairs: [(&str, &str); N]) -> Option<BTreeMap<String, String>> {
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Some(BTreeMap::from(pairs))
}

fn bad_request(tag: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, tag, message)
}

fn internal(tag: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        Code::Internal,
        tag,
        message,
    )
}

// ---- Requests as such ----

/// The body could not be read.
pub fn body_read(error: impl Display) -> ApiError {
    bad_request(
        "ERR_BODY_READ",
        format!("failed to read request body: {error}"),
    )
}

/// The body is not what the route takes.
pub fn malformed(error: impl Display) -> ApiError {
    malformed_text(format!("failed deserializing HTTP body: {error}"))
}

/// The request is not what the route takes; `text` says it all.
pub fn malformed_text(text: impl Into<String>) -> ApiError {
    bad_request("ERR_MALFORMED_REQUEST", text)
}

/// Something in the request is not allowed.
pub fn invalid_request(error: impl Display) -> ApiError {
    bad_request("ERR_BAD_REQUEST", format!("invalid request: {error}"))
}

/// This build does not have the API.
pub fn unimplemented() -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        Code::Unimplemented,
        "ERR_API_UNIMPLEMENTED",
        "this API is currently not implemented",
    )
}

/// Anything without a row of its own.
pub fn unknown(error: impl Display) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unknown,
        "ERROR",
        error.to_string(),
    )
}

// ---- Health ----

/// Some targets are not ready.
pub fn not_ready(targets: &[String]) -> ApiError {
    internal(
        "ERR_HEALTH_NOT_READY",
        format!("dapr is not ready: [{}]", targets.join(" ")),
    )
}

/// Components and servers are not up.
pub fn outbound_not_ready() -> ApiError {
    internal(
        "ERR_OUTBOUND_HEALTH_NOT_READY",
        "dapr outbound is not ready",
    )
}

/// The health check asks about another app.
pub fn app_id_mismatch() -> ApiError {
    internal("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
}

// ---- Service invocation ----

/// Nothing names a target: also what unknown routes get.
pub fn no_target() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        Code::NotFound,
        "ERR_DIRECT_INVOKE",
        "failed getting app id either from the URL path or the header dapr-app-id",
    )
}

/// A call did not reach the application or was refused.
pub fn invoke(target: &str, error: &invoke::Error) -> ApiError {
    let status = if error.is_denied() {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    ApiError::new(
        status,
        error.to_status(target).code,
        "ERR_DIRECT_INVOKE",
        error.message(target),
    )
}

// ---- State ----

/// Every error of the state API.
pub fn state(error: state::Error, surface: Surface<'_>) -> ApiError {
    let message = error.to_string();
    let app_id = match surface {
        Surface::Http { app_id } => facts([("appID", app_id)]),
        Surface::Grpc => None,
    };
    let resource = |store: &str| Detail::Resource {
        resource_type: "state",
        name: store.to_owned(),
        description: String::new(),
    };
    match error {
        state::Error::NotConfigured { .. } => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::FailedPrecondition,
            "ERR_STATE_STORE_NOT_CONFIGURED",
            message,
        )
        .with_details(vec![info("DAPR_STATE_NOT_CONFIGURED", app_id)]),
        state::Error::NotFound { .. } => bad_request("ERR_STATE_STORE_NOT_FOUND", message)
            .with_details(vec![info("DAPR_STATE_NOT_FOUND", app_id)]),
        state::Error::IllegalKey { store, key } => {
            let outer = match surface {
                Surface::Http { .. } => {
                    format!("api error: code = InvalidArgument desc = {message}")
                }
                Surface::Grpc => message,
            };
            bad_request("ERR_MALFORMED_REQUEST", outer.clone()).with_details(vec![
                Detail::BadRequest {
                    field: key,
                    description: outer,
                },
                resource(&store),
                info("DAPR_STATE_ILLEGAL_KEY", None),
            ])
        }
        state::Error::Component { .. } => unknown(message),
        state::Error::Get { .. } => internal("ERR_STATE_GET", message).with_reason(),
        state::Error::Save { etag, .. } => by_etag("ERR_STATE_SAVE", etag, message),
        state::Error::Delete { etag, .. } => by_etag("ERR_STATE_DELETE", etag, message),
        state::Error::BulkGet { .. } => internal("ERR_STATE_BULK_GET", message).with_reason(),
        state::Error::BulkDelete { etag, .. } => by_etag("ERR_STATE_BULK_DELETE", etag, message),
        state::Error::TransactionsNotSupported { store } => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unimplemented,
            "ERR_STATE_STORE_NOT_SUPPORTED",
            message,
        )
        .with_details(vec![
            Detail::Help {
                description: SUPPORTED_STORES_TEXT.to_owned(),
                url: SUPPORTED_STORES.to_owned(),
            },
            resource(&store),
            info("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", None),
        ]),
        state::Error::TooManyOperations { store, count, max } => {
            bad_request("ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", message).with_details(vec![
                resource(&store),
                info(
                    "DAPR_STATE_TOO_MANY_TRANSACTIONS",
                    facts([
                        ("currentOpsTransaction", &count.to_string()),
                        ("maxOpsPerTransaction", &max.to_string()),
                    ]),
                ),
            ])
        }
        state::Error::Transaction { .. } => {
            internal("ERR_STATE_TRANSACTION", message).with_reason()
        }
        state::Error::QueryNotSupported { store } => {
            internal("ERR_STATE_STORE_NOT_SUPPORTED", message).with_details(vec![
                resource(&store),
                info("DAPR_STATE_QUERYING_NOT_SUPPORTED", None),
            ])
        }
        state::Error::QueryFailed { store, .. } => internal("ERR_STATE_QUERY", message)
            .with_details(vec![
                resource(&store),
                info("DAPR_STATE_QUERY_FAILED", None),
            ]),
    }
}

/// The query API names no app id when the store is unknown.
pub fn state_query(error: state::Error) -> ApiError {
    state(error, Surface::Grpc)
}

/// The HTTP transaction API does not tell which field has the illegal key.
pub fn state_transaction(error: state::Error, surface: Surface<'_>) -> ApiError {
    let unnamed =
        matches!(error, state::Error::IllegalKey { .. }) && matches!(surface, Surface::Http { .. });
    let mut error = state(error, surface);
    if let (true, super::Form::Rich(details)) = (unnamed, &mut error.form) {
        for detail in details {
            if let Detail::BadRequest { field, .. } = detail {
                field.clear();
            }
        }
    }
    error
}

fn by_etag(tag: &'static str, etag: EtagProblem, message: String) -> ApiError {
    let (status, code) = match etag {
        EtagProblem::None => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
        EtagProblem::Mismatch => (StatusCode::CONFLICT, Code::Aborted),
        EtagProblem::Invalid => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
    };
    ApiError::new(status, code, tag, message).with_reason()
}

/// A transaction with an operation that is neither `upsert` nor `delete`.
pub fn unsupported_operation(operation: &str) -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        Code::Unimplemented,
        "ERR_NOT_SUPPORTED_STATE_OPERATION",
        format!("operation type {operation} not supported"),
    )
    .with_reason()
}

/// gRPC refuses an item without a key; HTTP has a text of its own, see [`key_required`].
pub fn empty_state_key() -> ApiError {
    bad_request("ERR_STATE_SAVE", "state key cannot be empty").with_reason()
}

/// HTTP refuses an item without a key.
pub fn key_required() -> ApiError {
    malformed_text("\"key\" is a required field")
}

// ---- Pub/sub ----

/// Request metadata as error details show it: HTTP shows an empty map, gRPC nothing at all where the row
/// says so.
pub type RequestMetadata<'a> = &'a BTreeMap<String, String>;

/// Every error of publishing.
pub fn publish(
    error: PublishError,
    metadata: RequestMetadata<'_>,
    surface: Surface<'_>,
) -> ApiError {
    let message = error.to_string();
    let resource = |pubsub: &str| Detail::Resource {
        resource_type: "pubsub",
        name: pubsub.to_owned(),
        description: message.clone(),
    };
    let not_found = |tag| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            Code::InvalidArgument,
            tag,
            message.clone(),
        )
    };
    let request = Some(metadata.clone());
    match error {
        PublishError::NameEmpty => not_found("ERR_PUBSUB_EMPTY")
            .with_details(vec![resource(""), info("DAPR_PUBSUB_NAME_EMPTY", request)]),
        PublishError::NotFound { .. } => {
            let shown = match surface {
                Surface::Http { .. } => request,
                Surface::Grpc => None,
            };
            not_found("ERR_PUBSUB_NOT_FOUND")
                .with_details(vec![info("DAPR_PUBSUB_NOT_FOUND", shown)])
        }
        PublishError::TopicEmpty { pubsub } => {
            not_found("ERR_TOPIC_NAME_EMPTY").with_details(vec![
                resource(&pubsub),
                info("DAPR_PUBSUB_TOPIC_NAME_EMPTY", request),
            ])
        }
        PublishError::Metadata { pubsub, .. } => {
            bad_request("ERR_PUBSUB_REQUEST_METADATA", message.clone()).with_details(vec![
                resource(&pubsub),
                info("DAPR_PUBSUB_METADATA_DESERIALIZATION", request),
            ])
        }
        PublishError::CloudEvent {
            pubsub,
            app_id,
            reason,
        } => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::InvalidArgument,
            "ERR_PUBSUB_CLOUD_EVENTS_SER",
            message.clone(),
        )
        .with_details(vec![
            resource(&pubsub),
            info(
                "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
                facts([("appID", &app_id), ("error", &reason)]),
            ),
        ]),
        PublishError::Forbidden { pubsub, topic, .. } => ApiError::new(
            StatusCode::FORBIDDEN,
            Code::PermissionDenied,
            "ERR_PUBSUB_FORBIDDEN",
            message.clone(),
        )
        .with_details(vec![
            resource(&pubsub),
            info(
                "DAPR_PUBSUB_FORBIDDEN",
                facts([("topic", &topic), ("error", &message)]),
            ),
        ]),
        PublishError::Vanished { pubsub, topic } => ApiError::new(
            StatusCode::BAD_REQUEST,
            Code::NotFound,
            "ERR_PUBSUB_NOT_FOUND",
            message.clone(),
        )
        .with_details(vec![
            resource(&pubsub),
            info(
                "DAPR_PUBSUB_TEST_NOT_FOUND",
                facts([("topic", &topic), ("error", &message)]),
            ),
        ]),
        PublishError::Publish {
            pubsub,
            topic,
            reason,
        } => publish_failed(&pubsub, &topic, &reason),
    }
}

/// The broker failed, or the body could not be read.
pub fn publish_failed(pubsub: &str, topic: &str, reason: &str) -> ApiError {
    let message = format!("error when publishing to topic {topic} in pubsub {pubsub}: {reason}");
    internal("ERR_PUBSUB_PUBLISH_MESSAGE", message.clone()).with_details(vec![
        Detail::Resource {
            resource_type: "pubsub",
            name: pubsub.to_owned(),
            description: message,
        },
        info(
            "DAPR_PUBSUB_PUBLISH_MESSAGE",
            facts([("topic", topic), ("error", reason)]),
        ),
    ])
}

/// Every error of bulk publishing; HTTP reports failed entries by itself.
pub fn bulk_publish(
    error: BulkPublishError,
    metadata: RequestMetadata<'_>,
    app_id: &str,
    surface: Surface<'_>,
) -> ApiError {
    let message = error.to_string();
    match error {
        BulkPublishError::Refused(error) => publish(error, metadata, surface),
        BulkPublishError::EntryIds { pubsub, .. } => events(
            "DAPR_PUBSUB_MARSHAL_EVENTS",
            &pubsub,
            message,
            facts([
                ("appID", app_id),
                ("error", "entryId is duplicated or not present for entry"),
            ]),
        ),
        BulkPublishError::Entries {
            pubsub,
            topic,
            reason,
            ..
        } => publish_failed(&pubsub, &topic, &reason),
    }
}

/// What is wrong with the events of an HTTP bulk publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkBody<'a> {
    /// The body is no list of entries.
    Unmarshal(&'a str),
    /// An event does not go with its content type.
    Envelope(&'a str),
}

/// The body of an HTTP bulk publish is wrong.
pub fn bulk_body(error: BulkBody<'_>, pubsub: &str, topic: &str, app_id: &str) -> ApiError {
    match error {
        BulkBody::Unmarshal(reason) => events(
            "DAPR_PUBSUB_UNMARSHAL_EVENTS",
            pubsub,
            format!(
                "error when unmarshaling the request for topic {topic} pubsub {pubsub}: {reason}"
            ),
            facts([("appID", app_id)]),
        ),
        BulkBody::Envelope(reason) => events(
            "DAPR_PUBSUB_MARSHAL_ENVELOPE",
            pubsub,
            format!(
                "error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: error: {reason}"
            ),
            facts([("appID", app_id), ("error", &format!("error: {reason}"))]),
        ),
    }
}

fn events(
    reason: &'static str,
    pubsub: &str,
    message: String,
    metadata: Option<BTreeMap<String, String>>,
) -> ApiError {
    bad_request("ERR_PUBSUB_EVENTS_SER", message.clone()).with_details(vec![
        Detail::Resource {
            resource_type: "pubsub",
            name: pubsub.to_owned(),
            description: message,
        },
        info(reason, metadata),
    ])
}

/// A streaming subscription that does not start. Only the unknown component has a code of its own.
pub fn subscribe(error: &SubscribeError, pubsub: &str) -> rpc::Status {
    match error {
        SubscribeError::NotFound(_) => rpc::Status::new(Code::InvalidArgument, error.to_string()),
        SubscribeError::NotAllowed { .. }
        | SubscribeError::InvalidRule { .. }
        | SubscribeError::Component(_)
        | SubscribeError::Stopped => rpc::Status::new(
            Code::Unknown,
            format!("failed to create subscription for {pubsub}: {error}"),
        ),
    }
}

// ---- Actors ----

/// Every error of the actor API.
pub fn actor(error: actors::Error, surface: Surface<'_>) -> ApiError {
    let message = error.to_string();
    let (status, code, tag) = match error {
        actors::Error::NoPlacement => (
            StatusCode::BAD_REQUEST,
            Code::Unavailable,
            "ERR_ACTOR_NO_PLACEMENT",
        ),
        actors::Error::Closed => (
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Unavailable,
            "ERR_ACTOR_RUNTIME_CLOSED",
        ),
        actors::Error::NoStateStore => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_RUNTIME_NOT_FOUND",
        ),
        actors::Error::Reserved(_) => (
            StatusCode::FORBIDDEN,
            Code::PermissionDenied,
            "ERR_ACTOR_TYPE_RESERVED",
        ),
        actors::Error::InstanceMissing => (
            StatusCode::BAD_REQUEST,
            Code::Internal,
            "ERR_ACTOR_INSTANCE_MISSING",
        ),
        actors::Error::BadRequest(_) => (
            StatusCode::BAD_REQUEST,
            Code::InvalidArgument,
            "ERR_BAD_REQUEST",
        ),
        actors::Error::Invoke(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_INVOKE_METHOD",
        ),
        actors::Error::InvokeStatus(status) => return actor_status(status, surface),
        actors::Error::StackDepth => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::ResourceExhausted,
            "ERR_ACTOR_STACK_DEPTH",
        ),
        actors::Error::StateGet(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_STATE_GET",
        ),
        actors::Error::StateTransaction(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_STATE_TRANSACTION_SAVE",
        ),
        actors::Error::TimerCreate(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_TIMER_CREATE",
        ),
        actors::Error::ReminderNonHosted => (
            StatusCode::FORBIDDEN,
            Code::PermissionDenied,
            "ERR_ACTOR_REMINDER_NON_HOSTED",
        ),
        actors::Error::ReminderCreate(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_REMINDER_CREATE",
        ),
        actors::Error::ReminderGet(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_REMINDER_GET",
        ),
        actors::Error::ReminderDelete(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_ACTOR_REMINDER_DELETE",
        ),
        actors::Error::ReminderNotFound(_) => (
            StatusCode::NOT_FOUND,
            Code::NotFound,
            "ERR_ACTOR_REMINDER_NOT_FOUND",
        ),
        actors::Error::ReminderAlreadyExists(_) => (
            StatusCode::CONFLICT,
            Code::AlreadyExists,
            "ERR_ACTOR_REMINDER_ALREADY_EXISTS",
        ),
    };
    ApiError::new(status, code, tag, message)
}

/// A call that failed with a status: HTTP wraps its text, gRPC hands it on as it is. The text of a status
/// that another sidecar answered shows its code, that of a failed lookup here does not.
fn actor_status(status: rpc::Status, surface: Surface<'_>) -> ApiError {
    let message = match surface {
        Surface::Grpc => status.message,
        Surface::Http { .. } if status.message.starts_with("failed to lookup actor") => {
            format!("error invoke actor method: {}", status.message)
        }
        Surface::Http { .. } => format!("error invoke actor method: {status}"),
    };
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        status.code,
        "ERR_ACTOR_INVOKE_METHOD",
        message,
    )
}

/// A transaction with an operation that is neither `upsert` nor `delete`.
pub fn actor_operation(error: impl Display) -> ApiError {
    actor(
        actors::Error::StateTransaction(error.to_string()),
        Surface::Grpc,
    )
}

// ---- Secrets ----

/// A secret that is not answered.
pub fn secrets(error: &secrets::Error) -> ApiError {
    let (status, code, tag) = match error {
        secrets::Error::NotConfigured => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::FailedPrecondition,
            "ERR_SECRET_STORES_NOT_CONFIGURED",
        ),
        secrets::Error::NotFound(_) => (
            StatusCode::UNAUTHORIZED,
            Code::InvalidArgument,
            "ERR_SECRET_STORE_NOT_FOUND",
        ),
        secrets::Error::Denied { .. } => (
            StatusCode::FORBIDDEN,
            Code::PermissionDenied,
            "ERR_PERMISSION_DENIED",
        ),
        secrets::Error::Get { .. } | secrets::Error::BulkGet { .. } => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "ERR_SECRET_GET",
        ),
    };
    ApiError::new(status, code, tag, error.to_string())
}

// ---- Building blocks without a component ----

/// An output binding could not be called.
pub fn output_binding(name: &str, error: impl Display) -> ApiError {
    internal(
        "ERR_INVOKE_OUTPUT_BINDING",
        format!("error invoking output binding {name}: {error}"),
    )
    .with_reason()
}

/// No configuration store is loaded.
pub fn configuration_not_configured() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        Code::FailedPrecondition,
        "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
        "configuration stores not configured",
    )
    .with_reason()
}

/// No lock store is loaded.
pub fn lock_not_configured() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        Code::FailedPrecondition,
        "ERR_LOCK_STORE_NOT_CONFIGURED",
        "lock store is not configured",
    )
}

/// A lock is asked for no time at all.
pub fn lock_expiry(store: &str) -> ApiError {
    malformed_text(format!(
        "ExpiryInSeconds is not positive in lock store {store}"
    ))
}

/// No crypto provider is loaded.
pub fn crypto_not_configured() -> ApiError {
    internal(
        "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED",
        "crypto providers not configured",
    )
}

/// No such conversation component.
pub fn conversation_not_found(name: &str) -> ApiError {
    bad_request(
        "ERR_CONVERSATION_NOT_FOUND",
        format!("failed finding conversation component {name}"),
    )
}

/// Why a job call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job<'a> {
    /// The body of an HTTP request names the job.
    NameInBody,
    /// Neither schedule nor due time.
    ScheduleEmpty,
    /// No name.
    NameEmpty,
    /// No job at all.
    Empty,
    /// The scheduler refused.
    Schedule(&'a str),
    /// The scheduler refused.
    Get(&'a str),
    /// The scheduler refused.
    Delete(&'a str),
    /// The scheduler refused.
    List(&'a str),
}

/// Errors of the jobs API; the reason doubles as `errorCode`.
pub fn job(error: Job<'_>, app_id: &str, namespace: &str) -> ApiError {
    let (reason, message) = match error {
        Job::NameInBody => (
            "DAPR_SCHEDULER_JOB_NAME",
            "Set the job name in the url only".to_owned(),
        ),
        Job::ScheduleEmpty => (
            "DAPR_SCHEDULER_SCHEDULE_EMPTY",
            "Schedule is empty".to_owned(),
        ),
        Job::NameEmpty => ("DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty".to_owned()),
        Job::Empty => ("DAPR_SCHEDULER_EMPTY", "Job is empty".to_owned()),
        Job::Schedule(error) => (
            "DAPR_SCHEDULER_SCHEDULE_JOB",
            format!("failed to schedule job due to: {error}"),
        ),
        Job::Get(error) => (
            "DAPR_SCHEDULER_GET_JOB",
            format!("failed to get job due to: {error}"),
        ),
        Job::Delete(error) => (
            "DAPR_SCHEDULER_DELETE_JOB",
            format!("failed to delete job due to: {error}"),
        ),
        Job::List(error) => (
            "DAPR_SCHEDULER_LIST_JOBS",
            format!("failed to list jobs due to: {error}"),
        ),
    };
    let row = match error {
        Job::NameInBody | Job::ScheduleEmpty | Job::NameEmpty | Job::Empty => {
            bad_request(reason, message)
        }
        Job::Schedule(_) | Job::Get(_) | Job::Delete(_) | Job::List(_) => internal(reason, message),
    };
    let metadata = match error {
        Job::NameInBody => facts([("appID", app_id)]),
        _ => facts([("appID", app_id), ("namespace", namespace)]),
    };
    row.with_details(vec![info(reason, metadata)])
}

/// What job calls end with while no scheduler is configured.
pub const NO_SCHEDULER: &str = "scheduler clients are disabled";
