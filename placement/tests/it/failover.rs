//! Stories of a leader that goes: what the next one knows, and whom it disturbs.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use crate::cluster::Cluster;
use crate::sidecar::{Sidecar, round, try_round};

/// Clusters that are tried until one keeps its first leader: a machine that stands still for a second, for example while
/// it writes what a compiler left in memory, costs a leader its lease, and rightly so.
const TRIES: usize = 3;

/// Starts a cluster and connects two hosts of one type; with its leader, and both hosts at the table of version 2.
async fn two_hosts(flags: &[&str]) -> (Cluster, usize, Sidecar, Sidecar) {
    for _ in 0..TRIES {
        let cluster = Cluster::start_with(flags);
        match connect_two(&cluster).await {
            Ok((leader, first, second)) => return (cluster, leader, first, second),
            Err(status) => assert_eq!(status.message(), "lost leadership"),
        }
    }
    panic!("{TRIES} clusters lost their first leader");
}

async fn connect_two(cluster: &Cluster) -> Result<(usize, Sidecar, Sidecar), Status> {
    let (leader, mut first) = cluster.leader().await;
    assert_eq!(try_round(&mut [&mut first], 1).await?, "t=a");
    let port = cluster.replica(leader).port;
    let mut second = Sidecar::connect(port, "b", &["t"]).await;
    let all = &mut [&mut first, &mut second];
    assert_eq!(try_round(all, 2).await?, "t=a,b");
    Ok((leader, first, second))
}

#[tokio::test]
async fn sidecars_that_come_back_disturb_nobody() {
    let (mut cluster, leader, _first, _second) = two_hosts(&[]).await;
    cluster.kill(leader).await;
    // The first that comes back gets the table with the other in it, who is still on its way.
    let (next, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    let port = cluster.replica(next).port;
    let mut second = Sidecar::connect(port, "b", &["t"]).await;
    assert_eq!(round(&mut [&mut second], 2).await, "t=a,b");
    // Nothing was sent to the first meanwhile: what comes next is the round of a third.
    let mut third = Sidecar::connect(port, "c", &["u"]).await;
    let all = &mut [&mut first, &mut second, &mut third];
    assert_eq!(round(all, 3).await, "t=a,b u=c");
}

#[tokio::test]
async fn hosts_that_do_not_come_back_leave_in_one_round() {
    let flags = ["--keepalive-time=1s", "--keepalive-timeout=1s"];
    let (mut cluster, leader, _first, _second) = two_hosts(&flags).await;
    cluster.kill(leader).await;
    let (_, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    assert_eq!(round(&mut [&mut first], 3).await, "t=a");
}

#[tokio::test]
async fn a_difference_makes_a_round() {
    let (mut cluster, leader, _first, _second) = two_hosts(&[]).await;
    cluster.kill(leader).await;
    let (next, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    let port = cluster.replica(next).port;
    let mut second = Sidecar::connect(port, "b", &["t", "u"]).await;
    assert_eq!(round(&mut [&mut first, &mut second], 3).await, "t=a,b u=b");
}

#[tokio::test]
async fn a_leader_that_is_told_to_go_hands_over() {
    let (mut cluster, leader, mut first, _second) = two_hosts(&[]).await;
    // As an update does it: not before all others count.
    for id in 0..3 {
        cluster.await_whole(id).await;
    }
    cluster.replica(leader).signal("TERM").await;
    assert_eq!(
        first.end().await.message(),
        "cancelling context, received signal terminated"
    );
    let closed = Instant::now();
    let replica = cluster.take(leader);
    let (_, mut first) = cluster.leader().await;
    // It takes a tenth of a second; without it, the lease of 1 s and an election timeout of 0.2 s at least. Half of
    // that tells them apart on a machine that is busy, too.
    assert!(
        closed.elapsed() < Duration::from_millis(600),
        "handed over after {:?}",
        closed.elapsed()
    );
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    assert_eq!(replica.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_replica_that_was_restarted_has_the_table_before_it_leads() {
    let (mut cluster, leader, _first, _second) = two_hosts(&[]).await;
    let others: Vec<usize> = (0..3).filter(|id| *id != leader).collect();
    // One after the other is restarted without a log; the table survives all of them.
    for id in others {
        cluster.kill(id).await;
        cluster.launch(id);
        cluster.await_whole(id).await;
    }
    cluster.kill(leader).await;
    let (_, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
}
