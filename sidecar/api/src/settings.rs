//! What the configuration says about the APIs.

use std::collections::BTreeSet;

use http::HeaderValue;

use crate::http::route::Matched;

/// Settings of all surfaces.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Token callers must show in `dapr-api-token`; `None` lets everybody in. The internal API asks for none.
    pub api_token: Option<String>,
    /// Most bytes of a body or message, both ways; 0 is no limit on HTTP bodies.
    pub max_body_size: usize,
    /// Bytes of header fields of one HTTP request.
    pub max_header_bytes: usize,
    /// Serves HTTP/2 without TLS on the HTTP API too.
    pub h2c: bool,
    /// Cross-origin requests; `None` handles none.
    pub cors: Option<Cors>,
    /// Logs every API call; `None` logs none.
    pub api_logging: Option<ApiLogging>,
    /// Which API routes are open.
    pub rules: ApiRules,
    /// Trace context.
    pub tracing: Tracing,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_token: None,
            max_body_size: 4 << 20,
            max_header_bytes: 8 << 10,
            h2c: true,
            cors: None,
            api_logging: None,
            rules: ApiRules::default(),
            tracing: Tracing::PassThrough,
        }
    }
}

/// What is done about trace context. Spans are not exported; ids are made and passed on, so that
/// applications and other sidecars stay correlated.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Tracing {
    /// `samplingRate: "0"`: nothing is added to answers, what comes in is passed on.
    Off,
    /// No tracing configuration: what comes in is passed on and echoed, ids are all zero without.
    #[default]
    PassThrough,
    /// A span id of our own per request; traces that start here are sampled at this rate, 0 to 1.
    On {
        /// Share of sampled traces.
        rate: f64,
    },
}

/// Allowed origins of cross-origin requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// `*`
    Any,
    /// These.
    Origins(Vec<HeaderValue>),
}

impl Cors {
    /// Parses the list of `--allowed-origins`; empty is `None`. Origins that are no header values are left out.
    pub fn parse(list: &str) -> Option<Self> {
        let list = list.trim();
        if list.is_empty() {
            return None;
        }
        if list == "*" {
            return Some(Self::Any);
        }
        let origins = list.split(',').map(str::trim);
        if origins.clone().any(|origin| origin == "*") {
            return Some(Self::Any);
        }
        let origins = origins.filter_map(|origin| HeaderValue::from_str(origin).ok());
        Some(Self::Origins(origins.collect()))
    }
}

/// Form of the API log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiLogging {
    /// Logs the name of the operation instead of the path.
    pub obfuscate_urls: bool,
    /// Leaves health checks out.
    pub omit_health_checks: bool,
}

/// One entry of `spec.api.allowed` or `.denied`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiRule {
    /// Group, for instance `state`.
    pub name: String,
    /// For instance `v1`, or the legacy `v1.0`.
    pub version: String,
    /// `http` or `grpc` in any letter case; an entry without has no effect.
    pub protocol: String,
}

/// Which API routes are open: denied ones are closed; if anything is allowed for a protocol, all else is
/// closed there. Health routes are always open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiRules {
    http: Lists,
    grpc: Lists,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Lists {
    /// `<version>/<name>` on HTTP, `<name>.<version>` on gRPC.
    allowed: BTreeSet<String>,
    denied: BTreeSet<String>,
}

impl ApiRules {
    /// Rules of the two lists.
    pub fn new(allowed: &[ApiRule], denied: &[ApiRule]) -> Self {
        let of = |rule: &&ApiRule, protocol| rule.protocol.eq_ignore_ascii_case(protocol);
        let http = |rules: &[ApiRule]| -> BTreeSet<String> {
            let rules = rules.iter().filter(|rule| of(rule, "http"));
            rules
                .map(|rule| format!("{}/{}", rule.version, rule.name))
                .collect()
        };
        let grpc = |rules: &[ApiRule]| -> BTreeSet<String> {
            let rules = rules.iter().filter(|rule| of(rule, "grpc"));
            rules
                .map(|rule| format!("{}.{}", rule.name, rule.version))
                .collect()
        };
        Self {
            http: Lists {
                allowed: http(allowed),
                denied: http(denied),
            },
            grpc: Lists {
                allowed: grpc(allowed),
                denied: grpc(denied),
            },
        }
    }

    pub(crate) fn allows_http(&self, matched: &Matched<'_>) -> bool {
        if self.http.is_empty() || matched.group == "v1/healthz" {
            return true;
        }
        self.http
            .allows(|rule| rule == matched.group || matched.pattern.starts_with(rule))
    }

    /// Whether the invocation handler may take what no route takes.
    pub(crate) fn allows_http_invoke(&self) -> bool {
        self.http.allows(|rule| {
            rule == "v1/invoke" || "v1.0/invoke/{id}/method/{method}".starts_with(rule)
        })
    }

    /// Whether a method of the group `<name>.<version>` is open.
    pub(crate) fn allows_grpc(&self, group: &str) -> bool {
        self.grpc.allows(|rule| rule == group)
    }
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }

    fn allows(&self, matches: impl Fn(&str) -> bool) -> bool {
        if self.denied.iter().any(|rule| matches(rule)) {
            return false;
        }
        self.allowed.is_empty() || self.allowed.iter().any(|rule| matches(rule))
    }
}
