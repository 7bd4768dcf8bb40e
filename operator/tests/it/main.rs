//! The `operator` binary as a process, in an environment that holds only what it requires.

use dapr_kit::testing::{Daemon, half_a_request, request};

const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");
const NAMESPACE: [(&str, &str); 1] = [("NAMESPACE", "dapr-system")];
const FREE_PORTS: [&str; 2] = ["--healthz-port=0", "--metrics-port=0"];

#[test]
fn serves_health_and_metrics_and_drains() {
    let mut operator = Daemon::start(OPERATOR, &FREE_PORTS, &NAMESPACE);
    let healthz = operator.address("healthz");
    let metrics = operator.address("metrics");
    let warning = operator.line("level=warning");
    assert!(warning.contains("not part of this build yet"), "{warning}");
    // What the operator is for is missing, and health says so.
    for method in ["GET", "POST"] {
        assert_eq!(request(healthz, method, "/healthz"), (503, String::new()));
    }
    assert_eq!(request(healthz, "GET", "/").0, 404);
    let (status, text) = request(metrics, "GET", "/metrics");
    assert_eq!(status, 200);
    assert!(
        text.contains("# TYPE process_start_time_seconds gauge\n"),
        "{text}"
    );
    operator.signal("TERM");
    let ended = operator.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .last_line()
            .contains("msg=\"operator shut down gracefully\""),
        "{ended:?}"
    );
    assert!(
        ended
            .last_line()
            .contains(" scope=dapr.operator type=log ver=1.18.3"),
        "{ended:?}"
    );
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut operator = Daemon::start(OPERATOR, &FREE_PORTS, &NAMESPACE);
    let healthz = operator.address("healthz");
    let held = half_a_request(healthz);
    operator.signal("INT");
    operator.line("received SIGINT, shutting down");
    operator.signal("TERM");
    let ended = operator.ended();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.last_line().contains("level=fatal"), "{ended:?}");
    drop(held);
}

#[test]
fn metrics_off_json_logs_and_one_dash() {
    let arguments = [
        "-healthz-port",
        "0",
        "-enable-metrics=false",
        "-log-as-json",
        "-metrics-port",
        "9090",
    ];
    let mut operator = Daemon::start(OPERATOR, &arguments, &NAMESPACE);
    let line = operator.line("healthz server is listening");
    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    operator.signal("INT");
    let ended = operator.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        !ended
            .stdout
            .iter()
            .any(|line| line.contains("metrics server is listening")),
        "{ended:?}"
    );
}

#[test]
fn help_and_bad_flags() {
    for help in ["--help", "-help", "-h"] {
        let ended = Daemon::run(OPERATOR, &[help], &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended.stderr.contains("--watchdog-can-patch-pod-labels"),
            "{ended:?}"
        );
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    let ended = Daemon::run(OPERATOR, &["--nonsense"], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("--config") && ended.stderr.ends_with("\nunknown flag: --nonsense\n"),
        "{ended:?}"
    );
}

#[test]
fn start_errors_are_one_fatal_line() {
    #[track_caller]
    fn check(arguments: &[&str], environment: &[(&str, &str)], expected: &str) {
        let ended = Daemon::run(OPERATOR, arguments, environment);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.last_line().contains("level=fatal"), "{ended:?}");
        assert!(ended.last_line().contains(expected), "{ended:?}");
    }
    check(
        &[],
        &[],
        "config: daprsystem, err: 'NAMESPACE' environment variable not set",
    );
    check(
        &["--log-level", "loud"],
        &NAMESPACE,
        "msg=\"invalid value for --log-level: loud\"",
    );
    check(
        &["--watch-interval", "0s"],
        &NAMESPACE,
        "invalid watch-interval value: must be at least 1s, got 0s",
    );
    check(
        &["--metrics-port", "x", "--healthz-port", "0"],
        &NAMESPACE,
        "failed to parse metrics port: strconv.Atoi",
    );
}

#[test]
fn a_taken_port_names_the_flag() {
    let taken = std::net::TcpListener::bind("[::]:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let ended = Daemon::run(OPERATOR, &["--healthz-port", &port], &NAMESPACE);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .last_line()
            .contains("give another one with --healthz-port: "),
        "{ended:?}"
    );
}

#[test]
fn a_log_file_takes_every_line() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/operator.log");
    std::fs::write(path, "kept\n").expect("a writable folder");
    let ended = Daemon::run(
        OPERATOR,
        &["--log-file", path, "--watch-interval=x"],
        &NAMESPACE,
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    let text = std::fs::read_to_string(path).expect("it is there");
    assert!(
        text.starts_with("kept\ntime=")
            && text.contains("level=fatal msg=\"invalid value for watch"),
        "{text}"
    );
    let ended = Daemon::run(
        OPERATOR,
        &["--log-file", env!("CARGO_TARGET_TMPDIR")],
        &NAMESPACE,
    );
    assert!(
        ended
            .last_line()
            .contains("give another path with --log-file, or none for stdout: "),
        "{ended:?}"
    );
}
