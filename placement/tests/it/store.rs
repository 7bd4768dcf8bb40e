//! Stories of `--raft-logstore-path`, and of replicas that come and go.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::process::{PATIENCE, Placement, eventually, free_ports, get};
use crate::sidecar::{Sidecar, report, round};
use crate::start::check;

fn path(folder: &Path) -> String {
    format!("--raft-logstore-path={}", folder.display())
}

fn list(ids: std::ops::Range<usize>, ports: &[u16]) -> String {
    let entries: Vec<String> = ids
        .map(|id| format!("p{id}=127.0.0.1:{}", ports[id]))
        .collect();
    entries.join(",")
}

#[tokio::test]
async fn a_table_survives_all_replicas() {
    let folder = tempfile::tempdir().expect("a folder");
    let [raft] = free_ports();
    let cluster = format!("p0=127.0.0.1:{raft}");
    let flag = path(folder.path());
    let placement = Placement::launch("p0", &cluster, &[&flag]);
    placement.await_ready().await;
    let mut first = Sidecar::connect(placement.port, "a", &["t"]).await;
    assert_eq!(round(&mut [&mut first], 1).await, "t=a");
    let mut second = Sidecar::connect(placement.port, "b", &["t"]).await;
    assert_eq!(round(&mut [&mut first, &mut second], 2).await, "t=a,b");
    placement.kill().await;

    let placement = Placement::launch("p0", &cluster, &[&flag]);
    placement.await_ready().await;
    let mut first = Sidecar::connect(placement.port, "a", &["t"]).await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
}

#[tokio::test]
async fn a_store_that_is_of_no_use_ends_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let [raft] = free_ports();
    let cluster = format!("p0=127.0.0.1:{raft},p1=127.0.0.1:{raft}");
    let flag = path(folder.path());
    let single = format!("p0=127.0.0.1:{raft}");
    let placement = Placement::launch("p0", &single, &[&flag]);
    placement.await_ready().await;
    let [healthz, port, metrics] = free_ports();
    let ports = [
        format!("--healthz-port={healthz}"),
        format!("--port={port}"),
        format!("--metrics-port={metrics}"),
    ];
    let start = async |id: &str, store: &str, text: &str| {
        let flags = [
            &format!("--id={id}"),
            &format!("--initial-cluster={cluster}"),
            store,
        ];
        let flags = flags.into_iter().chain(ports.iter().map(String::as_str));
        check(&flags.collect::<Vec<_>>(), 1, text).await;
    };
    start("p0", &flag, "is used by another process").await;
    placement.kill().await;
    start("p1", &flag, "is of replica").await;
    start(
        "p0",
        "--raft-logstore-path=/proc/nowhere",
        "cannot be opened",
    )
    .await;
    let file = folder.path().join("placement.redb");
    let bytes = std::fs::read(&file).expect("read");
    let scribble = vec![0xa5; bytes.len() - 4096];
    let torn = [&bytes[..bytes.len() / 2], &[]];
    let foreign = [&bytes[..4096], &scribble[..]];
    for parts in [torn, foreign] {
        std::fs::write(&file, parts.concat()).expect("written");
        start("p0", &flag, "is damaged").await;
    }
    assert!(file.exists(), "a damaged log is left alone");
}

struct Replica {
    folder: TempDir,
    running: Option<Placement>,
}

impl Replica {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            running: None,
        }
    }

    async fn start(&mut self, id: usize, list: &str) {
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
        let flags = [&path(self.folder.path()), "--metadata-enabled"];
        self.running = Some(Placement::launch(&format!("p{id}"), list, &flags));
    }
}

/// The replica that serves, and a stream to it.
async fn leader(replicas: &[Replica]) -> (usize, Sidecar) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (id, replica) in replicas.iter().enumerate() {
            let Some(running) = &replica.running else {
                continue;
            };
            if let Ok(sidecar) = Sidecar::open(running.port, report("a", &["t"])).await {
                return (id, sidecar);
            }
        }
        assert!(Instant::now() < deadline, "a leader in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until those and no others vote, as the leader says.
async fn await_voters(replicas: &[Replica], voters: usize) {
    let line = format!("dapr_placement_raft_voters {voters}");
    eventually("the replicas are those of the list", async || {
        for replica in replicas {
            let Some(running) = &replica.running else {
                continue;
            };
            let Ok((.., text)) = get(running.metrics_port, "/").await else {
                continue;
            };
            if text.contains("\ndapr_placement_leader_status 1\n") && text.contains(&line) {
                return true;
            }
        }
        false
    })
    .await;
}

/// Waits until one of them serves, with so many voters; never do two.
async fn await_one_leader(replicas: &[Replica], voters: usize) {
    let line = format!("dapr_placement_raft_voters {voters}");
    eventually("one serves, and all vote", async || {
        let mut leaders = Vec::new();
        for (id, replica) in replicas.iter().enumerate() {
            let running = replica.running.as_ref().expect("running");
            let Ok((.., text)) = get(running.metrics_port, "/").await else {
                continue;
            };
            if text.contains("\ndapr_placement_leader_status 1\n") {
                leaders.push((id, text.contains(&line)));
            }
        }
        assert!(leaders.len() <= 1, "two serve: {leaders:?}");
        leaders.iter().any(|(_, complete)| *complete)
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_stands_still_is_waited_for_by_those_that_join_it() {
    /// Far longer than it takes those that find nobody else to begin.
    const STILL: Duration = Duration::from_secs(5);
    let ports: [u16; 3] = free_ports();
    // Pings that the replica did not hear must not end the stream when it goes on.
    let flags = ["--metadata-enabled", "--keepalive-time=10s"];
    let three = list(0..3, &ports);
    let start = |id: usize, list: &str| Replica {
        running: Some(Placement::launch(&format!("p{id}"), list, &flags)),
        ..Replica::new()
    };
    let mut replicas = vec![start(0, &list(0..1, &ports))];
    let (_, mut sidecar) = leader(&replicas).await;
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");
    let first = replicas[0].running.take().expect("running");
    first.signal("STOP").await;
    let mut others = vec![start(1, &three), start(2, &three)];
    for other in &others {
        other.running.as_ref().expect("running").await_ready().await;
    }
    let founded = tokio::time::timeout(STILL, leader(&others)).await;
    assert!(
        founded.is_err(),
        "the others have founded a cluster of their own"
    );
    first.signal("CONT").await;
    replicas[0].running = Some(first);
    replicas.append(&mut others);
    await_one_leader(&replicas, 3).await;
    // It is the table the first one had.
    sidecar.send(report("a", &["t", "u"])).await;
    assert_eq!(round(&mut [&mut sidecar], 2).await, "t=a u=a");
}

/// Restarts one in order, and waits until it votes.
async fn restart(replicas: &mut [Replica], id: usize, list: &str) {
    if let Some(running) = replicas[id].running.take() {
        running.signal("TERM").await;
        assert_eq!(running.exit().await.code(), Some(0));
    }
    replicas[id].start(id, list).await;
    let running = replicas[id].running.as_ref().expect("running");
    let metrics_port = running.metrics_port;
    eventually("it votes", async || {
        get(metrics_port, "/")
            .await
            .is_ok_and(|(.., text)| text.contains("\ndapr_placement_raft_voter 1\n"))
    })
    .await;
}

/// Whoever leads knows the host of version 1, and makes no round for it.
async fn check_table(replicas: &[Replica]) {
    let (_, mut sidecar) = leader(replicas).await;
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");
}

#[tokio::test]
async fn a_table_moves_on_to_replicas_of_other_names() {
    let ports: [u16; 5] = free_ports();
    let mut replicas: Vec<Replica> = (0..5).map(|_| Replica::new()).collect();
    replicas[0].start(0, &list(0..1, &ports)).await;
    let (_, mut sidecar) = leader(&replicas).await;
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");
    let three = list(0..3, &ports);
    for id in [1, 2] {
        restart(&mut replicas, id, &three).await;
    }
    await_voters(&replicas, 3).await;
    let five = list(0..5, &ports);
    for id in [3, 4] {
        restart(&mut replicas, id, &five).await;
    }
    await_voters(&replicas, 5).await;
    // The first two leave, and the other three are restarted one after the other, as an update does it.
    let later = list(2..5, &ports);
    for id in [4, 3, 2] {
        restart(&mut replicas, id, &later).await;
    }
    await_voters(&replicas, 3).await;
    for id in [0, 1] {
        replicas[id].running.take().expect("running").kill().await;
    }
    check_table(&replicas).await;
    for id in [2, 3, 4] {
        restart(&mut replicas, id, &later).await;
    }
    check_table(&replicas).await;
    // One of them goes on alone.
    restart(&mut replicas, 4, &list(4..5, &ports)).await;
    await_voters(&replicas, 1).await;
    for id in [2, 3] {
        replicas[id].running.take().expect("running").kill().await;
    }
    check_table(&replicas).await;
}

#[tokio::test]
async fn one_replica_becomes_three_and_one_again() {
    let ports: [u16; 3] = free_ports();
    let mut replicas = [Replica::new(), Replica::new(), Replica::new()];
    replicas[0].start(0, &list(0..1, &ports)).await;
    let (_, mut sidecar) = leader(&replicas).await;
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");

    // The new ones ask to be let in, while the first one serves.
    let three = list(0..3, &ports);
    replicas[1].start(1, &three).await;
    replicas[2].start(2, &three).await;
    await_voters(&replicas, 3).await;
    sidecar.send(report("a", &["t", "u"])).await;
    assert_eq!(round(&mut [&mut sidecar], 2).await, "t=a u=a");

    // One that lost its disk is let in again, and the first is not needed any more.
    replicas[2].folder = tempfile::tempdir().expect("a folder");
    replicas[2].start(2, &three).await;
    let metrics_port = replicas[2].running.as_ref().expect("running").metrics_port;
    eventually("it votes again", async || {
        get(metrics_port, "/")
            .await
            .is_ok_and(|(.., text)| text.contains("\ndapr_placement_raft_voter 1\n"))
    })
    .await;
    replicas[0].running.take().expect("running").kill().await;
    let (_, mut sidecar) = leader(&replicas).await;
    let tables = round(&mut [&mut sidecar], 3).await;
    assert_eq!(tables, "t=a", "it reports less than the table had");

    // Whoever is started last says how many there are.
    replicas[1].start(1, &list(1..2, &ports)).await;
    await_voters(&replicas, 1).await;
}
