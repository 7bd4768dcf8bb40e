//! Requests and their answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::collection::{self, Query};
use super::discovery;
use super::fault::Fault;
use super::live::{Live, Wish};
use super::object::{Name, Resource, set};
use super::patch;
use super::path::{self, Target};
use super::record::{self, Verb};
use super::selector::Selector;
use super::shared::Shared;
use super::store::{Expect, Refusal};

pub(super) async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let query = Query::new(head.uri.query().unwrap_or_default());
    let target = path::parse(head.uri.path());
    let verb = verb(&head.method, &target, &query);
    note(&shared, verb, &head, &target);
    if let Some(latency) = shared.options.latency {
        tokio::time::sleep(latency).await;
    }
    if !is_allowed(&shared, &head) {
        return Ok(answer::status(401, "who are you?"));
    }
    // A body that breaks off is a client that is gone: nobody reads the answer.
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    Ok(match target {
        Target::Collection {
            resource,
            namespace,
        } => {
            if is_missing(&shared, &resource, &namespace) {
                answer::status(404, "the server could not find the requested resource")
            } else {
                match verb {
                    Verb::Watch => {
                        watch(shared, head.uri.path(), resource, namespace, &query).await
                    }
                    Verb::List => list(&shared, &resource, &namespace, &query).await,
                    Verb::Create => create(&shared, head.uri.path(), &resource, &namespace, &body),
                    _ => answer::status(405, "not for collections"),
                }
            }
        }
        Target::Object {
            resource,
            name,
            part,
        } => object(
            &shared,
            verb,
            &head,
            &resource,
            &name,
            part.as_deref(),
            &body,
        ),
        Target::Other => other(&shared, &head, &body),
    })
}

fn verb(method: &Method, target: &Target, query: &Query) -> Verb {
    match (target, method.as_str()) {
        (Target::Other, _) => Verb::Other,
        (Target::Collection { .. }, "GET")
            if matches!(query.get("watch").as_deref(), Some("true" | "1")) =>
        {
            Verb::Watch
        }
        (Target::Collection { .. }, "GET") => Verb::List,
        (Target::Collection { .. }, "POST") => Verb::Create,
        (Target::Object { .. }, "GET") => Verb::Get,
        (Target::Object { .. }, "PUT") => Verb::Update,
        (Target::Object { .. }, "PATCH") => Verb::Patch,
        (Target::Object { .. }, "DELETE") => Verb::Delete,
        _ => Verb::Other,
    }
}

fn note(shared: &Shared, verb: Verb, head: &http::request::Parts, target: &Target) {
    let plural = match target {
        Target::Collection { resource, .. } | Target::Object { resource, .. } => &resource.plural,
        Target::Other => head.uri.path(),
    };
    let accept = head.headers.get(header::ACCEPT);
    let request = record::Request {
        verb,
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        accept: accept
            .and_then(|accept| accept.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        at: Instant::now(),
    };
    shared.record.lock().note(request, plural);
}

fn is_allowed(shared: &Shared, head: &http::request::Parts) -> bool {
    shared.options.token.as_ref().is_none_or(|token| {
        let sent = head
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        sent.and_then(|sent| sent.strip_prefix("Bearer ")) == Some(token)
    })
}

fn is_missing(shared: &Shared, resource: &Resource, namespace: &str) -> bool {
    let narrow = !namespace.is_empty() && !shared.options.namespaced_lists;
    narrow || shared.absent.lock().contains(&resource.plural)
}

async fn list(shared: &Shared, resource: &Resource, namespace: &str, query: &Query) -> Answer {
    let fault = shared.faults.lock().lists.pop_front();
    match fault {
        None => collection::list(shared, resource, namespace, query, 1),
        Some(Fault::Duplicate) => collection::list(shared, resource, namespace, query, 2),
        Some(Fault::Status { code, retry_after }) => refuse(code, retry_after),
        Some(Fault::Error(code)) => refuse(code, None),
        Some(Fault::Garbage) => answer::text(200, "<html>no list</html>"),
        Some(Fault::End) => answer::text(200, "{\"items\":[{\"metadata\""),
        Some(Fault::Mute) => std::future::pending().await,
        Some(Fault::Silent) => answer::stream(futures::stream::pending()),
        Some(Fault::Reset) => answer::stream(futures::stream::iter([
            Ok(Bytes::from_static(b"{\"items\":[")),
            Err(std::io::ErrorKind::ConnectionReset.into()),
        ])),
    }
}

fn refuse(code: u16, retry_after: Option<u64>) -> Answer {
    let mut answer = answer::status(code, "scripted");
    if let Some(seconds) = retry_after {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

async fn watch(
    shared: Arc<Shared>,
    path: &str,
    resource: Resource,
    namespace: String,
    query: &Query,
) -> Answer {
    let fault = shared.faults.lock().watches.pop_front();
    match fault {
        Some(Fault::Status { code, retry_after }) => return refuse(code, retry_after),
        Some(Fault::Mute) => std::future::pending().await,
        _ => {}
    }
    let wish = Wish {
        path: path.to_owned(),
        resource,
        namespace,
        selector: Selector::new(
            query.get("labelSelector").as_deref(),
            query.get("fieldSelector").as_deref(),
        ),
        version: query
            .number("resourceVersion")
            .filter(|version| *version > 0),
        timeout: query.number("timeoutSeconds").map(Duration::from_secs),
        bookmarks: query.get("allowWatchBookmarks").as_deref() == Some("true"),
    };
    let late = shared.options.late_heads;
    let mut live = Live::new(shared, wish, fault);
    let first = if late { live.next().await } else { None };
    if late && first.is_none() {
        return answer::text(200, "");
    }
    answer::stream(futures::stream::unfold(
        (live, first),
        |(mut live, first)| async {
            let chunk = match first {
                Some(first) => first,
                None => live.next().await?,
            };
            Some((chunk, (live, None)))
        },
    ))
}

fn create(
    shared: &Shared,
    path: &str,
    resource: &Resource,
    namespace: &str,
    body: &[u8],
) -> Answer {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return answer::status(400, "the body is not JSON");
    };
    let handler = shared.handlers.lock().get(path).cloned();
    if let Some(handler) = handler {
        let (code, value) = handler(object);
        return answer::value(code, &value);
    }
    if !namespace.is_empty() {
        set(&mut object, "namespace", json!(namespace));
    }
    if object["metadata"]["name"].as_str().is_none() {
        let prefix = object["metadata"]["generateName"]
            .as_str()
            .map(ToOwned::to_owned);
        let Some(prefix) = prefix else {
            return answer::status(422, "no name");
        };
        let number = shared.store.lock().last();
        set(&mut object, "name", json!(format!("{prefix}{number:05}")));
    }
    write(shared, resource, object, Expect::Nothing, 201)
}

fn object(
    shared: &Shared,
    verb: Verb,
    head: &http::request::Parts,
    resource: &Resource,
    name: &Name,
    part: Option<&str>,
    body: &[u8],
) -> Answer {
    if shared.absent.lock().contains(&resource.plural) {
        return answer::status(404, "the server could not find the requested resource");
    }
    match verb {
        Verb::Get => match shared.store.lock().get(resource, name) {
            Some(object) if shared.options.named_gets => answer::text(200, object.text.clone()),
            _ => answer::refusal(&Refusal::NotFound, &name.name),
        },
        Verb::Update => update(shared, resource, name, part, body),
        Verb::Patch => patch(shared, head, resource, name, body),
        Verb::Delete => delete(shared, resource, name, body),
        _ => answer::status(405, "not for objects"),
    }
}

fn update(
    shared: &Shared,
    resource: &Resource,
    name: &Name,
    part: Option<&str>,
    body: &[u8],
) -> Answer {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return answer::status(400, "the body is not JSON");
    };
    set(&mut object, "name", json!(name.name));
    if !name.namespace.is_empty() {
        set(&mut object, "namespace", json!(name.namespace));
    }
    if part == Some("status") {
        let Some(current) = shared.store.lock().get(resource, name).cloned() else {
            return answer::refusal(&Refusal::NotFound, &name.name);
        };
        let mut whole = current.value.clone();
        whole["status"] = object["status"].take();
        set(
            &mut whole,
            "resourceVersion",
            object["metadata"]["resourceVersion"].take(),
        );
        object = whole;
    }
    write(shared, resource, object, Expect::Something, 200)
}

fn patch(
    shared: &Shared,
    head: &http::request::Parts,
    resource: &Resource,
    name: &Name,
    body: &[u8],
) -> Answer {
    let content_type = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let Some(kind) = patch::Kind::of(content_type.unwrap_or_default()) else {
        return answer::status(415, "not a patch");
    };
    let Ok(patch) = serde_json::from_slice::<Value>(body) else {
        return answer::status(400, "the body is not JSON");
    };
    let current = shared.store.lock().get(resource, name).cloned();
    let (mut object, code) = match (current, kind) {
        (Some(current), _) => (current.value.clone(), 200),
        (None, patch::Kind::Apply) => (json!({}), 201),
        (None, _) => return answer::refusal(&Refusal::NotFound, &name.name),
    };
    // Only a version the patch itself names is compared.
    super::object::unset(&mut object, "resourceVersion");
    match kind {
        patch::Kind::Merge | patch::Kind::Apply => patch::merge(&mut object, patch),
        patch::Kind::Json => {
            if let Err(error) = patch::operate(&mut object, &patch) {
                return answer::status(422, &error.to_string());
            }
        }
    }
    set(&mut object, "name", json!(name.name));
    if !name.namespace.is_empty() {
        set(&mut object, "namespace", json!(name.namespace));
    }
    write(shared, resource, object, Expect::Whatever, code)
}

fn write(shared: &Shared, resource: &Resource, object: Value, expect: Expect, code: u16) -> Answer {
    let name = Name::of(&object).name;
    match shared.change(|store| store.write(resource, object, expect)) {
        Ok(stored) => answer::text(code, stored.text.clone()),
        Err(refusal) => answer::refusal(&refusal, &name),
    }
}

fn delete(shared: &Shared, resource: &Resource, name: &Name, body: &[u8]) -> Answer {
    let options: Value = serde_json::from_slice(body).unwrap_or_default();
    let differs = |current: &Value| {
        ["uid", "resourceVersion"].iter().any(|field| {
            let wanted = &options["preconditions"][*field];
            !wanted.is_null() && *wanted != current["metadata"][*field]
        })
    };
    let deleted = shared.change(|store| match store.get(resource, name) {
        None => Err(Refusal::NotFound),
        Some(current) if differs(&current.value) => Err(Refusal::Conflict),
        Some(_) => store.delete(resource, name).ok_or(Refusal::NotFound),
    });
    match deleted {
        Ok(_) => answer::value(
            200,
            &json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"}),
        ),
        Err(refusal) => answer::refusal(&refusal, &name.name),
    }
}

fn other(shared: &Shared, head: &http::request::Parts, body: &[u8]) -> Answer {
    let path = head.uri.path();
    let handler = shared.handlers.lock().get(path).cloned();
    match (handler, path) {
        (Some(handler), _) if head.method == Method::POST => {
            let (code, value) = handler(serde_json::from_slice(body).unwrap_or_default());
            answer::value(code, &value)
        }
        (_, "/version") => answer::value(
            200,
            &json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}),
        ),
        (_, "/healthz" | "/livez" | "/readyz") => answer::text(200, "ok"),
        _ => match discovery::document(path, &shared.kinds.lock()) {
            Some(document) if shared.options.discovery => answer::value(200, &document),
            Some(_) | None => {
                answer::status(404, "the server could not find the requested resource")
            }
        },
    }
}
