//! Sentry and the replicas of Placement.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::built;
use crate::{Process, Spec, await_condition, ports};

/// A cold start on a busy machine stays well below.
const START: Duration = Duration::from_secs(20);

/// The certificate authority and the actor placement of a test.
#[derive(Debug)]
pub struct ControlPlane {
    /// Certificate authority.
    pub sentry: Sentry,
    /// Replicas, in the order of their names.
    pub placement: Vec<Placement>,
    /// Where executables are taken from; `None` is this build.
    pub binaries: Option<PathBuf>,
}

/// A running certificate authority.
#[derive(Debug)]
pub struct Sentry {
    /// The process.
    pub process: Process,
    /// `host:port` of its gRPC API.
    pub address: String,
    /// Port of its metrics.
    pub metrics_port: u16,
    /// PEM of its trust anchors.
    pub trust_anchors: String,
    /// File of its trust anchors.
    pub trust_anchors_file: PathBuf,
}

/// A running replica of Placement.
#[derive(Debug)]
pub struct Placement {
    /// The process.
    pub process: Process,
    /// `host:port` of its gRPC API.
    pub address: String,
    /// Port of its health server, which also serves `/placement/state`.
    pub health_port: u16,
    /// Port of its metrics.
    pub metrics_port: u16,
}

impl ControlPlane {
    /// Starts Sentry and `replicas` of Placement in `folder` and waits until they serve.
    pub async fn start(folder: &Path, replicas: usize) -> Result<Self> {
        Self::start_from(folder, replicas, None).await
    }

    /// As [`ControlPlane::start`], with executables from another folder.
    pub async fn start_from(
        folder: &Path,
        replicas: usize,
        binaries: Option<PathBuf>,
    ) -> Result<Self> {
        let sentry = Sentry::start(folder, binaries.as_deref()).await?;
        Self::around(sentry, folder, replicas, binaries).await
    }

    /// Starts Placement beside a Sentry that runs already.
    pub async fn around(
        sentry: Sentry,
        folder: &Path,
        replicas: usize,
        binaries: Option<PathBuf>,
    ) -> Result<Self> {
        let mut raft_ports = Vec::new();
        for _ in 0..replicas {
            raft_ports.push(ports::free().await?);
        }
        let cluster: Vec<String> = raft_ports
            .iter()
            .enumerate()
            .map(|(index, port)| format!("placement-{index}=127.0.0.1:{port}"))
            .collect();
        let mut placement = Vec::new();
        for index in 0..replicas {
            placement.push(
                Placement::start(
                    folder,
                    index,
                    &cluster.join(","),
                    &sentry,
                    binaries.as_deref(),
                )
                .await?,
            );
        }
        let mut control_plane = Self {
            sentry,
            placement,
            binaries,
        };
        if replicas > 0 {
            control_plane.leader(START).await?;
        }
        Ok(control_plane)
    }

    /// The addresses of all replicas, as `--placement-host-address` takes them.
    pub fn placement_addresses(&self) -> String {
        let addresses: Vec<&str> = self
            .placement
            .iter()
            .map(|replica| replica.address.as_str())
            .collect();
        addresses.join(",")
    }

    /// Waits until exactly one running replica leads and returns its index.
    pub async fn leader(&mut self, limit: Duration) -> Result<usize> {
        let ports: Vec<(usize, u16)> = self
            .placement
            .iter()
            .enumerate()
            .filter(|(_, replica)| replica.process.id().is_some())
            .map(|(index, replica)| (index, replica.metrics_port))
            .collect();
        let found = await_condition("one placement leader", limit, || async {
            let mut leaders = Vec::new();
            for (index, port) in &ports {
                if metric(*port, "dapr_placement_leader_status").await? >= 1.0 {
                    leaders.push(*index);
                }
            }
            match leaders[..] {
                [leader] => Ok(leader),
                _ => bail!("leaders: {leaders:?}"),
            }
        });
        let found = found.await;
        for replica in &mut self.placement {
            if replica.process.id().is_some() {
                replica.process.check_running()?;
            }
        }
        found
    }
}

impl Sentry {
    /// Starts Sentry with a CA of its own below `folder`.
    pub async fn start(folder: &Path, binaries: Option<&Path>) -> Result<Self> {
        Self::start_with(folder, binaries, "{}").await
    }

    /// As [`Sentry::start`], with the `spec` of its configuration in YAML's flow style.
    pub async fn start_with(folder: &Path, binaries: Option<&Path>, spec: &str) -> Result<Self> {
        let credentials = folder.join("credentials");
        std::fs::create_dir_all(&credentials)?;
        let config = folder.join("sentry.yaml");
        std::fs::write(
            &config,
            format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: sentry}}\nspec: {spec}\n"
            ),
        )?;
        let (port, health_port, metrics_port) = (
            ports::free().await?,
            ports::free().await?,
            ports::free().await?,
        );
        let mut process = Process::start(&Spec {
            name: "sentry".to_owned(),
            program: executable("sentry", binaries)?,
            arguments: vec![
                format!("--config={}", config.display()),
                format!("--issuer-credentials={}", credentials.display()),
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={port}"),
                format!("--healthz-port={health_port}"),
                format!("--metrics-port={metrics_port}"),
            ],
            environment: std::collections::BTreeMap::from([(
                "NAMESPACE".to_owned(),
                "default".to_owned(),
            )]),
            folder: folder.to_owned(),
        })?;
        let ready = await_condition("sentry is healthy", START, || healthy(health_port)).await;
        process.check_running()?;
        ready?;
        let trust_anchors_file = credentials.join("ca.crt");
        let trust_anchors =
            std::fs::read_to_string(&trust_anchors_file).context("reading sentry's ca.crt")?;
        Ok(Self {
            process,
            address: format!("127.0.0.1:{port}"),
            metrics_port,
            trust_anchors,
            trust_anchors_file,
        })
    }
}

impl Placement {
    async fn start(
        folder: &Path,
        index: usize,
        cluster: &str,
        sentry: &Sentry,
        binaries: Option<&Path>,
    ) -> Result<Self> {
        let (port, health_port, metrics_port) = (
            ports::free().await?,
            ports::free().await?,
            ports::free().await?,
        );
        let process = Process::start(&Spec {
            name: format!("placement-{index}"),
            program: executable("placement", binaries)?,
            arguments: vec![
                format!("--id=placement-{index}"),
                format!("--initial-cluster={cluster}"),
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={port}"),
                format!("--healthz-port={health_port}"),
                format!("--metrics-port={metrics_port}"),
                "--metadata-enabled".to_owned(),
                "--tls-enabled".to_owned(),
                format!("--sentry-address={}", sentry.address),
                format!(
                    "--trust-anchors-file={}",
                    sentry.trust_anchors_file.display()
                ),
            ],
            environment: std::collections::BTreeMap::from([(
                "NAMESPACE".to_owned(),
                "default".to_owned(),
            )]),
            folder: folder.to_owned(),
        })?;
        Ok(Self {
            process,
            address: format!("127.0.0.1:{port}"),
            health_port,
            metrics_port,
        })
    }
}

pub(super) fn executable(name: &str, binaries: Option<&Path>) -> Result<PathBuf> {
    match binaries {
        Some(folder) => Ok(folder.join(name)),
        None => built(name),
    }
}

async fn healthy(port: u16) -> Result<()> {
    let status = reqwest::get(format!("http://127.0.0.1:{port}/healthz"))
        .await?
        .status();
    if status.is_success() {
        Ok(())
    } else {
        bail!("/healthz answers {status}")
    }
}

/// The sum of all series of `name` on a metrics port; 0 if there is none.
pub async fn metric(port: u16, name: &str) -> Result<f64> {
    let text = reqwest::get(format!("http://127.0.0.1:{port}/"))
        .await?
        .text()
        .await?;
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let series_name = series.split('{').next()?;
        (series_name == name)
            .then(|| value.parse::<f64>().ok())
            .flatten()
    });
    Ok(values.sum())
}
