//! Starting Sentry, waiting for it, ending it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient;
use dapr_security::identity::spiffe_id;
use dapr_security::{
    AnchorsSource, Expect, KeyKind, Options, SENTRY_APP_ID, Security, SpiffeId, TokenSource,
    TrustDomain,
};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

pub(crate) const SOON: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);

/// A folder with a configuration and a directory for credentials.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("credentials")).unwrap();
        std::fs::write(folder.path().join("config.yaml"), configuration).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn credential(&self, name: &str) -> PathBuf {
        self.folder.path().join("credentials").join(name)
    }

    /// The flags every test starts with.
    pub(crate) fn flags(&self) -> Vec<String> {
        vec![
            format!(
                "--issuer-credentials={}",
                self.path("credentials").display()
            ),
            format!("--config={}", self.path("config.yaml").display()),
        ]
    }

    pub(crate) async fn start(&self) -> Sentry {
        self.start_with(&[]).await
    }

    pub(crate) async fn start_with(&self, more: &[String]) -> Sentry {
        let mut flags = self.flags();
        flags.extend_from_slice(more);
        let mut sentry = Sentry::spawn(command(), flags, self.credential("ca.crt")).await;
        sentry.await_ready().await;
        sentry
    }
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sentry"));
    command.kill_on_drop(true).env_remove("NAMESPACE");
    command
}

pub(crate) async fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    // Below what the kernel gives to outgoing connections and to port 0: a port found free here is not taken by
    // one of those before its process has bound it.
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(2_654_435_761);
    loop {
        let place = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + place % COUNT).expect("the range has ports only");
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

pub(crate) struct Sentry {
    child: Child,
    pub(crate) port: u16,
    health: u16,
    metrics: u16,
    root: PathBuf,
    log: NamedTempFile,
}

impl Sentry {
    /// Starts it on free ports.
    pub(crate) async fn spawn(mut command: Command, flags: Vec<String>, root: PathBuf) -> Self {
        let ports = [free_port().await, free_port().await, free_port().await];
        let log = NamedTempFile::new().unwrap();
        let child = command
            .args(flags)
            .arg(format!("--port={}", ports[0]))
            .arg(format!("--healthz-port={}", ports[1]))
            .arg(format!("--metrics-port={}", ports[2]))
            .stdout(log.reopen().unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            port: ports[0],
            health: ports[1],
            metrics: ports[2],
            root,
            log,
        }
    }

    /// What it has told so far, without the escapes of quotation marks.
    pub(crate) fn log(&self) -> String {
        read(self.log.path()).replace("\\\"", "\"")
    }

    pub(crate) async fn health(&self) -> std::io::Result<String> {
        get(self.health, "/healthz").await
    }

    pub(crate) async fn await_ready(&mut self) {
        let ready = async {
            loop {
                if get(self.health, "/healthz")
                    .await
                    .is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
                {
                    return;
                }
                assert_eq!(self.child.try_wait().unwrap(), None, "sentry ended");
                sleep(TICK).await;
            }
        };
        timeout(SOON, ready).await.unwrap();
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(self) -> ExitStatus {
        self.stop_and_tell().await.0
    }

    /// As [`Sentry::stop`]; and what it has told.
    pub(crate) async fn stop_and_tell(mut self) -> (ExitStatus, String) {
        let id = self.child.id().unwrap().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .await
                .unwrap()
                .success()
        );
        let status = timeout(SOON, self.child.wait()).await.unwrap().unwrap();
        (status, self.log())
    }

    pub(crate) async fn metrics(&self) -> String {
        get(self.metrics, "/").await.unwrap()
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    pub(crate) fn options(&self, app_id: &str) -> Options {
        Options {
            trust_anchors: AnchorsSource::Inline(read(&self.root)),
            sentry_address: format!("127.0.0.1:{}", self.port),
            control_plane_trust_domain: TrustDomain::new("localhost").unwrap(),
            control_plane_namespace: "default".to_owned(),
            namespace: "default".to_owned(),
            app_id: app_id.to_owned(),
            token: TokenSource::None,
            jwt_audiences: Vec::new(),
            key: KeyKind::Ed25519,
            trust_domain_in_request: None,
            mtls: true,
        }
    }

    pub(crate) async fn security(&self, app_id: &str) -> Security {
        timeout(SOON, Security::start(self.options(app_id)))
            .await
            .unwrap()
            .unwrap()
            .0
    }

    /// A bare HTTP/2 connection.
    pub(crate) async fn connect(&self, security: &Security) -> h2::client::SendRequest<Bytes> {
        let address = format!("http://127.0.0.1:{}", self.port);
        let mut connector = security.connector(Expect::Id(id()));
        let stream = connector.call(address.parse().unwrap()).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream.into_inner()).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        sender
    }

    /// Bytes of memory it holds.
    pub(crate) fn memory(&self) -> usize {
        let status = read(format!("/proc/{}/status", self.child.id().unwrap()).as_ref());
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<usize>().unwrap() * 1024
    }

    /// A client for requests of the test's own making.
    pub(crate) async fn client(&self, security: &Security) -> CaClient<Channel> {
        self.client_of(security, Expect::Id(id())).await
    }

    /// As [`Sentry::client`], of a Sentry with another identity.
    pub(crate) async fn client_of(&self, security: &Security, expect: Expect) -> CaClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap();
        let connector = security.connector(expect);
        CaClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }
}

pub(crate) fn id() -> SpiffeId {
    spiffe_id(
        &TrustDomain::new("localhost").unwrap(),
        "default",
        SENTRY_APP_ID,
    )
    .unwrap()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

pub(crate) async fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            sleep(TICK).await;
        }
    };
    assert!(timeout(SOON, wait).await.is_ok(), "{what} did not happen");
}
