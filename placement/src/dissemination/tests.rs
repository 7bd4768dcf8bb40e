//! One table per rule, in a small script language, and random histories.

use std::collections::VecDeque;

use dapr_proto::dapr::proto::placement::v1::PlacementOrder;
use proptest::prelude::*;
use proptest::test_runner::Config;
use prost::Message;

use super::*;

fn host(stream: u64, operation: HostOperation, version: Option<u64>, entities: &[&str]) -> Host {
    Host {
        name: format!("10.0.0.{stream}:50002"),
        id: format!("app-{stream}"),
        namespace: "default".to_owned(),
        entities: entities.iter().map(|entity| (*entity).to_owned()).collect(),
        operation: operation.into(),
        version,
        ..Host::default()
    }
}

/// The hosts of a table as `type=name,name`, in order.
fn table(order: &Order) -> String {
    let order = PlacementOrder::decode(order.bytes.clone()).expect("orders decode");
    let entries = order.tables.expect("an update has tables").entries;
    let types: Vec<String> = entries
        .iter()
        .map(|(name, table)| {
            let hosts: Vec<&str> = table
                .load_map
                .keys()
                .map(|host| &host[7..host.len() - 6])
                .collect();
            format!("{name}={}", hosts.join(","))
        })
        .collect();
    types.join(" ")
}

/// One action in short: `lock1>1,2`, `update1[t=1]>1`, `close2@1`, `arm-round`.
fn render(action: &Action) -> String {
    match action {
        Action::Send { to, order } => {
            let tables = if order.operation == Operation::Update {
                format!("[{}]", table(order))
            } else {
                String::new()
            };
            let to: Vec<String> = to.iter().map(|stream| stream.0.to_string()).collect();
            format!(
                "{}{}{tables}>{}",
                order.operation.as_str(),
                order.version,
                to.join(",")
            )
        }
        Action::Close { stream, version } => format!("close{}@{version}", stream.0),
        Action::Refuse { stream, .. } => format!("refuse{}", stream.0),
        // Scripts that are about it ask for it.
        Action::Arm(Timer::Patience | Timer::Grace) | Action::Propose(_) => String::new(),
        Action::Arm(timer) => format!("arm-{timer:?}").to_lowercase(),
        Action::Disarm(timer) => format!("disarm-{timer:?}").to_lowercase(),
    }
}

/// One event in short. `+1 t u` connects stream 1 with types t and u, `1 t` reports, `1 lock 3` answers,
/// `1 at 3 t` reports with a version, `1 ?` is UNKNOWN, `+1 !lock` opens with an answer, `@1 t` comes from another namespace, `-1` disconnects,
/// `round` and `window` fire.
fn parse(text: &str) -> Event {
    let words: Vec<&str> = text.split_whitespace().collect();
    let stream = |word: &str| {
        word.trim_start_matches(['+', '-', '@'])
            .parse()
            .expect("a stream")
    };
    match words[0] {
        "round" => Event::Fired(Timer::Round),
        "window" => Event::Fired(Timer::Window),
        "patience" => Event::Fired(Timer::Patience),
        "grace" => Event::Fired(Timer::Grace),
        "lease" => Event::Fired(Timer::Lease),
        "agreed" => Event::Committed(stream(words[1])),
        word if word.starts_with('-') => Event::Disconnected(StreamId(stream(word))),
        word => {
            let id = stream(word);
            let version = words.get(2).and_then(|version| version.parse().ok());
            let message = match words.get(1).copied() {
                Some("lock" | "!lock") => host(id, HostOperation::Lock, version, &[]),
                Some("update") => host(id, HostOperation::Update, version, &[]),
                Some("unlock") => host(id, HostOperation::Unlock, version, &[]),
                Some("?") => host(id, HostOperation::Unknown, None, &words[2..]),
                Some("at") => host(id, HostOperation::Report, version, &words[3..]),
                Some("77") => Host {
                    operation: 77,
                    ..host(id, HostOperation::Report, None, &["t"])
                },
                _ => host(id, HostOperation::Report, None, &words[1..]),
            };
            if word.starts_with('@') {
                Event::Visited(StreamId(id), message)
            } else if word.starts_with('+') {
                Event::Connected(StreamId(id), message)
            } else {
                Event::Message(StreamId(id), message)
            }
        }
    }
}

/// Everything is agreed on as soon as it is proposed.
fn check_with(coalescing: Coalescing, script: &[(&str, &str)]) {
    check_rounds(Rounds::new(100, coalescing), Replicas::Quick, script);
}

/// How soon the replicas agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replicas {
    /// At once.
    Quick,
    /// When the script says `agreed 3`.
    Scripted,
}

fn check_rounds(mut rounds: Rounds, replicas: Replicas, script: &[(&str, &str)]) {
    for (step, (event, expected)) in script.iter().enumerate() {
        let mut actions = rounds.handle(parse(event));
        if replicas == Replicas::Quick {
            actions.extend(rounds.handle(Event::Committed(rounds.version())));
        }
        let actions: Vec<String> = actions
            .iter()
            .map(render)
            .filter(|text| !text.is_empty())
            .collect();
        assert_eq!(actions.join(" "), *expected, "step {step}: {event}");
    }
}

fn check(script: &[(&str, &str)]) {
    check_with(Coalescing::Off, script);
}

#[test]
fn a_round_waits_for_every_answer() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("+2 u", "arm-round lock2>1,2"),
        ("1 lock 2", ""),
        ("2 lock 2", "update2[t=1 u=2]>1,2"),
        ("2 update 2", ""),
        ("1 update 2", "unlock2>1,2"),
        ("1 unlock 2", ""),
        ("2 unlock 2", "disarm-round"),
    ]);
}

#[test]
fn a_report_for_a_version_that_is_over_counts_for_nothing() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("1 at 0 u", ""),
        ("1 at 0", ""),
        ("@7 at 0 t", ""),
        ("1 at 1 u", "arm-round lock2>1"),
        ("1 at 1 v", ""),
        ("1 lock 2", "update2[u=1]>1"),
        ("1 at 9", "arm-round lock3>1"),
    ]);
}

#[test]
fn a_visitor_is_a_host_that_takes_no_part_in_rounds() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        // A report during a round abandons it, also this one.
        ("@7 t", "arm-round lock2>1"),
        ("1 lock 2", "update2[t=1,7]>1"),
        // Nobody has asked for its answers.
        ("@7 update 2", ""),
        ("1 update 2", "unlock2>1"),
        ("1 unlock 2", "disarm-round"),
        ("@7 t", ""),
        ("@8", ""),
        ("@8 ? u", "arm-round lock3>1"),
        ("-7", ""),
        ("1 lock 3", "update3[t=1,7 u=8]>1"),
        ("1 update 3", "unlock3>1"),
        ("1 unlock 3", "disarm-round arm-round lock4>1"),
        ("1 lock 4", "update4[t=1 u=8]>1"),
        ("1 update 4", "unlock4>1"),
        ("1 unlock 4", "disarm-round"),
    ]);
}

#[test]
#[expect(deprecated, reason = "the wire still has these fields")]
fn tables_carry_the_hosts_as_reported() {
    let mut rounds = Rounds::new(7, Coalescing::Off);
    let report = Host {
        api_level: 20,
        ..host(1, HostOperation::Report, None, &["u", "t", "u"])
    };
    rounds.handle(Event::Connected(StreamId(1), report.clone()));
    rounds.handle(Event::Committed(1));
    let actions = rounds.handle(parse("1 lock 1"));
    let [Action::Send { order, .. }] = &actions[..] else {
        panic!("one order is due: {actions:?}");
    };
    let order = PlacementOrder::decode(order.bytes.clone()).expect("orders decode");
    assert_eq!((order.operation.as_str(), order.version), ("update", 1));
    let tables = order.tables.expect("an update has tables");
    assert_eq!(
        (
            tables.version.as_str(),
            tables.replication_factor,
            tables.api_level
        ),
        ("1", 7, 0)
    );
    let expected = Host {
        entities: ["t", "u", "u"].map(str::to_owned).to_vec(),
        ..report
    };
    for name in ["t", "u"] {
        let table = &tables.entries[name];
        assert_eq!(table.load_map["10.0.0.1:50002"], expected);
        assert!(table.hosts.is_empty() && table.sorted_set.is_empty() && table.total_load == 0);
    }
}

#[test]
fn what_counts_as_a_change() {
    check(&[
        ("+1 t u", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1 u=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        // The order of types is none, a repeated report is nothing.
        ("1 u t", ""),
        ("1 u", "arm-round lock2>1"),
        ("1 lock 2", "update2[u=1]>1"),
        ("1 update 2", "unlock2>1"),
        ("1 unlock 2", "disarm-round"),
        // A stored host that reports none is removed, and is a pure client from then on.
        ("1", "arm-round lock3>1"),
        ("1 lock 3", "update3[]>1"),
        ("1 update 3", "unlock3>1"),
        ("1 unlock 3", "disarm-round"),
        ("1", "lock3>1 update3[]>1 unlock3>1"),
    ]);
}

#[test]
fn a_new_name_needs_another_change() {
    let mut rounds = Rounds::new(1, Coalescing::Off);
    let mut report = host(1, HostOperation::Report, None, &["t"]);
    assert!(
        !rounds
            .handle(Event::Connected(StreamId(1), report.clone()))
            .is_empty()
    );
    report.name = "moved:1".to_owned();
    assert!(
        rounds
            .handle(Event::Message(StreamId(1), report.clone()))
            .is_empty()
    );
    assert_eq!(rounds.hosts().sorted()[0].name, "10.0.0.1:50002");
    report.id = "other".to_owned();
    assert!(
        !rounds
            .handle(Event::Message(StreamId(1), report))
            .is_empty()
    );
    assert_eq!(rounds.hosts().sorted()[0].name, "moved:1");
}

#[test]
fn equal_names_collapse_in_the_table_only() {
    let mut rounds = Rounds::new(1, Coalescing::Off);
    for stream in [1, 2] {
        let report = Host {
            id: format!("app-{stream}"),
            ..host(9, HostOperation::Report, None, &["t"])
        };
        rounds.handle(Event::Connected(StreamId(stream), report));
    }
    rounds.handle(Event::Committed(1));
    rounds.handle(parse("1 lock 1"));
    rounds.handle(parse("1 update 1"));
    rounds.handle(parse("1 unlock 1"));
    assert_eq!(rounds.hosts().sorted().len(), 2);
    assert_eq!(table(&rounds.hosts().update(2, 1)), "t=9");
}

#[test]
fn pure_clients_get_the_current_table_at_once() {
    check(&[
        ("+1", "lock0>1 update0[]>1 unlock0>1"),
        ("1 lock 0", ""),
        ("1 update 0", ""),
        ("1 unlock 0", ""),
        ("+2 t", "arm-round lock1>1,2"),
        ("1 lock 1", ""),
        ("2 lock 1", "update1[t=2]>1,2"),
        ("1 update 1", ""),
        ("2 update 1", "unlock1>1,2"),
        ("1 unlock 1", ""),
        ("2 unlock 1", "disarm-round"),
        ("+3", "lock1>3 update1[t=2]>3 unlock1>3"),
        ("1", "lock1>1 update1[t=2]>1 unlock1>1"),
        ("1", "lock1>1 update1[t=2]>1 unlock1>1"),
    ]);
}

#[test]
fn answers_to_courtesy_orders_do_not_count_for_the_round() {
    check(&[
        ("+1", "lock0>1 update0[]>1 unlock0>1"),
        ("+2 t", "arm-round lock1>1,2"),
        // Of the orders before the round: too old.
        ("1 lock 0", ""),
        ("1 update 0", ""),
        ("1 unlock 0", ""),
        ("2 lock 1", ""),
        // Reported during the round: the answer owed to the round comes first, then those to the three.
        ("1", "lock1>1 update1[t=2]>1 unlock1>1"),
        ("1 lock 1", ""),
        ("1 lock 1", ""),
        ("1 update 1", ""),
        ("1 unlock 1", "update1[t=2]>1,2"),
        ("1 update 1", ""),
        ("2 update 1", "unlock1>1,2"),
    ]);
}

#[test]
fn repeated_reports_are_counted() {
    check(&[
        ("+1", "lock0>1 update0[]>1 unlock0>1"),
        ("+2 t", "arm-round lock1>1,2"),
        ("2 lock 1", ""),
        ("1", "lock1>1 update1[t=2]>1 unlock1>1"),
        ("1", "lock1>1 update1[t=2]>1 unlock1>1"),
        ("1 lock 1", ""),
        ("1 lock 1", ""),
        ("1 update 1", ""),
        ("1 unlock 1", ""),
        ("1 lock 1", ""),
        ("1 update 1", ""),
        ("1 unlock 1", "update1[t=2]>1,2"),
    ]);
}

#[test]
fn handling_of_replies() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        // Older versions are ignored, newer and missing ones are taken as current, the phase is not checked.
        ("1 lock 0", ""),
        ("1 unlock 9", "update1[t=1]>1"),
        ("1 update", "unlock1>1"),
        // Old clients answer with UNKNOWN.
        ("1 ?", "disarm-round"),
        // Outside of a round that is a report.
        ("1 ? t", ""),
        ("1 ? u", "arm-round lock2>1"),
        // Numbers of a later protocol mean nothing.
        ("1 77", ""),
        ("1 lock 2", "update2[u=1]>1"),
    ]);
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 t u", "arm-round lock2>1"),
        ("+2", ""),
        // One answer per stream and phase; those of parked and unknown streams are none.
        ("2 lock 2", ""),
        ("9 lock 2", ""),
        ("1 lock 2", "update2[t=1 u=1]>1"),
    ]);
}

#[test]
fn a_change_during_a_round_abandons_it() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 u", "arm-round lock2>1"),
        ("1 update 1", ""),
        ("1 lock 2", "update2[u=1]>1"),
        ("1 update 2", "unlock2>1"),
        ("1 unlock 2", "disarm-round"),
    ]);
}

#[test]
fn streams_that_do_not_open_with_a_report() {
    check(&[
        ("+1 !lock", ""),
        ("+2 77", ""),
        ("+3 t", "arm-round lock1>1,2,3"),
        ("1 lock 1", ""),
        ("2 lock 1", ""),
        ("3 lock 1", "update1[t=3]>1,2,3"),
    ]);
}

#[test]
fn connections_during_a_round_are_parked() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("+2 t", ""),
        ("+3", ""),
        // A parked stream may think again.
        ("2 u", ""),
        ("+4 t", ""),
        ("-4", ""),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round arm-round lock2>1,2,3"),
        ("1 lock 2", ""),
        ("2 lock 2", ""),
        ("3 lock 2", "update2[t=1 u=2]>1,2,3"),
    ]);
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("+2", ""),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        (
            "1 unlock 1",
            "disarm-round lock1>2 update1[t=1]>2 unlock1>2",
        ),
    ]);
}

#[test]
fn removal_rounds_go_before_addition_rounds() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("+2 t", "arm-round lock2>1,2"),
        ("+3 t", ""),
        ("2 lock 2", ""),
        ("-1", "update2[t=1,2]>2"),
        ("2 update 2", "unlock2>2"),
        ("2 unlock 2", "disarm-round arm-round lock3>2"),
        ("2 lock 3", "update3[t=2]>2"),
        ("2 update 3", "unlock3>2"),
        ("2 unlock 3", "disarm-round arm-round lock4>2,3"),
    ]);
}

#[test]
fn disconnects() {
    // Idle, stored: a round at once. A pure client leaves silently, and holds nothing up.
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("+2", "lock1>2 update1[t=1]>2 unlock1>2"),
        ("-1", "arm-round lock2>2"),
        ("2 lock 2", "update2[]>2"),
        ("2 update 2", "unlock2>2"),
        ("2 unlock 2", "disarm-round"),
        ("+3", "lock2>3 update2[]>3 unlock2>3"),
        ("-2", ""),
        ("+4 t", "arm-round lock3>3,4"),
        ("4 lock 3", ""),
        ("-3", "update3[t=4]>4"),
        ("-9", ""),
    ]);
    // The last member of a round leaves a parked one behind.
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("+2 u", ""),
        ("-1", "disarm-round arm-round lock3>2"),
    ]);
}

#[test]
fn a_timeout_closes_only_the_late() {
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("+2 t", "arm-round lock2>1,2"),
        ("+3 t", ""),
        ("1 lock 2", ""),
        ("round", "close2@2 arm-round lock3>1,3"),
        ("2 lock 3", ""),
        ("-2", ""),
        ("1 lock 3", ""),
        ("3 lock 3", "update3[t=1,3]>1,3"),
        ("1 update 3", ""),
        ("3 update 3", "unlock3>1,3"),
        ("3 unlock 3", ""),
        ("1 unlock 3", "disarm-round"),
        ("round", ""),
    ]);
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("round", "close1@1 arm-round disarm-round"),
    ]);
}

#[test]
fn coalescing() {
    check_with(
        Coalescing::On,
        &[
            ("+1 t", "arm-round lock1>1"),
            ("+2", ""),
            ("1 lock 1", "update1[t=1]>1"),
            ("1 update 1", "unlock1>1"),
            ("1 unlock 1", "disarm-round arm-window"),
            ("+3 t", ""),
            ("+4", ""),
            // A report of a connected stream is never held, and its round does not restart the window.
            ("1 u", "arm-round lock2>1"),
            ("1 lock 2", "update2[u=1]>1"),
            ("1 update 2", "unlock2>1"),
            ("1 unlock 2", "disarm-round"),
            ("-3", ""),
            ("-1", ""),
            ("+5", ""),
            // Removals force a round though the added have no types.
            ("window", "arm-round lock3>2,4,5"),
            ("2 lock 3", ""),
            ("4 lock 3", ""),
            ("5 lock 3", "update3[]>2,4,5"),
            ("2 update 3", ""),
            ("4 update 3", ""),
            ("5 update 3", "unlock3>2,4,5"),
            ("2 unlock 3", ""),
            ("4 unlock 3", ""),
            ("5 unlock 3", "disarm-round arm-window"),
            ("+6", ""),
            ("window", "lock3>6 update3[]>6 unlock3>6"),
            // Idle without a window: at once again.
            ("+7", "lock3>7 update3[]>7 unlock3>7"),
        ],
    );
    // The window closes during a round: the next round end opens another.
    check_with(
        Coalescing::On,
        &[
            ("+1 t", "arm-round lock1>1"),
            ("1 lock 1", "update1[t=1]>1"),
            ("1 update 1", "unlock1>1"),
            ("1 unlock 1", "disarm-round arm-window"),
            ("+2 t", ""),
            ("1 u", "arm-round lock2>1"),
            ("window", ""),
            ("1 lock 2", "update2[u=1]>1"),
            ("1 update 2", "unlock2>1"),
            ("1 unlock 2", "disarm-round arm-window"),
            ("window", "arm-round lock3>1,2"),
        ],
    );
}

#[test]
fn a_flood_of_reports_does_not_keep_the_others_locked() {
    let mut rounds = Rounds::new(100, Coalescing::Off);
    let mut locks = 0;
    let feed = |rounds: &mut Rounds, event: &str| {
        let mut actions = rounds.handle(parse(event));
        actions.extend(rounds.handle(Event::Committed(rounds.version())));
        actions
            .iter()
            .map(render)
            .filter(|text| text.starts_with("lock"))
            .count()
    };
    for event in [
        "+1 t",
        "1 lock 1",
        "1 update 1",
        "1 unlock 1",
        "+2 u",
        "1 lock 2",
    ] {
        feed(&mut rounds, event);
    }
    for number in 0..1001 {
        locks += feed(&mut rounds, if number % 2 == 0 { "2 v" } else { "2 w" });
    }
    assert_eq!(locks, 16, "a round is abandoned now and then, not always");
    let version = rounds.version();
    for phase in ["lock", "update", "unlock"] {
        for stream in [1, 2] {
            feed(&mut rounds, &format!("{stream} {phase} {version}"));
        }
    }
    // What it said last is not lost.
    assert_eq!(rounds.version(), version + 1);
    assert_eq!(rounds.hosts().sorted()[1].entities, ["v"]);
}

#[test]
fn no_table_leaves_before_the_replicas_agree() {
    let rounds = Rounds::new(100, Coalescing::Off);
    check_rounds(
        rounds,
        Replicas::Scripted,
        &[
            ("+1 t", "arm-round lock1>1"),
            ("1 lock 1", ""),
            // Pure clients wait as well.
            ("+2", ""),
            // Nobody is late when it is the replicas that are.
            ("round", "arm-round"),
            ("agreed 1", "update1[t=1]>1"),
            ("1 update 1", "unlock1>1"),
            (
                "1 unlock 1",
                "disarm-round lock1>2 update1[t=1]>2 unlock1>2",
            ),
            ("1 u", "arm-round lock2>1,2"),
            ("2", ""),
            // Of a round that was given up.
            ("agreed 1", ""),
            ("1 t u", "arm-round lock3>1,2"),
            ("agreed 2", ""),
            ("1 lock 3", ""),
            ("2 lock 3", ""),
            // A version of the future is none.
            ("agreed 9", "update3[t=1 u=1]>1,2"),
        ],
    );
    let rounds = Rounds::new(100, Coalescing::Off);
    check_rounds(
        rounds,
        Replicas::Scripted,
        &[
            ("+1", "lock0>1 update0[]>1 unlock0>1"),
            ("+2 t", "arm-round lock1>1,2"),
            ("1", ""),
            ("2 lock 1", ""),
            ("agreed 1", "lock1>1 update1[t=2]>1 unlock1>1"),
        ],
    );
}

#[test]
fn bystanders_are_waited_for_with_patience_only() {
    let begun = [
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("+2 u", "arm-round lock2>1,2"),
        ("2 lock 2", ""),
        // The first has nothing to do with u, and says nothing; it is not waited for again.
        ("patience", "update2[t=1 u=2]>1,2"),
        ("2 update 2", "unlock2>1,2"),
        ("2 unlock 2", "disarm-round"),
    ];
    let with = |rest: &[(&'static str, &'static str)]| check(&[&begun, rest].concat());
    // Its late answers count for nothing, but it is alive.
    with(&[
        ("1 lock 2", ""),
        ("1 update 2", ""),
        ("grace", ""),
        // Of a third with t it is no bystander.
        ("+3 t", "arm-round lock3>1,2,3"),
        ("3 lock 3", ""),
        ("2 lock 3", ""),
        ("patience", ""),
        ("1 lock 3", "update3[t=1,3 u=2]>1,2,3"),
        ("3 update 3", ""),
        ("patience", ""),
        ("1 update 3", "unlock3>1,2,3"),
    ]);
    // One that stays silent holds nobody up and is closed as late, and its types go.
    with(&[
        ("+3 v", "arm-round lock3>1,2,3"),
        ("3 lock 3", ""),
        ("2 lock 3", "update3[t=1 u=2 v=3]>1,2,3"),
        ("2 update 3", ""),
        ("3 update 3", "unlock3>1,2,3"),
        ("3 unlock 3", ""),
        // The second falls silent later and has its time.
        ("patience", "disarm-round"),
        ("grace", "close1@2 arm-round lock4>2,3"),
        ("3 lock 4", "update4[u=2 v=3]>2,3"),
        ("3 update 4", "unlock4>2,3"),
        ("3 unlock 4", "disarm-round"),
        ("grace", "close2@3 arm-round lock5>3"),
    ]);
    // Unless its own actors move: nobody can say whether they still run where they were.
    with(&[
        ("+3 t", "arm-round lock3>1,2,3"),
        ("3 lock 3", ""),
        ("2 lock 3", ""),
        ("patience", ""),
        ("round", "close1@3 arm-round lock4>2,3"),
    ]);
    // Answers without a version, late, would be taken for reports: such a stream is waited for.
    check(&[
        ("+1 ? t", "arm-round lock1>1"),
        ("1 ?", "update1[t=1]>1"),
        ("1 ?", "unlock1>1"),
        ("1 ?", "disarm-round"),
        ("+2 u", "arm-round lock2>1,2"),
        ("2 lock 2", ""),
        ("patience", ""),
        ("1 ?", "update2[t=1 u=2]>1,2"),
    ]);
    // Whoever gives its types up moves its actors too.
    check(&[
        ("+1 t", "arm-round lock1>1"),
        ("1 lock 1", "update1[t=1]>1"),
        ("1 update 1", "unlock1>1"),
        ("1 unlock 1", "disarm-round"),
        ("1", "arm-round lock2>1"),
        ("patience", ""),
        ("1 lock 2", "update2[]>1"),
    ]);
}

/// A namespace with hosts 1 to 3 of types t, t and u at version 7, without its former leader.
/// A report whose share of a table is so many MiB.
fn heavy(stream: u64, mebibytes: usize) -> Host {
    let name = "x".repeat((mebibytes << 20) / 2 - 100);
    host(stream, HostOperation::Report, None, &[&name])
}

/// Handles an event, lets the replicas agree, and answers every order; returns what was done beside the tables.
fn settle(rounds: &mut Rounds, event: Event) -> String {
    let mut events = VecDeque::from([event]);
    let mut done = Vec::new();
    while let Some(event) = events.pop_front() {
        let mut actions = rounds.handle(event);
        actions.extend(rounds.handle(Event::Committed(rounds.version())));
        for action in actions {
            if let Action::Send { to, order } = &action {
                let operation = match order.operation {
                    Operation::Lock => HostOperation::Lock,
                    Operation::Update => HostOperation::Update,
                    Operation::Unlock => HostOperation::Unlock,
                };
                let version = Some(order.version);
                events.extend(to.iter().map(|stream| {
                    Event::Message(*stream, host(stream.0, operation, version, &[]))
                }));
            }
            match &action {
                Action::Send { order, .. } if order.operation == Operation::Update => {
                    assert!(
                        order.bytes.len() <= 4 << 20,
                        "gRPC lets a client receive it"
                    );
                }
                Action::Send { order, .. } if order.operation == Operation::Unlock => {}
                Action::Arm(_) | Action::Disarm(_) | Action::Propose(_) => {}
                Action::Send { .. } | Action::Close { .. } | Action::Refuse { .. } => {
                    done.push(render(&action));
                }
            }
        }
    }
    done.join(" ")
}

#[test]
fn hosts_the_table_has_no_room_for_are_refused() {
    let mut rounds = Rounds::new(100, Coalescing::Off);
    let mut check = |event: Event, expected: &str| {
        let shown = format!("{event:.40?}");
        assert_eq!(settle(&mut rounds, event), expected, "{}", &shown[..40]);
    };
    let small = |stream| host(stream, HostOperation::Report, None, &["t"]);
    check(Event::Connected(StreamId(1), heavy(1, 3)), "lock1>1");
    // Nobody else hears of the one that is refused.
    check(Event::Connected(StreamId(2), heavy(2, 3)), "refuse2");
    check(Event::Connected(StreamId(3), small(3)), "lock2>1,3");
    // One that has a host already leaves with it.
    check(Event::Message(StreamId(3), heavy(3, 3)), "refuse3 lock3>1");
    // What it reported before makes room for what it reports now.
    check(Event::Message(StreamId(1), heavy(1, 2)), "lock4>1");
    check(Event::Visited(StreamId(9), heavy(9, 3)), "refuse9");
    check(Event::Disconnected(StreamId(1)), "");
    check(Event::Connected(StreamId(2), heavy(2, 3)), "lock6>2");
}

/// The distinct frames of a round of so many hosts, in which one more joins and a client asks for the table, as their
/// addresses and lengths.
fn frames(hosts: u64) -> BTreeMap<*const u8, usize> {
    let mut rounds = Rounds::new(100, Coalescing::Off);
    for stream in 1..=hosts {
        settle(
            &mut rounds,
            Event::Connected(
                StreamId(stream),
                host(stream, HostOperation::Report, None, &["t"]),
            ),
        );
    }
    let client = StreamId(hosts + 2);
    let events = [
        Event::Connected(
            StreamId(hosts + 1),
            host(hosts + 1, HostOperation::Report, None, &["t"]),
        ),
        Event::Connected(client, host(client.0, HostOperation::Report, None, &[])),
    ];
    let mut updates = Vec::new();
    let mut events = VecDeque::from(events);
    while let Some(event) = events.pop_front() {
        let mut actions = rounds.handle(event);
        actions.extend(rounds.handle(Event::Committed(rounds.version())));
        for action in actions {
            let Action::Send { to, order } = action else {
                continue;
            };
            let operation = match order.operation {
                Operation::Lock => HostOperation::Lock,
                Operation::Update => HostOperation::Update,
                Operation::Unlock => HostOperation::Unlock,
            };
            let version = Some(order.version);
            events
                .extend(to.iter().map(|stream| {
                    Event::Message(*stream, host(stream.0, operation, version, &[]))
                }));
            if order.operation == Operation::Update {
                updates.push((to, order));
            }
        }
    }
    assert_eq!(updates.len(), 2, "one for the round and one for the client");
    assert_eq!(updates[1].0, [client]);
    let frames = updates.iter();
    frames
        .map(|(_, order)| (order.frame.as_ptr(), order.frame.len()))
        .collect()
}

#[test]
fn a_table_is_encoded_once_for_the_round_and_for_those_beside_it() {
    let lengths = [100, 200, 400].map(|hosts| {
        let frames = frames(hosts);
        assert_eq!(frames.len(), 1, "all share one frame: {frames:?}");
        frames.into_values().sum::<usize>()
    });
    // Twice the hosts take twice the bytes, and not four times.
    assert!(lengths[1] * 10 < lengths[0] * 21, "{lengths:?}");
    assert!(lengths[2] * 10 < lengths[1] * 21, "{lengths:?}");
}

fn left() -> Namespace {
    let mut hosts = Hosts::default();
    for (stream, entity) in [(1, "t"), (2, "t"), (3, "u")] {
        // Streams of the next leader have ids of their own.
        hosts.report(
            StreamId(stream + 10),
            host(stream, HostOperation::Report, None, &[entity]),
        );
    }
    Namespace {
        life: 1,
        version: 7,
        replication_factor: 100,
        hosts: hosts.step(7, 100).put,
    }
}

fn check_resumed(script: &[(&str, &str)]) {
    let (rounds, actions) = Rounds::resume(100, Coalescing::Off, &left());
    assert_eq!(actions, [Action::Arm(Timer::Lease)]);
    check_rounds(rounds, Replicas::Quick, script);
}

#[test]
fn who_comes_back_with_what_the_table_says_disturbs_nobody() {
    check_resumed(&[
        ("+1 t", "lock7>1 update7[t=1,2 u=3]>1 unlock7>1"),
        ("1 lock 7", ""),
        ("1 update 7", ""),
        ("1 unlock 7", ""),
        ("+3 u", "lock7>3 update7[t=1,2 u=3]>3 unlock7>3"),
        (
            "+2 t",
            "lock7>2 update7[t=1,2 u=3]>2 unlock7>2 disarm-lease",
        ),
        ("1 t", ""),
        ("+4 t", "arm-round lock8>1,2,3,4"),
    ]);
}

#[test]
fn who_does_not_come_back_is_removed_in_one_round() {
    check_resumed(&[
        ("+1 t", "lock7>1 update7[t=1,2 u=3]>1 unlock7>1"),
        ("lease", "arm-round lock8>1"),
        ("1 lock 8", "update8[t=1]>1"),
        // Too late: this is a new host.
        ("+3 u", ""),
        ("1 update 8", "unlock8>1"),
        ("1 unlock 8", "disarm-round arm-round lock9>1,3"),
    ]);
    // Nobody came back at all.
    check_resumed(&[("lease", ""), ("+5 t", "arm-round lock9>5")]);
}

#[test]
fn only_real_differences_make_a_round() {
    check_resumed(&[
        ("+1 t", "lock7>1 update7[t=1,2 u=3]>1 unlock7>1"),
        // It takes its place, and does not stand beside what it was.
        ("+2 t u", "arm-round lock8>1,2"),
        ("1 lock 8", ""),
        ("2 lock 8", "update8[t=1,2 u=2,3]>1,2"),
        ("1 update 8", ""),
        ("2 update 8", "unlock8>1,2"),
        // Parked, and nothing new when its turn comes.
        ("+3 u", ""),
        ("1 unlock 8", ""),
        (
            "2 unlock 8",
            "disarm-round lock8>3 update8[t=1,2 u=2,3]>3 unlock8>3 disarm-lease",
        ),
        ("-3", "arm-round lock9>1,2"),
    ]);
    // Hosting nothing any more is a difference too.
    check_resumed(&[
        ("+3", "arm-round lock8>3"),
        ("3 lock 8", "update8[t=1,2]>3"),
    ]);
}

#[test]
fn another_replication_factor_is_another_table() {
    let (_, actions) = Rounds::resume(7, Coalescing::Off, &left());
    let [Action::Arm(Timer::Lease), Action::Propose(step)] = &actions[..] else {
        panic!("a version is proposed: {actions:?}");
    };
    assert_eq!((step.version, step.replication_factor), (8, 7));
}

/// A step of a random history; the first number picks one of the connected streams.
#[derive(Clone, Debug)]
enum Step {
    Connect(Vec<&'static str>),
    Report(usize, Vec<&'static str>),
    /// The sidecar handles its next order.
    Obey(usize),
    /// The server handles the sidecar's next message.
    Hear(usize),
    Disconnect(usize),
    Fire(bool),
    /// The replicas agree on what was proposed last.
    Agree,
    LosePatience,
    EndGrace,
}

fn types() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(vec!["a", "b", "c"], 0..=2)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => types().prop_map(Step::Connect),
        2 => (any::<usize>(), types()).prop_map(|(stream, types)| Step::Report(stream, types)),
        12 => any::<usize>().prop_map(Step::Obey),
        12 => any::<usize>().prop_map(Step::Hear),
        1 => any::<usize>().prop_map(Step::Disconnect),
        1 => any::<bool>().prop_map(Step::Fire),
        6 => Just(Step::Agree),
        2 => Just(Step::LosePatience),
        1 => Just(Step::EndGrace),
    ];
    prop::collection::vec(step, 0..120)
}

/// A sidecar that obeys in order and answers everything.
#[derive(Default)]
struct Sidecar {
    entities: Vec<&'static str>,
    inbox: VecDeque<Order>,
    outbox: VecDeque<Host>,
    /// Version of the last order that was sent to it.
    sent: u64,
    locked: Option<u64>,
    table: Option<(u64, String)>,
    /// Unlocked with the table of this version.
    unlocked: Option<u64>,
}

struct World {
    rounds: Rounds,
    sidecars: BTreeMap<StreamId, Sidecar>,
    next: u64,
    tables: BTreeMap<u64, String>,
    round_armed: bool,
    window_armed: bool,
    proposed: u64,
    replicas: Replicas,
}

impl World {
    fn new(coalescing: Coalescing, replicas: Replicas) -> Self {
        Self {
            replicas,
            proposed: 0,
            rounds: Rounds::new(1, coalescing),
            sidecars: BTreeMap::new(),
            next: 1,
            tables: BTreeMap::new(),
            round_armed: false,
            window_armed: false,
        }
    }

    fn pick(&self, number: usize) -> Option<StreamId> {
        self.sidecars
            .keys()
            .nth(number % self.sidecars.len().max(1))
            .copied()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect(entities) => {
                let stream = StreamId(self.next);
                self.next += 1;
                let report = host(stream.0, HostOperation::Report, None, &entities);
                self.sidecars.insert(
                    stream,
                    Sidecar {
                        entities,
                        ..Sidecar::default()
                    },
                );
                self.feed(Event::Connected(stream, report));
            }
            Step::Report(number, entities) => {
                let Some(stream) = self.pick(number) else {
                    return;
                };
                let sidecar = self.sidecars.get_mut(&stream).expect("picked");
                sidecar
                    .outbox
                    .push_back(host(stream.0, HostOperation::Report, None, &entities));
                sidecar.entities = entities;
            }
            Step::Obey(number) => {
                if let Some(stream) = self.pick(number) {
                    self.obey(stream);
                }
            }
            Step::Hear(number) => {
                if let Some(stream) = self.pick(number) {
                    self.hear(stream);
                }
            }
            Step::Disconnect(number) => {
                let Some(stream) = self.pick(number) else {
                    return;
                };
                self.sidecars.remove(&stream);
                self.feed(Event::Disconnected(stream));
            }
            Step::Fire(true) if self.round_armed => self.feed(Event::Fired(Timer::Round)),
            Step::Fire(false) if self.window_armed => {
                self.window_armed = false;
                self.feed(Event::Fired(Timer::Window));
            }
            Step::Fire(_) => {}
            Step::Agree => {
                self.agree();
            }
            Step::LosePatience => self.feed(Event::Fired(Timer::Patience)),
            Step::EndGrace => self.feed(Event::Fired(Timer::Grace)),
        }
        self.check();
    }

    /// Says whether there was something to agree on.
    fn agree(&mut self) -> bool {
        let waits = !self.rounds.is_agreed();
        self.take(Event::Committed(self.proposed));
        waits
    }

    fn feed(&mut self, event: Event) {
        self.take(event);
        if self.replicas == Replicas::Quick {
            self.agree();
        }
    }

    fn take(&mut self, event: Event) {
        for action in self.rounds.handle(event) {
            match action {
                Action::Send { to, order } => {
                    if order.operation == Operation::Update {
                        assert!(
                            order.version <= self.rounds.agreed_version(),
                            "no table leaves before it is agreed on"
                        );
                        let table = table(&order);
                        let known = self
                            .tables
                            .entry(order.version)
                            .or_insert_with(|| table.clone());
                        assert_eq!(*known, table, "one version is one table");
                    }
                    for stream in to {
                        let sidecar = self
                            .sidecars
                            .get_mut(&stream)
                            .expect("orders go to connected streams");
                        assert!(
                            order.version >= sidecar.sent,
                            "versions of a stream never go back"
                        );
                        sidecar.sent = order.version;
                        sidecar.inbox.push_back(order.clone());
                    }
                }
                Action::Close { stream, .. } | Action::Refuse { stream, .. } => {
                    assert!(
                        self.sidecars.remove(&stream).is_some(),
                        "a stream is closed once"
                    );
                }
                Action::Arm(Timer::Round) => self.round_armed = true,
                Action::Disarm(Timer::Round) => self.round_armed = false,
                Action::Arm(Timer::Window) => self.window_armed = true,
                Action::Disarm(Timer::Window) => self.window_armed = false,
                Action::Arm(Timer::Patience | Timer::Grace | Timer::Lease)
                | Action::Disarm(Timer::Patience | Timer::Grace | Timer::Lease) => {}
                Action::Propose(step) => {
                    assert_eq!(step.version, self.proposed + 1);
                    self.proposed = step.version;
                }
            }
        }
    }

    fn obey(&mut self, stream: StreamId) -> bool {
        let sidecar = self.sidecars.get_mut(&stream).expect("picked");
        let Some(order) = sidecar.inbox.pop_front() else {
            return false;
        };
        let answer = match order.operation {
            Operation::Lock => {
                sidecar.locked = Some(order.version);
                sidecar.unlocked = None;
                HostOperation::Lock
            }
            Operation::Update => {
                assert!(
                    sidecar.locked.is_some_and(|locked| locked <= order.version),
                    "an update follows its lock"
                );
                sidecar.table = Some((order.version, table(&order)));
                HostOperation::Update
            }
            Operation::Unlock => {
                let installed = sidecar.table.as_ref().map(|(version, _)| *version);
                assert_eq!(
                    installed,
                    Some(order.version),
                    "an unlock follows its update"
                );
                sidecar.unlocked = Some(order.version);
                HostOperation::Unlock
            }
        };
        sidecar
            .outbox
            .push_back(host(stream.0, answer, Some(order.version), &[]));
        true
    }

    fn hear(&mut self, stream: StreamId) -> bool {
        let Some(message) = self
            .sidecars
            .get_mut(&stream)
            .and_then(|sidecar| sidecar.outbox.pop_front())
        else {
            return false;
        };
        self.feed(Event::Message(stream, message));
        true
    }

    fn check(&self) {
        let mut hosting: BTreeMap<String, (StreamId, String)> = BTreeMap::new();
        for (stream, sidecar) in &self.sidecars {
            let Some(version) = sidecar.unlocked else {
                continue;
            };
            let (installed, table) = sidecar.table.as_ref().expect("unlocked with a table");
            assert_eq!(
                (*installed, table),
                (version, &self.tables[&version]),
                "{stream:?} serves with its table"
            );
            let own = stream.0.to_string();
            for (entity, hosts) in table.split(' ').filter_map(|types| types.split_once('=')) {
                if hosts.split(',').all(|host| host != own) {
                    continue;
                }
                let (other, known) = hosting
                    .entry(entity.to_owned())
                    .or_insert_with(|| (*stream, hosts.to_owned()));
                assert_eq!(
                    known, hosts,
                    "{stream:?} and {other:?} serve {entity} with different tables"
                );
            }
        }
        let idle = self.rounds.phase == Phase::Idle;
        assert_eq!(
            self.round_armed, !idle,
            "the limit runs exactly during a round"
        );
        let missing = self
            .rounds
            .members
            .values()
            .filter(|member| !member.answered)
            .count();
        assert_eq!(self.rounds.missing, missing);
        assert!(!idle || missing == 0);
        assert_eq!(self.window_armed, self.rounds.window_open);
    }

    /// Lets everybody finish without any limit running out.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "a round always ends");
            let mut busy = self.agree();
            let streams: Vec<StreamId> = self.sidecars.keys().copied().collect();
            for stream in streams {
                busy |= self.obey(stream);
                busy |= self.hear(stream);
                busy |= self.agree();
                self.check();
            }
            if !busy && self.window_armed {
                self.step(Step::Fire(false));
                busy = true;
            }
            if !busy {
                return;
            }
        }
    }

    fn check_settled(&self) {
        assert_eq!(self.rounds.phase, Phase::Idle);
        assert!(self.rounds.parked.is_empty() && self.rounds.gone.is_empty());
        let mut expected: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (stream, sidecar) in &self.sidecars {
            for entity in &sidecar.entities {
                expected
                    .entry(entity)
                    .or_default()
                    .insert(stream.0.to_string());
            }
        }
        for (stream, sidecar) in &self.sidecars {
            assert_eq!(
                sidecar.unlocked,
                Some(self.rounds.version()),
                "{stream:?} serves with the last version"
            );
            let (_, table) = sidecar.table.as_ref().expect("unlocked with a table");
            let held: BTreeMap<&str, BTreeSet<String>> = table
                .split(' ')
                .filter_map(|types| types.split_once('='))
                .map(|(name, hosts)| (name, hosts.split(',').map(str::to_owned).collect()))
                .collect();
            assert_eq!(held, expected);
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_histories_keep_the_promises(steps in steps(), coalesce in any::<bool>()) {
        let coalescing = if coalesce { Coalescing::On } else { Coalescing::Off };
        let mut world = World::new(coalescing, Replicas::Scripted);
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.check_settled();
    }

    #[test]
    fn no_message_confuses_the_count(
        messages in prop::collection::vec((0u64..5, 0i32..7, prop::option::of(0u64..6), types(), 0u8..12), 0..200),
    ) {
        let mut world = World::new(Coalescing::Off, Replicas::Quick);
        for (stream, operation, version, entities, kind) in messages {
            let message = Host { operation, version, ..host(stream, HostOperation::Report, None, &entities) };
            let id = StreamId(stream);
            let event = match kind {
                0 if world.sidecars.remove(&id).is_some() => Event::Disconnected(id),
                1 if world.round_armed => Event::Fired(Timer::Round),
                _ if world.sidecars.contains_key(&id) => Event::Message(id, message),
                _ => {
                    world.sidecars.insert(id, Sidecar::default());
                    Event::Connected(id, message)
                }
            };
            world.feed(event);
            world.check();
        }
    }
}
