//! Stories of one replica and its sidecars.

use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};
use tonic::Code;

use crate::process::{Placement, eventually, get};
use crate::sidecar::{NAMESPACE, Sidecar, report, round, show};

#[tokio::test]
async fn the_first_host_gets_a_round_of_its_own() {
    let placement = Placement::start(&["--replicationFactor=7"]).await;
    let mut sidecar = Sidecar::connect(placement.port, "a", &["t", "s"]).await;
    sidecar.expect("lock", 1).await;
    sidecar.answer(HostOperation::Lock, 1).await;
    let tables = sidecar
        .expect("update", 1)
        .await
        .expect("an update has tables");
    assert_eq!(
        (show(&tables).as_str(), tables.replication_factor),
        ("s=a t=a", 7)
    );
    let expected = Host {
        entities: vec!["s".to_owned(), "t".to_owned()],
        ..report("a", &[])
    };
    assert_eq!(tables.entries["t"].load_map["a:50002"], expected);
    sidecar.answer(HostOperation::Update, 1).await;
    sidecar.expect("unlock", 1).await;
    sidecar.answer(HostOperation::Unlock, 1).await;

    // Another one joins, one without types gets the table at once, and leaving is a round too.
    let mut other = Sidecar::connect(placement.port, "b", &["t"]).await;
    assert_eq!(round(&mut [&mut sidecar, &mut other], 2).await, "s=a t=a,b");
    let mut client = Sidecar::connect(placement.port, "c", &[]).await;
    assert_eq!(round(&mut [&mut client], 2).await, "s=a t=a,b");
    drop(sidecar);
    assert_eq!(round(&mut [&mut other, &mut client], 3).await, "t=b");
}

#[tokio::test]
async fn namespaces_have_their_own_versions_which_start_over() {
    let placement = Placement::start(&[]).await;
    let mut here = Sidecar::connect(placement.port, "a", &["t"]).await;
    assert_eq!(round(&mut [&mut here], 1).await, "t=a");
    let elsewhere = Host {
        namespace: "elsewhere".to_owned(),
        ..report("b", &["u"])
    };
    let mut there = Sidecar::open(placement.port, elsewhere)
        .await
        .expect("opens");
    there.expect("lock", 1).await;
    drop(here);
    let gone = format!("dapr_placement_runtimes_total{{host_namespace=\"{NAMESPACE}\"}} 0");
    eventually("the stream is gone", async || {
        get(placement.metrics_port, "/")
            .await
            .is_ok_and(|(.., text)| text.contains(&gone))
    })
    .await;
    let mut again = Sidecar::connect(placement.port, "a", &["t"]).await;
    assert_eq!(round(&mut [&mut again], 1).await, "t=a");
}

#[tokio::test]
async fn a_message_that_names_another_namespace_is_handed_to_it() {
    let placement = Placement::start(&[]).await;
    let elsewhere = |id: &str, types: &[&str]| Host {
        namespace: "elsewhere".to_owned(),
        ..report(id, types)
    };
    let mut here = Sidecar::connect(placement.port, "a", &["t"]).await;
    assert_eq!(round(&mut [&mut here], 1).await, "t=a");
    // Nobody is there: it is dropped, as the next round of the stream tells.
    here.send(elsewhere("a", &["v"])).await;
    here.send(report("a", &["s"])).await;
    assert_eq!(round(&mut [&mut here], 2).await, "s=a");
    let mut there = Sidecar::open(placement.port, elsewhere("b", &["u"]))
        .await
        .expect("opens");
    assert_eq!(round(&mut [&mut there], 1).await, "u=b");
    here.send(elsewhere("a", &["u"])).await;
    assert_eq!(round(&mut [&mut there], 2).await, "u=a,b");
    // It stays a host of its own namespace, and is none of the other one when it leaves.
    let mut other = Sidecar::connect(placement.port, "c", &[]).await;
    assert_eq!(round(&mut [&mut other], 2).await, "s=a");
    drop(here);
    assert_eq!(round(&mut [&mut there], 3).await, "u=b");
    assert_eq!(round(&mut [&mut other], 3).await, "");
}

#[tokio::test]
async fn a_laggard_is_closed_and_the_others_go_on() {
    let placement = Placement::start(&["--disseminate-timeout=500ms"]).await;
    let mut good = Sidecar::connect(placement.port, "good", &["t"]).await;
    assert_eq!(round(&mut [&mut good], 1).await, "t=good");
    let mut laggard = Sidecar::connect(placement.port, "laggard", &["t"]).await;
    good.expect("lock", 2).await;
    good.answer(HostOperation::Lock, 2).await;
    let status = laggard.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(
        status.message(),
        "dissemination timeout after 500ms for version 2"
    );
    assert_eq!(round(&mut [&mut good], 3).await, "t=good");
}

#[tokio::test]
async fn the_window_collects_connects() {
    let placement = Placement::start(&["--disseminate-coalesce-window=300ms"]).await;
    let mut first = Sidecar::connect(placement.port, "a", &["t"]).await;
    assert_eq!(round(&mut [&mut first], 1).await, "t=a");
    let mut second = Sidecar::connect(placement.port, "b", &["t"]).await;
    let mut third = Sidecar::connect(placement.port, "c", &["t"]).await;
    assert_eq!(
        round(&mut [&mut first, &mut second, &mut third], 2).await,
        "t=a,b,c"
    );
}

#[tokio::test]
async fn refused_messages_end_the_stream() {
    let placement = Placement::start(&[]).await;
    let check = async |first: Host, expected: Code| {
        let mut sidecar = Sidecar::open(placement.port, first.clone())
            .await
            .expect("opens");
        assert_eq!(sidecar.end().await.code(), expected, "{first:?}");
    };
    check(report("", &["t"]), Code::InvalidArgument).await;
    check(
        Host {
            namespace: String::new(),
            ..report("a", &["t"])
        },
        Code::InvalidArgument,
    )
    .await;
    check(
        Host {
            operation: 0,
            version: Some(1),
            ..report("a", &["t"])
        },
        Code::InvalidArgument,
    )
    .await;
    check(
        report("a", &["dapr.internal.default.b.workflow"]),
        Code::PermissionDenied,
    )
    .await;

    let mut later = Sidecar::connect(placement.port, "a", &[]).await;
    later.expect("lock", 0).await;
    later.send(report("", &["t"])).await;
    assert_eq!(later.end().await.code(), Code::InvalidArgument);

    let mut closing = Sidecar::connect(placement.port, "a", &[]).await;
    closing.half_close();
    let status = closing.end().await;
    assert_eq!((status.code(), status.message()), (Code::Unknown, "EOF"));
}

#[tokio::test]
async fn a_frozen_sidecar_is_found_by_pings() {
    let placement = Placement::start(&[
        "--keepalive-time=1s",
        "--keepalive-timeout=1s",
        "--disseminate-timeout=1m",
    ])
    .await;
    let mut good = Sidecar::connect(placement.port, "good", &["t"]).await;
    assert_eq!(round(&mut [&mut good], 1).await, "t=good");
    // A peer that speaks just enough HTTP/2 to be a connection and never answers a ping is dropped like any other;
    // here a whole runtime is stopped, sockets open.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let port = placement.port;
    let (frozen, runtime) = tokio::task::spawn_blocking(move || {
        let mut sidecar = runtime.block_on(Sidecar::connect(port, "frozen", &["t"]));
        runtime.block_on(sidecar.expect("lock", 2));
        (sidecar, runtime)
    })
    .await
    .expect("connects");
    good.expect("lock", 2).await;
    good.answer(HostOperation::Lock, 2).await;
    // The frozen one was the last missing answer, and its removal is the next round.
    good.expect("update", 2).await;
    good.answer(HostOperation::Update, 2).await;
    good.expect("unlock", 2).await;
    good.answer(HostOperation::Unlock, 2).await;
    assert_eq!(round(&mut [&mut good], 3).await, "t=good");
    tokio::task::spawn_blocking(move || drop((frozen, runtime)))
        .await
        .expect("dropped");
}

/// Answers every order until the version is unlocked, and returns the table it then has.
async fn obey_until(mut sidecar: Sidecar, done: impl Fn(&str) -> bool) -> String {
    let mut table = String::new();
    loop {
        let order = sidecar.next().await.expect("an order");
        let answer = match order.operation.as_str() {
            "lock" => HostOperation::Lock,
            "update" => {
                table = show(&order.tables.expect("an update has tables"));
                HostOperation::Update
            }
            _ => HostOperation::Unlock,
        };
        sidecar.answer(answer, order.version).await;
        if answer == HostOperation::Unlock && done(&table) {
            return table;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_ends_with_one_table() {
    const CROWD: usize = 60;
    let placement = Placement::start(&[]).await;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..CROWD {
        let port = placement.port;
        crowd.spawn(async move {
            let sidecar = Sidecar::connect(port, &format!("app-{number:03}"), &["t"]).await;
            // A stream that ended early would take its host out of the table.
            obey_until(sidecar, |table| table.split(',').count() == CROWD).await
        });
    }
    let mut tables = std::collections::BTreeSet::new();
    while let Some(table) = crowd.join_next().await {
        tables.insert(table.expect("no panic"));
        if tables.len() > 1 {
            break;
        }
    }
    assert_eq!(tables.len(), 1, "{tables:?}");
}

#[tokio::test]
async fn hosts_with_long_names_leave_room_for_others() {
    // A client as gRPC makes it: it takes messages of 4 MiB.
    let placement = Placement::start(&[]).await;
    let long = "x".repeat(1_450_000);
    let mut hog = Sidecar::connect(placement.port, "hog", &[&long]).await;
    round(&mut [&mut hog], 1).await;
    let mut second = Sidecar::connect(placement.port, "second", &[&long]).await;
    let status = second.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    let text = "other hosts of the namespace have left";
    assert!(status.message().contains(text), "{status:?}");
    // Nobody else noticed, and who needs little gets the table.
    let mut small = Sidecar::connect(placement.port, "small", &["t"]).await;
    let table = round(&mut [&mut hog, &mut small], 2).await;
    assert_eq!(table, format!("t=small {long}=hog"));
}

#[tokio::test]
async fn a_stream_that_does_not_read_is_dropped() {
    let placement = Placement::start(&[]).await;
    // A large table fills the windows of the connection soon.
    let types: Vec<String> = (0..100)
        .map(|number| format!("an-actor-type-with-a-long-name-{number:03}"))
        .collect();
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let mut host = Sidecar::connect(placement.port, "host", &types).await;
    round(&mut [&mut host], 1).await;
    let mut deaf = Sidecar::connect(placement.port, "deaf", &[]).await;
    deaf.expect("lock", 1).await;
    let alone = format!("dapr_placement_runtimes_total{{host_namespace=\"{NAMESPACE}\"}} 1");
    let forgotten = eventually("the stream is forgotten", async || {
        get(placement.metrics_port, "/")
            .await
            .is_ok_and(|(.., text)| text.contains(&alone))
    });
    deaf.send_until(report("deaf", &[]), forgotten).await;
    // The status reaches it once it reads again, and the others did not notice.
    assert_eq!(deaf.end().await.code(), Code::ResourceExhausted);
    let mut other = Sidecar::connect(placement.port, "other", &["t"]).await;
    host.expect("lock", 2).await;
    other.expect("lock", 2).await;
}
