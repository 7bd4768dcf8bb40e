//! The rows: each measures one set of executables and returns its values.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use dapr_e2e::ports;
use dapr_e2e::standalone::{ControlPlane, Sidecar, SidecarSpec};

use crate::load::{Latencies, Load};
use crate::process;

/// Requests per second of the invocation rows.
const RATE: u32 = 1000;
/// Bytes of each request and answer.
const BODY: usize = 1024;
/// Time before measuring, so that connections and caches are there.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long a sidecar may take to end.
const END: Duration = Duration::from_secs(20);
/// Cold starts per run; the median counts.
const STARTS: usize = 7;

/// What invocation through two sidecars costs.
#[derive(Debug, Clone, Copy)]
pub struct Invocation {
    /// Added median latency in milliseconds.
    pub added_p50: f64,
    /// Added 99th percentile in milliseconds.
    pub added_p99: f64,
    /// Microseconds of CPU per request and sidecar.
    pub cpu_per_request: f64,
    /// Resident megabytes of an idle sidecar.
    pub idle_rss: f64,
}

/// Measures invocation through two sidecars with mTLS, and directly, in one run.
pub async fn invocation(binaries: Option<&Path>, duration: Duration) -> Result<Invocation> {
    let folder = tempfile::tempdir()?;
    let plane = ControlPlane::start_from(folder.path(), 0, binaries.map(PathBuf::from)).await?;
    let (app_port, app) = echo().await?;
    let mut caller = start(folder.path(), "caller", None, &plane).await?;
    let mut callee = start(folder.path(), "callee", Some(app_port), &plane).await?;
    caller.await_outbound().await?;
    callee.await_ready().await?;
    tokio::time::sleep(process::SETTLE).await;
    let idle_rss = megabytes(process::rss(pid(&caller)?)?);

    let direct = format!("http://127.0.0.1:{app_port}/echo");
    let through = caller.url("invoke/callee/method/echo");
    let pids = [pid(&caller)?, pid(&callee)?];
    let measured = self::through(&direct, &through, pids, duration).await;
    app.abort();
    let measured = measured?;
    // Not killed: what an instrumented build has counted is written at its end.
    for mut sidecar in [caller, callee] {
        sidecar.process.terminate(END).await?;
    }
    Ok(Invocation {
        added_p50: measured.added_p50,
        added_p99: measured.added_p99,
        cpu_per_request: measured.cpu_per_request,
        idle_rss,
    })
}

/// What a way through two processes costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Through {
    /// Added median latency in milliseconds.
    pub(crate) added_p50: f64,
    /// Added 99th percentile in milliseconds.
    pub(crate) added_p99: f64,
    /// Microseconds of CPU per request and process.
    pub(crate) cpu_per_request: f64,
}

/// Measures the way through two processes beside the direct one, in one run.
pub(crate) async fn through(
    direct: &str,
    through: &str,
    pids: [u32; 2],
    duration: Duration,
) -> Result<Through> {
    let load = |url: &str, duration| Load {
        url: url.to_owned(),
        rate: RATE,
        duration,
        body: Bytes::from(vec![b'x'; BODY]),
    };
    load(direct, WARM_UP).run().await?;
    load(through, WARM_UP).run().await?;

    let direct = load(direct, duration).run().await?;
    let used = || -> Result<Duration> {
        let [caller, callee] = pids;
        Ok(process::cpu_time(caller)? + process::cpu_time(callee)?)
    };
    let before = used()?;
    let through = load(through, duration).run().await?;
    let cpu = used()?.saturating_sub(before);
    Ok(Through {
        added_p50: added(&through, &direct, 50.0),
        added_p99: added(&through, &direct, 99.0),
        cpu_per_request: cpu.as_secs_f64() * 1e6 / through.count() as f64 / 2.0,
    })
}

/// Milliseconds from starting daprd until `/v1.0/healthz/outbound` answers 204: the median of several starts.
pub async fn cold_start(binaries: Option<&Path>) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let plane = ControlPlane::start_from(folder.path(), 0, binaries.map(PathBuf::from)).await?;
    let mut times = Vec::new();
    for index in 0..STARTS {
        let client = reqwest::Client::new();
        let started = Instant::now();
        let mut sidecar = start(folder.path(), &format!("cold-{index}"), None, &plane).await?;
        let url = sidecar.url("healthz/outbound");
        let limit = started + Duration::from_secs(20);
        loop {
            if client
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().as_u16() == 204)
            {
                break;
            }
            anyhow::ensure!(Instant::now() < limit, "daprd did not become ready");
            // Short against what is measured; a busy loop would take the core the start needs.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
        sidecar.process.kill().await?;
    }
    times.sort_by(f64::total_cmp);
    times
        .get(times.len() / 2)
        .copied()
        .context("no start was measured")
}

/// Megabytes of an executable.
pub fn size(folder: &Path, name: &str) -> Result<f64> {
    Ok(megabytes(
        std::fs::metadata(folder.join(name))
            .with_context(|| format!("{name} in {}", folder.display()))?
            .len(),
    ))
}

async fn start(
    folder: &Path,
    app_id: &str,
    app_port: Option<u16>,
    plane: &ControlPlane,
) -> Result<Sidecar> {
    let spec = SidecarSpec {
        name: app_id.to_owned(),
        app_id: app_id.to_owned(),
        app_port,
        ..Default::default()
    };
    Sidecar::start(folder, &spec, Some(plane)).await
}

/// An application that answers what it was sent.
pub(crate) async fn echo() -> Result<(u16, tokio::task::JoinHandle<()>)> {
    let port = ports::free().await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let router = Router::new().route("/echo", post(|body: Bytes| async move { body }));
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            drop(error); // The row fails by its requests.
        }
    });
    Ok((port, server))
}

fn added(through: &Latencies, direct: &Latencies, percent: f64) -> f64 {
    (through.percentile(percent).as_secs_f64() - direct.percentile(percent).as_secs_f64()) * 1e3
}

fn pid(sidecar: &Sidecar) -> Result<u32> {
    sidecar.process.id().context("the sidecar has ended")
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
