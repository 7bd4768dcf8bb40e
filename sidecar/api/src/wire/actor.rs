//! Actor calls and reminders between sidecars.

use bytes::Bytes;
use dapr_proto::dapr::proto::common::v1::http_extension::Verb;
use dapr_proto::dapr::proto::common::v1::{HttpExtension, InvokeRequest, InvokeResponse};
use dapr_proto::dapr::proto::internals::v1::{
    Actor, ApiVersion, InternalInvokeRequest, InternalInvokeResponse, Reminder,
};
use dapr_sidecar_core::actors::{Call, Reply, Spelling};
use dapr_sidecar_core::invoke::headers::canonical;
use dapr_sidecar_core::invoke::{Origin, Status};
use dapr_sidecar_core::peer::ReminderCall;
use dapr_sidecar_core::rpc::{self, Code};
use http::StatusCode;

use super::headers::{from_metadata, to_metadata};
use super::request::{header_text, set_content_type};
use super::response::{internal_status, status_from};

/// A call of an actor method as an internal message.
pub fn internal_actor_request(call: Call) -> InternalInvokeRequest {
    let mut metadata = to_metadata(&call.headers, Origin::Http);
    for (name, key) in call.spelling.iter() {
        if let Some(values) = metadata.remove(&canonical(name)) {
            metadata.insert(key.to_owned(), values);
        }
    }
    InternalInvokeRequest {
        ver: ApiVersion::V1 as i32,
        metadata,
        message: Some(InvokeRequest {
            method: call.method,
            data: Some(prost_types::Any {
                type_url: String::new(),
                value: call.body.into(),
            }),
            content_type: header_text(&call.headers),
            http_extension: Some(HttpExtension {
                verb: Verb::Put as i32,
                querystring: call.query,
            }),
        }),
        actor: Some(Actor {
            actor_type: call.actor_type,
            actor_id: call.actor_id,
        }),
    }
}

/// The actor call of an internal message.
pub fn actor_call(request: InternalInvokeRequest) -> Result<Call, rpc::Status> {
    let invalid = |text| rpc::Status::new(Code::InvalidArgument, text);
    let message = request
        .message
        .ok_or_else(|| invalid("parsing InternalInvokeRequest error: field Message is nil"))?;
    let actor = request
        .actor
        .ok_or_else(|| invalid("parsing InternalInvokeRequest error: field Actor is nil"))?;
    let mut spelling = Spelling::default();
    for key in request.metadata.keys() {
        spelling.keep(key);
    }
    let mut headers = from_metadata(request.metadata, Origin::Http);
    set_content_type(&mut headers, message.content_type);
    Ok(Call {
        actor_type: actor.actor_type,
        actor_id: actor.actor_id,
        method: message.method,
        query: message.http_extension.unwrap_or_default().querystring,
        headers,
        spelling,
        body: Bytes::from(message.data.unwrap_or_default().value),
    })
}

/// What an actor answered as an internal message.
pub fn internal_actor_response(reply: Reply) -> InternalInvokeResponse {
    InternalInvokeResponse {
        status: Some(internal_status(Status::Http(reply.status))),
        headers: to_metadata(&reply.headers, Origin::Http),
        trailers: Default::default(),
        message: Some(InvokeResponse {
            data: Some(prost_types::Any {
                type_url: String::new(),
                value: reply.body.into(),
            }),
            content_type: header_text(&reply.headers),
        }),
    }
}

/// The actor's answer of an internal message; a gRPC status other than `OK` is an error.
pub fn actor_reply(response: InternalInvokeResponse) -> Result<Reply, rpc::Status> {
    let status = match status_from(response.status.unwrap_or_default()) {
        Status::Http(status) => status,
        Status::Grpc(status) if status.code == Code::Ok => StatusCode::OK,
        Status::Grpc(status) => return Err(status),
    };
    let message = response.message.unwrap_or_default();
    let mut headers = from_metadata(response.headers, Origin::Http);
    set_content_type(&mut headers, message.content_type);
    Ok(Reply {
        status,
        headers,
        body: Bytes::from(message.data.unwrap_or_default().value),
    })
}

/// A reminder or timer that fires elsewhere, as an internal message.
pub fn internal_reminder(call: ReminderCall) -> Reminder {
    Reminder {
        actor_id: call.actor_id,
        actor_type: call.actor_type,
        name: call.name,
        data: call.data.map(|(type_url, value)| prost_types::Any {
            type_url,
            value: value.into(),
        }),
        period: call.period,
        registered_time: call.registered_time.map(Into::into),
        due_time: call.due_time,
        expiration_time: call.expiration_time.map(Into::into),
        is_timer: call.is_timer,
        skip_lock: call.skip_lock,
    }
}

/// The reminder of an internal message; a time beyond what the clock can show counts as not given.
pub fn reminder_call(reminder: Reminder) -> ReminderCall {
    ReminderCall {
        actor_type: reminder.actor_type,
        actor_id: reminder.actor_id,
        name: reminder.name,
        data: reminder.data.map(|any| (any.type_url, any.value.into())),
        due_time: reminder.due_time,
        period: reminder.period,
        registered_time: reminder
            .registered_time
            .and_then(|time| time.try_into().ok()),
        expiration_time: reminder
            .expiration_time
            .and_then(|time| time.try_into().ok()),
        is_timer: reminder.is_timer,
        skip_lock: reminder.skip_lock,
    }
}
