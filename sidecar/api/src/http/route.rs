//! The routes of the HTTP API: path and method to what is to be done.
//!
//! Paths are matched as they came, escapes included, so that an escaped slash never separates segments.

use http::Method;

use crate::settings::ApiRules;

/// Most segments a route can have; a longer path is only ever a topic or an invocation.
const MAX_SEGMENTS: usize = 8;

/// What is to be done. Texts are segments as they stand in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'p> {
    Invoke,
    GetState(&'p str, &'p str),
    SaveState(&'p str),
    DeleteState(&'p str, &'p str),
    GetBulkState(&'p str),
    ExecuteStateTransaction(&'p str),
    QueryState(&'p str),
    PublishEvent(&'p str, &'p str),
    BulkPublishEvent(&'p str, &'p str),
    InvokeBinding(&'p str),
    GetSecret(&'p str, &'p str),
    GetBulkSecret(&'p str),
    GetConfiguration,
    TryLock(&'p str),
    Unlock,
    Crypto,
    SubtleCrypto,
    ExecuteActorStateTransaction(&'p str, &'p str),
    GetActorState(&'p str, &'p str, &'p str),
    InvokeActor(&'p str, &'p str, &'p str),
    RegisterActorReminder(&'p str, &'p str, &'p str),
    GetActorReminder(&'p str, &'p str, &'p str),
    UnregisterActorReminder(&'p str, &'p str, &'p str),
    RegisterActorTimer(&'p str, &'p str, &'p str),
    UnregisterActorTimer(&'p str, &'p str, &'p str),
    ScheduleJob(&'p str),
    GetJob(&'p str),
    DeleteJob(&'p str),
    Workflow,
    Converse(&'p str),
    GetMetadata,
    PutMetadata(&'p str),
    Healthz,
    HealthzOutbound,
    Shutdown,
}

/// A route with what logs and the allow and deny lists call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matched<'p> {
    pub(crate) route: Route<'p>,
    /// `<version>/<group>`, for instance `v1/state`.
    pub(crate) group: &'static str,
    /// Path version and pattern, for instance `v1.0/state/{storeName}`.
    pub(crate) pattern: &'static str,
    /// Operation name for obfuscated API logs.
    pub(crate) name: &'static str,
}

/// The route of a cleaned path, if there is one and the lists allow it. One trailing slash is stripped when
/// the path does not match as given.
pub(crate) fn find<'p>(method: &Method, path: &'p str, rules: &ApiRules) -> Option<Matched<'p>> {
    let matched = exact(method, path).or_else(|| exact(method, path.strip_suffix('/')?))?;
    rules.allows_http(&matched).then_some(matched)
}

/// Methods the path has routes for, for the `Allow` header.
pub(crate) fn methods(path: &str, rules: &ApiRules) -> Vec<&'static str> {
    let all = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::DELETE, "DELETE"),
    ];
    all.into_iter()
        .filter(|(method, _)| find(method, path, rules).is_some())
        .map(|(_, name)| name)
        .collect()
}

fn exact<'p>(method: &Method, path: &'p str) -> Option<Matched<'p>> {
    let path = path.strip_prefix('/')?;
    let (version, rest) = path.split_once('/')?;
    if version == "v1.0" && rest.starts_with("invoke/") {
        return Some(matched(
            Route::Invoke,
            "v1/invoke",
            "v1.0/invoke/{id}/method/{method}",
            "InvokeService",
        ));
    }
    if let Some(rest) = rest.strip_prefix("publish/") {
        return publish(method, version, rest);
    }
    let mut segments = [""; MAX_SEGMENTS];
    let mut count = 0;
    for segment in rest.split('/') {
        if segment.is_empty() {
            return None;
        }
        *segments.get_mut(count)? = segment;
        count += 1;
    }
    let segments = segments.get(..count)?;
    match version {
        "v1.0" => v1(method, segments),
        "v1.0-alpha1" => alpha1(method, segments),
        "v1.0-alpha2" => alpha2(method, segments),
        "v1.0-beta1" => workflow(
            method,
            segments,
            "v1beta1/workflows",
            "v1.0-beta1/workflows/{workflowComponent}",
        ),
        _ => None,
    }
}

fn matched<'p>(
    route: Route<'p>,
    group: &'static str,
    pattern: &'static str,
    name: &'static str,
) -> Matched<'p> {
    Matched {
        route,
        group,
        pattern,
        name,
    }
}

fn is_write(method: &Method) -> bool {
    method == Method::POST || method == Method::PUT
}

fn publish<'p>(method: &Method, version: &str, rest: &'p str) -> Option<Matched<'p>> {
    if !is_write(method) {
        return None;
    }
    let (first, topic) = rest.split_once('/')?;
    // A topic may have slashes, but does not end with one.
    let topic = topic.strip_suffix('/').unwrap_or(topic);
    if first.is_empty() || topic.is_empty() {
        return None;
    }
    let bulk = (first == "bulk")
        .then(|| topic.split_once('/'))
        .flatten()
        .filter(|(pubsub, topic)| !pubsub.is_empty() && !topic.is_empty());
    match (version, bulk) {
        ("v1.0", Some((pubsub, topic))) => Some(matched(
            Route::BulkPublishEvent(pubsub, topic),
            "v1/publish",
            "v1.0/publish/bulk/{pubsubname}/*",
            "BulkPublishEvent",
        )),
        ("v1.0-alpha1", Some((pubsub, topic))) => Some(matched(
            Route::BulkPublishEvent(pubsub, topic),
            "v1alpha1/publish",
            "v1.0-alpha1/publish/bulk/{pubsubname}/*",
            "BulkPublishEvent",
        )),
        ("v1.0", None) => Some(matched(
            Route::PublishEvent(first, topic),
            "v1/publish",
            "v1.0/publish/{pubsubname}/*",
            "PublishEvent",
        )),
        _ => None,
    }
}

fn v1<'p>(method: &Method, segments: &[&'p str]) -> Option<Matched<'p>> {
    let found = match (method.as_str(), segments) {
        ("GET", ["state", store, key]) => matched(
            Route::GetState(store, key),
            "v1/state",
            "v1.0/state/{storeName}/{key}",
            "GetState",
        ),
        ("DELETE", ["state", store, key]) => matched(
            Route::DeleteState(store, key),
            "v1/state",
            "v1.0/state/{storeName}/{key}",
            "DeleteState",
        ),
        ("POST" | "PUT", ["state", store]) => matched(
            Route::SaveState(store),
            "v1/state",
            "v1.0/state/{storeName}",
            "SaveState",
        ),
        ("POST" | "PUT", ["state", store, "bulk"]) => matched(
            Route::GetBulkState(store),
            "v1/state",
            "v1.0/state/{storeName}/bulk",
            "GetBulkState",
        ),
        ("POST" | "PUT", ["state", store, "transaction"]) => matched(
            Route::ExecuteStateTransaction(store),
            "v1/state",
            "v1.0/state/{storeName}/transaction",
            "ExecuteStateTransaction",
        ),
        ("POST" | "PUT", ["bindings", name]) => matched(
            Route::InvokeBinding(name),
            "v1/bindings",
            "v1.0/bindings/{name}",
            "InvokeBinding",
        ),
        ("GET", ["secrets", store, "bulk"]) => matched(
            Route::GetBulkSecret(store),
            "v1/secrets",
            "v1.0/secrets/{secretStoreName}/bulk",
            "GetBulkSecret",
        ),
        ("GET", ["secrets", store, key]) => matched(
            Route::GetSecret(store, key),
            "v1/secrets",
            "v1.0/secrets/{secretStoreName}/{key}",
            "GetSecret",
        ),
        ("GET", ["metadata"]) => matched(
            Route::GetMetadata,
            "v1/metadata",
            "v1.0/metadata",
            "GetMetadata",
        ),
        ("PUT", ["metadata", key]) => matched(
            Route::PutMetadata(key),
            "v1/metadata",
            "v1.0/metadata/{key}",
            "PutMetadata",
        ),
        ("GET", ["healthz"]) => matched(Route::Healthz, "v1/healthz", "v1.0/healthz", "Healthz"),
        ("GET", ["healthz", "outbound"]) => matched(
            Route::HealthzOutbound,
            "v1/healthz",
            "v1.0/healthz/outbound",
            "HealthzOutbound",
        ),
        ("POST", ["shutdown"]) => {
            matched(Route::Shutdown, "v1/shutdown", "v1.0/shutdown", "Shutdown")
        }
        (_, ["actors", rest @ ..]) => return actor(method, rest),
        (_, ["configuration", rest @ ..]) => {
            return configuration(
                method,
                rest,
                "v1/configuration",
                "v1.0/configuration/{storeName}",
            );
        }
        (_, ["jobs", name]) => return job(method, name, "v1/jobs", "v1.0/jobs/{name}"),
        (_, ["workflows", ..]) => {
            return workflow(
                method,
                segments,
                "v1/workflows",
                "v1.0/workflows/{workflowComponent}",
            );
        }
        _ => return None,
    };
    Some(found)
}

fn actor<'p>(method: &Method, segments: &[&'p str]) -> Option<Matched<'p>> {
    let found = match (method.as_str(), segments) {
        ("POST" | "PUT", [kind, id, "state"]) => matched(
            Route::ExecuteActorStateTransaction(kind, id),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/state",
            "ExecuteActorStateTransaction",
        ),
        ("GET", [kind, id, "state", key]) => matched(
            Route::GetActorState(kind, id, key),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/state/{key}",
            "GetActorState",
        ),
        ("GET" | "POST" | "PUT" | "DELETE", [kind, id, "method", name]) => matched(
            Route::InvokeActor(kind, id, name),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/method/{method}",
            "InvokeActor",
        ),
        ("POST" | "PUT", [kind, id, "reminders", name]) => matched(
            Route::RegisterActorReminder(kind, id, name),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/reminders/{name}",
            "RegisterActorReminder",
        ),
        ("GET", [kind, id, "reminders", name]) => matched(
            Route::GetActorReminder(kind, id, name),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/reminders/{name}",
            "GetActorReminder",
        ),
        ("DELETE", [kind, id, "reminders", name]) => matched(
            Route::UnregisterActorReminder(kind, id, name),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/reminders/{name}",
            "UnregisterActorReminder",
        ),
        ("POST" | "PUT", [kind, id, "timers", name]) => matched(
            Route::RegisterActorTimer(kind, id, name),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/timers/{name}",
            "RegisterActorTimer",
        ),
        ("DELETE", [kind, id, "timers", name]) => matched(
            Route::UnregisterActorTimer(kind, id, name),
            "v1/actors",
            "v1.0/actors/{actorType}/{actorId}/timers/{name}",
            "UnregisterActorTimer",
        ),
        _ => return None,
    };
    Some(found)
}

fn configuration<'p>(
    method: &Method,
    segments: &[&'p str],
    group: &'static str,
    pattern: &'static str,
) -> Option<Matched<'p>> {
    let name = match (method.as_str(), segments) {
        ("GET", [_]) => "GetConfiguration",
        ("GET", [_, "subscribe"]) => "SubscribeConfiguration",
        ("GET", [_, _, "unsubscribe"]) => "UnsubscribeConfiguration",
        _ => return None,
    };
    Some(matched(Route::GetConfiguration, group, pattern, name))
}

fn job<'p>(
    method: &Method,
    name: &'p str,
    group: &'static str,
    pattern: &'static str,
) -> Option<Matched<'p>> {
    let (route, operation) = match method.as_str() {
        "POST" => (Route::ScheduleJob(name), "ScheduleJob"),
        "GET" => (Route::GetJob(name), "GetJob"),
        "DELETE" => (Route::DeleteJob(name), "DeleteJob"),
        _ => return None,
    };
    Some(matched(route, group, pattern, operation))
}

fn workflow<'p>(
    method: &Method,
    segments: &[&'p str],
    group: &'static str,
    pattern: &'static str,
) -> Option<Matched<'p>> {
    let name = match (method.as_str(), segments) {
        ("GET", ["workflows", _, _]) => "GetWorkflow",
        ("POST", ["workflows", _, _, "start"]) => "StartWorkflow",
        ("POST", ["workflows", _, _, "raiseEvent", _]) => "RaiseEventWorkflow",
        ("POST", ["workflows", _, _, "pause"]) => "PauseWorkflow",
        ("POST", ["workflows", _, _, "resume"]) => "ResumeWorkflow",
        ("POST", ["workflows", _, _, "terminate"]) => "TerminateWorkflow",
        ("POST", ["workflows", _, _, "purge"]) => "PurgeWorkflow",
        _ => return None,
    };
    Some(matched(Route::Workflow, group, pattern, name))
}

fn alpha1<'p>(method: &Method, segments: &[&'p str]) -> Option<Matched<'p>> {
    let found = match (method.as_str(), segments) {
        ("POST" | "PUT", ["state", store, "query"]) => matched(
            Route::QueryState(store),
            "v1alpha1/state",
            "v1.0-alpha1/state/{storeName}/query",
            "QueryStateAlpha1",
        ),
        ("POST", ["lock", store]) => matched(
            Route::TryLock(store),
            "v1alpha1/lock",
            "v1.0-alpha1/lock/{storeName}",
            "TryLock",
        ),
        ("POST", ["unlock", _]) => matched(
            Route::Unlock,
            "v1alpha1/unlock",
            "v1.0-alpha1/unlock/{storeName}",
            "Unlock",
        ),
        ("PUT", ["crypto", _, "encrypt"]) => matched(
            Route::Crypto,
            "v1alpha1/crypto",
            "v1.0-alpha1/crypto/{name}/encrypt",
            "Encrypt",
        ),
        ("PUT", ["crypto", _, "decrypt"]) => matched(
            Route::Crypto,
            "v1alpha1/crypto",
            "v1.0-alpha1/crypto/{name}/decrypt",
            "Decrypt",
        ),
        ("POST", ["subtlecrypto", _, operation]) => matched(
            Route::SubtleCrypto,
            "v1alpha1/subtlecrypto",
            "v1.0-alpha1/subtlecrypto/{name}",
            subtle(operation)?,
        ),
        ("POST", ["conversation", name, "converse"]) => matched(
            Route::Converse(name),
            "v1alpha1/conversation",
            "v1.0-alpha1/conversation/{name}/converse",
            "Converse",
        ),
        (_, ["configuration", rest @ ..]) => {
            return configuration(
                method,
                rest,
                "v1alpha1/configuration",
                "v1.0-alpha1/configuration/{storeName}",
            );
        }
        (_, ["jobs", name]) => {
            return job(method, name, "v1alpha1/jobs", "v1.0-alpha1/jobs/{name}");
        }
        (_, ["workflows", ..]) => {
            return workflow(
                method,
                segments,
                "v1alpha1/workflows",
                "v1.0-alpha1/workflows/{workflowComponent}",
            );
        }
        _ => return None,
    };
    Some(found)
}

fn subtle(operation: &str) -> Option<&'static str> {
    match operation {
        "getkey" => Some("SubtleGetKey"),
        "encrypt" => Some("SubtleEncrypt"),
        "decrypt" => Some("SubtleDecrypt"),
        "wrapkey" => Some("SubtleWrapKey"),
        "unwrapkey" => Some("SubtleUnwrapKey"),
        "sign" => Some("SubtleSign"),
        "verify" => Some("SubtleVerify"),
        _ => None,
    }
}

fn alpha2<'p>(method: &Method, segments: &[&'p str]) -> Option<Matched<'p>> {
    match (method.as_str(), segments) {
        ("POST", ["conversation", name, "converse"]) => Some(matched(
            Route::Converse(name),
            "v1alpha2/conversation",
            "v1.0-alpha2/conversation/{name}/converse",
            "Converse",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, expected: Option<(Route<'_>, &str)>) {
        let method = Method::from_bytes(method.as_bytes()).expect("method");
        let found = find(&method, path, &ApiRules::default());
        let found = found.map(|matched| (matched.route, matched.group));
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn every_group_is_found() {
        use Route::*;
        check(
            "PATCH",
            "/v1.0/invoke/a/method/m",
            Some((Invoke, "v1/invoke")),
        );
        check(
            "GET",
            "/v1.0/state/s/k",
            Some((GetState("s", "k"), "v1/state")),
        );
        check(
            "GET",
            "/v1.0/state/s/k/",
            Some((GetState("s", "k"), "v1/state")),
        );
        check(
            "DELETE",
            "/v1.0/state/s/bulk",
            Some((DeleteState("s", "bulk"), "v1/state")),
        );
        check("PUT", "/v1.0/state/s", Some((SaveState("s"), "v1/state")));
        check(
            "POST",
            "/v1.0/state/s/bulk",
            Some((GetBulkState("s"), "v1/state")),
        );
        check(
            "POST",
            "/v1.0-alpha1/state/s/query",
            Some((QueryState("s"), "v1alpha1/state")),
        );
        check(
            "POST",
            "/v1.0/publish/p/a/b/c",
            Some((PublishEvent("p", "a/b/c"), "v1/publish")),
        );
        check(
            "POST",
            "/v1.0/publish/p/a/b/",
            Some((PublishEvent("p", "a/b"), "v1/publish")),
        );
        check(
            "POST",
            "/v1.0/publish/bulk/p/a/",
            Some((BulkPublishEvent("p", "a"), "v1/publish")),
        );
        check(
            "POST",
            "/v1.0/publish/bulk/x",
            Some((PublishEvent("bulk", "x"), "v1/publish")),
        );
        check(
            "POST",
            "/v1.0/publish/bulk/x/y/z",
            Some((BulkPublishEvent("x", "y/z"), "v1/publish")),
        );
        check(
            "POST",
            "/v1.0-alpha1/publish/bulk/x/y",
            Some((BulkPublishEvent("x", "y"), "v1alpha1/publish")),
        );
        check(
            "PUT",
            "/v1.0/actors/t/i/method/m%2Fn",
            Some((InvokeActor("t", "i", "m%2Fn"), "v1/actors")),
        );
        check(
            "GET",
            "/v1.0/actors/t/i/state/k",
            Some((GetActorState("t", "i", "k"), "v1/actors")),
        );
        check(
            "POST",
            "/v1.0-beta1/workflows/dapr/n/start",
            Some((Workflow, "v1beta1/workflows")),
        );
        check(
            "POST",
            "/v1.0-alpha2/conversation/n/converse",
            Some((Converse("n"), "v1alpha2/conversation")),
        );
        check(
            "GET",
            "/v1.0/healthz/outbound",
            Some((HealthzOutbound, "v1/healthz")),
        );
        check(
            "PUT",
            "/v1.0/metadata/k",
            Some((PutMetadata("k"), "v1/metadata")),
        );
    }

    #[test]
    fn what_does_not_match_falls_to_the_invocation() {
        for (method, path) in [
            ("HEAD", "/v1.0/state/s/k"),
            ("OPTIONS", "/v1.0/metadata"),
            ("POST", "/v1.0/publish/p/"),
            ("POST", "/v1.0/publish/p"),
            ("POST", "/v1.0-alpha1/publish/p/t"),
            ("GET", "/v1.0/state/s/"),
            ("GET", "/v1.0/state/s/a/b"),
            ("POST", "/v1.0/workflows/dapr/i/unknown"),
            ("GET", "/v1.0/actors/t/i/timers/n"),
            ("PUT", "/v1.0/actors/t/i/method/a/b"),
            ("POST", "/v1.0-alpha1/subtlecrypto/c/guess"),
            ("GET", "/v2.0/state/s/k"),
            ("GET", "/"),
        ] {
            check(method, path, None);
        }
    }

    #[test]
    fn methods_of_a_path() {
        let rules = ApiRules::default();
        assert_eq!(methods("/v1.0/state/s/k", &rules), ["GET", "DELETE"]);
        assert_eq!(methods("/nothing", &rules), [""; 0]);
    }
}
