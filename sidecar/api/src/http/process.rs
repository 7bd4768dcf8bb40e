//! The process itself: metadata, health, shutdown.

use ::http::Response;
use ::http::header::{HeaderMap, HeaderName};
use dapr_sidecar_core::body::Body;

use super::path::{Query, decode};
use super::{Call, Handled, json, no_content};
use crate::error;
use crate::services::{Core, ShutdownKind};

/// Asks for a shutdown without graceful steps.
const FORCE: HeaderName = HeaderName::from_static("dapr-force-shutdown");

pub(super) fn metadata(core: &Core) -> Response<Body> {
    json(crate::metadata::to_json(&core.metadata.snapshot()))
}

pub(super) async fn put_metadata(mut call: Call<'_>, key: &str) -> Handled {
    let key = decode(key)?.into_owned();
    let value = call.read().await.map_err(error::body_read)?;
    let value = String::from_utf8_lossy(&value).into_owned();
    call.core.metadata.set(key, value);
    Ok(no_content())
}

pub(super) fn healthz(core: &Core, query: Query<'_>) -> Handled {
    let unready = core.health.unready();
    if !unready.is_empty() {
        return Err(error::not_ready(&unready).into());
    }
    // A name that is asked for and empty is another one, too.
    let asked = query.find("appid");
    if asked.is_some_and(|asked| asked != core.app_id) {
        return Err(error::app_id_mismatch().into());
    }
    Ok(no_content())
}

pub(super) fn healthz_outbound(core: &Core) -> Handled {
    if core.health.outbound_ready() {
        Ok(no_content())
    } else {
        Err(error::outbound_not_ready().into())
    }
}

pub(super) fn shutdown(core: &Core, headers: &HeaderMap) -> Response<Body> {
    core.shutdown.shutdown(kind(headers));
    no_content()
}

/// What the caller asks for, by header or metadata.
pub(crate) fn kind(headers: &HeaderMap) -> ShutdownKind {
    let forced = headers
        .get(FORCE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    if forced {
        ShutdownKind::Forced
    } else {
        ShutdownKind::Graceful
    }
}
