use std::time::Duration;

use dapr_kit::flags::{Dashes, try_parse_from};

use super::*;

fn args(line: &str) -> Args {
    let words = std::iter::once("scheduler").chain(line.split_whitespace());
    try_parse_from(Dashes::Two, words).expect(line)
}

fn settings(line: &str, environment: &Environment) -> Result<Settings, Error> {
    args(line).settings(environment)
}

#[track_caller]
fn accepted(line: &str) -> Settings {
    settings(line, &Environment::default()).expect(line)
}

#[track_caller]
fn check_refused(line: &str, expected: &str) {
    assert_eq!(
        settings(line, &Environment::default())
            .expect_err(line)
            .to_string(),
        expected
    );
}

fn cluster(entries: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    entries
        .iter()
        .map(|(id, url)| ((*id).to_owned(), (*url).to_owned()))
        .collect()
}

fn default_embedded() -> Embedded {
    Embedded {
        initial_cluster: cluster(&[("dapr-scheduler-server-0", "http://localhost:2380")]),
        data_dir: "./data".into(),
        client: ("localhost".to_owned(), 2379),
        space_quota: 9_200_000_000_000_000_000,
        compaction_mode: "revision".to_owned(),
        compaction_retention: "1000000".to_owned(),
        snapshot_count: 100_000,
        max_snapshots: 10,
        max_wals: 10,
        backend_batch_limit: 10_000,
        backend_batch_interval: Duration::from_millis(100),
        max_txn_ops: 10_000,
        bootstrap_defrag_threshold_megabytes: 100,
        initial_election_tick_advance: false,
        metrics: "basic".to_owned(),
    }
}

#[test]
fn defaults() {
    let expected = Settings {
        mode: Mode::Standalone,
        may_be_root: false,
        id: "dapr-scheduler-server-0".to_owned(),
        api: (String::new(), 50006),
        broadcast_host_port: None,
        host_ip: None,
        healthz_port: 8080,
        tls: false,
        trust_domain: "localhost".to_owned(),
        trust_anchors_file: None,
        sentry_address: "dapr-sentry.default.svc:443".to_owned(),
        namespace: "default".to_owned(),
        etcd: Etcd::Embedded(default_embedded()),
        workers: 2048,
        kubeconfig: None,
        identity_directory: std::env::temp_dir().join("secrets/dapr.io/tls"),
        metrics: MetricsArgs {
            enable_metrics: true,
            metrics_port: "9090".to_owned(),
            metrics_listen_address: "0.0.0.0".to_owned(),
        },
    };
    assert_eq!(accepted(""), expected);
}

#[test]
fn every_flag_of_the_service_is_read() {
    let line = "--port 1 --listen-address a --override-broadcast-host-port b:2 --healthz-port 3 \
                --healthz-listen-address c --tls-enabled --trust-domain d --trust-anchors-file /e --sentry-address f:4 \
                --mode kubernetes --workers 6 --kubeconfig /h --identity-directory-write /i --log-level error \
                --log-as-json --log-file /l --enable-metrics=false --metrics-port 7 --metrics-listen-address j";
    let environment = Environment::from([
        ("NAMESPACE", "dapr-system"),
        ("DAPR_HOST_IP", "10.0.0.1"),
        ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true"),
    ]);
    let expected = Settings {
        mode: Mode::Kubernetes,
        may_be_root: true,
        id: "dapr-scheduler-server-0".to_owned(),
        api: ("a".to_owned(), 1),
        broadcast_host_port: Some("b:2".to_owned()),
        host_ip: Some("10.0.0.1".to_owned()),
        healthz_port: 3,
        tls: true,
        trust_domain: "d".to_owned(),
        trust_anchors_file: Some("/e".into()),
        sentry_address: "f:4".to_owned(),
        namespace: "dapr-system".to_owned(),
        etcd: Etcd::Embedded(default_embedded()),
        workers: 6,
        kubeconfig: Some("/h".into()),
        identity_directory: "/i".into(),
        metrics: MetricsArgs {
            enable_metrics: false,
            metrics_port: "7".to_owned(),
            metrics_listen_address: "j".to_owned(),
        },
    };
    assert_eq!(settings(line, &environment).expect(line), expected);
}

#[test]
fn every_flag_of_the_store_is_read() {
    let settings = accepted(
        "--id g --etcd-embed=true --etcd-initial-cluster g=http://g:1,h=http://h:1 --etcd-data-dir /d \
         --etcd-client-port 2 --etcd-client-listen-address a --etcd-space-quota 4Mi --etcd-compaction-mode periodic \
         --etcd-compaction-retention 10m --etcd-snapshot-count 3 --etcd-max-snapshots 4 --etcd-max-wals 5 \
         --etcd-backend-batch-limit 6 --etcd-backend-batch-interval 50ms --etcd-max-txn-ops 7 \
         --etcd-experimental-bootstrap-defrag-threshold-megabytes 8 --etcd-initial-election-tick-advance \
         --etcd-metrics extensive",
    );
    let expected = Embedded {
        initial_cluster: cluster(&[("g", "http://g:1"), ("h", "http://h:1")]),
        data_dir: "/d".into(),
        client: ("a".to_owned(), 2),
        space_quota: 4 << 20,
        compaction_mode: "periodic".to_owned(),
        compaction_retention: "10m".to_owned(),
        snapshot_count: 3,
        max_snapshots: 4,
        max_wals: 5,
        backend_batch_limit: 6,
        backend_batch_interval: Duration::from_millis(50),
        max_txn_ops: 7,
        bootstrap_defrag_threshold_megabytes: 8,
        initial_election_tick_advance: true,
        metrics: "extensive".to_owned(),
    };
    assert_eq!(settings.etcd, Etcd::Embedded(expected));
}

#[test]
fn an_external_etcd() {
    let settings = accepted(
        "--etcd-embed=false --etcd-client-endpoints http://a:1,http://b:1 --etcd-client-endpoints http://c:1 \
         --etcd-client-username u --etcd-client-password hunter2",
    );
    let expected = External {
        endpoints: ["http://a:1", "http://b:1", "http://c:1"]
            .map(str::to_owned)
            .to_vec(),
        username: "u".to_owned(),
        password: "hunter2".into(),
    };
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(settings.etcd, Etcd::External(expected));
    check_refused(
        "--etcd-embed=false",
        "--etcd-embed=false needs --etcd-client-endpoints",
    );
    for flag in [
        "--etcd-client-endpoints http://a:1",
        "--etcd-client-username u",
        "--etcd-client-password p",
    ] {
        check_refused(
            flag,
            "--etcd-client-endpoints, --etcd-client-username and --etcd-client-password need --etcd-embed=false",
        );
    }
}

#[test]
fn contradictions_are_refused() {
    check_refused(
        "--mode cloud",
        "invalid value for --mode: \"cloud\": must be kubernetes or standalone",
    );
    check_refused(
        "--kubeconfig /k",
        "--kubeconfig is only valid in kubernetes mode: drop it or add --mode=kubernetes",
    );
    check_refused(
        "--id other",
        "--id \"other\" is not in --etcd-initial-cluster: add other=<url> to it or give one of its ids",
    );
    for entry in ["x", "=http://x", "x="] {
        check_refused(
            &format!("--etcd-initial-cluster {entry}"),
            &format!("invalid entry {entry:?} in --etcd-initial-cluster: must be <id>=<url>"),
        );
    }
}

#[test]
fn bad_values_are_told_by_flag() {
    let words = ["scheduler", "--etcd-space-quota", "much"];
    let exit = try_parse_from::<Args, _, _>(Dashes::Two, words)
        .map(drop)
        .expect_err("no quantity");
    let message = exit.text.trim_end().lines().last().expect("a message");
    assert!(
        message.starts_with(
            "invalid argument \"much\" for \"--etcd-space-quota\" flag: quantities must"
        ),
        "{message}"
    );
    assert!(
        !exit.text.contains("--kubeconfig"),
        "hidden flags stay hidden"
    );
}
