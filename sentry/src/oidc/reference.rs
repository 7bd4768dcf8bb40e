//! Whether a text is a URL to upstream, which takes relative ones and those without a scheme, too.

use std::net::Ipv6Addr;

use http::uri::Authority;

/// Why it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("a control character is in it")]
    Control,
    #[error("the scheme before the colon is missing")]
    Scheme,
    #[error("a colon stands in the first part of a path")]
    Colon,
    #[error("a % has no two hexadecimal digits behind it")]
    Escape,
    #[error("host or port are invalid")]
    Authority,
}

/// Fails where Go's `url.Parse` does, but for rare hosts such as an IPv6 address with a zone.
pub(crate) fn check(text: &str) -> Result<(), Error> {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Error::Control);
    }
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    escapes(fragment)?;
    let (scheme, rest) = scheme(text)?;
    // A query may have any characters.
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        let first = rest.split('/').next().unwrap_or_default();
        return match scheme {
            Some(_) => Ok(()),
            None if first.contains(':') => Err(Error::Colon),
            None => escapes(rest),
        };
    }
    let named = rest.strip_prefix("//");
    let Some(named) = named.filter(|named| scheme.is_some() || !named.starts_with('/')) else {
        return escapes(rest);
    };
    let (host, path) = named.split_at(named.find('/').unwrap_or(named.len()));
    authority(host)?;
    escapes(path)
}

/// The scheme, if there is one, and what follows it.
fn scheme(text: &str) -> Result<(Option<&str>, &str), Error> {
    match text.split_once(':') {
        Some(("", _)) => Err(Error::Scheme),
        Some((scheme, rest))
            if scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(is_of_scheme) =>
        {
            Ok((Some(scheme), rest))
        }
        _ => Ok((None, text)),
    }
}

fn is_of_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

fn authority(text: &str) -> Result<(), Error> {
    let host = text.rsplit('@').next().unwrap_or(text);
    let (host, port) = match host.strip_prefix('[') {
        Some(address) => {
            let (address, port) = address.split_once(']').ok_or(Error::Authority)?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(Error::Authority);
            }
            ("", port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| {
        let digits = port.strip_prefix(':');
        digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // Only what is not ASCII may be escaped in a host, and nobody does.
    let is_valid = (port.is_empty() || is_port(port))
        && !host.contains('%')
        && (text.is_empty() || text.starts_with(':') || text.parse::<Authority>().is_ok());
    if is_valid {
        Ok(())
    } else {
        Err(Error::Authority)
    }
}

fn escapes(text: &str) -> Result<(), Error> {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            continue;
        }
        let digits = [rest.next(), rest.next()];
        let is_digit = |digit: &Option<u8>| digit.is_some_and(|digit| digit.is_ascii_hexdigit());
        if !digits.iter().all(is_digit) {
            return Err(Error::Escape);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_upstream_takes() {
        for text in [
            "",
            "#",
            "//",
            "*",
            "/jwks",
            "jwks.json",
            "foo bar",
            "a:b",
            "http:",
            "é/x:y",
            "?a b",
            "/a:b?%zz",
            "///a",
            "https://keys.example/jwks.json",
            "https://keys.example:8443/a%20b",
            "http://h/ a",
            "http://u:p@h/",
            "http://h:/",
            "http://:80",
            "http://[::1]:",
            "http://1.2.3.4.5.6/",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_upstream_refuses() {
        for (text, expected) in [
            (":bad", Error::Scheme),
            ("a\u{7f}", Error::Control),
            ("a\nb", Error::Control),
            ("1a:b", Error::Colon),
            ("x_y:z", Error::Colon),
            ("é:x", Error::Colon),
            ("%zz", Error::Escape),
            ("http://h/%2", Error::Escape),
            ("http://h/#%zz", Error::Escape),
            ("http://a b/", Error::Authority),
            ("http://host:port/", Error::Authority),
            ("http://h:80:80/", Error::Authority),
            ("http://[::1", Error::Authority),
            ("http://[::1]x/", Error::Authority),
            ("http://[x]/", Error::Authority),
            ("http://u ser@h/", Error::Authority),
            ("http://a%20b/", Error::Authority),
            ("http://h{}/", Error::Authority),
        ] {
            assert_eq!(check(text), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(http://)?[a-z:/@%#?\\[\\]é \n]{0,20}") {
            if check(&text).is_ok() {
                prop_assert!(!text.starts_with(':') && !text.contains('\n'));
            }
        }
    }
}
