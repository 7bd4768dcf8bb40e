//! Whatever happens to objects and connections, and in whatever order: in the end reader, changes and server agree.

use std::collections::BTreeSet;
use std::time::Duration;

use dapr_e2e_apiserver::scripted::{Fault, Options, Server, Versions};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, RngSeed};

use crate::support::{PATH, Watched, config_map, eventually, quick, start};

/// Names an object can have: few, so that deletions and returns of the same name are common.
const NAMES: u8 = 6;
/// How many sequences are tried.
const CASES: u32 = 96;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Happens {
    Put(u8, u8),
    Delete(u8),
    /// An object nobody can read takes the place of one.
    Spoil(u8),
    FailList(Fault),
    FailWatch(Fault),
    Disturb(Fault),
    Compact,
    ExpirePages,
    Restart,
    /// The server is away while these objects are deleted, and forgets its history.
    Restore(Vec<u8>),
    /// The watcher gets a chance to see what was done before.
    Pause(u8),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Status {
            code: 410,
            retry_after: None
        }),
        Just(Fault::Status {
            code: 429,
            retry_after: Some(0)
        }),
        Just(Fault::Status {
            code: 500,
            retry_after: None
        }),
        Just(Fault::Status {
            code: 403,
            retry_after: None
        }),
        Just(Fault::Error(410)),
        Just(Fault::Error(500)),
        Just(Fault::Reset),
        Just(Fault::Garbage),
        Just(Fault::Duplicate),
        Just(Fault::End),
    ]
}

/// The same, and those that take a timeout to be noticed: they are rarer, or a run takes minutes.
fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![20 => fault(), 1 => Just(Fault::Silent), 1 => Just(Fault::Mute)]
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (0..NAMES, any::<u8>()).prop_map(|(name, value)| Happens::Put(name, value)),
        4 => (0..NAMES).prop_map(Happens::Delete),
        1 => (0..NAMES).prop_map(Happens::Spoil),
        2 => any_fault().prop_map(Happens::FailList),
        2 => any_fault().prop_map(Happens::FailWatch),
        3 => any_fault().prop_map(Happens::Disturb),
        1 => Just(Happens::Compact),
        1 => Just(Happens::ExpirePages),
        1 => Just(Happens::Restart),
        1 => proptest::collection::vec(0..NAMES, 0..3).prop_map(Happens::Restore),
        6 => (0_u8..8).prop_map(Happens::Pause),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let versions = prop_oneof![Just(Versions::On), Just(Versions::Off)];
    let events = prop_oneof![3 => Just(None), 1 => Just(Some(1)), 1 => Just(Some(3))];
    let bookmarks = prop_oneof![Just(None), Just(Some(Duration::from_millis(20)))];
    (versions, events, bookmarks, any::<[bool; 3]>()).prop_map(
        |(versions, events_per_watch, bookmarks, [first, second, third])| Options {
            versions,
            events_per_watch,
            bookmarks,
            initial_events: first,
            late_heads: second,
            paging: third,
            ..Options::complete()
        },
    )
}

async fn make(server: &Server, happens: &Happens) {
    let name = |name: &u8| format!("object-{name}");
    match happens {
        Happens::Put(number, value) => {
            drop(server.put(config_map(&name(number), &value.to_string())))
        }
        Happens::Delete(number) => drop(server.delete(&config_map(&name(number), ""))),
        Happens::Spoil(number) => {
            let mut object = config_map(&name(number), "");
            object["data"] = serde_json::json!("not a map");
            server.put(object);
        }
        Happens::FailList(fault) => server.fail_list(*fault),
        Happens::FailWatch(fault) => server.fail_watch(*fault),
        Happens::Disturb(fault) => server.disturb(*fault),
        Happens::Compact => server.compact(),
        Happens::ExpirePages => server.expire_pages(),
        Happens::Restart => {
            server.stop().await;
            server.resume().await.expect("the same port");
        }
        Happens::Restore(numbers) => {
            server.stop().await;
            for number in numbers {
                server.delete(&config_map(&name(number), ""));
            }
            server.compact();
            server.resume().await.expect("the same port");
        }
        Happens::Pause(millis) => {
            tokio::time::sleep(Duration::from_millis(u64::from(*millis))).await
        }
    }
}

/// Runs one sequence; the names that were never deleted must never be told as deleted.
async fn check(options: Options, before: Vec<u8>, sequence: Vec<Happens>) {
    let server = start(options).await;
    for number in &before {
        server.put(config_map(&format!("object-{number}"), "first"));
    }
    let mut config = quick();
    config.page = 2;
    let watched = Watched::config_maps(&server, config).await;
    for happens in &sequence {
        make(&server, happens).await;
    }
    server.calm();
    // What cannot be read is made good again; its last readable version was served until now.
    let fallen: BTreeSet<u8> = sequence.iter().filter_map(spoilt).collect();
    for number in &fallen {
        server.delete(&config_map(&format!("object-{number}"), ""));
    }
    watched.agrees(&server).await;
    watched.assert_sound();
    eventually("one watch", || match server.open_watches(PATH) {
        0 | 1 => Ok(()),
        open => Err(format!("{open} watches are open")),
    })
    .await;
    // One that was just dropped may still be seen beside its successor.
    assert!(
        server.most_open_watches(PATH) <= 2,
        "{} watches at once",
        server.most_open_watches(PATH)
    );
    let deleted = deleted(&sequence);
    for (_, name) in &watched.told.lock().deleted {
        assert!(
            deleted.contains(name),
            "{name} stayed, and was told as deleted"
        );
    }
}

fn spoilt(happens: &Happens) -> Option<u8> {
    match happens {
        Happens::Spoil(number) => Some(*number),
        _ => None,
    }
}

/// Every name that was deleted at least once, also by the end of [`check`].
fn deleted(sequence: &[Happens]) -> BTreeSet<String> {
    let numbers = sequence.iter().flat_map(|happens| match happens {
        Happens::Delete(number) | Happens::Spoil(number) => vec![*number],
        Happens::Restore(numbers) => numbers.clone(),
        _ => Vec::new(),
    });
    numbers.map(|number| format!("object-{number}")).collect()
}

#[test]
fn reader_changes_and_server_agree_in_the_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let config = ProptestConfig {
        cases: CASES,
        // A sequence that fails takes the whole limit to do so.
        max_shrink_iters: 10,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(18),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let before = proptest::collection::vec(0..NAMES, 0..5);
    let sequence = proptest::collection::vec(happens(), 1..40);
    proptest!(config, |(options in options(), before in before, sequence in sequence)| {
        runtime.block_on(check(options, before, sequence));
    });
}
