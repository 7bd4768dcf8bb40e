//! OIDC discovery, so that others can verify the JWTs: what is answered to which request.

use axum::body::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::Serialize;

use crate::jwt::Algorithm;

pub(crate) mod reference;
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
    pub(crate) prefix: Prefix,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) algorithm: Algorithm,
}

/// What `--oidc-path-prefix` says, as upstream's router understands it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// What stands before the first slash: the one host that is answered for.
    host: Option<String>,
    /// Put before the paths; empty, or begins with a slash and does not end with one.
    path: String,
}

impl Prefix {
    pub(crate) fn read(flag: &str) -> Self {
        let flag = flag.trim_end_matches('/');
        let (host, path) = flag.split_at(flag.find('/').unwrap_or(flag.len()));
        Self {
            host: (!host.is_empty()).then(|| host.to_owned()),
            path: path.to_owned(),
        }
    }

    /// What follows the prefix, if the request has it.
    fn rest<'a>(&self, path: &'a str, headers: &HeaderMap) -> Option<&'a str> {
        let host = without_port(text(headers, &header::HOST));
        if self.host.as_ref().is_some_and(|own| own != host) {
            return None;
        }
        path.strip_prefix(self.path.as_str())
    }

    /// A URL as it is meant beside the issuer's. One that began with a host is relative to it: upstream's router takes
    /// the host for one, and its discovery document does not.
    fn resolve(&self, issuer: &str, path: &str) -> String {
        match &self.host {
            Some(host) => resolve(issuer, &format!("{host}{}{path}", self.path)),
            None => resolve(issuer, &format!("{}{path}", self.path)),
        }
    }
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
        let path = self.prefix.rest(path, headers).unwrap_or_default();
        if !matches!(path, DISCOVERY_PATH | KEYS_PATH) {
            return refuse(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if !self.allows(headers) {
            return refuse(StatusCode::FORBIDDEN, "Forbidden: unauthorized domain\n");
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
            .unwrap_or_else(|| self.prefix.resolve(&issuer, KEYS_PATH));
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

/// A path with a slash before it stands at the root of the URL's host, one without in place of the URL's last part.
fn resolve(url: &str, path: &str) -> String {
    let (server, own) = match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (format!("{scheme}://{}", &rest[..end]), &rest[end..])
        }
        None => (String::new(), url),
    };
    if path.starts_with('/') {
        return server + path;
    }
    let own = own.split(['?', '#']).next().unwrap_or_default();
    let folder = own.rfind('/').map_or("/", |end| &own[..=end]);
    format!("{server}{folder}{path}")
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
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
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
            prefix: Prefix::default(),
            allowed_hosts: Vec::new(),
            algorithm: Algorithm::Rs256,
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
            prefix: Prefix::read("/oidc/"),
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
    }

    #[test]
    fn refusals_are_plain_text() {
        let listed = Config {
            allowed_hosts: vec!["a".to_owned()],
            ..config()
        };
        let check = |method: &Method, path: &str, host: &str, expected: &str| {
            let response = listed.respond(method, path, &headers(host, None), b"{}");
            assert_eq!(response.body(), expected);
            assert_eq!(
                response.headers()[header::CONTENT_TYPE],
                "text/plain; charset=utf-8"
            );
            assert_eq!(
                response.headers()[header::X_CONTENT_TYPE_OPTIONS],
                "nosniff"
            );
        };
        check(&Method::GET, "/", "a", "404 page not found\n");
        check(&Method::POST, KEYS_PATH, "a", "Method not allowed\n");
        check(
            &Method::GET,
            KEYS_PATH,
            "b",
            "Forbidden: unauthorized domain\n",
        );
    }

    #[test]
    fn a_prefix_without_a_slash_begins_with_a_host() {
        let check = |flag: &str, host: &str, path: &str, expected: u16| {
            let config = Config {
                prefix: Prefix::read(flag),
                ..config()
            };
            let found = status(&config, Method::GET, path, &headers(host, None));
            assert_eq!(found, expected, "{flag} {host} {path}");
        };
        for (path, expected) in [("/jwks.json", 200), ("/oidc/jwks.json", 404)] {
            check("oidc", "oidc", path, expected);
            check("oidc/", "oidc:9080", path, expected);
            check("oidc", "other", path, 404);
        }
        check("example.org/p", "example.org", "/p/jwks.json", 200);
        check("example.org/p", "example.org", "/jwks.json", 404);
        check("example.org/p", "other", "/p/jwks.json", 404);
        check("/", "any", "/jwks.json", 200);
        check("", "any", "/jwks.json", 200);
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
            let path = DISCOVERY_PATH;
            let mut headers = headers("sentry.example", Some(forwarded));
            for name in [
                "x-forwarded-proto",
                "x-forwarded-prefix",
                "forwarded",
                "x-original-host",
            ] {
                headers.insert(name, HeaderValue::from_static("host=evil.example"));
            }
            let answer = config.respond(&Method::GET, path, &headers, b"{}");
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
            prefix: Prefix::read("/p"),
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
        // As upstream computes it: a relative URL beside the issuer's.
        let hosted = |issuer: Option<&str>| Config {
            issuer: issuer.map(str::to_owned),
            prefix: Prefix::read("oidc/p"),
            ..config()
        };
        let url = "https://oidc/oidc/p/jwks.json";
        check(&hosted(None), "oidc", None, "https://oidc", url);
        let issuer = "https://i/a/b?c=/d/e";
        let url = "https://i/a/oidc/p/jwks.json";
        check(&hosted(Some(issuer)), "oidc", None, issuer, url);
        let url = "/oidc/p/jwks.json";
        check(&hosted(Some("me")), "oidc", None, "me", url);
    }
}
