//! What an HTTP application's answer to an event means.

use dapr_sidecar_core::app::{BulkOutcome, EventOutcome};
use http::StatusCode;
use serde::Deserialize;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkAnswer {
    statuses: Vec<EntryAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryAnswer {
    #[serde(default)]
    entry_id: String,
    #[serde(default)]
    status: String,
}

/// The outcome of one event. An empty or unreadable body of a success is a success.
pub(super) fn event(status: StatusCode, body: &[u8]) -> EventOutcome {
    if status == StatusCode::NOT_FOUND {
        return EventOutcome::Drop;
    }
    if !status.is_success() {
        return EventOutcome::Retry {
            reason: format!(
                "{}. status code returned: {}",
                String::from_utf8_lossy(body),
                status.as_u16()
            ),
            code: Some(i32::from(status.as_u16())),
        };
    }
    match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => entry(&answer.status, true),
        Err(_) => EventOutcome::Success,
    }
}

/// The outcomes of a batch. Only a list of statuses acknowledges anything.
pub(super) fn batch(status: StatusCode, body: &[u8]) -> BulkOutcome {
    if status == StatusCode::NOT_FOUND {
        return BulkOutcome::All(EventOutcome::Ignored);
    }
    if !status.is_success() {
        return BulkOutcome::All(event(status, body));
    }
    match serde_json::from_slice::<BulkAnswer>(body) {
        Ok(answer) => BulkOutcome::Entries(
            answer
                .statuses
                .into_iter()
                .map(|one| {
                    let outcome = entry(&one.status, false);
                    (one.entry_id, outcome)
                })
                .collect(),
        ),
        Err(error) => BulkOutcome::All(EventOutcome::Retry {
            reason: format!("failed unmarshalling app response for bulk subscribe: {error}"),
            code: None,
        }),
    }
}

/// A status text; letter case counts. `empty_is_success` for single events, where no status means success.
fn entry(status: &str, empty_is_success: bool) -> EventOutcome {
    match status {
        "SUCCESS" => EventOutcome::Success,
        "" if empty_is_success => EventOutcome::Success,
        "DROP" => EventOutcome::Drop,
        "RETRY" => EventOutcome::Retry {
            reason: "RETRY status returned from app".to_owned(),
            code: None,
        },
        other => EventOutcome::Retry {
            reason: format!("unknown status returned from app: {other}"),
            code: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_single_events() {
        let check = |status: u16, body: &str, expected: fn(&EventOutcome) -> bool| {
            let outcome = event(
                StatusCode::from_u16(status).expect("a status"),
                body.as_bytes(),
            );
            assert!(expected(&outcome), "{status} {body}: {outcome:?}");
        };
        let success = |outcome: &EventOutcome| *outcome == EventOutcome::Success;
        let retry = |outcome: &EventOutcome| matches!(outcome, EventOutcome::Retry { .. });
        let drop = |outcome: &EventOutcome| *outcome == EventOutcome::Drop;
        check(200, "", success);
        check(204, "", success);
        check(200, "not json", success);
        check(200, "{}", success);
        check(201, r#"{"status":"SUCCESS"}"#, success);
        check(200, r#"{"status":"success"}"#, retry);
        check(200, r#"{"status":"RETRY"}"#, retry);
        check(200, r#"{"status":"DROP"}"#, drop);
        check(404, "", drop);
        check(302, "", retry);
        check(500, "boom", retry);
    }

    #[test]
    fn answers_to_batches() {
        let ok = StatusCode::OK;
        let BulkOutcome::Entries(entries) = batch(
            ok,
            br#"{"statuses":[{"entryId":"1","status":"SUCCESS"},{"entryId":"2","status":""}]}"#,
        ) else {
            panic!("a list")
        };
        assert_eq!(entries[0], ("1".to_owned(), EventOutcome::Success));
        assert!(matches!(entries[1].1, EventOutcome::Retry { .. }));
        assert!(matches!(
            batch(ok, b""),
            BulkOutcome::All(EventOutcome::Retry { .. })
        ));
        assert!(matches!(
            batch(StatusCode::NOT_FOUND, b""),
            BulkOutcome::All(EventOutcome::Ignored)
        ));
        assert!(matches!(
            batch(StatusCode::BAD_GATEWAY, b""),
            BulkOutcome::All(EventOutcome::Retry { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn any_body_has_an_outcome(status in 200u16..600, body: Vec<u8>) {
            let status = StatusCode::from_u16(status).expect("in range");
            drop(event(status, &body));
            drop(batch(status, &body));
        }
    }
}
