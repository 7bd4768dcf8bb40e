//! Whom a caller addresses: three forms of an HTTP request, and the forms of an app id.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

/// Header with the target of a request, removed before it is forwarded.
pub const APP_ID_HEADER: &str = "dapr-app-id";

const INVOKE_PREFIX: &str = "/v1.0/invoke/";
const METHOD_SEPARATOR: &str = "/method/";

/// Target and method of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed<'a> {
    /// Target as the caller wrote it.
    pub app_id: Cow<'a, str>,
    /// Method as written, not normalised; percent escapes are resolved.
    pub method: String,
}

/// Finds the target in header `dapr-app-id`, basic authorization or `path` (percent escapes not yet
/// resolved), in this order; `None` when there is none.
pub fn target<'a>(path: &'a str, headers: &'a HeaderMap) -> Option<Addressed<'a>> {
    if let Some(app_id) = from_header(headers).or_else(|| from_basic_auth(headers)) {
        return Some(Addressed {
            app_id,
            method: decode(path.trim_start_matches('/')),
        });
    }
    from_path(path)
}

fn from_header(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let value = headers.get(APP_ID_HEADER)?.to_str().ok()?;
    (!value.is_empty()).then_some(Cow::Borrowed(value))
}

/// The password of `dapr-app-id:<id>` when the credentials have exactly one colon.
fn from_basic_auth(headers: &HeaderMap) -> Option<Cow<'static, str>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    basic_auth_target(value).map(Cow::Owned)
}

/// The target inside an `Authorization` value, if it is one of ours.
pub fn basic_auth_target(value: &str) -> Option<String> {
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    let (user, id) = decoded.split_once(':')?;
    let ours = user.eq_ignore_ascii_case(APP_ID_HEADER) && !id.is_empty() && !id.contains(':');
    ours.then(|| id.to_owned())
}

fn from_path(path: &str) -> Option<Addressed<'_>> {
    let decoded = decode(path);
    let rest = decoded.strip_prefix(INVOKE_PREFIX)?.trim_start_matches('/');
    let (id, method) = rest.split_once(METHOD_SEPARATOR)?;
    if id.is_empty() {
        return None;
    }
    // The id is query-unescaped once more: `http%253A%252F%252Fhost` and raw `http://host` are both seen.
    let id = percent_decode_str(&id.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned();
    Some(Addressed {
        app_id: Cow::Owned(id),
        method: method.to_owned(),
    })
}

fn decode(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// What an app id names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name<'a> {
    /// `app` or `app.ns`
    App {
        /// App id.
        app_id: &'a str,
        /// Namespace, if given.
        namespace: Option<&'a str>,
    },
    /// `http://…` or `https://…`
    Url(&'a str),
}

/// Why a text names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadName {
    /// It is empty.
    Empty,
    /// It has more than one dot.
    Dots,
}

/// Parses the forms of an app id.
pub fn parse(target: &str) -> Result<Name<'_>, BadName> {
    if target.starts_with("http://") || target.starts_with("https://") {
        return Ok(Name::Url(target));
    }
    if target.is_empty() {
        return Err(BadName::Empty);
    }
    let mut parts = target.split('.');
    let app_id = parts.next().unwrap_or_default();
    let namespace = parts.next();
    if parts.next().is_some() {
        return Err(BadName::Dots);
    }
    Ok(Name::App { app_id, namespace })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn find(path: &str, headers: &[(&'static str, &str)]) -> Option<(String, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let addressed = target(path, &map)?;
        Some((addressed.app_id.into_owned(), addressed.method))
    }

    #[test]
    fn three_forms() {
        // `dapr-app-id:other`
        let basic = "Basic ZGFwci1hcHAtaWQ6b3RoZXI=";
        let check =
            |path: &str, headers: &[(&'static str, &str)], expected: Option<(&str, &str)>| {
                let expected = expected.map(|(id, method)| (id.to_owned(), method.to_owned()));
                assert_eq!(find(path, headers), expected, "{path} {headers:?}");
            };
        check(
            "/orders/1",
            &[("dapr-app-id", "app")],
            Some(("app", "orders/1")),
        );
        check(
            "/orders/1",
            &[("authorization", basic)],
            Some(("other", "orders/1")),
        );
        check(
            "/x",
            &[("dapr-app-id", "app"), ("authorization", basic)],
            Some(("app", "x")),
        );
        check(
            "/v1.0/invoke/app/method/orders/1",
            &[],
            Some(("app", "orders/1")),
        );
        check("/v1.0/invoke/app/method/", &[], Some(("app", "")));
        check("/v1.0/invoke/app/method", &[], None);
        check("/v1.0/invoke///app/method//m", &[], Some(("app", "/m")));
        check(
            "/v1.0/invoke//http://h/method/m",
            &[],
            Some(("http://h", "m")),
        );
        check(
            "/v1.0/invoke/app.ns/method/a/method/b",
            &[],
            Some(("app.ns", "a/method/b")),
        );
        check(
            "/v1.0/invoke/http%3A%2F%2Fh%3A80/method/m",
            &[],
            Some(("http://h:80", "m")),
        );
        check(
            "/v1.0/invoke/http://h:80/method/m",
            &[],
            Some(("http://h:80", "m")),
        );
        check(
            "/v1.0/invoke/app/method/a%20b%2Fc%252Fd",
            &[],
            Some(("app", "a b/c%2Fd")),
        );
        check("/v1.0/invoke/app", &[], None);
        check("/v1.0/invoke//method/m", &[], None);
        check("/anything", &[], None);
        check("/x", &[("dapr-app-id", "")], None);
    }

    #[test]
    fn basic_authorization() {
        let check = |credentials: &str, expected: Option<&str>| {
            let value = format!("Basic {}", STANDARD.encode(credentials));
            assert_eq!(
                basic_auth_target(&value).as_deref(),
                expected,
                "{credentials}"
            );
        };
        check("dapr-app-id:app", Some("app"));
        check("DAPR-APP-ID:app", Some("app"));
        check("user:app", None);
        check("dapr-app-id:app:more", None);
        check("dapr-app-id:", None);
        check("dapr-app-id", None);
        assert_eq!(basic_auth_target("Bearer x"), None);
        assert_eq!(basic_auth_target("Basic %%%"), None);
    }

    #[test]
    fn app_id_forms() {
        let app = |app_id, namespace| Ok(Name::App { app_id, namespace });
        assert_eq!(parse("app"), app("app", None));
        assert_eq!(parse("app.ns"), app("app", Some("ns")));
        assert_eq!(parse("a.b.c"), Err(BadName::Dots));
        assert_eq!(parse(""), Err(BadName::Empty));
        assert_eq!(parse("https://a.b.c/d"), Ok(Name::Url("https://a.b.c/d")));
    }

    proptest! {
        #[test]
        fn never_panics(path in ".{0,40}", header in "[ -~]{0,30}") {
            drop(find(&path, &[("authorization", &header)]));
            drop(parse(&path));
            drop(basic_auth_target(&path));
        }

        #[test]
        fn every_id_is_found(id in "[a-z][a-z0-9-]{0,20}", method in "[a-z/]{0,20}") {
            let credentials = STANDARD.encode(format!("dapr-app-id:{id}"));
            prop_assert_eq!(basic_auth_target(&format!("basic {credentials}")), Some(id.clone()));
            let path = format!("/v1.0/invoke/{id}/method/{method}");
            prop_assert_eq!(find(&path, &[]), Some((id, method)));
        }
    }
}
