//! What is wrong with the annotations of a pod, in words for whoever wrote them. Nothing here decides about the pod.

use std::collections::BTreeMap;

use dapr_crds::Quantity;
use dapr_crds::annotations::{self as names, Kind};
use dapr_kit::duration::GoDuration;
use dapr_kit::truthy;

use crate::annotations::{int, truncated};
use crate::patch::{entries, mounts, protocol};

/// What all annotations of Dapr begin with.
const PREFIX: &str = "dapr.io/";
/// An unknown name is taken for one that is this many letters away.
const NEAR: usize = 3;
/// Bytes of a value that are shown; the API server cuts long warnings.
const SHOWN: usize = 60;
/// At most so many warnings are sent, as the API server bounds their sum.
pub const LIMIT: usize = 16;

/// One line for every annotation that is unknown or has a value that cannot be used as it stands.
pub fn of(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let ours = annotations.range(PREFIX.to_owned()..);
    let ours = ours.take_while(|(name, _)| name.starts_with(PREFIX));
    ours.filter_map(|(name, value)| {
        let problem = match names::kind(name) {
            Some(kind) => problem(name, kind, value)?,
            None => unknown(name)?,
        };
        Some(format!("annotation {name}: {problem}"))
    })
    .collect()
}

fn unknown(name: &str) -> Option<String> {
    // These stand on pods, and are none of the user's.
    if [names::CONTROL_PLANE, names::LABEL_SIDECAR_INJECTED].contains(&name) {
        return None;
    }
    let nearest = names::ALL
        .iter()
        .map(|known| (distance(name, known.name), known.name))
        .min()
        .filter(|(distance, _)| *distance <= NEAR);
    Some(match nearest {
        Some((_, nearest)) => format!("is unknown and ignored; did you mean {nearest}?"),
        None => "is unknown and ignored".to_owned(),
    })
}

fn problem(name: &str, kind: Kind, value: &str) -> Option<String> {
    match name {
        names::ENABLED => return enabled(value),
        names::COMPONENT_CONTAINER => {
            return Some("has an effect on Components only, not on pods".to_owned());
        }
        names::APP_PROTOCOL if protocol(value, false).is_none() => {
            let value = shown(value);
            return Some(format!("{value} is no protocol; the app is told none"));
        }
        names::VOLUME_MOUNTS | names::VOLUME_MOUNTS_RW if mounts(value).any(|it| it.is_none()) => {
            return Some(
                "is no list volume:path,volume:path; other entries are left out".to_owned(),
            );
        }
        names::ENV | names::ENV_FROM_SECRET if !value.is_empty() && entries(value).is_empty() => {
            return Some("has no entry KEY=value and is ignored".to_owned());
        }
        _ => {}
    }
    let value_shown = shown(value);
    match kind {
        Kind::Bool => (!truthy(value) && !falsy(value))
            .then(|| format!("{value_shown} is neither true nor false and counts as false")),
        Kind::Int => match int(value) {
            None => Some(format!("{value_shown} is no number; the default stays")),
            Some(number) if is_32_bits(name) && i64::from(truncated(number)) != number => {
                Some(format!(
                    "{value_shown} does not fit and becomes {}",
                    truncated(number)
                ))
            }
            Some(_) => None,
        },
        Kind::Quantity if !value.is_empty() => value.parse::<Quantity>().is_err().then(|| {
            let effect = if name.starts_with("dapr.io/sidecar-") {
                "; the sidecar gets no resources at all"
            } else {
                "; the sidecar will refuse it"
            };
            format!("{value_shown} is no quantity{effect}")
        }),
        Kind::Duration => value.parse::<GoDuration>().is_err().then(|| {
            format!("{value_shown} is no duration such as 30s; the sidecar will refuse it")
        }),
        Kind::Text | Kind::Quantity | Kind::Json => None,
    }
}

/// Only one word enables: what means yes elsewhere does not.
fn enabled(value: &str) -> Option<String> {
    if value.eq_ignore_ascii_case("true") || falsy(value) {
        return None;
    }
    let value = shown(value);
    Some(format!(
        "{value} does not enable the sidecar; only \"true\" does"
    ))
}

/// The numbers that are kept whole.
fn is_32_bits(name: &str) -> bool {
    ![
        names::APP_MAX_CONCURRENCY,
        names::HTTP_MAX_REQUEST_SIZE,
        names::HTTP_READ_BUFFER_SIZE,
        names::GRACEFUL_SHUTDOWN_SECONDS,
    ]
    .contains(&name)
}

fn falsy(value: &str) -> bool {
    let words = ["", "n", "no", "false", "f", "off", "0"];
    words
        .iter()
        .any(|word| value.trim().eq_ignore_ascii_case(word))
}

fn shown(value: &str) -> String {
    match value.char_indices().find(|(at, _)| *at >= SHOWN) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}

/// Letters to add, drop or change to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    // Far apart in length is far apart; also bounds the work, as names of annotations are user input.
    if one.len().abs_diff(other.len()) > NEAR {
        return usize::MAX;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = line;
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
        for (column, &own) in other.iter().enumerate() {
            let changed = diagonal + usize::from(own != letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: Option<&str>) {
        let all = [(name.to_owned(), value.to_owned())].into();
        let found = of(&all);
        let expected = expected.map(|text| format!("annotation {name}: {text}"));
        assert_eq!(found, Vec::from_iter(expected), "{name} {value:?}");
    }

    #[test]
    fn unknown_names_are_told_and_the_nearest_is_offered() {
        let near = "is unknown and ignored; did you mean dapr.io/app-port?";
        check("dapr.io/app-prt", "1", Some(near));
        check("dapr.io/appport", "1", Some(near));
        check(
            "dapr.io/enable",
            "true",
            Some("is unknown and ignored; did you mean dapr.io/enabled?"),
        );
        check(
            "dapr.io/quite-another-thing",
            "1",
            Some("is unknown and ignored"),
        );
        check("dapr.io/control-plane", "operator", None);
        check("example.org/app-prt", "1", None);
        check("dapr.iox/app-prt", "1", None);
    }

    #[test]
    fn values_that_cannot_be_used_are_told() {
        let yes = "\"yes\" does not enable the sidecar; only \"true\" does";
        check("dapr.io/enabled", "yes", Some(yes));
        check("dapr.io/enabled", "TRUE", None);
        check("dapr.io/enabled", "off", None);
        check("dapr.io/app-port", "80", None);
        check(
            "dapr.io/app-port",
            "http",
            Some("\"http\" is no number; the default stays"),
        );
        let cut = "\"4294967297\" does not fit and becomes 1";
        check("dapr.io/app-port", "4294967297", Some(cut));
        check("dapr.io/app-max-concurrency", "4294967297", None);
        let neither = "\"maybe\" is neither true nor false and counts as false";
        check("dapr.io/log-as-json", "maybe", Some(neither));
        check("dapr.io/log-as-json", "", None);
        let none = "\"1x\" is no quantity; the sidecar gets no resources at all";
        check("dapr.io/sidecar-cpu-limit", "1x", Some(none));
        check("dapr.io/sidecar-cpu-limit", "1500m", None);
        check("dapr.io/max-body-size", "4Mi", None);
        let refused = "\"4\" is no duration such as 30s; the sidecar will refuse it";
        check("dapr.io/block-shutdown-duration", "4", Some(refused));
        check(
            "dapr.io/app-protocol",
            "tcp",
            Some("\"tcp\" is no protocol; the app is told none"),
        );
        check(
            "dapr.io/env",
            "nothing",
            Some("has no entry KEY=value and is ignored"),
        );
        let list = "is no list volume:path,volume:path; other entries are left out";
        check("dapr.io/volume-mounts", "a:/a,b", Some(list));
    }

    #[test]
    fn long_values_are_cut() {
        let all = [("dapr.io/app-port".to_owned(), "ä".repeat(5000))].into();
        assert!(of(&all)[0].len() < 256, "the API server cuts there");
    }
}
