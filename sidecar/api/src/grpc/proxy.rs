//! Calls of services this sidecar does not have, forwarded byte by byte.

mod measured;
mod resilient;

use std::sync::Arc;

use dapr_sidecar_core::body::Body;
use dapr_sidecar_core::invoke::address::APP_ID_HEADER;
use dapr_sidecar_core::invoke::{CallerId, Location};
use dapr_sidecar_core::rpc::{self, Code};
use http::header::{HeaderMap, HeaderName};
use http::{Request, Response};

use crate::http::API_TOKEN;
use crate::services::Core;
use crate::settings::Tracing;
use measured::Sent;
use resilient::{Calls, is_stream};

const CALLEE: HeaderName = HeaderName::from_static("dapr-callee-app-id");
const CALLER: HeaderName = HeaderName::from_static("dapr-caller-app-id");

/// Where a call to forward came in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side<'a> {
    /// From the application.
    Api,
    /// From another sidecar, with the identity of its certificate.
    Internal(Option<&'a CallerId>),
}

/// Forwards a call to the application its metadata names.
pub(crate) async fn proxy(
    core: &Core,
    side: Side<'_>,
    mut request: Request<Body>,
) -> Result<Response<Body>, rpc::Status> {
    let path = request.uri().path();
    let Some(target) = target(request.headers()) else {
        return Err(rpc::Status::new(Code::Unknown, missing(core, path)));
    };
    let unknown = |text: String| rpc::Status::new(Code::Unknown, text);
    let location = core
        .invoker
        .locate(&target)
        .await
        .map_err(|error| unknown(error.to_string()))?;
    let mut sent = None;
    match (&location, side) {
        (Location::Local, _) => {
            let caller = match side {
                Side::Api => None,
                Side::Internal(caller) => caller,
            };
            core.invoker.authorize(caller, path)?;
            let headers = request.headers_mut();
            headers.remove(API_TOKEN);
            headers.remove(APP_ID_HEADER);
        }
        (Location::Remote(peer), Side::Api) => {
            let caller = super::value(&core.app_id);
            let callee = super::value(&peer.app_id);
            let headers = request.headers_mut();
            headers.remove(APP_ID_HEADER);
            if let (Some(caller), Some(callee)) = (caller, callee) {
                headers.insert(CALLER, caller);
                headers.insert(CALLEE, callee);
            }
            if let Some(metrics) = &core.metrics {
                sent = Sent::begin(Arc::clone(metrics), &target, is_stream(request.headers()));
            }
            if let Some(policy) = core.invoker.policy(&target, request.uri().path()) {
                let target = target.as_str();
                let calls = Calls {
                    core,
                    target,
                    policy,
                };
                return watched(sent, calls.forward(location, request).await);
            }
        }
        // Forwarding once more could go round in circles.
        (Location::Remote(_), Side::Internal(_)) => {
            return Err(unknown(format!(
                "cannot proxy request: {target} is not the app of this sidecar"
            )));
        }
        (Location::External { .. }, _) => {
            return Err(unknown(format!(
                "cannot proxy request: {target} is an HTTP endpoint, gRPC calls need an app id"
            )));
        }
    }
    watched(sent, core.proxy.forward(location, request).await)
}

fn watched(
    sent: Option<Sent>,
    answer: Result<Response<Body>, rpc::Status>,
) -> Result<Response<Body>, rpc::Status> {
    match sent {
        Some(sent) => sent.watch(answer),
        None => answer,
    }
}

/// The app id of the callee wins over that of the application.
fn target(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| {
        let text = headers.get(name)?.to_str().ok()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    text(CALLEE.as_str()).or_else(|| text(APP_ID_HEADER))
}

/// Upstream words it by which of its layers sees the call first.
fn missing(core: &Core, path: &str) -> &'static str {
    let ours = ["/dapr.proto.runtime.", "/dapr.proto.internals."]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    if ours || core.settings.tracing == Tracing::Off {
        return "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found";
    }
    "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata"
}
