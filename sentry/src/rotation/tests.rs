use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn record(phase: Phase) -> Record {
    Record {
        phase,
        since: 1_000,
        until: 2_000,
        settled: 1_200,
        retiring: vec!["old".to_owned()],
        successor: "new".to_owned(),
        request: "now".to_owned(),
        before: digest(b"old bundle"),
    }
}

fn view() -> View<'static> {
    View {
        record: None,
        request: None,
        not_after: at(100_000),
        is_own: true,
        rotate_before: Duration::from_secs(10_000),
        is_about: true,
        acknowledged: false,
        now: at(1_500),
    }
}

#[test]
fn a_rotation_begins_when_asked_or_due() {
    let check = |change: fn(&mut View<'_>), expected| {
        let mut view = view();
        change(&mut view);
        assert_eq!(next(&view), expected, "{view:?}");
    };
    check(|_| {}, Step::Wait(LOOK));
    check(|it| it.request = Some("now"), Step::Begin);
    check(|it| it.now = at(90_000), Step::Begin);
    check(
        |it| it.now = at(89_000),
        Step::Wait(Duration::from_secs(1_000)),
    );
    check(|it| it.now = at(200_000), Step::Begin);
    let never = |it: &mut View<'_>| {
        it.now = at(90_000);
        it.rotate_before = Duration::ZERO;
    };
    check(never, Step::Wait(LOOK));
    let users = |it: &mut View<'_>| {
        it.now = at(90_000);
        it.is_own = false;
    };
    check(users, Step::Wait(LOOK));
    let asked = |it: &mut View<'_>| {
        it.request = Some("now");
        it.is_own = false;
    };
    check(asked, Step::Refuse);
}

#[test]
fn each_phase_waits_for_everybody_or_for_the_last_certificate() {
    for (phase, step) in [
        (Phase::Publishing, Step::Switch),
        (Phase::Switched, Step::Retire),
    ] {
        let record = record(phase);
        let mut view = View {
            record: Some(&record),
            ..view()
        };
        assert_eq!(next(&view), Step::Wait(LOOK_WHILE_ROTATING));
        view.acknowledged = true;
        assert_eq!(next(&view), step);
        // Another replica may still issue as before.
        view.now = at(1_199);
        assert_eq!(next(&view), Step::Wait(LOOK_WHILE_ROTATING));
        view.acknowledged = false;
        view.now = at(2_000);
        assert_eq!(next(&view), step);
    }
}

#[test]
fn a_rotation_ends_when_all_is_published_or_the_authority_is_replaced() {
    let retired = record(Phase::Retired);
    let view = View {
        record: Some(&retired),
        ..view()
    };
    assert_eq!(next(&view), Step::Finish);
    for phase in [Phase::Publishing, Phase::Switched, Phase::Retired] {
        let record = record(phase);
        let view = View {
            record: Some(&record),
            is_about: false,
            acknowledged: true,
            ..view
        };
        assert_eq!(next(&view), Step::Abandon);
    }
}

#[test]
fn a_request_is_taken_away_once_its_rotation_has_begun() {
    for phase in [Phase::Publishing, Phase::Switched, Phase::Retired] {
        let record = record(phase);
        let view = View {
            record: Some(&record),
            request: Some("now"),
            is_about: false,
            ..view()
        };
        assert_eq!(next(&view), Step::Acknowledge);
        let later = View {
            request: Some("another"),
            is_about: true,
            ..view
        };
        assert_ne!(next(&later), Step::Acknowledge);
    }
}

#[test]
fn a_record_that_does_not_tell_when_replicas_have_followed_waits_for_the_last_certificate() {
    let text = r#"{"phase": "switched", "since": 1000, "until": 2000, "retiring": [], "successor": "", "before": ""}"#;
    let record: Record = serde_json::from_str(text).unwrap();
    let mut view = View {
        record: Some(&record),
        is_about: true,
        acknowledged: true,
        now: at(1_999),
        ..view()
    };
    assert_eq!(next(&view), Step::Wait(LOOK_WHILE_ROTATING));
    view.now = at(2_000);
    assert_eq!(next(&view), Step::Retire);
}

#[test]
fn only_the_old_and_the_new_bundle_are_explained() {
    let record = record(Phase::Publishing);
    let wanted = Some(b"new bundle".to_vec());
    assert!(record.expects(b"old bundle", &wanted));
    assert!(record.expects(b"new bundle", &wanted));
    assert!(!record.expects(b"foreign bundle", &wanted));
}

#[test]
fn the_record_is_kept_as_json() {
    let text = serde_json::to_string(&record(Phase::Switched)).unwrap();
    assert!(text.contains("\"phase\":\"switched\""), "{text}");
    assert_eq!(
        serde_json::from_str::<Record>(&text).unwrap(),
        record(Phase::Switched)
    );
}
