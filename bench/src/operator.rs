//! The rows of the operator: how soon the last of thousands of sidecars has a change, what they cost in memory, and what
//! a thousand workloads at once take beside what the API server itself takes.
//!
//! Sidecars are real gRPC streams over mutual TLS in this process, each on its own connection, on the other core. The
//! API server is a scripted one in this process, but for the row of workloads, whose writes are what is measured.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cores::Split;
use crate::report::{Row, Target};
use crate::{process, rows as sizes};

pub mod crowd;
pub mod server;
pub mod workloads;

use crowd::Crowd;
use server::Plane;
use workloads::Written;

/// Sidecars of the smaller row, and of the larger ones.
const FEW: usize = 1000;
const MANY: usize = 5000;
/// Pods and Components of the cluster.
const PODS: usize = 5000;
const COMPONENTS: usize = 500;
/// Changes whose median counts.
const CHANGES: usize = 9;
/// How often a change is made until one comes to all, and how long each is waited for.
const TRIES: usize = 12;
const LONG: Duration = Duration::from_secs(10);
/// Deployments made at once.
const WORKLOADS: usize = 1000;

/// The rows, in the order of the values of [`measure`].
pub fn rows() -> Vec<Row> {
    let at_most = |limit| Some(Target::AtMost(limit));
    vec![
        Row::new(
            "operator: a Component changed, last of 1,000 sidecars has it, mTLS",
            "ms",
            at_most(100.0),
        ),
        Row::new(
            "operator: a Component changed, last of 5,000 sidecars has it, mTLS",
            "ms",
            at_most(500.0),
        ),
        Row::new("operator: CPU of a change for 5,000 sidecars", "ms", None),
        Row::new(
            "operator: RSS with 5,000 pods, 500 components, 5,000 streams",
            "MB",
            Some(Target::RatioAtMost(0.25)),
        ),
        Row::new(
            "operator: RSS with 5,000 pods, 500 components, no stream",
            "MB",
            None,
        ),
        Row::new(
            "operator: 1,000 Deployments at once, all Services there, real API server",
            "ms",
            None,
        ),
        Row::new(
            "operator: the same Deployments and Services, written directly",
            "ms",
            None,
        ),
        Row::new("operator: idle RSS", "MB", at_most(15.0)),
        Row::new("operator: start to healthy", "ms", None),
        Row::new("operator: size", "MB", None),
    ]
}

/// Measures the operator of one folder, with the Sentry of the same.
pub async fn measure(binaries: &Path) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let plane = Plane::start(folder.path(), binaries).await?;
    let Idle { rss, start } = idle(&plane).await?;
    plane.fill(PODS, COMPONENTS);
    let split = Split::begin().await?;
    let streamed = streamed(&plane, split.as_ref()).await;
    if let Some(split) = split {
        split.end().await?;
    }
    let Streamed {
        few,
        many,
        cpu,
        filled,
        full,
    } = streamed?;
    let Written { through, directly } = workloads::measure(&plane, WORKLOADS).await?;
    plane.stop().await?;
    Ok(vec![
        millis(few),
        millis(many),
        millis(cpu),
        full,
        filled,
        through.map_or(f64::NAN, millis),
        directly.map_or(f64::NAN, millis),
        rss,
        millis(start),
        sizes::size(binaries, "operator")?,
    ])
}

struct Idle {
    /// Megabytes.
    rss: f64,
    start: Duration,
}

async fn idle(plane: &Plane<'_>) -> Result<Idle> {
    let started = Instant::now();
    let server = plane.operator(None, None).await?;
    let start = started.elapsed();
    tokio::time::sleep(process::SETTLE).await;
    let rss = megabytes(server.pid()?)?;
    server.kill().await?;
    Ok(Idle { rss, start })
}

struct Streamed {
    few: Duration,
    many: Duration,
    /// The operator's, per change for many.
    cpu: Duration,
    /// Megabytes without sidecars, and with all.
    filled: f64,
    full: f64,
}

async fn streamed(plane: &Plane<'_>, split: Option<&Split>) -> Result<Streamed> {
    let server = plane.operator(None, split).await?;
    let pid = server.pid()?;
    tokio::time::sleep(process::SETTLE).await;
    let filled = megabytes(pid)?;
    let mut crowd = Crowd::new(server.address(), plane.sidecar().await?);
    join(plane, &mut crowd, FEW).await?;
    let few = changes(plane, &mut crowd).await?;
    join(plane, &mut crowd, MANY - FEW).await?;
    tokio::time::sleep(process::SETTLE).await;
    let full = megabytes(pid)?;
    let before = process::cpu_time(pid)?;
    let many = changes(plane, &mut crowd).await?;
    let cpu = process::cpu_time(pid)?.saturating_sub(before);
    drop(crowd);
    server.kill().await?;
    Ok(Streamed {
        few,
        many,
        cpu: cpu / u32::try_from(CHANGES)?,
        filled,
        full,
    })
}

/// More sidecars come, and a Component is changed until a change comes to all.
async fn join(plane: &Plane<'_>, crowd: &mut Crowd, more: usize) -> Result<()> {
    crowd.join(more).await?;
    for _ in 0..TRIES {
        plane.change(crowd.expect());
        if let Ok(settled) = tokio::time::timeout(LONG, crowd.settled()).await {
            return settled.map(drop);
        }
    }
    bail!("there are streams that no change comes to")
}

/// From the change of a Component until the last sidecar has it.
async fn changes(plane: &Plane<'_>, crowd: &mut Crowd) -> Result<Duration> {
    let mut times = Vec::with_capacity(CHANGES);
    for _ in 0..CHANGES {
        let version = crowd.expect();
        let changed = Instant::now();
        plane.change(version);
        let last = crowd.settled().await?;
        times.push(last.saturating_duration_since(changed));
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2);
    median.copied().context("nothing was measured")
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn megabytes(pid: u32) -> Result<f64> {
    Ok(process::rss(pid)? as f64 / 1e6)
}

#[cfg(test)]
mod tests;
