//! Stories of three replicas.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use crate::process::{PATIENCE, Placement, eventually, free_ports, get};
use crate::sidecar::{Sidecar, report, round};

pub(crate) struct Cluster {
    folder: PathBuf,
    list: String,
    flags: Vec<String>,
    replicas: Vec<Option<Placement>>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::launch_all(Path::new("."), flags)
    }

    /// All in one folder.
    fn start_in(folder: &Path) -> Self {
        Self::launch_all(folder, &[])
    }

    fn launch_all(folder: &Path, flags: &[&str]) -> Self {
        let ports: [u16; 3] = free_ports();
        let entries: Vec<String> = (0..)
            .zip(ports)
            .map(|(id, port)| format!("p{id}=127.0.0.1:{port}"))
            .collect();
        let list = entries.join(",");
        let mut cluster = Self {
            folder: folder.to_owned(),
            list,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            replicas: vec![None, None, None],
        };
        (0..3).for_each(|id| cluster.launch(id));
        cluster
    }

    pub(crate) fn launch(&mut self, id: usize) {
        let flags = self.flags.iter().map(String::as_str);
        let flags: Vec<&str> = flags.chain(["--metadata-enabled"]).collect();
        let name = format!("p{id}");
        let replica = Placement::launch_in(&self.folder, &name, &self.list, &flags);
        self.replicas[id] = Some(replica);
    }

    pub(crate) fn replica(&self, id: usize) -> &Placement {
        self.replicas[id].as_ref().expect("running")
    }

    /// Takes a replica out of the list of those that run.
    pub(crate) fn take(&mut self, id: usize) -> Placement {
        self.replicas[id].take().expect("running")
    }

    /// Waits until a replica that was restarted votes again.
    pub(crate) async fn await_whole(&self, id: usize) {
        let port = self.replica(id).metrics_port;
        eventually("the replica votes again", async || {
            get(port, "/")
                .await
                .is_ok_and(|(.., text)| text.contains("\ndapr_placement_raft_voter 1\n"))
        })
        .await;
    }

    pub(crate) async fn kill(&mut self, id: usize) {
        self.replicas[id].take().expect("running").kill().await;
    }

    /// Tries all replicas once.
    async fn try_lead(&self) -> Option<(usize, Sidecar)> {
        for (id, replica) in self.replicas.iter().enumerate() {
            let Some(replica) = replica else { continue };
            match Sidecar::open(replica.port, report("a", &["t"])).await {
                Ok(sidecar) => return Some((id, sidecar)),
                Err(status) => check_refusal(id, &status),
            }
        }
        None
    }

    /// The replica that serves, and a stream to it.
    pub(crate) async fn leader(&self) -> (usize, Sidecar) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.try_lead().await {
                return found;
            }
            assert!(Instant::now() < deadline, "a leader in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until exactly one replica serves and all others refuse, and returns its number.
    async fn await_one_leader(&self) -> usize {
        let mut leaders = Vec::new();
        eventually("one leader and followers", async || {
            leaders.clear();
            for (id, replica) in self.replicas.iter().enumerate() {
                let Some(replica) = replica else { continue };
                match get(replica.healthz_port, "/placement/state").await {
                    Ok((200, _, body)) if body != "null" => leaders.push(id),
                    Ok((200, ..)) => {}
                    _ => return false,
                }
            }
            assert!(leaders.len() <= 1, "two serve: {leaders:?}");
            leaders.len() == 1
        })
        .await;
        leaders[0]
    }
}

fn check_refusal(id: usize, status: &Status) {
    if status.code() == Code::Unavailable {
        return; // Not listening yet.
    }
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let expected = format!("node id=p{id} is not a leader. Only the leader can serve requests");
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn one_replica_leads_and_a_dead_one_is_replaced() {
    let mut cluster = Cluster::start();
    let first = cluster.await_one_leader().await;
    for (id, replica) in cluster.replicas.iter().enumerate() {
        let replica = replica.as_ref().expect("running");
        replica.await_ready().await;
        if id != first {
            let refused = Sidecar::open(replica.port, report("a", &["t"]))
                .await
                .err()
                .expect("refused");
            assert_eq!(refused.code(), Code::FailedPrecondition);
            check_refusal(id, &refused);
        }
    }
    let (leader, mut sidecar) = cluster.leader().await;
    assert_eq!(leader, first);
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");

    // The next leader has the table.
    let killed = Instant::now();
    cluster.kill(leader).await;
    let (second, mut sidecar) = cluster.leader().await;
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "replaced after {:?}",
        killed.elapsed()
    );
    assert_ne!(second, leader);
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");

    // The dead one comes back empty, follows, and disturbs nobody.
    cluster.launch(leader);
    cluster.replicas[leader]
        .as_ref()
        .expect("running")
        .await_ready()
        .await;
    assert_eq!(cluster.await_one_leader().await, second);
    sidecar.send(report("a", &["t", "u"])).await;
    assert_eq!(round(&mut [&mut sidecar], 2).await, "t=a u=a");

    // And it counts again.
    cluster.kill(second).await;
    let (third, _) = cluster.leader().await;
    assert_ne!(third, second);
}

#[tokio::test]
async fn a_leader_without_a_quorum_serves_nobody_and_lives_on() {
    let mut cluster = Cluster::start();
    let (leader, mut sidecar) = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|id| *id != leader).collect();
    for id in &others {
        cluster.kill(*id).await;
    }
    let status = sidecar.end().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "lost leadership")
    );
    let replica = cluster.replicas[leader].as_mut().expect("running");
    let refused = Sidecar::open(replica.port, report("a", &["t"]))
        .await
        .err()
        .expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    check_refusal(leader, &refused);
    let (_, _, text) = get(replica.metrics_port, "/").await.expect("answers");
    assert!(text.contains("dapr_placement_leader_status 0"), "{text}");
    // It is still elected, but another one may be, too, where this one does not hear of it.
    assert!(
        text.contains("dapr_placement_raft_leader_status 0"),
        "{text}"
    );
    assert!(replica.is_running());

    // With one that has forgotten what it promised there is no quorum, for the other may remember. Once both have, this
    // is the only one that knows something.
    others.iter().for_each(|id| cluster.launch(*id));
    let (_, mut sidecar) = cluster.leader().await;
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");
}

#[tokio::test]
async fn replicas_in_memory_write_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut cluster = Cluster::start_in(folder.path());
    let (leader, mut sidecar) = cluster.leader().await;
    assert_eq!(round(&mut [&mut sidecar], 1).await, "t=a");
    cluster.kill(leader).await;
    cluster.launch(leader);
    for id in 0..3 {
        cluster.await_whole(id).await;
    }
    for id in 0..3 {
        let replica = cluster.take(id);
        replica.signal("TERM").await;
        assert_eq!(replica.exit().await.code(), Some(0));
    }
    let found = std::fs::read_dir(folder.path()).expect("read").count();
    assert_eq!(found, 0, "all of them ran in it");
}

#[tokio::test]
async fn a_replica_waits_for_peers_whose_names_do_not_resolve() {
    let [raft] = free_ports();
    let list = format!("p0=127.0.0.1:{raft},p1=no-such-host.invalid:1,p2=no-such-host.invalid:2");
    let mut replica = Placement::launch("p0", &list, &[]);
    replica.await_ready().await;
    let refused = Sidecar::open(replica.port, report("a", &["t"]))
        .await
        .err()
        .expect("refused");
    check_refusal(0, &refused);
    assert!(replica.is_running());
}
