//! The `injector` binary as a process, in an environment that holds only what it requires.

use dapr_kit::testing::{Daemon, half_a_request, request};

const INJECTOR: &str = env!("CARGO_BIN_EXE_injector");
const REQUIRED: [(&str, &str); 2] = [("NAMESPACE", "dapr-system"), ("SIDECAR_IMAGE", "daprd:1")];
const FREE_PORTS: [&str; 3] = ["-healthz-port=0", "--metrics-port", "0"];

#[test]
fn serves_health_and_metrics_and_drains() {
    let mut injector = Daemon::start(INJECTOR, &FREE_PORTS, &REQUIRED);
    let healthz = injector.address("healthz");
    let metrics = injector.address("metrics");
    let warning = injector.line("level=warning");
    assert!(warning.contains("not part of this build yet"), "{warning}");
    assert_eq!(request(healthz, "GET", "/healthz"), (503, String::new()));
    assert_eq!(request(healthz, "POST", "/mutate").0, 404);
    let (status, text) = request(metrics, "GET", "/");
    assert_eq!(status, 200);
    assert!(text.contains("\nprocess_open_fds "), "{text}");
    injector.signal("TERM");
    let ended = injector.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .last_line()
            .contains(" scope=dapr.injector type=log ver=1.18.3"),
        "{ended:?}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut injector = Daemon::start(INJECTOR, &FREE_PORTS, &REQUIRED);
    let healthz = injector.address("healthz");
    let held = half_a_request(healthz);
    injector.signal("TERM");
    injector.line("received SIGTERM, shutting down");
    injector.signal("INT");
    assert_eq!(injector.ended().code, Some(1));
    drop(held);
}

#[test]
fn the_deprecated_variable_is_told() {
    let [namespace, image] = REQUIRED;
    let old = ("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES", "ns:name");
    let mut injector = Daemon::start(INJECTOR, &FREE_PORTS, &[namespace, image, old]);
    injector
        .line("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES is deprecated, use ALLOWED_SERVICE_ACCOUNTS");
    injector.signal("TERM");
    assert_eq!(injector.ended().code, Some(0));
}

#[test]
fn help_and_bad_flags() {
    let ended = Daemon::run(INJECTOR, &["--help"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("--scheduler-enabled"), "{ended:?}");
    let ended = Daemon::run(INJECTOR, &["--x"], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.ends_with("\nunknown flag: --x\n"), "{ended:?}");
}

#[test]
fn start_errors_are_one_fatal_line() {
    let ended = Daemon::run(INJECTOR, &[], &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.last_line().contains(
            "level=fatal msg=\"Error getting config: required key SIDECAR_IMAGE missing value\""
        ),
        "{ended:?}"
    );
    let ended = Daemon::run(INJECTOR, &["--log-as-json", "--log-level=x"], &REQUIRED);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .last_line()
            .contains("\"level\":\"fatal\",\"msg\":\"invalid value for --log-level: x\""),
        "{ended:?}"
    );
}
