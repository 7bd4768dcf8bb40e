//! The rows of the injector: what the API server waits for with each pod, and what an idle injector holds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::cores::Split;
use crate::load::Latencies;
use crate::report::{Row, Target};
use crate::{process, rows as sizes};

pub mod client;
pub mod review;
pub mod server;

use client::Connection;
use server::{Plane, Server};

/// Reviews per second of the rows about latency.
const RATE: u32 = 200;
/// Connections of the rows about throughput, and reviews in flight on each: an API server has few of the one and many of
/// the other.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 8;
/// Time before measuring, so that memory and caches are there.
const WARM_UP: Duration = Duration::from_secs(1);
/// Time of each load.
const DURATION: Duration = Duration::from_secs(10);

/// The rows, in the order of the values of [`measure`].
pub fn rows() -> Vec<Row> {
    let at_most = |limit| Some(Target::AtMost(limit));
    vec![
        Row::new(
            "injector: admission p99, 200 reviews/s, 20 KiB pods, TLS",
            "ms",
            at_most(2.0),
        ),
        Row::new(
            "injector: admission p50, 200 reviews/s, 20 KiB pods, TLS",
            "ms",
            None,
        ),
        Row::new(
            "injector: reviews on one core, 20 KiB pods",
            "1/s",
            Some(Target::RatioAtLeast(3.0)),
        ),
        Row::new("injector: CPU per review", "µs", None),
        Row::new("injector: idle RSS", "MB", at_most(10.0)),
        Row::new("injector: size", "MB", at_most(10.0)),
    ]
}

/// How late a timer may be.
const TIMER: Duration = Duration::from_millis(2);

/// Measures the injector of one folder, with the Sentry of the same.
pub async fn measure(binaries: &Path) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let plane = Plane::start(folder.path(), binaries).await?;
    let idle_rss = idle_rss(&plane).await?;
    let body = review::body();

    let split = Split::begin().await?;
    let loaded = loaded(&plane, split.as_ref(), &body).await;
    if let Some(split) = split {
        split.end().await?;
    }
    let Loaded { waits, cost } = loaded?;
    plane.stop().await?;
    let milliseconds = |percent| waits.percentile(percent).as_secs_f64() * 1e3;
    Ok(vec![
        milliseconds(99.0),
        milliseconds(50.0),
        cost.rate,
        cost.cpu,
        idle_rss,
        sizes::size(binaries, "injector")?,
    ])
}

/// Megabytes.
async fn idle_rss(plane: &Plane<'_>) -> Result<f64> {
    let server = plane.injector(None).await?;
    tokio::time::sleep(process::SETTLE).await;
    let bytes = process::rss(server.pid()?)?;
    server.kill().await?;
    Ok(bytes as f64 / 1e6)
}

struct Loaded {
    waits: Latencies,
    cost: Cost,
}

struct Cost {
    /// Microseconds of the injector's CPU per review.
    cpu: f64,
    /// Reviews per second.
    rate: f64,
}

async fn loaded(plane: &Plane<'_>, split: Option<&Split>, body: &Bytes) -> Result<Loaded> {
    let server = plane.injector(split).await?;
    let connection = plane.dial(&server).await?;
    review::check(&connection.review(body).await?)?;
    steady(&connection, body, WARM_UP).await?;
    let waits = steady(&connection, body, DURATION).await?;
    saturated(plane, &server, body, WARM_UP).await?;
    let before = process::cpu_time(server.pid()?)?;
    let (reviews, elapsed) = saturated(plane, &server, body, DURATION).await?;
    let cpu = process::cpu_time(server.pid()?)?.saturating_sub(before);
    server.kill().await?;
    Ok(Loaded {
        waits,
        cost: Cost {
            cpu: cpu.as_secs_f64() * 1e6 / reviews as f64,
            rate: reviews as f64 / elapsed.as_secs_f64(),
        },
    })
}

/// Reviews on schedule, whether or not earlier ones have come back, on the one connection an API server has.
async fn steady(connection: &Connection, body: &Bytes, duration: Duration) -> Result<Latencies> {
    let gap = Duration::from_secs(1) / RATE;
    let count = duration.as_secs() as u32 * RATE;
    let start = Instant::now();
    let mut calls: JoinSet<Result<Duration>> = JoinSet::new();
    for index in 0..count {
        let due = start + gap * index;
        punctual(due).await;
        let (connection, body) = (connection.clone(), body.clone());
        calls.spawn(async move {
            connection.review(&body).await?;
            Ok(due.elapsed())
        });
    }
    let mut waits = Vec::new();
    while let Some(call) = calls.join_next().await {
        waits.push(call??);
    }
    Ok(Latencies::new(waits))
}

/// Waits until `due`, not to the next millisecond as timers do: at a few hundred microseconds per review the rest would
/// be most of what is measured.
async fn punctual(due: Instant) {
    if let Some(early) = due.checked_sub(TIMER) {
        tokio::time::sleep_until(early.into()).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

/// As many reviews as it takes.
async fn saturated(
    plane: &Plane<'_>,
    server: &Server,
    body: &Bytes,
    duration: Duration,
) -> Result<(u64, Duration)> {
    let ended = Arc::new(AtomicBool::new(false));
    let mut clients: JoinSet<Result<u64>> = JoinSet::new();
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let connection = plane.dial(server).await?;
        for _ in 0..STREAMS {
            let (connection, body, ended) = (connection.clone(), body.clone(), Arc::clone(&ended));
            clients.spawn(async move {
                let mut reviews = 0;
                while !ended.load(Ordering::Relaxed) {
                    connection.review(&body).await?;
                    reviews += 1;
                }
                Ok(reviews)
            });
        }
    }
    tokio::time::sleep(duration).await;
    ended.store(true, Ordering::Relaxed);
    let mut reviews = 0;
    while let Some(client) = clients.join_next().await {
        reviews += client??;
    }
    ensure!(reviews > 0, "nothing was answered");
    Ok((reviews, start.elapsed()))
}
