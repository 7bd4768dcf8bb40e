//! A Sentry of one measurement: its files, its process, and when it is up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::{Process, Spec, ports};
use dapr_security::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::Client;
use super::cluster::Cluster;
use crate::cores::Split;

/// A start on a busy machine stays well below.
const START: Duration = Duration::from_secs(20);
/// Pause between two looks at `/healthz`: short against a start of milliseconds, long against a look.
const LOOK: Duration = Duration::from_micros(200);
/// Where Sentry is.
pub const NAMESPACE: &str = "dapr-system";
/// In Kubernetes mode Sentry refuses to run as root otherwise; who measures may be.
const ANY_USER: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";
const ID: &str = "spiffe://localhost/ns/dapr-system/dapr-sentry";
const CONFIG: &str =
    "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: sentry}\nspec: {}\n";

/// What to start.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Where its files are.
    pub folder: &'a Path,
    /// Where the executable is.
    pub binaries: &'a Path,
    /// The core it gets to itself, if it gets one.
    pub split: Option<&'a Split>,
    /// The cluster it is in, if it is in one.
    pub cluster: Option<&'a Cluster>,
}

/// A running Sentry.
#[derive(Debug)]
pub struct Server {
    process: Process,
    address: SocketAddr,
    /// From starting the process until `/healthz` answered 200.
    pub start: Duration,
}

impl Setup<'_> {
    /// Starts Sentry and waits until it is healthy. Files of the authority are made if they are not there yet.
    pub async fn start(&self) -> Result<Server> {
        let credentials = self.folder.join("credentials");
        std::fs::create_dir_all(&credentials)?;
        let (port, health_port, metrics_port) = (
            ports::free().await?,
            ports::free().await?,
            ports::free().await?,
        );
        let program = self.binaries.join("sentry");
        let mut arguments = vec![
            format!("--issuer-credentials={}", credentials.display()),
            "--listen-address=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--healthz-port={health_port}"),
            format!("--metrics-port={metrics_port}"),
            "--log-level=warn".to_owned(),
        ];
        arguments.extend(match self.cluster {
            Some(cluster) => cluster.flags(self.folder)?,
            None => {
                let config = self.folder.join("sentry.yaml");
                std::fs::write(&config, CONFIG)?;
                vec![format!("--config={}", config.display())]
            }
        });
        let (program, arguments) = match self.split {
            Some(split) => split.wrap(&program, arguments),
            None => (program, arguments),
        };
        let started = Instant::now();
        let mut process = Process::start(&Spec {
            name: "sentry".to_owned(),
            program,
            arguments,
            environment: BTreeMap::from([
                ("NAMESPACE".to_owned(), NAMESPACE.to_owned()),
                (ANY_USER.to_owned(), "true".to_owned()),
            ]),
            folder: self.folder.to_owned(),
        })?;
        while !is_healthy(health_port).await {
            process.check_running()?;
            ensure!(started.elapsed() < START, "sentry did not become healthy");
            pause().await?;
        }
        Ok(Server {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            start: started.elapsed(),
        })
    }

    /// A client that trusts the authority of `server`.
    pub fn client(&self, server: &Server) -> Result<Client> {
        let anchors = match self.cluster {
            Some(cluster) => cluster.anchors().context("nothing is published")?,
            None => std::fs::read_to_string(self.folder.join("credentials/ca.crt"))
                .context("reading ca.crt")?,
        };
        Client::new(server.address, anchors.as_bytes(), &SpiffeId::new(ID)?)
    }
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.process.id().context("sentry has ended")
    }

    /// Ends it as a crash would.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await
    }
}

/// Whether a process is up. One request by hand: a client with a pool would cost as much as the start that is measured.
pub async fn is_healthy(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(status)
    };
    ask.await.is_ok_and(|status| status.ends_with(b" 200"))
}

/// A short pause; the runtime's own timer has a resolution of a millisecond.
pub async fn pause() -> Result<()> {
    Ok(tokio::task::spawn_blocking(|| std::thread::park_timeout(LOOK)).await?)
}
