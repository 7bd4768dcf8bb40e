//! The replicas of one measurement.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::standalone::metric;
use dapr_e2e::{Process, Spec, await_condition, ports};
use tempfile::TempDir;

use crate::cores::Split;
use crate::sentry::server::{is_healthy, pause};

/// A start on a busy machine stays well below.
const START: Duration = Duration::from_secs(20);

/// The metric that says whether a replica votes.
const VOTER: &str = "dapr_placement_raft_voter";

/// Running replicas, without TLS: what is measured is the rounds.
#[derive(Debug)]
pub struct Cluster {
    replicas: Vec<Replica>,
    /// From starting the first process until its `/healthz` answered 200.
    pub start: Duration,
    _folder: TempDir,
}

#[derive(Debug)]
struct Replica {
    process: Process,
    port: u16,
    health_port: u16,
    metrics_port: u16,
}

impl Cluster {
    /// Starts so many replicas and waits until one leads.
    pub async fn start(binaries: &Path, count: usize, split: Option<&Split>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut list = Vec::new();
        for id in 0..count {
            list.push(format!("p{id}=127.0.0.1:{}", ports::free().await?));
        }
        let list = list.join(",");
        let mut started = Vec::new();
        for id in 0..count {
            let (port, health_port, metrics_port) = (
                ports::free().await?,
                ports::free().await?,
                ports::free().await?,
            );
            started.push((id, port, health_port, metrics_port));
        }
        let began = Instant::now();
        let mut replicas = Vec::new();
        for (id, port, health_port, metrics_port) in started {
            let program = binaries.join("placement");
            let arguments = vec![
                format!("--id=p{id}"),
                format!("--initial-cluster={list}"),
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={port}"),
                format!("--healthz-port={health_port}"),
                format!("--metrics-port={metrics_port}"),
                "--log-level=error".to_owned(),
            ];
            let (program, arguments) = match split {
                Some(split) => split.wrap(&program, arguments),
                None => (program, arguments),
            };
            let process = Process::start(&Spec {
                name: format!("placement-{id}"),
                program,
                arguments,
                environment: BTreeMap::new(),
                folder: folder.path().to_owned(),
            })?;
            replicas.push(Replica {
                process,
                port,
                health_port,
                metrics_port,
            });
        }
        let first = replicas.first_mut().context("no replicas")?;
        while !is_healthy(first.health_port).await {
            first.process.check_running()?;
            ensure!(began.elapsed() < START, "placement did not become healthy");
            pause().await?;
        }
        let cluster = Self {
            start: began.elapsed(),
            replicas,
            _folder: folder,
        };
        cluster.leader().await?;
        Ok(cluster)
    }

    /// The number of the replica that leads.
    pub async fn leader(&self) -> Result<usize> {
        await_condition("one replica leads", START, || async {
            for (id, replica) in self.replicas.iter().enumerate() {
                let status = metric(replica.metrics_port, "dapr_placement_leader_status").await;
                if status.is_ok_and(|status| status >= 1.0) {
                    return Ok(id);
                }
            }
            anyhow::bail!("none does")
        })
        .await
    }

    /// Waits until every replica votes. One that began without a log is let in some hundred milliseconds after the first
    /// leader; the original does not tell, and lets everybody vote at once.
    pub async fn whole(&self) -> Result<()> {
        let leader = self.leader().await?;
        let leader = self.replicas.get(leader).context("no such replica")?;
        // Who leads votes, if it tells of it at all.
        if metric(leader.metrics_port, VOTER).await? < 1.0 {
            return Ok(());
        }
        await_condition("all replicas vote", START, || async {
            for (id, replica) in self.replicas.iter().enumerate() {
                let voter = metric(replica.metrics_port, VOTER).await?;
                ensure!(voter >= 1.0, "p{id} is not let in");
            }
            Ok(())
        })
        .await
    }

    /// Where hosts connect.
    pub fn ports(&self) -> Vec<u16> {
        self.replicas.iter().map(|replica| replica.port).collect()
    }

    /// The process id of a replica.
    pub fn pid(&self, id: usize) -> Result<u32> {
        let replica = self.replicas.get(id).context("no such replica")?;
        replica.process.id().context("placement has ended")
    }

    /// Ends a replica as a crash would.
    pub async fn kill(&mut self, id: usize) -> Result<()> {
        let replica = self.replicas.get_mut(id).context("no such replica")?;
        replica.process.kill().await
    }

    /// Ends all that still run.
    pub async fn end(mut self) -> Result<()> {
        for replica in &mut self.replicas {
            if replica.process.id().is_some() {
                replica.process.kill().await?;
            }
        }
        Ok(())
    }
}
