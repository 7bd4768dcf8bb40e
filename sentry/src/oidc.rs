//! OIDC discovery, so that others can verify the JWTs: what is answered to which request.

use axum::body::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use jsonwebtoken::Algorithm;
use serde::Serialize;

pub(crate) mod server;

const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/jwks.json";

/// What the answers are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// `https` or `http`, as the server is called.
    pub(crate) scheme: &'static str,
    pub(crate) issuer: Option<String>,
    pub(crate) jwks_uri: Option<String>,
    /// Put before the paths; empty, or begins with a slash and does not end with one.
    pub(crate) prefix: String,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) algorithm: Algorithm,
}

#[derive(Serialize)]
struct Discovery<'a> {
    issuer: &'a str,
    jwks_uri: &'a str,
    response_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [Algorithm; 1],
    scopes_supported: [&'static str; 1],
    claims_supported: [&'static str; 7],
}

impl Config {
    /// Answers one request.
    pub(crate) fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        keys: &[u8],
    ) -> Response<Bytes> {
        let path = path.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        if !matches!(path, DISCOVERY_PATH | KEYS_PATH) {
            return refuse(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if !self.allows(headers) {
            return refuse(StatusCode::FORBIDDEN, "Forbidden\n");
        }
        if method != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n");
        }
        if path == KEYS_PATH {
            return json(Bytes::copy_from_slice(keys));
        }
        match self.discovery(headers) {
            Ok(document) => json(document.into()),
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error\n"),
        }
    }

    fn discovery(&self, headers: &HeaderMap) -> Result<Vec<u8>, serde_json::Error> {
        let issuer = self
            .issuer
            .clone()
            .unwrap_or_else(|| format!("{}://{}", self.scheme, self.host(headers)));
        let jwks_uri = self
            .jwks_uri
            .clone()
            .unwrap_or_else(|| resolve(&issuer, &format!("{}{KEYS_PATH}", self.prefix)));
        serde_json::to_vec(&Discovery {
            issuer: &issuer,
            jwks_uri: &jwks_uri,
            response_types_supported: ["id_token"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: [self.algorithm],
            scopes_supported: ["openid"],
            claims_supported: ["sub", "iss", "aud", "exp", "iat", "nbf", "use"],
        })
    }

    fn is_restricted(&self) -> bool {
        !self.allowed_hosts.is_empty() && !self.allowed_hosts.iter().any(|host| host == "*")
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        if !self.is_restricted() {
            return true;
        }
        let host = forwarded_host(headers).unwrap_or_else(|| text(headers, &header::HOST));
        let name = without_port(host);
        self.allowed_hosts
            .iter()
            .any(|allowed| allowed == host || allowed == name)
    }

    /// A proxy's word about the host counts only where it was checked against a list.
    fn host<'a>(&self, headers: &'a HeaderMap) -> &'a str {
        let forwarded = if self.is_restricted() {
            forwarded_host(headers)
        } else {
            None
        };
        forwarded.unwrap_or_else(|| text(headers, &header::HOST))
    }
}

/// Reads `--oidc-path-prefix`: without a leading slash it has no effect, as in upstream.
pub(crate) fn prefix(flag: &str) -> String {
    if flag.starts_with('/') {
        flag.trim_end_matches('/').to_owned()
    } else {
        String::new()
    }
}

fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("x-forwarded-host")
        .and_then(|value| value.to_str().ok())
        .filter(|host| !host.is_empty())
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // A bare IPv6 address has colons of its own and no port.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        Some(_) | None => host,
    }
}

/// The path at the root of the URL's host.
fn resolve(url: &str, path: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => path.to_owned(),
    }
}

fn json(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    response
}

fn refuse(status: StatusCode, reason: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(reason.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config() -> Config {
        Config {
            scheme: "https",
            issuer: None,
            jwks_uri: None,
            prefix: String::new(),
            allowed_hosts: Vec::new(),
            algorithm: Algorithm::RS256,
        }
    }

    fn headers(host: &str, forwarded: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(forwarded) = forwarded {
            headers.insert("x-forwarded-host", forwarded.parse().unwrap());
        }
        headers
    }

    fn status(config: &Config, method: Method, path: &str, headers: &HeaderMap) -> u16 {
        config
            .respond(&method, path, headers, b"{}")
            .status()
            .as_u16()
    }

    #[test]
    fn the_discovery_document() {
        let response = config().respond(
            &Method::GET,
            DISCOVERY_PATH,
            &headers("sentry:9080", None),
            b"{}",
        );
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(
            response.headers()[header::CACHE_CONTROL],
            "public, max-age=3600"
        );
        let document: Value = serde_json::from_slice(response.body()).unwrap();
        let expected = json!({
            "issuer": "https://sentry:9080",
            "jwks_uri": "https://sentry:9080/jwks.json",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nbf", "use"],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn paths_and_methods() {
        let host = headers("any", None);
        let prefixed = Config {
            prefix: prefix("/oidc/"),
            ..config()
        };
        for (path, plain, with_prefix) in [
            ("/jwks.json", 200, 404),
            ("/oidc/jwks.json", 404, 200),
            ("/oidc/.well-known/openid-configuration", 404, 200),
            ("/", 404, 404),
            ("/jwks.json/", 404, 404),
        ] {
            assert_eq!(status(&config(), Method::GET, path, &host), plain, "{path}");
            assert_eq!(
                status(&prefixed, Method::GET, path, &host),
                with_prefix,
                "{path}"
            );
        }
        assert_eq!(status(&config(), Method::POST, "/jwks.json", &host), 405);
        assert_eq!(status(&config(), Method::HEAD, DISCOVERY_PATH, &host), 405);
        assert_eq!(prefix("oidc"), "");
    }

    /// Host header injection: what a client says about the host reaches the document only from a list.
    #[test]
    fn forwarded_headers_outside_of_the_list_never_reach_the_document() {
        let document = |allowed: &[&str], forwarded: &str| {
            let config = Config {
                issuer: None,
                jwks_uri: None,
                allowed_hosts: allowed.iter().map(ToString::to_string).collect(),
                ..config()
            };
            let path = format!("{}{DISCOVERY_PATH}", config.prefix);
            let mut headers = headers("sentry.example", Some(forwarded));
            for name in [
                "x-forwarded-proto",
                "x-forwarded-prefix",
                "forwarded",
                "x-original-host",
            ] {
                headers.insert(name, HeaderValue::from_static("host=evil.example"));
            }
            let answer = config.respond(&Method::GET, &path, &headers, b"{}");
            (
                answer.status().as_u16(),
                String::from_utf8(answer.into_body().to_vec()).unwrap(),
            )
        };
        for allowed in [&[][..], &["*"][..], &["*", "evil.example"][..]] {
            let (status, text) = document(allowed, "evil.example");
            assert_eq!(status, 200, "{allowed:?}");
            assert!(
                !text.contains("evil") && text.contains("sentry.example"),
                "{text}"
            );
        }
        let (status, text) = document(&["good.example"], "evil.example");
        assert_eq!(status, 403);
        assert!(!text.contains("evil"), "{text}");
        let (_, text) = document(&["good.example"], "good.example");
        assert!(
            text.contains("good.example") && !text.contains("evil"),
            "{text}"
        );
    }

    #[test]
    fn hosts_are_checked_against_the_list() {
        let check = |allowed: &[&str], host: &str, forwarded: Option<&str>, expected: u16| {
            let config = Config {
                allowed_hosts: allowed.iter().map(ToString::to_string).collect(),
                ..config()
            };
            let found = status(&config, Method::GET, KEYS_PATH, &headers(host, forwarded));
            assert_eq!(found, expected, "{allowed:?} {host} {forwarded:?}");
        };
        check(&[], "any", Some("other"), 200);
        check(&["a"], "a", None, 200);
        check(&["a"], "a:9080", None, 200);
        check(&["a:9080"], "a:9080", None, 200);
        check(&["a:9080"], "a", None, 403);
        check(&["a"], "b", None, 403);
        check(&["a"], "a", Some("b"), 403);
        check(&["a"], "b", Some("a:443"), 200);
        check(&["*"], "b", None, 200);
        check(&["[::1]"], "[::1]:9080", None, 200);
        check(&["::1"], "::1", None, 200);
    }

    #[test]
    fn urls_are_made_from_what_is_known() {
        let check =
            |config: &Config, host: &str, forwarded: Option<&str>, issuer: &str, keys: &str| {
                let document = config.discovery(&headers(host, forwarded)).unwrap();
                let document: Value = serde_json::from_slice(&document).unwrap();
                assert_eq!(
                    (&document["issuer"], &document["jwks_uri"]),
                    (&json!(issuer), &json!(keys))
                );
            };
        let listed = Config {
            allowed_hosts: vec!["f".to_owned()],
            ..config()
        };
        check(
            &config(),
            "h",
            Some("f"),
            "https://h",
            "https://h/jwks.json",
        );
        check(&listed, "h", Some("f"), "https://f", "https://f/jwks.json");
        let named = Config {
            issuer: Some("https://issuer.example/tenant".to_owned()),
            prefix: "/p".to_owned(),
            ..config()
        };
        check(
            &named,
            "h",
            None,
            "https://issuer.example/tenant",
            "https://issuer.example/p/jwks.json",
        );
        let forced = Config {
            jwks_uri: Some("https://keys.example".to_owned()),
            ..named
        };
        check(
            &forced,
            "h",
            None,
            "https://issuer.example/tenant",
            "https://keys.example",
        );
        let odd = Config {
            issuer: Some("me".to_owned()),
            ..config()
        };
        check(&odd, "h", None, "me", "/jwks.json");
    }
}
