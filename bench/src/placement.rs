//! The rows of Placement: what a join costs a crowd, how long a crowd waits, what a silent host costs the others,
//! how soon a dead leader is replaced, what ten thousand hosts cost, what an idle Placement holds.
//!
//! Hosts are real gRPC streams in this process, on the other core. Each reads version, operation and number of hosts
//! of every order from its bytes; one in fifty decodes them in full and checks.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cores::Split;
use crate::load::Latencies;
use crate::process;
use crate::report::{Row, Target};

pub mod crowd;
pub mod server;
pub mod stream;
pub mod wire;

use crowd::Crowd;
use server::Cluster;

/// Hosts of the large rows.
const CROWD: usize = 1000;
/// Joins whose median counts.
const JOINS: usize = 5;
/// Hosts of the row with a silent one.
const FEW: usize = 100;
/// Hosts of the row in which the leader dies.
const FAILOVER: usize = 300;
/// Hosts of the row with many, and their namespaces. In one namespace a single table would be 0.7 MB and a round 7 GB,
/// which the wire demands: a host of the table goes to every stream.
const MANY: usize = 10_000;
const NAMESPACES: usize = 100;
/// How many connect at once, and how many of them restart one after the other.
const WAVE: usize = 1000;
const RESTARTS: usize = MANY / 10;
/// How far apart the hosts of a row come that come one after the other.
const APART: Duration = Duration::from_millis(1);
/// Starts per run; the median counts.
const STARTS: usize = 9;

/// The rows, in the order of the values of [`measure`].
pub fn rows() -> Vec<Row> {
    let at_most = |limit| Some(Target::AtMost(limit));
    let ratio = |limit| Some(Target::RatioAtMost(limit));
    let row = Row::new;
    vec![
        row(
            "Placement: one host joins 1,000, until all have unlocked",
            "ms",
            ratio(0.1),
        ),
        row("Placement: CPU of that join", "ms", ratio(0.1)),
        row(
            "Placement: 1,000 hosts at once, until all have all",
            "ms",
            ratio(0.05),
        ),
        row("Placement: CPU of that crowd", "ms", ratio(0.05)),
        row("Placement: RSS with 1,000 hosts", "MB", at_most(60.0)),
        row(
            "Placement: 1,000 hosts, one every millisecond, until all have all",
            "ms",
            None,
        ),
        row("Placement: CPU of those", "ms", None),
        row(
            "Placement: one of 100 hosts stops reading, blocked time of each other",
            "ms",
            None,
        ),
        row("Placement: the same with all of them well", "ms", None),
        row(
            "Placement: leader of 300 hosts dies, until all have the table again",
            "ms",
            at_most(2000.0),
        ),
        row("Placement: idle RSS", "MB", at_most(10.0)),
        row("Placement: start to healthy", "ms", at_most(15.0)),
    ]
}

/// The rows of many hosts, in the order of the values of [`measure_many`].
pub fn rows_of_many() -> Vec<Row> {
    let at_most = |limit| Some(Target::AtMost(limit));
    let row = Row::new;
    vec![
        row(
            "Placement: RSS with 10,000 hosts in 100 namespaces",
            "MB",
            at_most(120.0),
        ),
        row(
            "Placement: 1,000 of them restart in turn, blocked time of all together",
            "ms",
            Some(Target::RatioAtMost(0.05)),
        ),
        row(
            "Placement: until all have one of those again, p99",
            "ms",
            at_most(500.0),
        ),
    ]
}

/// Measures the Placement of one folder.
pub async fn measure(binaries: &Path) -> Result<Vec<f64>> {
    let (idle_rss, start) = idle(binaries).await?;
    let split = Split::begin().await?;
    let loaded = loaded(binaries, split.as_ref()).await;
    if let Some(split) = split {
        split.end().await?;
    }
    let mut values = loaded?;
    values.push(idle_rss);
    values.push(start);
    Ok(values)
}

/// Measures it with many hosts, which takes minutes.
pub async fn measure_many(binaries: &Path) -> Result<Vec<f64>> {
    let split = Split::begin().await?;
    let many = many(binaries, split.as_ref()).await;
    if let Some(split) = split {
        split.end().await?;
    }
    let many = many?;
    Ok(vec![many.rss, many.blocked, many.restart_p99])
}

/// Megabytes, and milliseconds until it is healthy.
async fn idle(binaries: &Path) -> Result<(f64, f64)> {
    let mut starts = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let cluster = Cluster::start(binaries, 1, None).await?;
        starts.push(millis(cluster.start));
        cluster.end().await?;
    }
    let cluster = Cluster::start(binaries, 1, None).await?;
    tokio::time::sleep(process::SETTLE).await;
    let rss = megabytes(cluster.pid(0)?)?;
    cluster.end().await?;
    Ok((rss, median(starts)?))
}

async fn loaded(binaries: &Path, split: Option<&Split>) -> Result<Vec<f64>> {
    let cluster = Cluster::start(binaries, 1, split).await?;
    let pid = cluster.pid(0)?;
    let before = process::cpu_time(pid)?;
    let began = Instant::now();
    let mut crowd = Crowd::new(cluster.ports());
    crowd.join(CROWD).await?;
    let together = millis(began.elapsed());
    let together_cpu = millis(process::cpu_time(pid)?.saturating_sub(before));
    let rss = megabytes(pid)?;

    let mut joins = Vec::with_capacity(JOINS);
    let before = process::cpu_time(pid)?;
    for _ in 0..JOINS {
        let began = Instant::now();
        crowd.join(1).await?;
        joins.push(millis(began.elapsed()));
    }
    let join_cpu = millis(process::cpu_time(pid)?.saturating_sub(before)) / JOINS as f64;
    drop(crowd);
    cluster.end().await?;

    let (apart, apart_cpu) = apart(binaries, split).await?;
    let silent = blocked(binaries, split, Health::OneSilent).await?;
    let well = blocked(binaries, split, Health::Well).await?;
    let failover = failover(binaries, split).await?;
    Ok(vec![
        median(joins)?,
        join_cpu,
        together,
        together_cpu,
        rss,
        apart,
        apart_cpu,
        silent,
        well,
        failover,
    ])
}

/// Hosts that come one after the other: milliseconds until all have all, and of CPU.
async fn apart(binaries: &Path, split: Option<&Split>) -> Result<(f64, f64)> {
    let cluster = Cluster::start(binaries, 1, split).await?;
    let pid = cluster.pid(0)?;
    let before = process::cpu_time(pid)?;
    let began = Instant::now();
    let mut crowd = Crowd::new(cluster.ports());
    crowd.join_every(CROWD, APART).await?;
    let took = millis(began.elapsed());
    let cpu = millis(process::cpu_time(pid)?.saturating_sub(before));
    drop(crowd);
    cluster.end().await?;
    Ok((took, cpu))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    OneSilent,
}

/// How long a host's actors stood still, from `update` to `unlock`, while another host joined.
async fn blocked(binaries: &Path, split: Option<&Split>, health: Health) -> Result<f64> {
    let cluster = Cluster::start(binaries, 1, split).await?;
    let mut crowd = Crowd::new(cluster.ports());
    crowd.join(FEW).await?;
    crowd.forget_blocked();
    if health == Health::OneSilent {
        crowd.silence_one();
    }
    crowd.join(1).await?;
    let blocked = millis(crowd.blocked()) / FEW as f64;
    drop(crowd);
    cluster.end().await?;
    Ok(blocked)
}

async fn failover(binaries: &Path, split: Option<&Split>) -> Result<f64> {
    let mut cluster = Cluster::start(binaries, 3, split).await?;
    let mut crowd = Crowd::new(cluster.ports());
    crowd.join(FAILOVER).await?;
    cluster.whole().await?;
    let leader = cluster.leader().await?;
    crowd.expect_return();
    let killed = Instant::now();
    cluster.kill(leader).await?;
    crowd.settled().await?;
    let took = millis(killed.elapsed());
    drop(crowd);
    cluster.end().await?;
    Ok(took)
}

/// What many hosts cost.
struct Many {
    /// Megabytes.
    rss: f64,
    /// Milliseconds.
    blocked: f64,
    restart_p99: f64,
}

async fn many(binaries: &Path, split: Option<&Split>) -> Result<Many> {
    let cluster = Cluster::start(binaries, 1, split).await?;
    let mut crowd = Crowd::spread(cluster.ports(), NAMESPACES);
    for _ in 0..MANY / WAVE {
        crowd.join(WAVE).await?;
    }
    tokio::time::sleep(process::SETTLE).await;
    let rss = megabytes(cluster.pid(0)?)?;
    crowd.forget_blocked();
    let mut restarts = Vec::with_capacity(RESTARTS);
    for number in 0..RESTARTS {
        restarts.push(crowd.restart(number).await?);
    }
    let blocked = millis(crowd.blocked());
    drop(crowd);
    cluster.end().await?;
    Ok(Many {
        rss,
        blocked,
        restart_p99: millis(Latencies::new(restarts).percentile(99.0)),
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn megabytes(pid: u32) -> Result<f64> {
    Ok(process::rss(pid)? as f64 / 1e6)
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .context("nothing was measured")
}
