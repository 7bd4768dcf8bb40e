//! Which names callers may use: what goes into the path of a callback unescaped must not change that path.

use dapr_sidecar_core::actors::Error;
use dapr_sidecar_core::invoke::method::quote;

/// What a name is the name of; the words stand in the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    ActorType,
    ActorId,
    Method,
    /// A reminder's or timer's name.
    Name,
}

impl What {
    fn words(self) -> &'static str {
        match self {
            Self::ActorType => "invalid actorType: name",
            Self::ActorId => "invalid actorId: name",
            Self::Method => "method",
            Self::Name => "name",
        }
    }
}

/// Refuses `# ? / \`, control characters, `.` and `..`; an empty name passes.
pub(crate) fn check(what: What, name: &str) -> Result<(), Error> {
    refuse(what, name, |c| matches!(c, '/' | '\\') || is_forbidden(c))
}

/// Checks a method and resolves dot segments, so that it cannot leave the path of its actor. Slashes of both
/// kinds are allowed: the one can only come from an escaped one, the other is escaped for the application.
pub(crate) fn method(name: String) -> Result<String, Error> {
    refuse(What::Method, &name, is_forbidden)?;
    if !name.split('/').any(is_dots) {
        return Ok(name);
    }
    let mut kept = Vec::new();
    for segment in name.split('/') {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    Ok(kept.join("/"))
}

fn refuse(what: What, name: &str, forbidden: impl Fn(char) -> bool) -> Result<(), Error> {
    if is_dots(name) {
        let (words, name) = (what.words(), quote(name));
        let text = format!("{words} is a path traversal sequence: {name}");
        return Err(Error::BadRequest(text));
    }
    let text = if name.contains(forbidden) {
        "contains forbidden character".to_owned()
    } else if let Some(place) = name.find(char::is_control) {
        format!("contains control character at position {place}")
    } else {
        return Ok(());
    };
    let (words, name) = (what.words(), quote(name));
    Err(Error::BadRequest(format!("{words} {text}: {name}")))
}

fn is_forbidden(c: char) -> bool {
    matches!(c, '#' | '?' | '\0')
}

fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_would_change_the_path_are_refused() {
        let check = |name: &str, ok: bool| {
            assert_eq!(super::check(What::Name, name).is_ok(), ok, "{name:?}");
        };
        for name in ["", "a", "a b", "a.b", "...", "a||b", "ü", "a%2Fb", "a:b@c"] {
            check(name, true);
        }
        for name in ["a#b", "a?b", "a/b", "a\\b", "a\0b", "a\nb", ".", ".."] {
            check(name, false);
        }
        let refused = |name: &str, quoted: &str| {
            let text = format!("invalid request: name contains forbidden character: {quoted}");
            let result = super::check(What::Name, name).map_err(|error| error.to_string());
            assert_eq!(result, Err(text));
        };
        refused("a#b", r#""a#b""#);
        refused("a\0\u{1}\n\u{7f}b", r#""a\x00\x01\n\x7fb""#);
        let texts = |what, name: &str, expected: &str| {
            let text = format!("invalid request: {expected}");
            let result = super::check(what, name).map_err(|error| error.to_string());
            assert_eq!(result, Err(text));
        };
        texts(
            What::ActorId,
            "a/b",
            r#"invalid actorId: name contains forbidden character: "a/b""#,
        );
        texts(
            What::ActorType,
            "T?",
            r#"invalid actorType: name contains forbidden character: "T?""#,
        );
        texts(
            What::ActorId,
            "a\nb",
            r#"invalid actorId: name contains control character at position 1: "a\nb""#,
        );
        texts(
            What::Name,
            "..",
            r#"name is a path traversal sequence: "..""#,
        );
        refused("ü\u{85}\\", r#""ü\u0085\\""#);
    }

    #[test]
    fn methods_keep_slashes_but_stay_below_the_actor() {
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(
                method(name.to_owned()).ok().as_deref(),
                expected,
                "{name:?}"
            );
        };
        check("run", Some("run"));
        check("a/b", Some("a/b"));
        check("a/../b", Some("b"));
        check("../../x", Some("x"));
        check("./x", Some("x"));
        check("..", None);
        check("a?b", None);
        check("a\\b", Some("a\\b"));
    }

    proptest! {
        #[test]
        fn no_dot_segment_survives(name in "[a./]{0,20}") {
            if let Ok(method) = method(name) {
                prop_assert!(!method.split('/').any(is_dots));
            }
        }
    }
}
