//! Exit codes, and the end.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;
use tonic::Code;

use crate::process::{PATIENCE, Placement, free_ports};
use crate::sidecar::Sidecar;

/// Runs the binary with flags that end it, and returns its exit code and everything it wrote.
async fn exit_code(flags: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_placement"))
        .args(flags)
        .env_remove("NAMESPACE")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output)
        .await
        .expect("ends in time")
        .expect("runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

pub(crate) async fn check(flags: &[&str], code: i32, text: &str) {
    let (found, output) = exit_code(flags).await;
    assert_eq!(found, Some(code), "{flags:?}: {output}");
    assert!(output.contains(text), "{flags:?}: {output}");
    assert!(!output.contains("panicked"), "{flags:?}: {output}");
    if code == 1 {
        let errors = output.lines().filter(|line| is_error(line));
        assert_eq!(errors.count(), 1, "{flags:?}: {output}");
    }
}

/// Whether a line tells a person what is wrong.
fn is_error(line: &str) -> bool {
    line.contains("level=error") || line.contains("level=fatal")
}

#[tokio::test]
async fn exit_codes() {
    check(&["--help"], 0, "--initial-cluster").await;
    check(&["--no-such-flag"], 2, "unknown flag: --no-such-flag").await;
    check(&["--id=nobody"], 1, "is not in --initial-cluster").await;
    check(&["-id", "nobody"], 1, "is not in --initial-cluster").await;
    check(&["--keepalive-time=11s"], 1, "--keepalive-time").await;
    check(
        &["--log-level=loud"],
        1,
        "invalid value for --log-level: loud",
    )
    .await;
    // What is malformed is skipped, and then the own id is not there.
    check(
        &["--id=p0", "--initial-cluster=p0,p0=host,=:1"],
        1,
        "is not in --initial-cluster",
    )
    .await;
    check(
        &["--mode=other"],
        1,
        "for --mode: give kubernetes or standalone",
    )
    .await;
}

#[tokio::test]
async fn a_taken_port_ends_the_start() {
    let [healthz, metrics] = free_ports();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let flags = [
        format!("--port={port}"),
        format!("--healthz-port={healthz}"),
        format!("--metrics-port={metrics}"),
    ];
    let flags = flags
        .iter()
        .map(String::as_str)
        .chain(["--listen-address=127.0.0.1"]);
    check(&flags.collect::<Vec<_>>(), 1, "--port").await;
}

#[tokio::test]
async fn a_signal_ends_streams_and_process() {
    for (signal, reason) in [
        ("TERM", "cancelling context, received signal terminated"),
        ("INT", "cancelling context, received signal interrupt"),
        ("HUP", "cancelling context"),
    ] {
        let placement = Placement::start(&[]).await;
        let mut sidecar = Sidecar::connect(placement.port, "a", &["t"]).await;
        sidecar.expect("lock", 1).await;
        placement.signal(signal).await;
        let status = sidecar.end().await;
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(status.message(), reason);
        let port = placement.port;
        let (status, output) = placement.ended().await;
        assert_eq!(status.code(), Some(0));
        // What scripts and test fixtures wait for.
        let lines = [
            "Starting Dapr Placement Service -- version ",
            &format!("Placement service started on port {port}"),
            "Node id=p0 has acquired leadership",
            "Placement service shut down gracefully",
        ];
        for line in lines {
            assert!(output.contains(&format!("msg=\"{line}")), "{output}");
        }
    }
}

#[tokio::test]
async fn an_entry_without_a_host_listens_everywhere() {
    let [raft] = free_ports();
    let placement = Placement::launch("p0", &format!("p0=:{raft}"), &[]);
    placement.await_ready().await;
    let mut sidecar = Sidecar::connect(placement.port, "a", &["t"]).await;
    sidecar.expect("lock", 1).await;
}
