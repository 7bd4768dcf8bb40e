//! Stories of a leader that goes: what the next one knows, and whom it disturbs.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::sidecar::{Sidecar, round};

/// Connects two hosts of one type and returns them with the table of version 2.
async fn two_hosts(cluster: &Cluster) -> (usize, Sidecar, Sidecar) {
    let (leader, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 1).await, "t=a");
    let port = cluster.replica(leader).port;
    let mut second = Sidecar::connect(port, "b", &["t"]).await;
    assert_eq!(round(&mut [&mut first, &mut second], 2).await, "t=a,b");
    (leader, first, second)
}

#[tokio::test]
async fn sidecars_that_come_back_disturb_nobody() {
    let mut cluster = Cluster::start();
    let (leader, _first, _second) = two_hosts(&cluster).await;
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
    let mut cluster = Cluster::start_with(&flags);
    let (leader, _first, _second) = two_hosts(&cluster).await;
    cluster.kill(leader).await;
    let (_, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    assert_eq!(round(&mut [&mut first], 3).await, "t=a");
}

#[tokio::test]
async fn a_difference_makes_a_round() {
    let mut cluster = Cluster::start();
    let (leader, _first, _second) = two_hosts(&cluster).await;
    cluster.kill(leader).await;
    let (next, mut first) = cluster.leader().await;
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    let port = cluster.replica(next).port;
    let mut second = Sidecar::connect(port, "b", &["t", "u"]).await;
    assert_eq!(round(&mut [&mut first, &mut second], 3).await, "t=a,b u=b");
}

#[tokio::test]
async fn a_leader_that_is_told_to_go_hands_over() {
    let mut cluster = Cluster::start();
    let (leader, mut first, _second) = two_hosts(&cluster).await;
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
    // It takes a tenth of a second; without it, the lease of 1 s and an election timeout of 0.2 s at least.
    assert!(
        closed.elapsed() < Duration::from_millis(1200),
        "handed over after {:?}",
        closed.elapsed()
    );
    assert_eq!(round(&mut [&mut first], 2).await, "t=a,b");
    assert_eq!(replica.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_replica_that_was_restarted_has_the_table_before_it_leads() {
    let mut cluster = Cluster::start();
    let (leader, _first, _second) = two_hosts(&cluster).await;
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
