//! The rows of Sentry: what a certificate costs, how long a thousand sidecars wait, what an idle Sentry holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cores::Split;
use crate::load::Latencies;
use crate::process;
use crate::report::{Row, Target};

pub mod client;
pub mod cluster;
pub mod load;
pub mod server;
pub mod signing;

use client::{Client, Prepared};
use cluster::Cluster;
use load::Connections;
use server::{Server, Setup};

/// Clients of the steady loads.
const CLIENTS: usize = 64;
/// Sidecars that come at once.
const SIDECARS: usize = 1000;
/// Time before measuring, so that memory and caches are there.
const WARM_UP: Duration = Duration::from_secs(1);
/// Time of each steady load.
const DURATION: Duration = Duration::from_secs(5);
/// How often the thousand come; the median of their 99th percentiles counts. Once is enough where they wait for long.
const RUSHES: usize = 5;
const LONG: Duration = Duration::from_secs(10);
/// Starts per run; the median counts.
const STARTS: usize = 15;

/// The rows of a Sentry outside of Kubernetes, in the order of the values of [`measure`].
pub fn rows() -> Vec<Row> {
    let at_most = |limit| Some(Target::AtMost(limit));
    let row = Row::new;
    vec![
        row(
            "Sentry: CPU per certificate, new connection each",
            "µs",
            at_most(180.0),
        ),
        row(
            "Sentry: CPU per certificate, kept connections",
            "µs",
            at_most(110.0),
        ),
        row(
            "Sentry: certificates on one core, new connection each",
            "1/s",
            None,
        ),
        row(
            "Sentry: certificates on one core, kept connections",
            "1/s",
            None,
        ),
        row(
            "Sentry: 1,000 sidecars at once, p99 to certificate",
            "ms",
            Some(Target::RatioAtMost(0.3)),
        ),
        row("Sentry: idle RSS", "MB", at_most(10.0)),
        row("Sentry: start to healthy", "ms", at_most(10.0)),
        row(
            "Sentry: first start to healthy, making its authority",
            "ms",
            at_most(10.0),
        ),
    ]
}

/// Measures the Sentry of one folder outside of Kubernetes.
pub async fn measure(binaries: &Path) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let setup = Setup {
        folder: folder.path(),
        binaries,
        split: None,
        cluster: None,
    };
    // The files are there from now on; one that writes them itself may load them once more while it is measured.
    setup.start().await?.kill().await?;
    let idle_rss = idle_rss(&setup).await?;
    let start = starts(|| setup.start()).await?;
    let first_start = starts(|| first_start(binaries)).await?;
    let requests = load::prepare(SIDECARS)?;
    let Loaded { new, kept, rush } = loaded(&setup, &requests).await?;
    Ok(vec![
        new.cpu,
        kept.cpu,
        new.rate,
        kept.rate,
        rush,
        idle_rss,
        start,
        first_start,
    ])
}

/// The rows of a Sentry that asks an API server who its clients are, in the order of the values of [`measure_in_cluster`].
pub fn rows_in_cluster() -> Vec<Row> {
    let four_times = Some(Target::RatioAtLeast(4.0));
    let row = Row::new;
    vec![
        row(
            "Sentry in Kubernetes: CPU per certificate, new connection each",
            "µs",
            None,
        ),
        row(
            "Sentry in Kubernetes: CPU per certificate, kept connections",
            "µs",
            None,
        ),
        row(
            "Sentry in Kubernetes: certificates on one core, new connection each",
            "1/s",
            four_times,
        ),
        row(
            "Sentry in Kubernetes: certificates on one core, kept connections",
            "1/s",
            four_times,
        ),
        row(
            "Sentry in Kubernetes: 1,000 sidecars at once, p99 to certificate",
            "ms",
            Some(Target::RatioAtMost(0.3)),
        ),
    ]
}

/// Measures the Sentry of one folder in Kubernetes.
pub async fn measure_in_cluster(binaries: &Path) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(SIDECARS).await?;
    let setup = Setup {
        folder: folder.path(),
        binaries,
        split: None,
        cluster: Some(&cluster),
    };
    let Loaded { new, kept, rush } = loaded(&setup, cluster.requests()).await?;
    Ok(vec![new.cpu, kept.cpu, new.rate, kept.rate, rush])
}

/// Megabytes.
async fn idle_rss(setup: &Setup<'_>) -> Result<f64> {
    let server = setup.start().await?;
    tokio::time::sleep(process::SETTLE).await;
    let bytes = process::rss(server.pid()?)?;
    server.kill().await?;
    Ok(bytes as f64 / 1e6)
}

async fn first_start(binaries: &Path) -> Result<Server> {
    let folder = tempfile::tempdir()?;
    let setup = Setup {
        folder: folder.path(),
        binaries,
        split: None,
        cluster: None,
    };
    setup.start().await
}

/// The median in milliseconds.
async fn starts(start: impl AsyncFn() -> Result<Server>) -> Result<f64> {
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let server = start().await?;
        times.push(server.start.as_secs_f64() * 1e3);
        server.kill().await?;
    }
    median(times)
}

struct Loaded {
    new: Cost,
    kept: Cost,
    /// Milliseconds.
    rush: f64,
}

struct Cost {
    /// Microseconds of Sentry's CPU per certificate.
    cpu: f64,
    /// Certificates per second.
    rate: f64,
}

/// Under load, with a core of its own if there is one.
async fn loaded(setup: &Setup<'_>, requests: &[Prepared]) -> Result<Loaded> {
    let split = Split::begin().await?;
    let setup = Setup {
        split: split.as_ref(),
        ..*setup
    };
    let loaded = async {
        let server = setup.start().await?;
        let client = Arc::new(setup.client(&server)?);
        load::check(&client, requests).await?;
        let some = requests.get(..CLIENTS).unwrap_or(requests);
        let new = cost(&server, &client, some, Connections::New).await?;
        let kept = cost(&server, &client, some, Connections::Kept).await?;
        let rush = rush(&client, requests).await?;
        server.kill().await?;
        anyhow::Ok(Loaded { new, kept, rush })
    };
    let loaded = loaded.await;
    if let Some(split) = split {
        split.end().await?;
    }
    loaded
}

async fn cost(
    server: &Server,
    client: &Arc<Client>,
    requests: &[Prepared],
    connections: Connections,
) -> Result<Cost> {
    load::steady(client, requests, connections, WARM_UP).await?;
    let before = process::cpu_time(server.pid()?)?;
    let done = load::steady(client, requests, connections, DURATION).await?;
    let cpu = process::cpu_time(server.pid()?)?.saturating_sub(before);
    let certificates = done.certificates as f64;
    Ok(Cost {
        cpu: cpu.as_secs_f64() * 1e6 / certificates,
        rate: certificates / done.elapsed.as_secs_f64(),
    })
}

async fn rush(client: &Arc<Client>, requests: &[Prepared]) -> Result<f64> {
    let mut rushes = Vec::with_capacity(RUSHES);
    for _ in 0..RUSHES {
        let waits = Latencies::new(load::rush(client, requests).await?);
        let wait = waits.percentile(99.0);
        rushes.push(wait.as_secs_f64() * 1e3);
        if wait > LONG {
            break;
        }
    }
    median(rushes)
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .context("nothing was measured")
}
