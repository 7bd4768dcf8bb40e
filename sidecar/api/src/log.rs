//! The API log: one line per call, always at the info level.

use std::borrow::Cow;
use std::time::Duration;

use dapr_sidecar_core::rpc::Code;
use http::{HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;

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
        (false, _) => format!("{} {}", line.method, decoded(line.path)),
    };
    tracing::info!(
        target: "dapr.runtime.http-info",
        code = line.status.as_u16(),
        duration = millis(line.elapsed),
        method,
        size = line.size,
        useragent = shown(line.user_agent),
        "HTTP API Called"
    );
}

pub(crate) fn grpc(method: &str, code: Code, user_agent: Option<&HeaderValue>, elapsed: Duration) {
    tracing::info!(
        target: "dapr.runtime.grpc.api-info",
        code = code as i32,
        duration = millis(elapsed),
        method,
        useragent = shown(user_agent),
        "gRPC API Called"
    );
}

/// The path as it is meant; one that is no text stays as it was sent.
fn decoded(path: &str) -> Cow<'_, str> {
    percent_decode_str(path)
        .decode_utf8()
        .unwrap_or(Cow::Borrowed(path))
}

/// An empty header says no more than none.
fn shown(user_agent: Option<&HeaderValue>) -> Option<&str> {
    user_agent
        .and_then(|agent| agent.to_str().ok())
        .filter(|agent| !agent.is_empty())
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_logged_as_it_is_meant() {
        let check = |path: &str, expected: &str| assert_eq!(decoded(path), expected, "{path}");
        check("/v1.0/invoke/a/method/a%20b", "/v1.0/invoke/a/method/a b");
        check("/v1.0/state/st/%C3%A4", "/v1.0/state/st/\u{e4}");
        check("/v1.0/state/st/a+b", "/v1.0/state/st/a+b");
        check("/v1.0/state/st/%FF", "/v1.0/state/st/%FF");
    }

    #[test]
    fn an_empty_user_agent_is_none() {
        let agent = HeaderValue::from_static;
        assert_eq!(shown(Some(&agent("curl/8"))), Some("curl/8"));
        assert_eq!(shown(Some(&agent(""))), None);
        assert_eq!(shown(None), None);
    }
}
