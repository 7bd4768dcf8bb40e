//! The `path` label of HTTP metrics.

use std::borrow::Cow;

/// What the `path` label shows.
#[derive(Debug, Clone, Default)]
pub struct PathMatching {
    increased_cardinality: bool,
    patterns: Vec<String>,
}

impl PathMatching {
    /// Patterns in Go's form: `/a/{id}`, `/a/` for everything below, `{rest...}` at the end. A path without a matching one
    /// is shown itself with `increased_cardinality`, upstream's default, else not at all.
    pub fn new(increased_cardinality: bool, patterns: &[String]) -> Self {
        // They hold for the methods of invocations, too.
        let patterns = patterns.iter().flat_map(|pattern| {
            let pattern = pattern.trim_start_matches('/');
            [
                format!("/{pattern}"),
                format!("/v1.0/invoke/{{app_id}}/method/{pattern}"),
            ]
        });
        Self {
            increased_cardinality,
            patterns: patterns.collect(),
        }
    }

    pub(crate) fn increased_cardinality(&self) -> bool {
        self.increased_cardinality
    }

    /// The label of a path.
    pub(crate) fn label<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if self.patterns.is_empty() && !self.increased_cardinality {
            return Cow::Borrowed("");
        }
        let reduced = reduce(path);
        if let Some(pattern) = self.best(&reduced) {
            return Cow::Borrowed(pattern);
        }
        if self.increased_cardinality {
            return reduced;
        }
        Cow::Borrowed("")
    }

    /// The most specific pattern that matches.
    fn best(&self, path: &str) -> Option<&str> {
        let patterns = self.patterns.iter().map(String::as_str);
        patterns
            .filter(|pattern| matches(pattern, path))
            .max_by_key(|pattern| literals(pattern))
    }
}

/// What a path at the application is called: with a slash in front, unless it is that of an actor or empty.
pub(super) fn of_application(path: &str) -> Cow<'_, str> {
    let bare = path.trim_start_matches('/');
    if bare.is_empty() || bare.starts_with("actors/") {
        return Cow::Borrowed(bare);
    }
    if path.len() == bare.len() + 1 {
        return Cow::Borrowed(path);
    }
    Cow::Owned(format!("/{bare}"))
}

/// More literal segments are more specific.
fn literals(pattern: &str) -> usize {
    let segments = pattern.split('/');
    segments
        .filter(|segment| !segment.is_empty() && !segment.starts_with('{'))
        .count()
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut wanted = pattern.split('/');
    let mut given = path.split('/');
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), _) if wanted.starts_with('{') && wanted.ends_with("...}") => {
                return true;
            }
            (Some("{$}"), given) => return given == Some(""),
            // A trailing slash stands for everything below.
            (Some(""), Some(_)) if wanted.clone().next().is_none() => return true,
            (Some(wanted), Some(given)) => {
                let wildcard = wanted.starts_with('{') && !given.is_empty();
                if wanted != given && !wildcard {
                    return false;
                }
            }
            (Some(_), None) | (None, Some(_)) => return false,
        }
    }
}

/// The path without the parts that would make a series of every request.
pub(crate) fn reduce(path: &str) -> Cow<'_, str> {
    let mut segments = path.split('/');
    if segments.next() != Some("") {
        return actors(path, "actors/").unwrap_or(Cow::Borrowed(path));
    }
    let version = segments.next().unwrap_or_default();
    let block = segments.next().unwrap_or_default();
    match (version, block) {
        ("v1.0", "state" | "secrets") => {
            let store = segments.next().unwrap_or_default();
            let end = version.len() + block.len() + store.len() + 3;
            Cow::Borrowed(path.get(..end).unwrap_or(path))
        }
        ("v1.0", "actors") => actors(path, "/v1.0/actors/").unwrap_or(Cow::Borrowed(path)),
        ("v1.0" | "v1.0-alpha1" | "v1.0-beta1", "workflows") => {
            workflow(version, segments).unwrap_or(Cow::Borrowed(path))
        }
        _ => Cow::Borrowed(path),
    }
}

fn actors<'a>(path: &'a str, prefix: &str) -> Option<Cow<'a, str>> {
    let mut rest = path.strip_prefix(prefix)?.splitn(3, '/');
    let (kind, _id, action) = (rest.next()?, rest.next()?, rest.next()?);
    let action = if action == "state" || action.starts_with("state/") {
        "state"
    } else {
        action
    };
    Some(Cow::Owned(format!("{prefix}{kind}/{{id}}/{action}")))
}

fn workflow<'a>(
    version: &str,
    mut segments: impl Iterator<Item = &'a str>,
) -> Option<Cow<'a, str>> {
    let (component, instance) = (segments.next()?, segments.next()?);
    let action = segments.next();
    let label = match (action, segments.next()) {
        (Some("start"), None) => format!("/{version}/workflows/{component}/{instance}/start"),
        (Some("raiseEvent"), Some(_)) => {
            format!("/{version}/workflows/{component}/{{instanceId}}/raiseEvent/{{eventName}}")
        }
        (Some(action), _) => format!("/{version}/workflows/{component}/{{instanceId}}/{action}"),
        (None, _) => format!("/{version}/workflows/{component}/{{instanceId}}"),
    };
    Some(Cow::Owned(label))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_reduced() {
        let check = |path: &str, expected: &str| assert_eq!(reduce(path), expected, "{path}");
        check("/v1.0/state/redis/k", "/v1.0/state/redis");
        check("/v1.0/state/redis", "/v1.0/state/redis");
        check("/v1.0/secrets/s/k", "/v1.0/secrets/s");
        check(
            "/v1.0/actors/ty/1/method/m",
            "/v1.0/actors/ty/{id}/method/m",
        );
        check("/v1.0/actors/ty/1/state/k", "/v1.0/actors/ty/{id}/state");
        check(
            "actors/ty/1/method/remind/rem",
            "actors/ty/{id}/method/remind/rem",
        );
        check(
            "/v1.0/workflows/dapr/i",
            "/v1.0/workflows/dapr/{instanceId}",
        );
        check(
            "/v1.0-beta1/workflows/dapr/n/start",
            "/v1.0-beta1/workflows/dapr/n/start",
        );
        check(
            "/v1.0/workflows/dapr/i/raiseEvent/e",
            "/v1.0/workflows/dapr/{instanceId}/raiseEvent/{eventName}",
        );
        check(
            "/v1.0/invoke/a/method/orders/1",
            "/v1.0/invoke/a/method/orders/1",
        );
        check("/", "/");
        check("", "");
    }

    #[test]
    fn patterns_win_over_paths() {
        let patterns = [
            "/orders/{id}",
            "/orders/{id}/",
            "/all/{r...}",
            "events/in",
            "/v1.0/state/{store}",
        ]
        .map(str::to_owned);
        let paths = |increased_cardinality| PathMatching::new(increased_cardinality, &patterns);
        let check = |path: &str, expected: &str| {
            assert_eq!(paths(false).label(path), expected, "{path}");
        };
        check("/orders/1", "/orders/{id}");
        check(
            "/v1.0/invoke/a/method/orders/1",
            "/v1.0/invoke/{app_id}/method/orders/{id}",
        );
        check("/events/in", "/events/in");
        // Patterns see the path without what a request adds to it.
        check("/v1.0/state/s/key", "/v1.0/state/{store}");
        check("/orders/1/lines/2", "/orders/{id}/");
        check("/all/a/b", "/all/{r...}");
        check("/other", "");
        assert_eq!(paths(true).label("/other"), "/other");
    }

    #[test]
    fn paths_at_the_application() {
        let check = |path: &str, expected: &str| assert_eq!(of_application(path), expected);
        check("echo", "/echo");
        check("/echo", "/echo");
        check("//echo/x", "/echo/x");
        check("", "");
        check("/", "");
        check("/actors/t/1/method/m", "actors/t/1/method/m");
    }

    proptest! {
        #[test]
        fn never_panics(path in "[/a-z.{}ä]{0,40}", pattern in "[/a-z.{}$ä]{0,20}") {
            let _ = reduce(&path);
            let paths = PathMatching::new(true, &[pattern]);
            let _ = paths.label(&path);
            let _ = of_application(&path);
        }
    }
}
