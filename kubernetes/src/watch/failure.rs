//! What went wrong with a list or a watch, and what can be done about it.

use std::time::Duration;

use http::StatusCode;

use super::health::Presence;
use super::wire::Status;

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// What it says of the kind.
    pub(super) presence: Presence,
    /// What health and log say.
    pub(super) text: String,
}

/// Failures by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The version, or the rest of a list, is not known to the server any more: list again.
    Gone,
    /// Nobody answers, or not now: the same attempt may succeed later.
    Unreachable,
    /// The server understood and refused, or says things that make no sense: later or differently.
    Refused,
}

impl Failure {
    pub(super) fn unreachable(text: String) -> Self {
        Self::new(Class::Unreachable, text)
    }

    pub(super) fn refused(text: String) -> Self {
        Self::new(Class::Refused, text)
    }

    /// A failure in the words of the server: an HTTP answer, or the object of an `ERROR` event.
    pub(super) fn of_status(status: &Status) -> Self {
        let class = match status.code {
            410 => Class::Gone,
            _ if matches!(&*status.reason, "Expired" | "Gone") || is_ahead(status) => Class::Gone,
            429 | 502 | 503 | 504 => Class::Unreachable,
            _ => Class::Refused,
        };
        Self {
            class,
            retry_after: status.retry_after(),
            presence: match status.code {
                404 => Presence::Absent,
                _ => Presence::Unsaid,
            },
            text: text(status),
        }
    }

    fn new(class: Class, text: String) -> Self {
        Self {
            class,
            retry_after: None,
            presence: Presence::Unsaid,
            text,
        }
    }
}

/// Whether our version is one the server has not reached: it was restored from a backup, or lags behind another. Seen
/// as a 504 of a real server, which would repeat it until its history has caught up.
fn is_ahead(status: &Status) -> bool {
    let mut causes = status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten());
    causes.any(|cause| cause.reason == "ResourceVersionTooLarge")
        || status.message.contains("Too large resource version")
}

fn text(status: &Status) -> String {
    let known = StatusCode::from_u16(status.code).ok();
    let name = known
        .and_then(|code| code.canonical_reason())
        .unwrap_or(&status.reason);
    match (status.code, status.message.is_empty()) {
        (0, true) => "the watch ended with an error".to_owned(),
        (0, false) => status.message.clone(),
        (code, true) => format!("{code} {name}"),
        (code, false) => format!("{code} {name}: {}", status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Cause, Details};
    use super::*;

    #[test]
    fn what_helps_follows_from_the_status() {
        let check = |code, reason: &'static str, message: &str, expected| {
            let status = Status {
                code,
                reason: reason.into(),
                message: message.to_owned(),
                details: None,
            };
            assert_eq!(
                Failure::of_status(&status).class,
                expected,
                "{code} {reason} {message}"
            );
        };
        check(410, "", "", Class::Gone);
        check(0, "Expired", "", Class::Gone);
        check(
            504,
            "Timeout",
            "Too large resource version: 9, current: 3",
            Class::Gone,
        );
        check(429, "TooManyRequests", "", Class::Unreachable);
        check(503, "", "", Class::Unreachable);
        check(504, "", "", Class::Unreachable);
        check(401, "", "", Class::Refused);
        check(403, "Forbidden", "", Class::Refused);
        check(404, "", "", Class::Refused);
        check(500, "", "", Class::Refused);
    }

    #[test]
    fn a_cause_is_enough() {
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: String::new(),
        };
        let details = Details {
            retry_after_seconds: 1,
            causes: Some(vec![cause]),
        };
        let status = Status {
            code: 504,
            details: Some(details),
            ..Status::default()
        };
        let failure = Failure::of_status(&status);
        assert_eq!(
            (failure.class, failure.retry_after),
            (Class::Gone, Some(Duration::from_secs(1)))
        );
        assert_eq!(failure.text, "504 Gateway Timeout");
    }
}
