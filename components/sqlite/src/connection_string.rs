//! The connection string: `:memory:`, `file:…?…` or a plain path, with options upstream's driver knows.

use dapr_components_core::{Error, ErrorKind};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What would end or change a path inside a URI.
const ESCAPED_IN_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'#').add(b'?');

/// Pragmas that settings or this component decide about.
const FORBIDDEN: [&str; 3] = ["busy_timeout", "journal_mode", "foreign_keys"];

/// A connection string taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectionString {
    pub(crate) target: Target,
    /// What follows `PRAGMA`, for instance `cache_size(10)`.
    pub(crate) pragmas: Vec<String>,
}

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// In memory: it is gone with its only connection.
    Memory,
    /// A URI for SQLite of a file that can be written.
    ReadWrite(String),
    /// A URI for SQLite of a file that is only read.
    ReadOnly(String),
}

impl ConnectionString {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::new(
                ErrorKind::Configuration,
                "missing connection string",
            ));
        }
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let mut pragmas = Vec::new();
        let mut for_sqlite = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "_pragma" => pragmas.push(pragma(value)?),
                "_txlock" if !value.eq_ignore_ascii_case("immediate") => {
                    tracing::warn!(
                        value,
                        "option _txlock is ignored: transactions are always immediate"
                    );
                }
                name if name.starts_with('_') => {} // The driver's options, of which none changes what is stored.
                _ => for_sqlite.push(option),
            }
        }
        Ok(Self {
            target: target(path, &for_sqlite),
            pragmas,
        })
    }
}

fn pragma(value: &str) -> Result<String, Error> {
    let text = percent_decode_str(value).decode_utf8_lossy().into_owned();
    let lowered = text.trim().to_lowercase();
    if text.contains(';') || FORBIDDEN.iter().any(|name| lowered.starts_with(name)) {
        let text = format!("found forbidden option '_pragma={text}' in the connection string");
        return Err(Error::new(ErrorKind::Configuration, text));
    }
    Ok(text)
}

fn target(path: &str, options: &[&str]) -> Target {
    if path.starts_with(":memory:")
        || path.starts_with("file::memory:")
        || options.contains(&"mode=memory")
    {
        return Target::Memory;
    }
    let mut uri = match path.strip_prefix("file:") {
        Some(_) => path.to_owned(),
        None => format!("file:{}", utf8_percent_encode(path, ESCAPED_IN_PATH)),
    };
    if !options.is_empty() {
        uri = format!("{uri}?{}", options.join("&"));
    }
    if options
        .iter()
        .any(|option| matches!(*option, "mode=ro" | "immutable=1"))
    {
        Target::ReadOnly(uri)
    } else {
        Target::ReadWrite(uri)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets() {
        let check = |text: &str, expected: Target| {
            assert_eq!(
                ConnectionString::parse(text).expect(text).target,
                expected,
                "{text}"
            );
        };
        check(":memory:", Target::Memory);
        check(":memory:?_txlock=immediate", Target::Memory);
        check("file::memory:?cache=shared", Target::Memory);
        check("file:x?mode=memory&cache=shared", Target::Memory);
        check("data.db", Target::ReadWrite("file:data.db".to_owned()));
        check(
            "/a b/100%#.db?_pragma=cache_size(1)",
            Target::ReadWrite("file:/a b/100%25%23.db".to_owned()),
        );
        check(
            "file:data%20.db?cache=private",
            Target::ReadWrite("file:data%20.db?cache=private".to_owned()),
        );
        check(
            "file:data.db?mode=ro",
            Target::ReadOnly("file:data.db?mode=ro".to_owned()),
        );
        check(
            "data.db?immutable=1",
            Target::ReadOnly("file:data.db?immutable=1".to_owned()),
        );
    }

    #[test]
    fn some_pragmas_are_not_the_users() {
        let text = "data.db?_pragma=cache_size%2810%29&_pragma=synchronous=off&_time_format=sqlite";
        let parsed = ConnectionString::parse(text).expect("allowed");
        assert_eq!(parsed.pragmas, ["cache_size(10)", "synchronous=off"]);
        let check = |option: &str| {
            let error =
                ConnectionString::parse(&format!("data.db?_pragma={option}")).expect_err(option);
            let expected =
                format!("found forbidden option '_pragma={option}' in the connection string");
            assert_eq!(error.to_string(), expected);
        };
        check("busy_timeout(5000)");
        check("journal_mode(DELETE)");
        check("Foreign_Keys(0)");
        check("cache_size(1); DROP TABLE state");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(text in "(file:)?[^?]{1,20}([?&](_pragma|mode|x)=.{0,10}){0,3}|.*") {
            match ConnectionString::parse(&text) {
                Ok(ConnectionString { target: Target::ReadWrite(uri) | Target::ReadOnly(uri), .. }) => {
                    let options = uri.split_once('?').map_or("", |(_, options)| options);
                    let is_ours = |option: &str| option.starts_with("_pragma=");
                    prop_assert!(uri.starts_with("file:") && !options.split('&').any(is_ours), "{uri}");
                }
                Ok(ConnectionString { target: Target::Memory, .. }) => prop_assert!(text.contains("memory")),
                Err(_) => prop_assert!(text.is_empty() || text.contains("_pragma")),
            }
        }
    }
}
