//! What an HTTP application's answer to an event means.

use dapr_sidecar_core::app::{BulkOutcome, EventOutcome};
use dapr_sidecar_core::fields::Fields;
use http::StatusCode;

use super::answers::first;

/// The outcome of one event. An empty or unreadable body of a success is a success.
pub(super) fn event(status: StatusCode, body: &[u8]) -> EventOutcome {
    if status == StatusCode::NOT_FOUND {
        return EventOutcome::Rejected(shown(status, body));
    }
    if !status.is_success() {
        return EventOutcome::Retry {
            reason: shown(status, body),
            code: Some(i32::from(status.as_u16())),
        };
    }
    let text = String::from_utf8_lossy(body);
    let text = first(text.as_bytes()).and_then(|fields| status_text(&fields));
    text.map_or(EventOutcome::Success, |text| entry(&text, true))
}

fn shown(status: StatusCode, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    format!("{body}. status code returned: {}", status.as_u16())
}

/// The outcomes of a batch. Only a list of statuses acknowledges anything.
pub(super) fn batch(status: StatusCode, body: &[u8]) -> BulkOutcome {
    if status == StatusCode::NOT_FOUND {
        return BulkOutcome::All(EventOutcome::Ignored(shown(status, body)));
    }
    if !status.is_success() {
        return BulkOutcome::All(event(status, body));
    }
    let text = String::from_utf8_lossy(body);
    match first(text.as_bytes()).and_then(|fields| entries(&fields)) {
        Ok(entries) => BulkOutcome::Entries(entries),
        Err(error) => BulkOutcome::All(EventOutcome::Retry {
            reason: format!("failed unmarshalling app response for bulk subscribe: {error}"),
            code: None,
        }),
    }
}

fn entries(answer: &Fields<'_>) -> Result<Vec<(String, EventOutcome)>, serde_json::Error> {
    let statuses: Option<Vec<Fields<'_>>> = answer.borrowed("statuses")?;
    let entries = statuses.iter().flatten().map(|one| {
        let outcome = entry(&status_text(one)?, false);
        Ok((one.get("entryId")?, outcome))
    });
    entries.collect()
}

fn status_text(fields: &Fields<'_>) -> Result<String, serde_json::Error> {
    fields.get("status")
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
        let reject = |outcome: &EventOutcome| matches!(outcome, EventOutcome::Rejected(_));
        check(200, "", success);
        check(204, "", success);
        check(200, "not json", success);
        check(200, "{}", success);
        check(201, r#"{"status":"SUCCESS"}"#, success);
        check(200, r#"{"status":"success"}"#, retry);
        check(200, r#"{"status":"RETRY"}"#, retry);
        check(200, r#"{"status":"DROP"}"#, drop);
        // Of the name it does not count.
        check(200, r#"{"Status":"RETRY"}"#, retry);
        check(200, r#"{"STATUS":"DROP"}"#, drop);
        check(200, r#"{"status":null}"#, success);
        check(200, "null", success);
        check(200, r#"{"status":"RETRY"}{"status":"SUCCESS"}"#, retry);
        check(200, r#"{"status":"RETRY"} and more"#, retry);
        let bytes = event(StatusCode::OK, b"{\"status\":\"\xff\"}");
        assert!(retry(&bytes), "{bytes:?}");
        check(404, "", reject);
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
        let BulkOutcome::Entries(entries) = batch(
            ok,
            br#"{"Statuses":[{"EntryId":"1","Status":"SUCCESS"},{"entryId":"2","status":null},null]}"#,
        ) else {
            panic!("a list")
        };
        assert_eq!(entries[0], ("1".to_owned(), EventOutcome::Success));
        assert!(matches!(entries[1].1, EventOutcome::Retry { .. }));
        assert!(matches!(batch(ok, b"{}"), BulkOutcome::Entries(entries) if entries.is_empty()));
        assert!(matches!(
            batch(ok, b""),
            BulkOutcome::All(EventOutcome::Retry { .. })
        ));
        assert!(matches!(
            batch(StatusCode::NOT_FOUND, b""),
            BulkOutcome::All(EventOutcome::Ignored(_))
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
