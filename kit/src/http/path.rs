//! Paths as Go's router takes them: who asks for one in another spelling than the shortest is sent to that one.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What becomes `%XX` in a target: it could end a header field or an HTML attribute. What a URL is made of stays.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/')
    .remove(b'?')
    .remove(b'%')
    .remove(b'[')
    .remove(b']');

/// The answer to a path that is not clean; `None` for one that is, whether there is something behind it or not.
pub(crate) fn redirect(request: &Request<()>) -> Option<Response<Full<Bytes>>> {
    let (method, path) = (request.method(), request.uri().path());
    // What `CONNECT` and `OPTIONS *` ask for is no path.
    if method == Method::CONNECT || !path.starts_with('/') {
        return None;
    }
    let mut target = clean(path);
    if target == path {
        return None;
    }
    if let Some(query) = request.uri().query() {
        target.push('?');
        target.push_str(query);
    }
    let target = utf8_percent_encode(&target, ESCAPED).to_string();
    let body = if method == Method::GET {
        let target = target.replace('&', "&amp;").replace('\'', "&#39;");
        Full::from(format!("<a href=\"{target}\">Temporary Redirect</a>.\n\n"))
    } else {
        Full::default()
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(target).ok()?);
    if matches!(*method, Method::GET | Method::HEAD) {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, html);
    }
    Some(response)
}

/// The path without empty and dotted segments; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && !segments.is_empty() {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/healthz", "/healthz"),
            ("/healthz/", "/healthz/"),
            ("//healthz", "/healthz"),
            ("/healthz//", "/healthz/"),
            ("/./healthz", "/healthz"),
            ("/healthz/.", "/healthz"),
            ("/healthz/./", "/healthz/"),
            ("/a/../healthz", "/healthz"),
            ("/../..", "/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/...", "/..."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn a_target_cannot_leave_its_place() {
        let check = |uri: &str, location: &str, link: &str| {
            let request = Request::get(uri).body(()).expect("a request");
            let response = redirect(&request).expect("not clean");
            assert_eq!(response.headers()[header::LOCATION], location, "{uri}");
            let body = format!("{:?}", response.body());
            assert!(body.contains(link), "{body}");
        };
        check("//a?x=1&y='", "/a?x=1&y='", "/a?x=1&amp;y=&#39;");
        check("//a\"b", "/a%22b", "/a%22b");
        check("//\u{e4}", "/%C3%A4", "/%C3%A4");
    }

    #[test]
    fn what_is_no_path_stays() {
        for (method, uri) in [
            ("CONNECT", "host:1"),
            ("OPTIONS", "*"),
            ("GET", "/healthz?a//b"),
        ] {
            let request = Request::builder().method(method).uri(uri).body(());
            assert!(redirect(&request.expect("a request")).is_none(), "{uri}");
        }
    }

    proptest! {
        #[test]
        fn a_clean_path_is_the_end_of_the_way(path in "/[a-z./]{0,20}") {
            prop_assert_eq!(clean(&clean(&path)), clean(&path));
            prop_assert!(!clean(&path).contains("//"));
        }
    }
}
