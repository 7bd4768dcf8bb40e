//! The real `daprd` with an empty environment: what its command line answers, and how it ends.

mod lifecycle;
mod rolling;

use std::process::{Command, Output};

fn daprd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_daprd"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("daprd starts")
}

/// Runs daprd, which has to end with `code` and say `expected` somewhere.
fn check(arguments: &[&str], code: i32, expected: &str) {
    let output = daprd(arguments);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(expected), "{arguments:?}: {said}");
}

/// In a cluster a sidecar refuses to run as root, which test machines sometimes do.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[test]
fn version_and_build_info_answer_and_exit() {
    check(&["--version"], 0, "1.18.3\n");
    check(&["-version"], 0, "1.18.3\n");
    check(&["--build-info"], 0, "Git Commit: ");
    check(&["--help"], 0, "--dapr-http-port");
}

#[test]
fn unknown_flags_and_bad_values_exit_with_2() {
    check(&["--frobnicate"], 2, "unknown flag: --frobnicate");
    check(&["--app-max-concurrency", "x"], 2, "--app-max-concurrency");
}

#[test]
fn settings_that_make_no_sense_exit_with_1_and_one_line() {
    check(&[], 1, "parameter app-id cannot be empty");
    check(
        &["-app-id", "a.b"],
        1,
        "parameter app-id cannot contain dots",
    );
    check(&["-app-id", "a", "-mode", "moon"], 1, "invalid mode: moon");
    check(
        &["-app-id", "a", "-mode", "kubernetes"],
        1,
        if is_root() {
            "current user UID(0) is root. "
        } else {
            "--control-plane-address is empty"
        },
    );
    check(
        &["-app-id", "a", "-log-level", "loud"],
        1,
        "invalid value for --log-level: loud",
    );
    check(
        &["-app-id", "a", "-enable-mtls"],
        1,
        "Fatal error from runtime: trust anchors are required\"",
    );
    check(
        &["-app-id", "a", "-config", "/nowhere.yaml"],
        1,
        "/nowhere.yaml",
    );
    check(
        &[
            "-app-id",
            "a",
            "-resources-path",
            "/nowhere",
            "-enable-metrics=false",
        ],
        1,
        "failed to create watcher: failed to add target /nowhere: no such file or directory",
    );
}

#[test]
fn a_configuration_upstream_refuses_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n\
                spec: {tracing: {otel: {endpointAddress: 'h:1', protocol: foo}}}\n";
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("text");
    check(
        &["-app-id", "a", "-config", file, "-enable-metrics=false"],
        1,
        "Fatal error from runtime: invalid protocol foo provided for Otel endpoint",
    );
    // Without hot reload a folder is only read.
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n\
                spec: {features: [{name: HotReload, enabled: false}]}\n";
    std::fs::write(folder.path().join("config.yaml"), text).expect("written");
    check(
        &[
            "-app-id",
            "a",
            "-config",
            file,
            "-resources-path",
            "/nowhere",
            "-enable-metrics=false",
        ],
        1,
        "failed to load components: open /nowhere: no such file or directory",
    );
}

#[test]
fn a_metrics_port_in_use_names_flag_and_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let flags = [
        "-app-id",
        "a",
        "-metrics-listen-address",
        "127.0.0.1",
        "-metrics-port",
        &port,
    ];
    check(&flags, 1, "--metrics-port");
}
