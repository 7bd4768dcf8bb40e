//! The API log: one line per call, always at the info level.

use std::time::Duration;

use dapr_sidecar_core::rpc::Code;
use http::{HeaderValue, Method, StatusCode};

use crate::settings::ApiLogging;

/// An answered HTTP request.
pub(crate) struct HttpLine<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) name: &'a str,
    pub(crate) target: Option<&'a str>,
    pub(crate) user_agent: Option<&'a HeaderValue>,
    pub(crate) status: StatusCode,
    pub(crate) size: u64,
    pub(crate) elapsed: Duration,
}

pub(crate) fn http(logging: ApiLogging, line: &HttpLine<'_>) {
    let is_health = matches!(line.name, "Healthz" | "HealthzOutbound");
    if logging.omit_health_checks && is_health {
        return;
    }
    let method = match (logging.obfuscate_urls, line.target) {
        (true, Some(target)) => format!("{}/{target}", line.name),
        (true, None) => line.name.to_owned(),
        (false, _) => format!("{} {}", line.method, line.path),
    };
    tracing::info!(
        target: "dapr.runtime.http-info",
        code = line.status.as_u16(),
        duration = millis(line.elapsed),
        method,
        size = line.size,
        useragent = line.user_agent.and_then(|agent| agent.to_str().ok()),
        "HTTP API Called"
    );
}

pub(crate) fn grpc(method: &str, code: Code, user_agent: Option<&HeaderValue>, elapsed: Duration) {
    tracing::info!(
        target: "dapr.runtime.grpc.api-info",
        code = code as i32,
        duration = millis(elapsed),
        method,
        useragent = user_agent.and_then(|agent| agent.to_str().ok()),
        "gRPC API Called"
    );
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
