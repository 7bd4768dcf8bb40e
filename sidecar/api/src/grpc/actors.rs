//! The actor methods.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dapr_proto::dapr::proto::runtime::v1::{
    ExecuteActorStateTransactionRequest, GetActorReminderRequest, GetActorReminderResponse,
    GetActorStateRequest, GetActorStateResponse, InvokeActorRequest, InvokeActorResponse,
    RegisterActorReminderRequest, RegisterActorTimerRequest, SubscribeActorEventsRequestAlpha1,
    TransactionalActorStateOperation, UnregisterActorReminderRequest, UnregisterActorTimerRequest,
};
use dapr_sidecar_core::actors::{
    self, API_CALL_HEADER, Phase, RESERVED_PREFIX, Reminder, Spelling, StateOperation, Timer,
};
use dapr_sidecar_core::invoke::headers::canonical;
use futures::StreamExt as _;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use tonic::{Request, Status, Streaming};

use crate::error::{self, Surface};
use crate::services::{ActorCalls, Core};
use crate::trace::{BAGGAGE, TRACEPARENT, TRACESTATE};
use crate::wire;

/// What callers may not claim: the sidecar states it.
const IDENTITY: [&str; 3] = [
    "dapr-caller-app-id",
    "dapr-caller-namespace",
    "dapr-callee-app-id",
];

pub(super) fn refused(error: actors::Error) -> Status {
    error::actor(error, Surface::Grpc).into()
}

/// Refuses types the workflow engine keeps for itself.
pub(super) fn open(core: &Core, kind: &str) -> Result<(), Status> {
    if kind.starts_with(RESERVED_PREFIX) {
        return Err(refused(match core.actors.status().phase {
            Phase::Disabled => actors::Error::NoPlacement,
            Phase::Initializing | Phase::Running => actors::Error::Reserved(kind.to_owned()),
        }));
    }
    Ok(())
}

/// Opens the stream over which an application hosts actors.
pub(super) fn host(
    core: &Core,
    incoming: Streaming<SubscribeActorEventsRequestAlpha1>,
) -> Result<ActorCalls, Status> {
    if core.actors.status().phase == Phase::Disabled {
        return Err(refused(actors::Error::NoPlacement));
    }
    let calls = core.actor_streams.serve(incoming.boxed());
    calls.map_err(wire::to_tonic)
}

pub(super) async fn invoke(
    core: &Core,
    request: Request<InvokeActorRequest>,
) -> Result<InvokeActorResponse, Status> {
    let (metadata, _, request) = request.into_parts();
    let metadata = metadata.into_headers();
    let mut headers = HeaderMap::new();
    for name in [TRACEPARENT, TRACESTATE, BAGGAGE] {
        if let Some(value) = metadata.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let mut spelling = Spelling::default();
    // Of keys that differ in case only, the one that is spelled as headers are comes last and stays.
    let (canonical, own): (Vec<_>, Vec<_>) = request
        .metadata
        .into_iter()
        .partition(|(key, _)| canonical(key) == *key);
    for (key, value) in own.into_iter().chain(canonical) {
        let name = HeaderName::try_from(&key);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
            spelling.keep(&key);
        }
    }
    for name in IDENTITY {
        headers.remove(name);
    }
    let mut call = actors::Call {
        actor_type: request.actor_type,
        actor_id: request.actor_id,
        method: request.method,
        query: String::new(),
        headers,
        spelling,
        body: request.data,
    };
    call.set(API_CALL_HEADER, HeaderValue::from_static("true"));
    let reply = core.actors.invoke(call).await.map_err(refused)?;
    Ok(InvokeActorResponse { data: reply.body })
}

pub(super) async fn get_state(
    core: &Core,
    request: GetActorStateRequest,
) -> Result<GetActorStateResponse, Status> {
    open(core, &request.actor_type)?;
    let found = core
        .actors
        .get_state(&request.actor_type, &request.actor_id, &request.key)
        .await
        .map_err(refused)?;
    let item = found.unwrap_or_default();
    Ok(GetActorStateResponse {
        data: item.data,
        metadata: item.metadata.into_iter().collect(),
    })
}

pub(super) async fn transact(
    core: &Core,
    request: ExecuteActorStateTransactionRequest,
) -> Result<(), Status> {
    open(core, &request.actor_type)?;
    let operations = request
        .operations
        .into_iter()
        .map(operation)
        .collect::<Result<Vec<_>, _>>()?;
    core.actors
        .transact(&request.actor_type, &request.actor_id, operations)
        .await
        .map_err(refused)
}

fn operation(operation: TransactionalActorStateOperation) -> Result<StateOperation, Status> {
    let kind = operation.operation_type.as_str();
    if !matches!(kind, "upsert" | "delete") {
        return Err(error::unsupported_operation(kind).into());
    }
    if operation.key.is_empty() {
        return Err(error::actor_operation("missing key").into());
    }
    if kind == "delete" {
        return Ok(StateOperation::Delete {
            key: operation.key,
            etag: None,
        });
    }
    Ok(StateOperation::Upsert {
        key: operation.key,
        value: operation.value.unwrap_or_default().value.into(),
        etag: None,
        metadata: operation.metadata.into_iter().collect(),
    })
}

/// Bytes registered over gRPC reach the application as a JSON string in base64.
fn json_data(data: &Bytes) -> Bytes {
    if data.is_empty() {
        return Bytes::new();
    }
    Bytes::from(format!("\"{}\"", STANDARD.encode(data)))
}

pub(super) async fn create_timer(
    core: &Core,
    request: RegisterActorTimerRequest,
) -> Result<(), Status> {
    open(core, &request.actor_type)?;
    let timer = Timer {
        actor_type: request.actor_type,
        actor_id: request.actor_id,
        name: request.name,
        due_time: request.due_time,
        period: request.period,
        ttl: request.ttl,
        callback: request.callback,
        data: json_data(&request.data),
    };
    core.actors.create_timer(timer).await.map_err(refused)
}

pub(super) async fn delete_timer(
    core: &Core,
    request: UnregisterActorTimerRequest,
) -> Result<(), Status> {
    open(core, &request.actor_type)?;
    core.actors
        .delete_timer(&request.actor_type, &request.actor_id, &request.name)
        .await
        .map_err(refused)
}

pub(super) async fn create_reminder(
    core: &Core,
    request: RegisterActorReminderRequest,
) -> Result<(), Status> {
    open(core, &request.actor_type)?;
    if request.failure_policy.is_some() {
        return Err(Status::unimplemented(
            "field failure_policy of RegisterActorReminder is not supported in this version: leave it out, failed reminders are then tried again 3 times, 1s apart",
        ));
    }
    let reminder = Reminder {
        actor_type: request.actor_type,
        actor_id: request.actor_id,
        name: request.name,
        due_time: request.due_time,
        period: request.period,
        ttl: request.ttl,
        data: json_data(&request.data),
        overwrite: request.overwrite.unwrap_or(true),
    };
    core.actors.create_reminder(reminder).await.map_err(refused)
}

pub(super) async fn get_reminder(
    core: &Core,
    request: GetActorReminderRequest,
) -> Result<GetActorReminderResponse, Status> {
    open(core, &request.actor_type)?;
    let reminder = core
        .actors
        .get_reminder(&request.actor_type, &request.actor_id, &request.name)
        .await
        .map_err(refused)?;
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok(GetActorReminderResponse {
        actor_type: reminder.actor_type,
        actor_id: reminder.actor_id,
        due_time: given(reminder.due_time),
        period: given(reminder.period),
        data: (!reminder.data.is_empty()).then(|| prost_types::Any {
            type_url: "type.googleapis.com/google.protobuf.BytesValue".to_owned(),
            value: reminder.data.encode_to_vec(),
        }),
        ttl: given(reminder.ttl),
    })
}

pub(super) async fn delete_reminder(
    core: &Core,
    request: UnregisterActorReminderRequest,
) -> Result<(), Status> {
    open(core, &request.actor_type)?;
    core.actors
        .delete_reminder(&request.actor_type, &request.actor_id, &request.name)
        .await
        .map_err(refused)
}
