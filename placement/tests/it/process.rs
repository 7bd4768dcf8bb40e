//! Starts the binary on free ports, and asks it over HTTP.

use std::io::{self, Read, Write};
use std::net::TcpListener as StdListener;
use std::path::Path;
use std::process::ExitStatus;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// Below what the kernel gives to outgoing connections and to port 0: a port found free here is not taken by one
/// of those before its process has bound it.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// Ports nobody listens on, each given out once in this process.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(2_654_435_761);
    let mut candidates = std::iter::repeat_with(|| {
        let place = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + place % (PORTS.end - PORTS.start);
        u16::try_from(port).expect("the range has ports only")
    })
    .take(1000)
    .filter(|port| StdListener::bind(("127.0.0.1", *port)).is_ok());
    std::array::from_fn(|_| candidates.next().expect("a free port"))
}

/// A running placement; killed when dropped.
pub(crate) struct Placement {
    pub(crate) port: u16,
    pub(crate) healthz_port: u16,
    pub(crate) metrics_port: u16,
    child: Child,
    output: Output,
}

/// What a process writes, read as it comes: one whose reader is slow would stand still. Shown when its test fails.
struct Output(Option<JoinHandle<Vec<u8>>>);

impl Output {
    /// With the end that the process writes to.
    fn new() -> (Self, io::PipeWriter) {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let collect = move || {
            let mut text = Vec::new();
            // What was read before an error is worth showing, too.
            drop(reader.read_to_end(&mut text));
            text
        };
        (Self(Some(thread::spawn(collect))), writer)
    }
}

impl Drop for Placement {
    /// The process goes first, or its output would not end.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        // Whether it runs or has ended, the report of the failure goes on.
        drop(self.child.start_kill());
        let output = self.output.0.take().map(JoinHandle::join);
        if let Some(Ok(text)) = output {
            drop(io::stdout().write_all(&text));
        }
    }
}

impl Placement {
    /// Starts a replica of its own.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let [raft] = free_ports();
        let placement = Self::launch("p0", &format!("p0=127.0.0.1:{raft}"), flags);
        placement.await_ready().await;
        placement
    }

    /// Bytes that the process wrote and holds, its heap and stacks.
    pub(crate) fn heap(&self) -> u64 {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a number");
        kib * 1024
    }

    /// Starts a replica of a cluster, without waiting for anything.
    pub(crate) fn launch(id: &str, cluster: &str, flags: &[&str]) -> Self {
        Self::launch_in(Path::new("."), id, cluster, flags)
    }

    /// The same in a folder.
    pub(crate) fn launch_in(folder: &Path, id: &str, cluster: &str, flags: &[&str]) -> Self {
        let [port, healthz_port, metrics_port] = free_ports();
        let (output, writer) = Output::new();
        let child = Command::new(env!("CARGO_BIN_EXE_placement"))
            .args([format!("--id={id}"), format!("--initial-cluster={cluster}")])
            .args([
                format!("--port={port}"),
                format!("--healthz-port={healthz_port}"),
                format!("--metrics-port={metrics_port}"),
            ])
            .args(["--listen-address=127.0.0.1", "--log-level=debug"])
            .args(flags)
            .current_dir(folder)
            .stdout(writer.try_clone().expect("a second end"))
            .stderr(writer)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        Self {
            port,
            healthz_port,
            metrics_port,
            child,
            output,
        }
    }

    pub(crate) async fn await_ready(&self) {
        let ready = async || matches!(get(self.healthz_port, "/healthz").await, Ok((200, ..)));
        eventually("placement is ready", ready).await;
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("still running").to_string();
        let status = Command::new("kill")
            .args([format!("-{name}"), id])
            .status()
            .await
            .expect("kill runs");
        assert!(status.success());
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    pub(crate) async fn exit(mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("ends in time")
            .expect("waited for")
    }

    /// How it ended, and everything it wrote.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("ends in time")
            .expect("waited for");
        let reader = self.output.0.take().expect("nobody else reads it");
        let text = reader.join().expect("it reads to the end");
        (status, String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waited for").is_none()
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in time: {what}");
        sleep(LOOK).await;
    }
}

/// Status, head and body of a GET.
pub(crate) async fn get(port: u16, path: &str) -> io::Result<(u16, String, String)> {
    request("GET", port, path).await
}

pub(crate) async fn request(
    method: &str,
    port: u16,
    path: &str,
) -> io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, head.to_lowercase(), body.to_owned()))
}
