//! The `operator` binary as a process, in an environment that holds only what it requires.

use std::net::TcpListener;
use std::path::PathBuf;

use dapr_e2e_apiserver::scripted::{Options, Server};
use dapr_kit::testing::{Daemon, Ended, half_a_request, request};
use futures::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::authority::Authority;
use crate::support::{SOON, channel, component_stream, components, connect, next};

const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");
const NAMESPACE: [(&str, &str); 1] = [("NAMESPACE", "dapr-system")];
/// In base64 and as it is: neither may ever be printed.
const SECRET: [&str; 2] = ["c3VwZXItc2VjcmV0LXZhbHVl", "super-secret-value"];

/// What an operator finds in its cluster.
struct Cluster {
    server: Server,
    authority: Authority,
    folder: TempDir,
    sentry: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.sentry.abort();
    }
}

impl Cluster {
    async fn new() -> Self {
        let server = Server::start(Options::complete()).await.expect("a server");
        let authority = Authority::new();
        let (port, sentry) = authority.sentry("dapr-system").await;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(
            folder.path().join("ca.crt"),
            authority.anchors().pem().as_bytes(),
        )
        .expect("written");
        std::fs::write(folder.path().join("token"), "a token").expect("written");
        server.put(json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": "daprsystem", "namespace": "dapr-system"},
            "spec": {"mtls": {
                "enabled": false, "controlPlaneTrustDomain": "cluster.local",
                "sentryAddress": format!("127.0.0.1:{port}"),
            }},
        }));
        server.put(crd(&json!({"service": {"namespace": "replaceme", "name": "dapr-webhook", "path": "/convert"}})));
        Self {
            server,
            authority,
            folder,
            sentry,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self) -> Vec<String> {
        let kubeconfig = self.server.kubeconfig(self.folder.path()).expect("written");
        vec![
            "--healthz-port=0".to_owned(),
            "--metrics-port=0".to_owned(),
            "--port=0".to_owned(),
            "--webhook-server-port=0".to_owned(),
            "--disable-leader-election".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--trust-anchors-file={}", self.path("ca.crt").display()),
        ]
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("NAMESPACE", "dapr-system".to_owned()),
            (
                "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK",
                "true".to_owned(),
            ),
            (
                "DAPR_SENTRY_TOKEN_FILE",
                self.path("token").display().to_string(),
            ),
        ]
    }

    fn start(&self, more: &[&str]) -> Daemon {
        let (arguments, variables) = (self.arguments(), self.variables());
        let arguments: Vec<&str> = arguments
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        Daemon::start(OPERATOR, &arguments, &variables)
    }

    /// Runs it to its end, which has to be a failure with this text.
    #[track_caller]
    fn fails(&self, more: &[&str], without: &str, expected: &str) {
        let (arguments, variables) = (self.arguments(), self.variables());
        let arguments: Vec<&str> = arguments
            .iter()
            .map(String::as_str)
            .filter(|argument| without.is_empty() || !argument.starts_with(without))
            .chain(more.iter().copied())
            .collect();
        let variables: Vec<_> = variables
            .iter()
            .filter(|(name, _)| *name != without)
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        fatal(&Daemon::run(OPERATOR, &arguments, &variables), expected);
    }
}

fn crd(client_config: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "subscriptions.dapr.io"},
        "spec": {"conversion": {"strategy": "Webhook", "webhook": {
            "clientConfig": client_config, "conversionReviewVersions": ["v1"],
        }}},
    })
}

#[track_caller]
fn fatal(ended: &Ended, expected: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.line("level=fatal").contains(expected),
        "{expected}: {ended:?}"
    );
}

/// The port in a line about a server.
pub(crate) fn port(line: &str) -> u16 {
    let address = line.split("address=").nth(1).unwrap_or_default();
    let address = address.split_whitespace().next().unwrap_or_default();
    let port = address.trim_matches('"').rsplit(':').next();
    port.and_then(|port| port.parse().ok()).expect(line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn serves_until_it_is_told_to_stop() {
    let cluster = Cluster::new().await;
    cluster.server.put(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "redis", "namespace": "default"}, "data": {"password": SECRET[0]},
    }));
    let component = |version: &str, secret: &str| {
        json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "store", "namespace": "default"},
            "spec": {"type": "state.redis", "version": version, "metadata": [
                {"name": "password", "secretKeyRef": {"name": secret, "key": "password"}},
            ]},
        })
    };
    cluster.server.put(component("v1", "redis"));
    let mut operator = cluster.start(&["--log-level=debug"]);
    let (healthz, metrics) = (operator.address("healthz"), operator.address("metrics"));
    let port = port(&operator.line("operator API is listening"));
    let ready = async {
        while request(healthz, "GET", "/healthz") != (200, String::new()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert!(
        timeout(SOON, ready).await.is_ok(),
        "it does not become ready"
    );
    assert_eq!(request(healthz, "GET", "/").0, 404);
    let patched = cluster.server.get(&crd(&json!({}))).expect("a CRD");
    let config = &patched["spec"]["conversion"]["webhook"]["clientConfig"];
    assert_eq!(config["service"]["namespace"], "dapr-system");
    assert!(config["caBundle"].is_string(), "{config}");

    let id = "spiffe://public/ns/default/shop";
    let mut shop = connect(&cluster.authority, port, id).await;
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(list[0]["spec"]["metadata"][0]["value"], SECRET[0]);
    let mut stream = component_stream(&mut shop, "default").await;
    cluster.server.put(component("v2", "redis"));
    assert_eq!(next(&mut stream).await.0, 2);
    // Nor does what cannot be read show in the log, although what is wrong with it does.
    let mut unreadable = component("v1", "redis");
    unreadable["metadata"]["name"] = json!("unreadable");
    unreadable["spec"]["ignoreErrors"] = json!(SECRET[1]);
    cluster.server.put(unreadable);
    cluster.server.put(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "odd", "namespace": "default"}, "data": SECRET[1],
    }));
    let line = operator.line("invalid type: string …, expected a boolean");
    assert!(line.contains("name=unreadable"), "{line}");
    let line = operator.line("invalid type: string …, expected a map");
    assert!(line.contains("name=odd"), "{line}");
    let (status, page) = request(healthz, "GET", "/operator/state");
    assert_eq!(status, 200);
    assert!(
        page.contains(r#"{"kind":"Component","state":"followed","secondsSinceContact":"#),
        "{page}"
    );
    // What the leader watches, too.
    for kind in ["Service", "Deployment", "StatefulSet"] {
        let kind = format!(r#"{{"kind":"{kind}","state":""#);
        assert!(page.contains(&kind), "{kind} {page}");
    }
    // What fails speaks of the secret, and not of its value.
    cluster.server.put(component("v3", "absent"));
    let end = timeout(SOON, stream.message()).await.expect("in time");
    for value in SECRET {
        assert!(!format!("{end:?}").contains(value), "{end:?}");
    }
    let mut stream = component_stream(&mut shop, "default").await;
    let (status, text) = request(metrics, "GET", "/metrics");
    assert_eq!(status, 200);
    assert!(
        text.contains("# TYPE process_start_time_seconds gauge\n"),
        "{text}"
    );
    let followed = "dapr_operator_watch_followed{kind=\"Component\"} 1\n";
    assert!(text.contains(followed), "{text}");
    operator.signal("TERM");
    let end = timeout(SOON, stream.message()).await.expect("in time");
    assert!(matches!(end, Ok(None)), "{end:?}");
    let ended = operator.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let last = ended.line("msg=\"operator shut down gracefully\"");
    assert!(
        last.contains(" scope=dapr.operator type=log ver=1.18.3"),
        "{ended:?}"
    );
    assert_eq!(ended.stderr, "");
    for value in SECRET {
        assert!(!text.contains(value), "in metrics");
        assert!(!page.contains(value), "on the page");
        assert!(
            !ended.stdout.iter().any(|line| line.contains(value)),
            "{ended:?}"
        );
    }
}

/// Anybody can hold up a conversion, for it asks for no certificate. The process ends well all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_conversion_that_does_not_end_does_not_spoil_the_end() {
    let cluster = Cluster::new().await;
    let webhook = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("bound").port()
    };
    let mut operator = cluster.start(&[&format!("--webhook-server-port={webhook}")]);
    operator.line("operator API is listening");
    let id = "spiffe://public/ns/default/shop";
    let channel = channel(&cluster.authority, webhook, id).await;
    let convert = PathAndQuery::from_static("/convert");
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("connected");
    let path = convert.clone();
    let held = tokio::spawn(async move {
        let body = stream::iter([()]).chain(stream::pending());
        let codec = ProstCodec::<(), ()>::default();
        drop(
            client
                .client_streaming(Request::new(body), path, codec)
                .await,
        );
    });
    // Requests of a connection come in order: once a later one is answered, that one was taken.
    let mut client = Grpc::new(channel);
    client.ready().await.expect("connected");
    let codec = ProstCodec::<(), ()>::default();
    let answered = client.unary(Request::new(()), convert, codec).await;
    assert!(answered.is_err(), "{answered:?}");
    operator.signal("TERM");
    let ended = operator.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.line("msg=\"operator shut down gracefully\"");
    held.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waits_for_the_trust_anchors() {
    let cluster = Cluster::new().await;
    let anchors = std::fs::read(cluster.path("ca.crt")).expect("readable");
    std::fs::remove_file(cluster.path("ca.crt")).expect("removed");
    let mut operator = cluster.start(&[]);
    let healthz = operator.address("healthz");
    operator.line("Trust anchors file does not exist yet");
    assert_eq!(request(healthz, "GET", "/healthz"), (503, String::new()));
    std::fs::write(cluster.path("ca.crt"), anchors).expect("written");
    operator.line("operator API is listening");
    operator.signal("INT");
    assert_eq!(operator.ended().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signal_before_the_start_is_a_failure_and_a_second_one_ends_it_at_once() {
    let cluster = Cluster::new().await;
    std::fs::remove_file(cluster.path("ca.crt")).expect("removed");
    let mut operator = cluster.start(&[]);
    operator.line("Trust anchors file does not exist yet");
    operator.signal("TERM");
    fatal(&operator.ended(), "told to stop before it had started");

    let cluster = Cluster::new().await;
    let mut operator = cluster.start(&[]);
    let healthz = operator.address("healthz");
    operator.line("operator API is listening");
    let held = half_a_request(healthz);
    operator.signal("TERM");
    operator.line("received SIGTERM, shutting down");
    operator.signal("INT");
    assert_eq!(operator.ended().code, Some(1));
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_start_needs_is_named() {
    let cluster = Cluster::new().await;
    let identity = "failed to retrieve the initial identity: failed to read sentry token file";
    cluster.fails(&[], "DAPR_SENTRY_TOKEN_FILE", identity);
    let elections = "unable to find leader election namespace";
    cluster.fails(&[], "--disable-leader-election", elections);
    let configuration = "error creating operator: unable to load configuration, config: other, \
                         err: configurations.dapr.io \\\"other\\\" not found";
    cluster.fails(&["--config=other"], "", configuration);
    cluster.server.put(crd(&json!(null)));
    let webhook = "does not have an existing webhook client config";
    cluster.fails(&[], "", webhook);
    cluster.server.stop().await;
    cluster.fails(
        &[],
        "",
        "unable to load configuration, config: daprsystem, err: ",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn root_is_refused() {
    use std::os::unix::fs::MetadataExt as _;
    let process = std::fs::metadata("/proc/self").expect("a process");
    if process.uid() != 0 {
        println!("skipped: root is refused: the tests do not run as root");
        return;
    }
    let cluster = Cluster::new().await;
    let text = "error creating operator: current user UID(0) is root";
    cluster.fails(&[], "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", text);
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
        fatal(&ended, expected);
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
    fatal(&ended, "give another one with --healthz-port: ");
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
    fatal(
        &ended,
        "give another path with --log-file, or none for stdout: ",
    );
}
