//! The `scheduler` binary as a process, in an empty environment.

use std::net::SocketAddr;

use dapr_kit::testing::{Daemon, half_a_request, request};

const SCHEDULER: &str = env!("CARGO_BIN_EXE_scheduler");
const FREE_PORTS: [&str; 3] = ["--healthz-port=0", "--metrics-port", "0"];

#[test]
fn serves_health_and_metrics_and_drains() {
    let mut scheduler = Daemon::start(SCHEDULER, &FREE_PORTS, &[]);
    let healthz = scheduler.address("healthz");
    let metrics = scheduler.address("metrics");
    let warning = scheduler.line("level=warning");
    assert!(warning.contains("not part of this build yet"), "{warning}");
    assert_eq!(request(healthz, "GET", "/healthz"), (503, String::new()));
    let (status, text) = request(metrics, "GET", "/any");
    assert_eq!(status, 200);
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    scheduler.signal("TERM");
    let ended = scheduler.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .last_line()
            .contains(" scope=dapr.scheduler type=log ver=1.18.3"),
        "{ended:?}"
    );
}

/// Bytes, read from a page of metrics.
fn resident(metrics: SocketAddr) -> f64 {
    let (_, page) = request(metrics, "GET", "/");
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    value
        .and_then(|value| value.parse().ok())
        .expect("a number of bytes")
}

#[test]
fn code_that_only_the_start_needed_is_given_back() {
    let arguments = ["--healthz-port=0", "--metrics-port=0", "--log-level=debug"];
    let mut scheduler = Daemon::start(SCHEDULER, &arguments, &[]);
    let metrics = scheduler.address("metrics");
    let first = resident(metrics);
    scheduler.line("Gave back code that is not used any more");
    let rest = resident(metrics);
    // What is left is the heap, and the code that answers; without optimization that is several times as large.
    assert!(rest < first * 0.85, "{first} bytes became {rest}");
    assert_eq!(request(metrics, "GET", "/").0, 200);
}

#[test]
fn metrics_listen_where_the_api_does() {
    let arguments = [
        "--healthz-port=0",
        "--metrics-port=0",
        "--listen-address=127.0.0.1",
    ];
    let mut scheduler = Daemon::start(SCHEDULER, &arguments, &[]);
    let line = scheduler.line("metrics server is listening");
    assert!(line.contains("address=\"127.0.0.1:"), "{line}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut scheduler = Daemon::start(SCHEDULER, &FREE_PORTS, &[]);
    let healthz = scheduler.address("healthz");
    let held = half_a_request(healthz);
    scheduler.signal("INT");
    scheduler.line("received SIGINT, shutting down");
    scheduler.signal("INT");
    assert_eq!(scheduler.ended().code, Some(1));
    drop(held);
}

#[test]
fn help_and_bad_flags() {
    let ended = Daemon::run(SCHEDULER, &["--help"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("--etcd-initial-cluster"), "{ended:?}");
    let ended = Daemon::run(SCHEDULER, &["--x"], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.ends_with("\nunknown flag: --x\n"), "{ended:?}");
    // The one binary that does not take single dashes.
    let ended = Daemon::run(SCHEDULER, &["-port=1"], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended
            .stderr
            .ends_with("\nunknown shorthand flag: 'p' in -port=1\n"),
        "{ended:?}"
    );
}

#[test]
fn start_errors_are_one_fatal_line() {
    let ended = Daemon::run(SCHEDULER, &["--id", "other"], &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .last_line()
            .contains("level=fatal msg=\"--id \\\"other\\\" is not in"),
        "{ended:?}"
    );
}

#[test]
fn root_is_refused_in_a_cluster() {
    use std::os::unix::fs::MetadataExt as _;
    let process = std::fs::metadata("/proc/self").expect("a process");
    if process.uid() != 0 {
        println!("skipped: root is refused in a cluster: the tests do not run as root");
        return;
    }
    let cluster = [&FREE_PORTS[..], &["--mode=kubernetes"]].concat();
    let ended = Daemon::run(SCHEDULER, &cluster, &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let last = ended.last_line();
    assert!(last.contains("level=fatal"), "{ended:?}");
    assert!(last.contains("current user UID(0) is root"), "{ended:?}");

    let anyone = [("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")];
    let mut scheduler = Daemon::start(SCHEDULER, &cluster, &anyone);
    assert_eq!(
        request(scheduler.address("healthz"), "GET", "/healthz").0,
        503
    );
}
