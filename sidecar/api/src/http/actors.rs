//! The actor API.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderValue, Response};
use bytes::Bytes;
use dapr_sidecar_core::actors::{
    self, API_CALL_HEADER, Phase, RESERVED_PREFIX, Reminder, StateOperation, Timer,
};
use dapr_sidecar_core::body::{self, Body};
use dapr_sidecar_core::fields::Fields;
use dapr_sidecar_core::invoke::headers::remove_hop_by_hop;
use dapr_sidecar_core::state::canonical_value;
use serde::Serialize;
use serde_json::value::RawValue;

use super::path::decode;
use super::{Call, Handled, Refused, add_metadata, json, no_content};
use crate::error::{self, ApiError, Surface};

fn failed(error: actors::Error) -> Refused {
    error::actor(error, Surface::Http { app_id: "" }).into()
}

/// Type and id of a route whose types the workflow engine keeps for itself.
fn open<'a>(
    call: &Call<'_>,
    kind: &'a str,
    id: &'a str,
) -> Result<(std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>), Refused> {
    let (kind, id) = (decode(kind)?, decode(id)?);
    if kind.starts_with(RESERVED_PREFIX) {
        return Err(failed(match call.core.actors.status().phase {
            Phase::Disabled => actors::Error::NoPlacement,
            Phase::Initializing | Phase::Running => actors::Error::Reserved(kind.into_owned()),
        }));
    }
    Ok((kind, id))
}

pub(super) async fn invoke(mut call: Call<'_>, kind: &str, id: &str, method: &str) -> Handled {
    let (kind, id, method) = (decode(kind)?, decode(id)?, decode(method)?);
    let body = call.read().await.map_err(|error| {
        let text = format!("failed to read body: {error}");
        failed(actors::Error::BadRequest(text))
    })?;
    let mut headers = std::mem::take(&mut call.headers);
    headers.remove(::http::header::HOST);
    headers.insert(API_CALL_HEADER, HeaderValue::from_static("true"));
    let reply = call
        .core
        .actors
        .invoke(actors::Call {
            actor_type: kind.into_owned(),
            actor_id: id.into_owned(),
            method: method.into_owned(),
            query: call.query.0.to_owned(),
            headers,
            spelling: actors::Spelling::default(),
            body,
        })
        .await
        .map_err(failed)?;
    Ok(reply_response(reply))
}

fn reply_response(reply: actors::Reply) -> Response<Body> {
    let mut response = Response::new(body::full(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    *headers = reply.headers;
    // The length is that of the body at hand, and connections are ours.
    headers.remove(::http::header::CONTENT_LENGTH);
    remove_hop_by_hop(headers);
    let json = HeaderValue::from_static("application/json");
    let first = headers.remove(CONTENT_TYPE).unwrap_or(json);
    headers.insert(CONTENT_TYPE, first);
    response
}

pub(super) async fn transact(mut call: Call<'_>, kind: &str, id: &str) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let body = call.read_or_malformed().await?;
    let entries: Option<Vec<Fields<'_>>> =
        serde_json::from_slice(&body).map_err(error::malformed)?;
    if call.core.actors.status().phase == Phase::Disabled {
        return Err(failed(actors::Error::NoPlacement));
    }
    let mut operations = Vec::new();
    let mut wrong = None;
    for entry in entries.iter().flatten() {
        let operation: String = entry.get("operation").map_err(error::malformed)?;
        match state_operation(&operation, entry) {
            Ok(operation) => operations.push(operation),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    // Whether the actor is here comes before what is wrong with an operation.
    let operations = if wrong.is_some() { vec![] } else { operations };
    let actors = &call.core.actors;
    let done = actors.transact(&kind, &id, operations).await;
    done.map_err(failed)?;
    wrong.map_or(Ok(no_content()), |error| Err(error.into()))
}

fn state_operation(operation: &str, entry: &Fields<'_>) -> Result<StateOperation, ApiError> {
    let refused = |error: serde_json::Error| error::actor_operation(error.to_string());
    let request = entry
        .raw("request")
        .ok_or_else(|| error::actor_operation("request data is empty"))?;
    if operation.is_empty() {
        return Err(error::actor_operation("operation is empty"));
    }
    if !matches!(operation, "upsert" | "delete") {
        let text = format!("operation type {operation} not supported");
        return Err(error::actor_operation(text));
    }
    let request: Fields<'_> = serde_json::from_str(request.get()).map_err(refused)?;
    let key: String = request.get("key").map_err(refused)?;
    if key.is_empty() {
        return Err(error::actor_operation("missing key"));
    }
    let etag = request.get("etag").map_err(refused)?;
    if operation == "delete" {
        return Ok(StateOperation::Delete { key, etag });
    }
    let value = canonical_value(request.raw("value").map_or("null", RawValue::get));
    Ok(StateOperation::Upsert {
        key,
        value: value.map_err(error::malformed)?,
        etag,
        metadata: request.metadata("metadata").map_err(refused)?,
    })
}

pub(super) async fn get_state(call: Call<'_>, kind: &str, id: &str, key: &str) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let key = decode(key)?;
    let found = call
        .core
        .actors
        .get_state(&kind, &id, &key)
        .await
        .map_err(failed)?;
    let Some(item) = found.filter(|item| !item.data.is_empty()) else {
        return Ok(no_content());
    };
    let mut response = json(item.data);
    add_metadata(response.headers_mut(), &item.metadata);
    Ok(response)
}

/// The body of a registration.
#[derive(Debug, Default)]
struct Registration {
    data: Bytes,
    due_time: String,
    period: String,
    ttl: String,
    callback: String,
    overwrite: Option<bool>,
}

fn registration(body: &Bytes) -> Result<Registration, ApiError> {
    let read = || -> Result<_, serde_json::Error> {
        let fields: Fields<'_> = serde_json::from_slice(body)?;
        let data = fields.verbatim("data").map(|data| data.get().as_bytes());
        Ok(Registration {
            data: data.map_or_else(Bytes::new, Bytes::copy_from_slice),
            due_time: fields.get("dueTime")?,
            period: fields.get("period")?,
            ttl: fields.get("ttl")?,
            callback: fields.get("callback")?,
            overwrite: fields.borrowed("overwrite")?,
        })
    };
    read().map_err(error::malformed)
}

pub(super) async fn create_reminder(
    mut call: Call<'_>,
    kind: &str,
    id: &str,
    name: &str,
) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let name = decode(name)?;
    let body = call.read_or_malformed().await?;
    let given = registration(&body)?;
    let reminder = Reminder {
        actor_type: kind.into_owned(),
        actor_id: id.into_owned(),
        name: name.into_owned(),
        due_time: given.due_time,
        period: given.period,
        ttl: given.ttl,
        data: given.data,
        overwrite: given.overwrite.unwrap_or(true),
    };
    call.core
        .actors
        .create_reminder(reminder)
        .await
        .map_err(failed)?;
    Ok(no_content())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReminderJson<'a> {
    #[serde(rename = "actorID", skip_serializing_if = "str::is_empty")]
    actor_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    actor_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "str::is_empty")]
    due_time: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    period: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    ttl: &'a str,
}

pub(super) async fn get_reminder(call: Call<'_>, kind: &str, id: &str, name: &str) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let name = decode(name)?;
    let reminder = call
        .core
        .actors
        .get_reminder(&kind, &id, &name)
        .await
        .map_err(failed)?;
    let shown = ReminderJson {
        actor_id: &reminder.actor_id,
        actor_type: &reminder.actor_type,
        data: serde_json::from_slice(&reminder.data).ok(),
        due_time: &reminder.due_time,
        period: &reminder.period,
        ttl: &reminder.ttl,
    };
    Ok(json(serde_json::to_vec(&shown).map_err(error::unknown)?))
}

pub(super) async fn delete_reminder(call: Call<'_>, kind: &str, id: &str, name: &str) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let name = decode(name)?;
    call.core
        .actors
        .delete_reminder(&kind, &id, &name)
        .await
        .map_err(failed)?;
    Ok(no_content())
}

pub(super) async fn create_timer(mut call: Call<'_>, kind: &str, id: &str, name: &str) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let name = decode(name)?;
    let body = call.read_or_malformed().await?;
    let given = registration(&body)?;
    let timer = Timer {
        actor_type: kind.into_owned(),
        actor_id: id.into_owned(),
        name: name.into_owned(),
        due_time: given.due_time,
        period: given.period,
        ttl: given.ttl,
        callback: given.callback,
        data: given.data,
    };
    call.core.actors.create_timer(timer).await.map_err(failed)?;
    Ok(no_content())
}

pub(super) async fn delete_timer(call: Call<'_>, kind: &str, id: &str, name: &str) -> Handled {
    let (kind, id) = open(&call, kind, id)?;
    let name = decode(name)?;
    call.core
        .actors
        .delete_timer(&kind, &id, &name)
        .await
        .map_err(failed)?;
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_nothing_of_the_connection_of_the_application() {
        let mut headers = ::http::HeaderMap::new();
        for (name, value) in [
            ("keep-alive", "timeout=5"),
            ("connection", "keep-alive"),
            ("content-length", "9"),
            ("content-type", "a/b"),
            ("content-type", "c/d"),
            ("x-kept", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let answer = reply_response(actors::Reply {
            status: ::http::StatusCode::OK,
            headers,
            body: Bytes::new(),
        });
        let names: Vec<_> = answer.headers().iter().collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "a/b");
        assert_eq!(answer.headers()["x-kept"], "1");
    }

    #[test]
    fn data_of_a_registration_is_kept_as_it_stands() {
        let check = |body: &'static str, expected: Option<&str>| {
            let read = registration(&Bytes::from_static(body.as_bytes()));
            let data = read.map(|given| String::from_utf8_lossy(&given.data).into_owned());
            assert_eq!(data.ok().as_deref(), expected, "{body}");
        };
        check("{}", Some(""));
        check(r#"{"data":null}"#, Some("null"));
        check(r#"{"DATA": [1.50, "x"]}"#, Some(r#"[1.50, "x"]"#));
        check("", None);
    }
}
