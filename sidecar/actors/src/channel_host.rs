//! Actors of an application that speaks HTTP: one `PUT` per method, reminder or timer, one `DELETE` per
//! deactivation.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dapr_components_core::metadata::is_truthy;
use dapr_sidecar_core::actors::{Call, ERROR_HEADER, Reply};
use dapr_sidecar_core::app::AppChannel;
use dapr_sidecar_core::body;
use dapr_sidecar_core::invoke::{Origin, Request, Status};
use dapr_sidecar_core::peer::ReminderCall;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

use crate::app_host::{AppHost, Error, NO_TRACE, TRACEPARENT, unpack};

const CALLER_APP_ID: HeaderName = HeaderName::from_static("dapr-caller-app-id");
const CALLER_NAMESPACE: HeaderName = HeaderName::from_static("dapr-caller-namespace");
/// The application wants no more of this reminder.
const CANCEL: &str = "x-daprremindercancel";

/// What Go escapes in a path. The percent sign is not among it: names may bring escapes of their own.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Calls the application's actor routes.
pub struct ChannelHost {
    app: Arc<dyn AppChannel>,
    caller_app_id: HeaderValue,
    caller_namespace: HeaderValue,
}

impl std::fmt::Debug for ChannelHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelHost").finish_non_exhaustive()
    }
}

impl ChannelHost {
    /// Hosts the actors of `app`; the ids are this sidecar's own, which applications see as the caller.
    pub fn new(app: Arc<dyn AppChannel>, app_id: &str, namespace: &str) -> Self {
        let header =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            app,
            caller_app_id: header(app_id),
            caller_namespace: header(namespace),
        }
    }

    async fn send(
        &self,
        verb: Method,
        path: &str,
        query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, Error> {
        let request = Request {
            verb: Some(verb),
            method: escape(path)?,
            query: query.to_owned(),
            headers,
            type_url: String::new(),
            origin: Origin::Http,
            body: body::full(body),
        };
        let response = self
            .app
            .invoke(request)
            .await
            .map_err(|error| match error {
                dapr_sidecar_core::app::Error::Status(status) => Error::Status(status),
                error => Error::Other(error.to_string()),
            })?;
        let status = match response.status {
            Status::Http(status) => status,
            Status::Grpc(status) => return Err(Error::Status(status)),
        };
        let collected = response.body.collect().await;
        let body = collected
            .map_err(|error| Error::Other(error.to_string()))?
            .to_bytes();
        Ok(Reply {
            status,
            headers: response.headers,
            body,
        })
    }

    /// A reminder or timer: an error of the actor is a failure here, a cancellation is not.
    async fn fire(&self, path: &str, body: String) -> Result<(), Error> {
        let headers = content_type("application/json");
        let reply = self
            .send(Method::PUT, path, "", headers, Bytes::from(body))
            .await?;
        if reply.headers.contains_key(ERROR_HEADER) {
            return Err(Error::Service(describe(&reply)));
        }
        check(path, &reply)
    }
}

#[async_trait]
impl AppHost for ChannelHost {
    async fn invoke(&self, call: &Call) -> Result<Reply, Error> {
        let path = format!(
            "actors/{}/{}/method/{}",
            call.actor_type, call.actor_id, call.method
        );
        let mut headers = call.headers.clone();
        headers.insert(CALLER_APP_ID, self.caller_app_id.clone());
        headers.insert(CALLER_NAMESPACE, self.caller_namespace.clone());
        headers
            .entry(TRACEPARENT)
            .or_insert(HeaderValue::from_static(NO_TRACE));
        let mut reply = self
            .send(Method::PUT, &path, &call.query, headers, call.body.clone())
            .await?;
        check(&path, &reply)?;
        // An error of the actor is an answer: the caller gets it whole. With another status the status counts.
        if reply.headers.contains_key(ERROR_HEADER) {
            return Ok(reply);
        }
        if is_cancelled(&reply.headers) {
            return Err(Error::Cancelled);
        }
        let json = HeaderValue::from_static("application/json");
        reply.headers.entry(CONTENT_TYPE).or_insert(json);
        Ok(reply)
    }

    async fn remind(&self, reminder: &ReminderCall) -> Result<(), Error> {
        let path = format!(
            "actors/{}/{}/method/remind/{}",
            reminder.actor_type, reminder.actor_id, reminder.name
        );
        self.fire(&path, fire_body(reminder, None)).await
    }

    async fn timer(&self, timer: &ReminderCall, callback: &str) -> Result<(), Error> {
        let path = format!(
            "actors/{}/{}/method/timer/{}",
            timer.actor_type, timer.actor_id, timer.name
        );
        self.fire(&path, fire_body(timer, Some(callback))).await
    }

    async fn deactivate(&self, actor_type: &str, actor_id: &str) -> Result<(), Error> {
        let path = format!("actors/{actor_type}/{actor_id}");
        let headers = content_type("application/x-protobuf");
        let reply = self
            .send(Method::DELETE, &path, "", headers, Bytes::new())
            .await?;
        check(&path, &reply)
    }
}

fn content_type(text: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
    headers
}

/// Only 200 is success, also where HTTP knows others.
fn check(path: &str, reply: &Reply) -> Result<(), Error> {
    match reply.status {
        StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND => Err(Error::NotFound(path.to_owned())),
        _ => Err(Error::Service(describe(reply))),
    }
}

fn describe(reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    format!("({}) {body}", reply.status.as_u16())
}

fn is_cancelled(headers: &HeaderMap) -> bool {
    headers
        .get(CANCEL)
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_truthy)
}

/// The JSON an application gets when a reminder or timer fires; `data` is set in as it was registered.
fn fire_body(call: &ReminderCall, callback: Option<&str>) -> String {
    let quote = |text: &str| Value::from(text).to_string();
    let mut body = String::from("{");
    let data = unpack(call.data.as_ref());
    if let Some(data) = data
        .as_deref()
        .and_then(|data| std::str::from_utf8(data).ok())
    {
        body.push_str("\"data\":");
        body.push_str(data);
        body.push(',');
    }
    if let Some(callback) = callback {
        body.push_str("\"callback\":");
        body.push_str(&quote(callback));
        body.push(',');
    }
    body.push_str("\"dueTime\":");
    body.push_str(&quote(&call.due_time));
    body.push_str(",\"period\":");
    body.push_str(&quote(&call.period));
    body.push('}');
    body
}

/// Names go into the path as they are, but for what cannot stand there.
fn escape(path: &str) -> Result<String, Error> {
    let bytes = path.as_bytes();
    for (place, _) in path.match_indices('%') {
        let digits = bytes.get(place + 1..place + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let wrong: String = path[place..].chars().take(3).collect();
            let text = format!("parse {path:?}: invalid URL escape {wrong:?}");
            return Err(Error::Other(text));
        }
    }
    Ok(utf8_percent_encode(path, ESCAPED).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_host::pack;

    #[test]
    fn bodies_of_fires() {
        let check = |data: &'static str, callback: Option<&str>, expected: &str| {
            let call = ReminderCall {
                actor_type: "t".to_owned(),
                actor_id: "1".to_owned(),
                name: "n".to_owned(),
                data: pack(&Bytes::from_static(data.as_bytes())),
                due_time: "1s".to_owned(),
                period: String::new(),
                registered_time: None,
                expiration_time: None,
                is_timer: callback.is_some(),
                skip_lock: false,
            };
            assert_eq!(fire_body(&call, callback), expected);
        };
        check("", None, r#"{"dueTime":"1s","period":""}"#);
        check(
            r#"{"z": 1}"#,
            Some("c\"b"),
            r#"{"data":{"z": 1},"callback":"c\"b","dueTime":"1s","period":""}"#,
        );
    }

    #[test]
    fn paths_are_escaped_as_go_does() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(escape(path).ok().as_deref(), expected, "{path}");
        };
        check("actors/t/a b/method/x", Some("actors/t/a%20b/method/x"));
        check("a%20b", Some("a%20b"));
        check("a%b", None);
        check("a%", None);
        check("ü<>|^\"", Some("%C3%BC%3C%3E%7C%5E%22"));
        check("a:b@c||d", Some("a:b@c%7C%7Cd"));
    }
}
