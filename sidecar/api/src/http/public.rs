//! The public port: metadata and health alone, without token, CORS or log.

use std::sync::Arc;

use ::http::header::{ALLOW, HeaderValue};
use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use dapr_sidecar_core::body::BoxError;

use super::answer::AnswerBody;
use super::path::{Query, clean};
use super::route::{self, Route};
use super::{Call, dispatch, empty, limit, text};
use crate::services::Core;
use crate::settings::ApiRules;
use crate::trace;

/// Answers one request of the public port.
pub(super) async fn handle<B>(core: Arc<Core>, request: Request<B>) -> Response<AnswerBody>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let (body, _) = limit::limited(body, core.settings.max_body_size, false);
    let path = clean(parts.uri.path()).into_owned();
    // The allow and deny lists are about the API, not about this port.
    let rules = ApiRules::default();
    let is_public = |route: Route<'_>| {
        matches!(
            route,
            Route::GetMetadata | Route::PutMetadata(_) | Route::Healthz | Route::HealthzOutbound
        )
    };
    let found = route::find(&parts.method, &path, &rules).filter(|found| is_public(found.route));
    let response = match found {
        Some(found) => {
            if matches!(found.route, Route::Healthz) {
                core.health.hold(&parts.headers).await;
            }
            let call = Call {
                core: &core,
                query: Query(parts.uri.query().unwrap_or_default()),
                headers: parts.headers,
                body,
                trace: &trace::Answer::default(),
            };
            let answered = dispatch(call, found.route).await;
            answered.unwrap_or_else(|refused| refused.answer(&core))
        }
        None => unmatched(&path),
    };
    response.map(AnswerBody::plain)
}

fn unmatched(path: &str) -> Response<dapr_sidecar_core::body::Body> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let allow = match path {
        "/v1.0/metadata" | "/v1.0/healthz" | "/v1.0/healthz/outbound" => "GET",
        _ if path
            .strip_prefix("/v1.0/metadata/")
            .is_some_and(|key| !key.is_empty() && !key.contains('/')) =>
        {
            "PUT"
        }
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}
