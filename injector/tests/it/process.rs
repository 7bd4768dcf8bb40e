//! The `injector` binary as a process, in an environment that holds only what it requires.

use dapr_kit::testing::{Daemon, half_a_request, request};

const INJECTOR: &str = env!("CARGO_BIN_EXE_injector");
const REQUIRED: [(&str, &str); 4] = [
    ("NAMESPACE", "dapr-system"),
    ("SIDECAR_IMAGE", "daprd:1"),
    ("DAPR_SENTRY_ADDRESS", "127.0.0.1:1"),
    ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true"),
];
/// A kubeconfig for an API server that nobody will reach.
const KUBECONFIG: &str = r#"{
    "apiVersion": "v1", "kind": "Config", "current-context": "c",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "users": [{"name": "u", "user": {}}]
}"#;

/// An injector without a trust bundle: it waits for one, with its ports open.
struct Waiting {
    injector: Daemon,
    _folder: tempfile::TempDir,
}

fn start(more: &[(&str, &str)]) -> Waiting {
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, KUBECONFIG).expect("written");
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let anchors = folder.path().join("ca.crt").display().to_string();
    let mut variables = REQUIRED.to_vec();
    variables.push(("DAPR_TRUST_ANCHORS_FILE", &anchors));
    variables.extend(more);
    let flags = [
        "-healthz-port=0",
        "--metrics-port",
        "0",
        "--port=0",
        &kubeconfig,
    ];
    Waiting {
        injector: Daemon::start(INJECTOR, &flags, &variables),
        _folder: folder,
    }
}

#[test]
fn serves_health_and_metrics_while_it_waits_and_drains() {
    let mut started = start(&[]);
    let injector = &mut started.injector;
    let healthz = injector.address("healthz");
    let metrics = injector.address("metrics");
    assert_eq!(request(healthz, "GET", "/healthz"), (503, String::new()));
    assert_eq!(request(healthz, "POST", "/mutate").0, 404);
    let (status, text) = request(metrics, "GET", "/");
    assert_eq!(status, 200);
    assert!(text.contains("\nprocess_open_fds "), "{text}");
    let requests = "\ndapr_injector_sidecar_injection_requests_total 0\n";
    assert!(text.contains(requests), "{text}");
    injector.signal("TERM");
    let ended = started.injector.ended();
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
    let mut started = start(&[]);
    let healthz = started.injector.address("healthz");
    let held = half_a_request(healthz);
    started.injector.signal("TERM");
    started.injector.line("received SIGTERM, shutting down");
    started.injector.signal("INT");
    assert_eq!(started.injector.ended().code, Some(1));
    drop(held);
}

#[test]
fn what_is_not_taken_over_is_told() {
    let mut started = start(&[
        ("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES", "ns:name"),
        ("IGNORE_ENTRYPOINT_TOLERATIONS", "[{\\\"key\\\"}]"),
    ]);
    let injector = &mut started.injector;
    injector
        .line("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES is deprecated, use ALLOWED_SERVICE_ACCOUNTS");
    injector.line("Couldn't parse entrypoint tolerations");
    injector.signal("TERM");
    assert_eq!(started.injector.ended().code, Some(0));
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

/// Ends with status 1 and one fatal line.
#[track_caller]
fn check_fatal(arguments: &[&str], variables: &[(&str, &str)], expected: &str) {
    let ended = Daemon::run(INJECTOR, arguments, variables);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let line = ended.last_line();
    assert!(
        line.contains("fatal") && line.contains(expected),
        "{ended:?}"
    );
    assert_eq!(
        (ended.stdout.len(), &*ended.stderr),
        (1, ""),
        "there is nothing else to read"
    );
}

#[test]
fn start_errors_are_one_fatal_line() {
    let image =
        "level=fatal msg=\"Error getting config: required key SIDECAR_IMAGE missing value\"";
    check_fatal(&[], &[], image);
    let namespace = "Error getting config: required key NAMESPACE missing value";
    check_fatal(&[], &REQUIRED[1..2], namespace);
    check_fatal(&[], &REQUIRED[..2], "DAPR_SENTRY_ADDRESS is not set");
    let with = |name, value| {
        REQUIRED
            .into_iter()
            .chain([(name, value)])
            .collect::<Vec<_>>()
    };
    let pattern = "invalid pattern \\\"aa\\\", must contain exactly one ':'";
    check_fatal(&[], &with("ALLOWED_SERVICE_ACCOUNTS", "aa"), pattern);
    let address = "Error getting config: failed to parse configuration: invalid value for actor service address: \
                   service is not in the correct format '<name>:<port>': x\"";
    check_fatal(
        &[],
        &[
            REQUIRED[0],
            REQUIRED[1],
            ("ACTORS_SERVICE_NAME", "own"),
            ("ACTORS_SERVICE_ADDRESS", "x"),
        ],
        address,
    );
    let user = "failed to parse configuration: SIDECAR_RUN_AS_USER is \\\"0x1\\\": invalid digit found in string\"";
    check_fatal(&[], &with("SIDECAR_RUN_AS_USER", "0x1"), user);
    check_fatal(&[], &REQUIRED, "no API server is configured");
    let json = "\"level\":\"fatal\",\"msg\":\"invalid value for --log-level: x\"";
    check_fatal(&["--log-as-json", "--log-level=x"], &REQUIRED, json);
}

#[test]
fn root_is_refused() {
    use std::os::unix::fs::MetadataExt as _;
    let process = std::fs::metadata("/proc/self").expect("a process");
    if process.uid() != 0 {
        println!("skipped: root is refused: the tests do not run as root");
        return;
    }
    check_fatal(&[], &REQUIRED[..3], "current user UID(0) is root");
}

#[test]
fn explains_a_pod() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pod.yaml");
    let pod = "kind: Pod\nmetadata:\n  name: cart\n  annotations: {dapr.io/enabled: 'true', dapr.io/app-port: 80}\n";
    std::fs::write(&file, pod.replace("80", "'80'")).expect("written");
    let file = file.display().to_string();
    let ended = Daemon::run(INJECTOR, &["explain", "-f", &file], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let expected = "  dapr.io/app-port: passes --app-port 80";
    assert!(
        ended.stdout.iter().any(|line| line == expected),
        "{ended:?}"
    );
    assert_eq!(ended.stderr, "");
    let ended = Daemon::run(INJECTOR, &["explain", "--x"], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let ended = Daemon::run(INJECTOR, &["explain", "-f", "/nowhere"], &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
}
