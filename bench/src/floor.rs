//! What bare libraries take on this machine in this run for the hops, streams and connections of daprd, the operator and
//! Sentry (`src/bin/floor.rs`). A figure beside it can be compared between machines. It is no lower bound: what it does not
//! do, such as gathering writes, ours may do better. The rounds of Placement are one: nothing but system calls on plain sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::{Process, Spec, ports};
use tokio::net::TcpStream;

use crate::cores::Split;
use crate::report::Row;
use crate::{process, rows as shared};

mod crowd;
pub mod identity;
mod rounds;

use crowd::Crowd;
use identity::Identity;
use rounds::Rounds;

/// Bytes of a message on a stream; a Component of the operator's rows has about as many.
pub const MESSAGE: usize = 1100;
/// Streams of the smaller row, and of the larger one.
const FEW: usize = 1000;
const MANY: usize = 5000;
/// Messages whose median counts.
const MESSAGES: usize = 9;
/// Bytes of an order without a table, and of an answer to one.
pub const BARE_ORDER: usize = 40;
/// See [`BARE_ORDER`].
pub const ANSWER: usize = 48;
/// Sockets and bytes of the table of Placement's rows: a join, and a restart.
const JOINED: (usize, u32) = (1000, 68_500);
const RESTARTED: (usize, u32) = (100, 6_850);
/// Rounds whose mean counts.
const ROUNDS: u32 = 20;
/// Clients that connect again and again, and for how long; Sentry's rows have the same.
const CLIENTS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const ASKING: Duration = Duration::from_secs(5);
/// A start on a busy machine stays well below.
const START: Duration = Duration::from_secs(20);
const PROGRAM: &str = "floor";

/// The rows, in the order of the values of [`measure`].
pub fn rows() -> Vec<Row> {
    vec![
        Row::new(
            "floor: bare hyper with daprd's hops, CPU per request and process",
            "µs",
            None,
        ),
        Row::new("floor: the same, added latency p50", "ms", None),
        Row::new("floor: the same, added latency p99", "ms", None),
        Row::new(
            "floor: a message to 1,000 bare streams, last has it, mTLS",
            "ms",
            None,
        ),
        Row::new(
            "floor: a message to 5,000 bare streams, last has it, mTLS",
            "ms",
            None,
        ),
        Row::new("floor: CPU of a message to 5,000", "ms", None),
        Row::new("floor: RSS with 5,000 bare streams", "MB", None),
        Row::new(
            "floor: a round of 1,000 plain sockets with a table of 1,000, last is unlocked",
            "ms",
            None,
        ),
        Row::new("floor: CPU of that round", "ms", None),
        Row::new(
            "floor: a round of 100 plain sockets with a table of 100, blocked time of each",
            "ms",
            None,
        ),
        Row::new(
            "floor: a bare TLS connection with one request, CPU of the server",
            "µs",
            None,
        ),
    ]
}

/// Measures the program that stands beside this one.
pub async fn measure(duration: Duration) -> Result<Vec<f64>> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    let folder = tempfile::tempdir()?;
    let identity = Identity::make(folder.path())?;
    let hops = hops(&program, folder.path(), duration).await?;
    let split = Split::begin().await?;
    let streams = streams(&program, folder.path(), &identity, split.as_ref()).await;
    let joined = round(&program, folder.path(), JOINED, split.as_ref()).await;
    let restarted = round(&program, folder.path(), RESTARTED, split.as_ref()).await;
    let connection = connections(&program, folder.path(), &identity, split.as_ref()).await;
    if let Some(split) = split {
        split.end().await?;
    }
    let (streams, joined, restarted, connection) = (streams?, joined?, restarted?, connection?);
    Ok(vec![
        hops.cpu_per_request,
        hops.added_p50,
        hops.added_p99,
        streams.few.as_secs_f64() * 1e3,
        streams.many.as_secs_f64() * 1e3,
        streams.cpu.as_secs_f64() * 1e3,
        streams.rss,
        joined.took.as_secs_f64() * 1e3,
        joined.cpu.as_secs_f64() * 1e3,
        restarted.blocked.as_secs_f64() * 1e3,
        connection,
    ])
}

async fn hops(program: &Path, folder: &Path, duration: Duration) -> Result<shared::Through> {
    let (app_port, app) = shared::echo().await?;
    let (caller_port, callee_port) = (ports::free().await?, ports::free().await?);
    let start =
        async |role: &str, port, other| start(program, folder, role, port, other, None).await;
    let callee = start("callee", callee_port, app_port).await?;
    let caller = start("caller", caller_port, callee_port).await?;
    let pids = [pid(&caller)?, pid(&callee)?];
    let through = format!("http://127.0.0.1:{caller_port}/echo");
    let direct = format!("http://127.0.0.1:{app_port}/echo");
    let measured = shared::through(&direct, &through, pids, duration).await;
    app.abort();
    measured
}

struct Streams {
    few: Duration,
    many: Duration,
    /// Per message to many.
    cpu: Duration,
    /// Megabytes with many.
    rss: f64,
}

async fn streams(
    program: &Path,
    folder: &Path,
    identity: &Identity,
    split: Option<&Split>,
) -> Result<Streams> {
    let (port, orders) = (ports::free().await?, ports::free().await?);
    let server = start(program, folder, "streams", port, orders, split).await?;
    let pid = pid(&server)?;
    let mut crowd = Crowd::new(port, orders, identity)?;
    crowd.join(FEW).await?;
    let few = messages(&mut crowd).await?;
    crowd.join(MANY - FEW).await?;
    tokio::time::sleep(process::SETTLE).await;
    let rss = process::rss(pid)? as f64 / 1e6;
    let before = process::cpu_time(pid)?;
    let many = messages(&mut crowd).await?;
    let cpu = process::cpu_time(pid)?.saturating_sub(before) / u32::try_from(MESSAGES)?;
    Ok(Streams {
        few,
        many,
        cpu,
        rss,
    })
}

/// Means of a round.
struct Round {
    /// Until the last has had its three orders.
    took: Duration,
    /// Of the server.
    cpu: Duration,
    /// Of each, from the table until the order after it.
    blocked: Duration,
}

async fn round(
    program: &Path,
    folder: &Path,
    (sockets, table): (usize, u32),
    split: Option<&Split>,
) -> Result<Round> {
    let (port, orders) = (ports::free().await?, ports::free().await?);
    let server = start(program, folder, "rounds", orders, port, split).await?;
    let pid = pid(&server)?;
    let mut rounds = Rounds::begin(port, orders, sockets, table).await?;
    // In the first one the server accepts all of them.
    rounds.round().await?;
    rounds.forget_blocked();
    let before = process::cpu_time(pid)?;
    let mut took = Duration::ZERO;
    for _ in 0..ROUNDS {
        took += rounds.round().await?;
    }
    let cpu = process::cpu_time(pid)?.saturating_sub(before);
    Ok(Round {
        took: took / ROUNDS,
        cpu: cpu / ROUNDS,
        blocked: rounds.blocked() / ROUNDS / u32::try_from(sockets)?,
    })
}

/// Microseconds of the server for a connection with one request.
async fn connections(
    program: &Path,
    folder: &Path,
    identity: &Identity,
    split: Option<&Split>,
) -> Result<f64> {
    let port = ports::free().await?;
    let server = start(program, folder, "answers", port, 0, split).await?;
    let pid = pid(&server)?;
    crowd::ask(port, identity, CLIENTS, WARM_UP).await?;
    let before = process::cpu_time(pid)?;
    let asked = crowd::ask(port, identity, CLIENTS, ASKING).await?;
    let cpu = process::cpu_time(pid)?.saturating_sub(before);
    Ok(cpu.as_secs_f64() * 1e6 / asked as f64)
}

async fn messages(crowd: &mut Crowd) -> Result<Duration> {
    let mut times = Vec::with_capacity(MESSAGES);
    for _ in 0..MESSAGES {
        times.push(crowd.message().await?);
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2);
    median.copied().context("nothing was measured")
}

/// Starts the program in a role and waits until it listens.
async fn start(
    program: &Path,
    folder: &Path,
    role: &str,
    port: u16,
    other: u16,
    split: Option<&Split>,
) -> Result<Process> {
    let arguments = vec![
        role.to_owned(),
        port.to_string(),
        other.to_string(),
        folder.display().to_string(),
    ];
    let (program, arguments): (PathBuf, Vec<String>) = match split {
        Some(split) => split.wrap(program, arguments),
        None => (program.to_owned(), arguments),
    };
    let mut process = Process::start(&Spec {
        name: role.to_owned(),
        program,
        arguments,
        environment: BTreeMap::new(),
        folder: folder.to_owned(),
    })?;
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        process.check_running()?;
        ensure!(started.elapsed() < START, "{role} does not listen");
        // Short against the limit; nothing is measured yet.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(process)
}

fn pid(process: &Process) -> Result<u32> {
    process.id().context("it has ended")
}
